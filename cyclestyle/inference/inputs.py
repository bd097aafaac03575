"""Which files are translated: those of a folder, a glob, a text list or standard input, in one stable order."""

from __future__ import annotations

import glob
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath

from cyclestyle.data.folders import find_images, is_image_name, suffix_names
from cyclestyle.errors import DataError

_WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Entry:
    """One input.

    Attributes:
        path: the file, as it is to be opened.
        place: where it lies below the root of the listing; the output tree mirrors it. Never absolute, no "..".
        error: why it cannot be tried at all, or None.
    """

    path: Path
    place: PurePosixPath
    error: str | None = None


@dataclass(frozen=True)
class Listing:
    """All inputs.

    Attributes:
        entries: in a stable order: the same in every process and the next time.
        kind: "file", "folder", "glob" or "list".
        root: what `place` is relative to.
        passed_over: how many files of other suffixes lie there.
        repeated: how many lines of a list name a file that was named before.
        is_recursive: whether files that appear anywhere below the root are listed the next time.
    """

    entries: list[Entry]
    kind: str
    root: Path
    passed_over: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    is_recursive: bool = False


def list_inputs(source: str | Path) -> Listing:
    """The files that `--input` means.

    Args:
        source: a file; a folder, with its sub-folders; a pattern with * ? [ or **; a .txt file with a path a line, or
            "-" for such lines on standard input. Lines that are empty or begin with # are passed over. Relative paths
            are relative to the current folder.

    Raises:
        DataError: nothing is there, or nothing that is a picture by its suffix; says what was there.
    """
    text = os.path.expanduser(str(source))
    path = Path(text)
    if text == "-":
        return _list_lines(sys.stdin.buffer.read(), "standard input")
    if os.path.isdir(path):  # not `Path.is_dir`, which raises for a name that is too long
        return _list_folder(path)
    if os.path.isfile(path):
        if path.suffix.lower() == ".txt":
            return _list_lines(path.read_bytes(), text)
        return Listing([Entry(path, PurePosixPath(path.name))], "file", path.parent)
    if _WILDCARDS & set(text):
        return _list_glob(text)
    what = "is neither a file nor a folder" if os.path.exists(path) else "does not exist"
    raise DataError(
        f"--input: {text} {what}; needed: a file, a folder, a quoted pattern such as 'photos/*.jpg' or a .txt"
    )


def _list_folder(folder: Path) -> Listing:
    found = find_images(folder)
    if folder in found.unreadable:
        raise DataError(f"--input: cannot read {folder}: {found.unreadable[folder].strerror}")
    paths: dict[Path, str | None] = dict.fromkeys(found.images)
    paths.update(
        {path: f"{path}: cannot read this folder: {error.strerror}" for path, error in found.unreadable.items()}
    )
    entries = [Entry(path, _below(folder, path), error) for path, error in paths.items()]
    _refuse_none(entries, f"{folder} holds no images", found.others)
    return Listing(_in_order(entries), "folder", folder, found.others, is_recursive=True)


def _list_glob(pattern: str) -> Listing:
    root = fixed_part(pattern)
    if ".." in PurePath(pattern).relative_to(root).parts:
        raise DataError(f"--input: {pattern} has .. after a wildcard: name the folder itself")
    others: Counter[str] = Counter()
    entries, seen = [], set()
    # Shortest first: a link that leads back up is met again below itself, and the first way to a file counts.
    for name in sorted(_matching(pattern), key=lambda name: (name.count(os.sep), name)):
        path = Path(name)
        real = (os.path.realpath(path.parent), path.name)
        if real in seen or not path.is_file():
            continue
        seen.add(real)
        if is_image_name(path):
            entries.append(Entry(path, _below(root, path)))
        else:
            others[path.suffix.lower() or "files without suffix"] += 1
    _refuse_none(entries, f"no image matches {pattern}", others)
    return Listing(_in_order(entries), "glob", root, others, is_recursive="**" in pattern)


def _matching(pattern: str) -> list[str]:
    try:
        return glob.glob(pattern, recursive=True)
    except RecursionError as error:
        raise DataError(f"--input: the folders of {pattern} are nested too deeply: name one further down") from error
    except ValueError as error:
        raise DataError(f"--input: {pattern!r} is no name of files ({error})") from error


def fixed_part(pattern: str) -> Path:
    """The folder in which the first wildcard stands: photos/2024 of photos/2024/*/a*.jpg."""
    parts = PurePath(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if _WILDCARDS & set(part))
    return Path(*parts[:fixed])


def _list_lines(data: bytes, name: str) -> Listing:
    lines = [line.strip() for line in os.fsdecode(data.removeprefix(b"\xef\xbb\xbf")).split("\n")]
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise DataError(f"--input: {name} names no files; needed is a path a line")
    # The first spelling counts. A zero byte would break every question about where things are.
    files = {os.path.abspath(line.replace("\0", "?")): line for line in reversed(named)}
    root = _common_parent(files)
    entries = [Entry(Path(line.replace("\0", "?")), _below(root, full), _problem(line)) for full, line in files.items()]
    return Listing(_in_order(entries), "list", root, repeated=len(named) - len(files))


def _common_parent(files: Iterable[str]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.dirname(file) for file in files]))
    except ValueError as error:  # drives of Windows
        raise DataError(
            f"--input: the files of a list must lie on one drive ({error}): translate each drive's"
        ) from None


def _problem(path: str) -> str | None:
    """Why a path of a list cannot be tried, or None; any suffix may be."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        return f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})"
    if stat.S_ISDIR(mode):
        return f"{path}: is a folder; a list names files"
    return None if stat.S_ISREG(mode) else f"{path}: is no file"


def _below(root: Path, path: str | Path) -> PurePosixPath:
    place = PurePosixPath(Path(path).relative_to(root).as_posix())
    assert ".." not in place.parts, f"internal: {path} is not below {root}"
    return place if place.name else PurePosixPath("_")  # a list may name the root of the disk


def _in_order(entries: list[Entry]) -> list[Entry]:
    return sorted(entries, key=lambda entry: str(entry.place))


def _refuse_none(entries: list[Entry], what: str, others: Counter[str]) -> None:
    if not entries:
        held = f", but {counts_of(others)}" if others else ""
        raise DataError(f"--input: {what}{held}; needed: {suffix_names()}")


def counts_of(suffixes: Counter[str]) -> str:
    """E.g. "3 .txt, 1 .heic"; the most frequent eight."""
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(8))
