"""Finds the image files of both domains, and says in one line what is wrong with a folder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".npy"})
"""What counts as an image, in any case (`.JPG` too)."""


@dataclass(frozen=True)
class DomainFolders:
    """Folders and files of one domain.

    Attributes:
        name: what people call the domain.
        train: folder of training images.
        test: folder of test images, None where there is none.
        train_files: at least one, in a stable order.
        test_files: empty where there is no test folder.
    """

    name: str
    train: Path
    test: Path | None
    train_files: tuple[Path, ...]
    test_files: tuple[Path, ...]


def find_folders(config: DataConfig) -> tuple[DomainFolders, DomainFolders]:
    """Both domains' folders and files.

    Raises:
        DataError: a folder is missing, empty or no folder, or the domains share images.
    """
    a = find_domain(config.root, config.a, "a")
    b = find_domain(config.root, config.b, "b")
    _refuse_overlap(a.train, b.train)
    return a, b


def find_domain(root: str | None, domain: DomainConfig, letter: Literal["a", "b"]) -> DomainFolders:
    """Folders and files of one domain: its own where it names them, else `root`/trainA and `root`/testA (B alike).

    Raises:
        DataError: a folder is missing, empty or no folder.
    """
    train, train_key = _train_folder(root, domain, letter)
    train_files = tuple(list_images(train, key=train_key))
    test: Path | None = None
    test_files: tuple[Path, ...] = ()
    if domain.test is not None:
        test = Path(domain.test).expanduser()
        test_files = tuple(list_images(test, key=f"data.{letter}.test"))
    elif root is not None and (Path(root).expanduser() / f"test{letter.upper()}").exists():
        test = Path(root).expanduser() / f"test{letter.upper()}"
        test_files = tuple(list_images(test, key="data.root"))
    return DomainFolders(domain.name or letter, train, test, train_files, test_files)


def list_images(folder: Path, *, key: str) -> list[Path]:
    """All images below a folder, however deep.

    Hidden files and folders are passed over, links are followed (each real folder once, so that loops end).

    Args:
        folder: where to look; the paths returned begin with it as it is spelled.
        key: what named the folder (`data.root`, `--input`), for messages.

    Returns:
        Paths in the order of their `/`-separated names, the same on every file system.

    Raises:
        DataError: `folder` is missing, no folder, unreadable or holds no images.
    """
    _require_folder(folder, key)
    found = find_images(folder)
    for error in found.unreadable.values():
        raise DataError(f"{key}: cannot read {error.filename}: {error.strerror}") from error
    if not found.images:
        raise DataError(f"{key}: {folder} holds no images{_instead(found.others)}; needed: {suffix_names()}")
    return found.images


@dataclass(frozen=True)
class Found:
    """What lies below a folder.

    Attributes:
        images: in the order of their `/`-separated names, the same on every file system.
        others: how many files of each other suffix (lower case, with its dot).
        unreadable: folders that could not be looked into, and why.
    """

    images: list[Path]
    others: Counter[str]
    unreadable: dict[Path, OSError]


def find_images(folder: Path) -> Found:
    """All images below a folder as `list_images` gives them; what cannot be read is told, not raised."""
    found = Found([], Counter(), {})
    for path in _walk(folder, found.unreadable):
        if is_image_name(path):
            found.images.append(path)
        else:
            found.others[path.suffix.lower() or "files without suffix"] += 1
    found.images.sort(key=lambda path: path.relative_to(folder).as_posix())
    return found


def is_image_name(path: Path) -> bool:
    """Whether the suffix says that it is an image."""
    return path.suffix.lower() in SUFFIXES


def _train_folder(root: str | None, domain: DomainConfig, letter: str) -> tuple[Path, str]:
    """The training folder of a domain and the key that names it."""
    if domain.train is not None:
        return Path(domain.train).expanduser(), f"data.{letter}.train"
    if root is None:
        raise DataError(
            f"no training images for domain {letter}: set data.root to a folder that holds trainA and trainB, "
            f"or data.{letter}.train to a folder of images"
        )
    base, name = Path(root).expanduser(), f"train{letter.upper()}"
    _require_folder(base, "data.root")
    if not (base / name).is_dir():
        held = sorted(entry.name + "/" for entry in base.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        raise DataError(
            f"data.root: {root} has no folder {name}; it holds {_some(held) or 'no folders'}. "
            f"Rename one, or set data.{letter}.train"
        )
    return base / name, "data.root"


def _walk(folder: Path, unreadable: dict[Path, OSError]) -> Iterator[Path]:
    """Files below `folder`, in no order."""
    seen: set[object] = set()  # folders already entered
    pending = [folder]
    while pending:
        inside = pending.pop()
        try:
            identity = _identity(inside)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(inside) as entries:
                visible = sorted(
                    (entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name
                )
        except OSError as error:
            unreadable[inside] = error
            continue
        # Not by a generator within another, whose depth would be the folders'.
        pending += [inside / entry.name for entry in reversed(visible) if entry.is_dir()]
        # Also through links; false for broken ones, sockets and devices.
        yield from (inside / entry.name for entry in visible if entry.is_file())


def _identity(folder: Path) -> object:
    """The same for a folder and links to it. Not its real path: that takes minutes where folders are very deep."""
    found = os.stat(folder)
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)


def _require_folder(folder: Path, key: str) -> None:
    """Raise `DataError` unless `folder` is one."""
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{key}: {folder} is a file, not a folder of images; name the folder that holds it")
    if folder.is_symlink():
        raise DataError(f"{key}: {folder} is a link to {os.readlink(folder)}, which does not exist")
    nearest = next((parent for parent in folder.absolute().parents if parent.is_dir()), Path(folder.absolute().anchor))
    try:
        held = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in nearest.iterdir())
    except OSError:
        held = []
    found = f", which holds {_some([name for name in held if not name.startswith('.')]) or 'nothing'}"
    raise DataError(f"{key}: no folder {folder}; the path is good as far as {nearest}{found}")


def _refuse_overlap(a: Path, b: Path) -> None:
    """Raise `DataError` if the training folders share images."""
    real_a, real_b = Path(os.path.realpath(a)), Path(os.path.realpath(b))
    if real_a == real_b:
        raise DataError(f"both domains train on {a}: set data.a.train and data.b.train to different folders")
    for inner, outer, one, other in ((real_a, real_b, a, b), (real_b, real_a, b, a)):
        if outer in inner.parents:
            raise DataError(
                f"training folder {one} lies inside the other domain's, {other}, and would be in both: "
                "set data.a.train and data.b.train to separate folders"
            )


def _instead(others: Counter[str]) -> str:
    """What was found where images were wanted: ", but 12 .heic, 3 .txt"."""
    if not others:
        return " (it is empty)"
    return ", but " + _some([f"{count} {suffix}" for suffix, count in others.most_common()])


def _some(names: list[str], most: int = 8) -> str:
    """The first names, comma-separated, and how many more."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def suffix_names() -> str:
    """What `SUFFIXES` holds, for messages."""
    return " ".join(sorted(suffix[1:] for suffix in SUFFIXES))
