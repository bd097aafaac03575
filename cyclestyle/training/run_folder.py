"""The folder of a run: where each file lies, which checkpoint is the latest, how many are kept."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from cyclestyle.checkpoint import load_checkpoint, save_checkpoint, write_text
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

    def create(self) -> None:
        """Make the folders.

        Raises:
            ConfigError: they cannot be made.
        """
        try:
            for folder in (self.samples, self.checkpoints, self.translators):
                folder.mkdir(parents=True, exist_ok=True)
                for partial in folder.glob(".*.partial.*"):  # of a run that was killed while writing
                    partial.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(
                f"run folder {self.path} cannot be made ({error.strerror}): choose another output_dir or name"
            ) from error

    def checkpoint_files(self) -> list[Path]:
        """All checkpoints, oldest first."""
        found = {int(m.group(1)): p for p in self.checkpoints.glob("*.pt") if (m := _CHECKPOINT_NAME.fullmatch(p.name))}
        return [found[step] for step in sorted(found)]

    def load_latest(self) -> dict[str, Any] | None:
        """The newest checkpoint that is whole, or None when there is none at all.

        Raises:
            CheckpointError: there are some, but none can be read.
        """
        files = self.checkpoint_files()
        for path in reversed(files):
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                logger.warning("%s; trying the one before", error)
        if files:
            raise CheckpointError(
                f"none of the {len(files)} checkpoints in {self.checkpoints} can be read: "
                "move that folder away to start anew, or choose another name"
            )
        return None

    def save(self, state: dict[str, Any], keep: int, best: tuple[int, str] | None = None) -> Path:
        """Write the checkpoint of `state["step"]`, name it the latest, remove all but the newest `keep` and the best.

        Args:
            best: step of the best checkpoint, and in words why it is; None: there is none yet.

        Raises:
            CheckpointError: the disk is full, or the folder gone; the checkpoints before it are as they were.
        """
        path = self.checkpoint_file(state["step"])
        save_checkpoint(path, state)
        index = RunIndex(path)
        kept = {path, *self.checkpoint_files()[-keep:]}
        if best is not None and (best_file := self.checkpoint_file(best[0])).is_file():
            index = RunIndex(path, best_file, *best)
            kept.add(best_file)
        write_text(index_file(self.path), index_text(index))
        for old in self.checkpoint_files():
            if old not in kept:
                old.unlink(missing_ok=True)
        return path

    def checkpoint_file(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step_{step:08d}.pt"

    def translator_file(self, source: str, target: str) -> Path:
        """Where the translator between two domains lies, e.g. photo_to_vangogh.safetensors."""
        return self.translators / f"{source}_to_{target}.safetensors"
