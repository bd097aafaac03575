"""One process's share of a plan: what exists is skipped, the rest goes through the pipeline, all is accounted for."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from cyclestyle.devices import num_cores
from cyclestyle.errors import DataError
from cyclestyle.inference.manifest import Manifest, Row
from cyclestyle.inference.one_file import FileStages, OneFile
from cyclestyle.inference.pipeline import Threads, overlap
from cyclestyle.inference.plan import Plan
from cyclestyle.inference.translator import Translator

logger = logging.getLogger("cyclestyle")

_MADE = ("job", "bytes", "mtime")
_NOT_REPLACED = "not replaced"
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


@dataclass(frozen=True)
class Result:
    """What became of one input.

    Attributes:
        input: its path.
        output: where its translation is, or would be.
        status: "translated", "skipped" (the output exists) or "failed".
        error: why it failed, in one line, or None.
    """

    input: Path
    output: Path
    status: str
    error: str | None = None


def iterate_share(
    translator: Translator, plan: Plan, *, index: int = 0, count: int = 1
) -> Generator[Result, None, None]:
    """Results of every `count`-th file from `index` on, in order, as they are done; then the manifest is merged.

    Raises:
        DataError: the disk is full, or the output folder cannot be written to.
    """
    manifest = Manifest(plan.output, {file.row["input"]: position for position, file in enumerate(plan.files)})
    try:
        yield from _Share(translator, plan, manifest).results(plan.files[index::count])
    finally:
        manifest.close()


class _Share:
    """What is counted on the way, to be said in a line each at the end."""

    def __init__(self, translator: Translator, plan: Plan, manifest: Manifest) -> None:
        self._plan = plan
        self._manifest = manifest
        self._stages = FileStages(translator, plan.output, plan.options, manifest)
        self._threads = Threads.dividing(num_cores(), has_gpu=translator.device.type != "cpu")
        self._kept: Counter[str] = Counter()
        self._warnings: Counter[str] = Counter()
        self._num_translated = 0

    def results(self, files: Sequence[OneFile]) -> Iterator[Result]:
        """Results in the order of `files`."""
        following = iter(files)
        todo = (file for file in files if not self._is_skipped(file))
        with closing(overlap(todo, self._stages.stages(), self._threads)) as done:
            for file, error in done:
                for earlier in following:
                    if earlier is file:
                        break
                    yield self._result_of(earlier)
                yield self._finished(file, error)
        for earlier in following:
            yield self._result_of(earlier)
        self._say_at_the_end()

    def _is_skipped(self, file: OneFile) -> bool:
        """Whether the output exists and stays; the row then says what it was made by and from."""
        row = file.row
        file.made = self._made(file)
        exists = os.path.isfile(self._plan.output / file.place)  # false for a name that no file can have, too
        known = self._manifest.known(row["output"]) if exists else None
        cause = _cause_to_keep(known, file.made, row["input"])
        row.update({key: value for key, value in file.made.items() if key != "job"})
        if known is not None and (cause is None or known["input"] == row["input"]):
            row.update({key: known.get(key) for key in (*_MADE, "output_size")})
        if not exists or not file.made or self._plan.options.overwrite:
            return False
        row["status"] = "skipped"
        if cause is None and known is not None:
            notes = [note for note in known.get("warnings") or [] if not note.startswith(_NOT_REPLACED)]
            row.update(input_size=known.get("input_size"), warnings=notes)
        else:
            self._kept[str(cause)] += 1
            row["warnings"] = [f"{_NOT_REPLACED}: {cause} (--overwrite)"]
        self._manifest.record(row)
        return True

    def _made(self, file: OneFile) -> Row:
        """What the output will have been made by and from; empty where the input, or its mask, is not there."""
        if file.entry.error is not None or (self._plan.options.mask is not None and file.mask_file is None):
            return {}
        try:
            found = file.entry.path.stat()
            return {"job": self._stages.job(file), "bytes": found.st_size, "mtime": found.st_mtime}
        except OSError:
            return {}

    def _finished(self, file: OneFile, error: Exception | None) -> Result:
        if error is None:
            self._num_translated += 1
            self._warnings.update(file.row["warnings"])
            return self._result_of(file)
        file.row.update(error=_in_one_line(error, file.entry.path), seconds=round(file.row["seconds"], 4))
        self._manifest.record(file.row)
        if file.num_bytes and _is_full(error, self._plan.output, file.num_bytes):
            raise DataError(
                f"the disk of {self._plan.output} is full: stopped after {self._num_translated} translations of "
                f"{len(self._plan.files)} inputs; free some space, then the same command goes on"
            ) from error
        return self._result_of(file)

    def _result_of(self, file: OneFile) -> Result:
        return Result(file.entry.path, self._plan.output / file.place, file.row["status"], file.row["error"])

    def _say_at_the_end(self) -> None:
        if self._kept:
            logger.warning(
                "%d outputs exist and were not replaced (%s): use --overwrite to replace them",
                self._kept.total(), _counts(self._kept),
            )  # fmt: skip
        if self._warnings:
            logger.warning("translated, with losses that manifest.jsonl names: %s", _counts(self._warnings))


def _cause_to_keep(known: Row | None, made: Row, input: str) -> str | None:
    """None where the output that stands is the one that would be written, else how it differs."""
    if known is None:
        return "of unknown origin"
    if all(known.get(key) == made.get(key) for key in _MADE):
        return None  # also where the input folder has moved
    if known["input"] != input:
        return "of another input"
    if any(known.get(key) != made.get(key) for key in ("bytes", "mtime")):
        return "the input has changed since"
    return "made with other settings"


def _is_full(error: BaseException | None, output: Path, num_bytes: int) -> bool:
    """Whether writing so much failed because the disk is full; image libraries do not always pass the number on."""
    chain = []
    while error is not None:
        chain.append(error)
        error = error.__cause__
    failures = [each for each in chain if isinstance(each, OSError)]
    if any(failure.errno in _FULL for failure in failures):
        return True
    # What was written in vain is removed already, so that there is some space again.
    return any(failure.errno is None for failure in failures) and shutil.disk_usage(output).free < num_bytes


def _in_one_line(error: Exception, path: Path) -> str:
    text = " ".join(str(error).split())[:500] or type(error).__name__
    line = text if str(path) in text else f"{path}: {text}"
    return "".join(letter if letter.isprintable() else "?" for letter in line)  # names may hold a terminal's commands


def _counts(counter: Counter[str]) -> str:
    shown = ", ".join(f"{count} x {text}" for text, count in counter.most_common(8))
    return shown + (f", and {len(counter) - 8} other causes" if len(counter) > 8 else "")
