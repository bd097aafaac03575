"""`checkpoints/index.json` of a run: which checkpoint is the newest, which the best, and why. No torch here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from cyclestyle.errors import CheckpointError

_NAME = re.compile(r"\w[\w.-]{0,199}")


@dataclass(frozen=True)
class RunIndex:
    """What the index says; checkpoints by their file.

    Attributes:
        latest: the newest checkpoint.
        best: the best one by `evaluate.best`; None: no evaluation has found one yet.
        best_step: of the best.
        best_reason: one line in words.
    """

    latest: Path
    best: Path | None = None
    best_step: int | None = None
    best_reason: str = ""


def index_file(run: Path) -> Path:
    """Where the index of a run lies."""
    return run / "checkpoints" / "index.json"


def index_text(index: RunIndex) -> str:
    """What is written into the file."""
    words: dict[str, object] = {"latest": index.latest.name, "best": None}
    if index.best is not None:
        words |= {"best": index.best.name, "best_step": index.best_step, "best_reason": index.best_reason}
    return json.dumps(words, indent=2, ensure_ascii=False) + "\n"


def read_index(run: Path) -> RunIndex | None:
    """The index of the run in folder `run`; None where there is none, or none that can be read or was ever written."""
    try:
        words = json.loads(index_file(run).read_text(encoding="utf-8"))
        best = _checkpoint(run, words["best"]) if words["best"] else None
        step = words.get("best_step")
        best_step = step if isinstance(step, int) and 0 <= step < 2**53 else None
        return RunIndex(_checkpoint(run, words["latest"]), best, best_step, str(words.get("best_reason", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checkpoint(run: Path, name: str) -> Path:
    """The file of that name beside the index; `ValueError` for a way to another place, as one made up may have it."""
    if not _NAME.fullmatch(name):
        raise ValueError(name)
    return index_file(run).parent / name


def best_checkpoint(run: Path) -> Path:
    """The file of the best checkpoint.

    Raises:
        CheckpointError: no evaluation has named one, or it is gone.
    """
    index = read_index(run)
    if index is None:
        raise CheckpointError(
            f"{index_file(run)} is missing or damaged, the best checkpoint is unknown: use the newest"
        )
    if index.best is None:
        raise CheckpointError(
            f"{run} has no best checkpoint: no evaluation was good enough (evaluate.every, evaluate.least_content); "
            "use the newest"
        )
    if not index.best.is_file():
        raise CheckpointError(f"the best checkpoint of {run}, {index.best.name}, is gone: use the newest")
    return index.best
