"""The folder of a run: where each file lies, which checkpoint is the latest, how many are kept, and which are whole."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cyclestyle.checkpoint import (
    DamagedError,
    load_checkpoint,
    load_translator,
    save_checkpoint,
    save_translator,
    verify_checkpoint,
    write_text,
)
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.run_index import RunIndex, index_file, index_text

logger = logging.getLogger("cyclestyle")

_CHECKPOINT_NAME = re.compile(r"step_(\d{8,})\.pt")


class RunFolder:
    """`runs/<name>/`, see `docs/architecture.md` for what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.checkpoints = path / "checkpoints"
        self.translators = path / "translators"
        self._damaged: set[Path] = set()  # checkpoints that `load_latest` passed over and that lie there still
        self._config = ""  # what the config file held when a checkpoint was last written

    def create(self) -> None:
        """Make the folders, and remove what a run that was killed while writing has left half written.

        Raises:
            ConfigError: they cannot be made.
        """
        try:
            for folder in (self.samples, self.checkpoints, self.translators):
                folder.mkdir(parents=True, exist_ok=True)
                _remove(folder.glob(".*.partial.*"))
        except OSError as error:
            raise ConfigError(
                f"run folder {self.path} cannot be made ({error.strerror}): choose another output_dir or name"
            ) from error
        for mine in (".config.*.partial.*", ".metrics.*.partial.*", ".evaluations.*.partial.*", ".events*.partial.*"):
            _remove(self.path.glob(mine))  # not all: somebody may be writing a report just now

    def checkpoint_files(self) -> list[Path]:
        """All checkpoints, the damaged ones included, oldest first.

        Raises:
            CheckpointError: the folder cannot be read; that there is none is no error.
        """
        try:
            names = os.listdir(self.checkpoints)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(
                f"{self.checkpoints} cannot be read ({error.strerror}): mend it, or choose another name"
            ) from error
        found = {int(match[1]): match[0] for name in names if (match := _CHECKPOINT_NAME.fullmatch(name))}
        return [self.checkpoints / found[step] for step in sorted(found)]

    def load_latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None when there is none at all.

        Damaged newer ones are named, with what is lost, and stay where they are until the run has passed them again. A
        best checkpoint that is damaged is put aside, so that the run looks for another.

        Raises:
            CheckpointError: there are some, but none is whole; or one may well be whole, but cannot be read now.
        """
        files = self.checkpoint_files()
        failures = []
        for path in reversed(files):
            try:
                state = load_checkpoint(path)
            except DamagedError as error:
                self._damaged.add(path)
                failures.append(str(error))
                continue
            if failures:
                lost = _step_of(files[-1]) - _step_of(path)
                logger.warning(
                    "%s; going on from %s: %d step%s lost", "; ".join(failures), path.name, lost,
                    " is" if lost == 1 else "s are",
                )  # fmt: skip
            self._put_aside_a_damaged_best(state, path)
            return state
        if files:
            raise CheckpointError(
                f"none of the {len(files)} checkpoints in {self.checkpoints} can be read (the newest: {failures[0]}); "
                "move that folder away to start anew, or choose another name"
            )
        return None

    def _put_aside_a_damaged_best(self, state: dict[str, Any], latest: Path) -> None:
        best = (state.get("watch") or {}).get("best") or {}
        if best.get("step") is None:
            return
        path = self.checkpoint_file(best["step"])
        if path == latest or not path.is_file():
            return
        try:
            verify_checkpoint(path)
        except DamagedError as error:
            aside = path.with_name(f"{path.name}.damaged")
            with suppress(OSError):
                path.rename(aside)
            logger.warning("the best checkpoint is lost: %s; it is now %s", error, aside.name)
        except CheckpointError:
            pass  # cannot be read now, for want of rights, say: that is no reason to give it up

    def save(self, state: dict[str, Any], keep: int, best: tuple[int, str] | None = None) -> Path:
        """Write the checkpoint of `state["step"]`, name it the latest, remove all but the newest `keep` and the best.

        Nothing is removed before the new one is on the disk, and damaged ones are none of the `keep`.

        Args:
            best: step of the best checkpoint, and in words why it is; None: there is none yet.

        Raises:
            CheckpointError: the disk is full, or cannot be written to; the checkpoints before it are as they were.
        """
        self._make_again()
        _sync(self.metrics_file)  # who goes on from this checkpoint takes the rows before it for written
        _sync(self.path / "evaluations.jsonl")
        path = self.checkpoint_file(state["step"])
        save_checkpoint(path, state)
        self._damaged.discard(path)
        index = RunIndex(path)
        kept = {path, *[file for file in self.checkpoint_files() if file not in self._damaged][-keep:]}
        if best is not None and (best_file := self.checkpoint_file(best[0])).is_file():
            index = RunIndex(path, best_file, *best)
            kept.add(best_file)
        write_text(index_file(self.path), index_text(index))
        _remove(old for old in self.checkpoint_files() if old not in kept and _step_of(old) < state["step"])
        return path

    def _make_again(self) -> None:
        """Folders that were removed under a training; not those above, which may be a disk that was taken away."""
        missing = [each for each in (self.path, self.checkpoints, self.translators, self.samples) if not each.is_dir()]
        with suppress(OSError):
            if not missing:
                self._config = self.config_file.read_text(encoding="utf-8")
                return
            for folder in missing:
                folder.mkdir()
            logger.warning(
                "%s was removed during training, and made again: training goes on, what was in it is lost", missing[0]
            )
            if self._config and not self.config_file.exists():
                write_text(self.config_file, self._config)

    def restore_translators(self, state: dict[str, Any]) -> None:
        """Write the translators of checkpoint `state` where they are missing, damaged, or of another step.

        A run that was killed between its last checkpoint and its translators leaves those of the checkpoint before.

        Raises:
            CheckpointError: they cannot be written.
        """
        for name, spec in state["translators"].items():
            path = self.translator_file(spec["source"], spec["target"])
            with suppress(CheckpointError):
                if load_translator(path)[1].get("step") == state["step"]:
                    continue
            self._make_again()
            save_translator(path, state["averages"][name], {**spec, "step": state["step"]})

    def checkpoint_file(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step_{step:08d}.pt"

    def translator_file(self, source: str, target: str) -> Path:
        """Where the translator between two domains lies, e.g. photo_to_vangogh.safetensors."""
        return self.translators / f"{source}_to_{target}.safetensors"


def _step_of(checkpoint: Path) -> int:
    match = _CHECKPOINT_NAME.fullmatch(checkpoint.name)
    assert match is not None, f"{checkpoint} is no name of a checkpoint"
    return int(match[1])


def _remove(files: Iterable[Path]) -> None:
    """Remove what is not needed; a disk that does not allow it is no reason to stop."""
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be removed (%s)", file, error.strerror)


def _sync(file: Path) -> None:
    """Have what was written into a file on the disk, if there is one."""
    with suppress(OSError), open(file, "rb") as opened:
        os.fsync(opened.fileno())
