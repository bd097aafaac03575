"""`manifest.jsonl` in the output folder: what became of every input, also when a process is killed.

While a process runs it appends each row to a file of its own, `.manifest.<token>.jsonl`, which it holds locked; at its
end its rows go into the manifest in one rename. Whoever starts next finds the files of the dead by their free locks,
takes their rows over, and removes the half-written outputs that carry their token.

A row has these keys:
    input: absolute path.  output: relative to the output folder.  status: translated, skipped or failed.
    input_size, output_size: [width, height] or null.  seconds: reading, computing and writing.  error: or null.
    warnings: list of lines.  job, bytes, mtime: what the output that stands there was made by and from (settings and
    weights; size and time of the input); job is null where there is none, or nobody knows.
"""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from cyclestyle.checkpoint import write_text
from cyclestyle.errors import DataError
from cyclestyle.inference.locks import locked, try_lock

NAME = "manifest.jsonl"
STATUSES = ("translated", "failed", "skipped")
Row = dict[str, Any]

_OWN = re.compile(r"\.manifest\.([0-9a-f]{12})\.jsonl")
_PARTIAL = re.compile(r"\..*\.([0-9a-f]{12})\.\d+\.partial\.\w+")


class Manifest:
    """The manifest of an output folder, opened by one process for its share of the inputs."""

    def __init__(self, output: Path, order: dict[str, int]) -> None:
        """Open it.

        Args:
            output: an existing folder.
            order: place of every input of the listing, also of other processes' shares, by its absolute path.

        Raises:
            DataError: the folder cannot be written to.
        """
        self.output = output
        self._order = order
        self._token = uuid.uuid4().hex[:12]
        self._path = output / f".manifest.{self._token}.jsonl"
        self._rows: dict[str, Row] = {}
        self._guard = threading.Lock()
        self._counter = 0
        try:
            with locked(_lock_of(output)):  # so that nobody meets the file before it is locked
                self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115  # open as long as this process works
                try_lock(self._file)
        except OSError as error:
            raise DataError(f"cannot write to the output folder {output} ({error.strerror}): choose another") from error
        self._known = {row.get("output"): row for row in _read(output / NAME).values() if row.get("job")}

    def known(self, place: str) -> Row | None:
        """The row that says what the output at `place` was made from, or None."""
        return self._known.get(place)

    def record(self, row: Row) -> None:
        """Note what became of an input; a later row for it counts."""
        with self._guard:
            self._rows[row["input"]] = row
            self._append(row)

    def _append(self, row: Row) -> None:
        with suppress(OSError):  # a full disk: the row is in memory still
            self._file.write(json.dumps(row).encode() + b"\n")
            self._file.flush()

    @contextmanager
    def writing(self, target: Path, row: Row) -> Iterator[Path]:
        """Write `target` so that it appears whole or not at all, and its row with it. From any thread.

        Yields:
            A temporary path beside it with its suffix. `row` is recorded as it stands on leaving, unless by an error.
        """
        with self._guard:
            self._counter += 1
            number = self._counter
        # Short, since file systems limit names to 255 bytes. Not checkpoint.replacing: that names no thread.
        partial = target.with_name(f".{target.stem[:20]}.{self._token}.{number}.partial{target.suffix}")
        try:
            yield partial
            with open(partial, "rb+") as file:
                os.fsync(file.fileno())
            written = partial.stat()
            # Before the rename, with what tells the file: killed in between, the next start sees which came first.
            with self._guard:
                self._append({**row, "written": [written.st_size, written.st_mtime_ns]})
            os.replace(partial, target)
            with self._guard:
                self._rows[row["input"]] = row
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Put this process's rows into the manifest and let go.

        Raises:
            CyclestyleError: the disk does not take it; the process's own file then stays, and the next start reads it.
        """
        try:
            with locked(_lock_of(self.output)):
                _merge(self.output, self._rows, self._order)
                self._file.close()
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(
                f"{self.output / NAME} cannot be written ({error}): free some space, then give the same command again"
            ) from error
        finally:
            self._file.close()


def sweep(output: Path) -> int:
    """Take over the rows of processes that died in this output folder, and remove what they left half written.

    Returns:
        How many processes are still at work there.

    Raises:
        DataError: the folder cannot be written to.
    """
    try:
        return _sweep(output)
    except (OSError, RecursionError) as error:  # the latter: folders a thousand deep
        raise DataError(f"cannot tidy up the output folder {output} ({error}): choose another") from error


def _sweep(output: Path) -> int:
    with locked(_lock_of(output)):
        alive, num_at_work = set(), 0
        for path in sorted(output.glob(".manifest.*.jsonl")):
            if (match := _OWN.fullmatch(path.name)) is None or path.is_symlink() or not path.is_file():
                continue
            with open(path, "rb+") as file:
                is_free = try_lock(file)
                if not is_free:  # also where nobody can tell
                    alive.add(match[1])
                    num_at_work += is_free is False
                    continue
                _merge(output, {name: row for name, row in _read(path).items() if _stands(output, row)}, {})
            path.unlink(missing_ok=True)
        for path in output.glob(".manifest.*.partial.jsonl"):  # written under the lock alone, and that is ours
            path.unlink(missing_ok=True)
        for folder, _, names in os.walk(output):
            for name in names:
                match = _PARTIAL.fullmatch(name)
                if match and match[1] not in alive:
                    (Path(folder) / name).unlink(missing_ok=True)
    return num_at_work


def read_manifest(output: Path) -> dict[str, Row]:
    """The rows of the manifest by input, in its order."""
    return _read(output / NAME)


def _lock_of(output: Path) -> Path:
    return output / ".manifest.lock"


def _read(path: Path) -> dict[str, Row]:
    """Rows by input, the last for each; lines that are torn or of another kind are passed over."""
    rows: dict[str, Row] = {}
    if not path.is_file():  # a pipe would be waited for
        return rows
    with suppress(FileNotFoundError), open(path, "rb") as file:
        for line in file:
            with suppress(ValueError, RecursionError):  # also UnicodeDecodeError
                row = json.loads(line)
                if _is_row(row):
                    rows.pop(row["input"], None)
                    rows[row["input"]] = row
    return rows


def _is_row(row: object) -> bool:
    """Whether it has what is used of it; a manifest that comes with a folder may have been made up."""
    if not isinstance(row, dict) or not isinstance(row.get("input"), str) or row.get("status") not in STATUSES:
        return False
    job, warnings = row.get("job"), row.get("warnings") or []
    is_told = isinstance(warnings, list) and all(isinstance(line, str) for line in warnings)
    return is_told and (job is None or isinstance(job, str)) and _is_place(row.get("output"))


def _is_place(name: object) -> bool:
    """Whether it is a name below the output folder."""
    if not isinstance(name, str) or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    place = PurePath(name)
    return bool(place.parts) and not place.is_absolute() and not place.drive and ".." not in place.parts


def _stands(output: Path, row: Row) -> bool:
    """Whether what a dead process noted came true: the output is the file that it was about to put in place."""
    written = row.pop("written", None)
    if written is None:
        return True
    try:
        found = (output / row["output"]).stat()
    except OSError:
        return False
    return bool(written == [found.st_size, found.st_mtime_ns])


def _merge(output: Path, new: dict[str, Row], order: dict[str, int]) -> None:
    """Put rows into the manifest: other inputs' rows as they are, then the listing's in its order."""
    made = {row["output"] for row in new.values() if row.get("job")}
    old = _read(output / NAME)
    # What another input's row says of an output that is not its own any more is no longer true.
    rows = {name: row for name, row in old.items() if not (row.get("job") and row.get("output") in made)} | new
    if rows == old:
        return
    ordered = sorted(rows.values(), key=lambda row: order.get(row["input"], -1))
    write_text(output / NAME, "".join(json.dumps(row) + "\n" for row in ordered))
