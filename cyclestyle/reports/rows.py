"""The rows of metrics.jsonl and evaluations.jsonl that say how a run stands, found without reading all of them.

Imports no torch. A line that is damaged, cut off or of another kind is passed over.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Rows are read from a file's end in blocks of so many bytes, and so many at most.
_BLOCK, _MOST = 1 << 16, 1 << 22
# A damaged number of steps or seconds is not carried along.
_LARGEST = 2**53
_STEP = re.compile(rb'\{"step": ?(\d{1,15})[,}]')


@dataclass(frozen=True, kw_only=True)
class Direction:
    """What one direction was judged on: the pictures translated, and those that they were compared with.

    Attributes:
        source, target: names of the domains.
        num_sources, num_references: pictures translated, pictures of the target; None where the file does not say.
        reference_folder: where the latter lie.
        files: the pictures that were translated.
    """

    source: str
    target: str
    num_sources: int | None
    num_references: int | None
    reference_folder: str
    files: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A row of evaluations.jsonl.

    Attributes:
        step: optimizer steps of the generators that were judged.
        seconds: that it took.
        size: pixels of a side of the squares that were compared; None where the file does not say.
        extractor: of the features behind KID and FID.
        metric: the score that the best checkpoint is chosen by, without direction, e.g. "kid".
        scores: by name and direction, e.g. "kid_ab".
        directions: by "ab" and "ba".
    """

    step: int
    seconds: float
    size: int | None
    extractor: str
    metric: str
    scores: dict[str, float]
    directions: dict[str, Direction]


def score_of(evaluation: Evaluation, direction: str) -> tuple[str, float] | None:
    """Name and value of the score that the best checkpoint is chosen by.

    Args:
        direction: ab, ba, or both for the mean of those that were judged.

    Returns:
        ("kid_ab", 0.0123), or None where the evaluation has no such score.
    """
    names = [f"{evaluation.metric}_{each}" for each in ("ab", "ba") if direction in (each, "both")]
    values = [evaluation.scores[name] for name in names if name in evaluation.scores]
    return (f"{evaluation.metric}_{direction}", math.fsum(values) / len(values)) if values else None


def read_metrics(path: Path, problems: list[str]) -> tuple[int | None, float | None, dict[str, str]]:
    """Step of the newest row; seconds a step and active alarms of the newest row of the training itself."""
    step: int | None = None
    try:
        for row in _rows_from_the_end(path):
            step = row["step"] if step is None else step
            # Rows of an evaluation hold scores alone and say nothing of alarms.
            if "seconds_per_step" in row or "alarms" in row:
                alarms = row.get("alarms")
                lines = {text(name): text(line) for name, line in alarms.items()} if isinstance(alarms, dict) else {}
                return step, number(row.get("seconds_per_step")), lines
        if step is None and path.stat().st_size > 0:
            problems.append("metrics.jsonl holds no readable row")
    except FileNotFoundError:
        pass
    except OSError as error:
        problems.append(f"metrics.jsonl cannot be read ({error.strerror})")
    return step, None, {}


def _rows_from_the_end(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a .jsonl, newest first, read block by block; ends after `_MOST` bytes."""
    with open(path, "rb") as file:
        end = size = file.seek(0, os.SEEK_END)
        rest = b""  # the end of a line that begins in an earlier block
        while end > 0 and size - end < _MOST:
            start = max(0, end - _BLOCK)
            file.seek(start)
            lines = (file.read(end - start) + rest).split(b"\n")
            rest = lines.pop(0) if start > 0 else b""
            for line in reversed(lines):
                row = _row(line)
                if row is not None:
                    yield row
            end = start


def _row(line: bytes) -> dict[str, Any] | None:
    """A line as a row with a step; None where it is none, such as one that a crash cut off."""
    try:
        row = json.loads(line) if line.strip() else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and whole(row.get("step")) is not None else None


def read_evaluations(
    path: Path, best_step: object, problems: list[str]
) -> tuple[Evaluation | None, Evaluation | None, int]:
    """The newest evaluation, that of `best_step`, and how many came after the latter (all, where there is none)."""
    try:
        lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    except FileNotFoundError:
        return None, None, 0
    except OSError as error:
        problems.append(f"evaluations.jsonl cannot be read ({error.strerror})")
        return None, None, 0
    # Rows are long (each names its pictures), so only two of them are parsed.
    steps = [int(found[1]) if (found := _STEP.match(line)) else (_row(line) or {}).get("step") for line in lines]
    rows = (_row(line) for line in reversed(lines))
    newest = next((_evaluation(row) for row in rows if row is not None and mapping(row.get("scores"))), None)
    if newest is None and lines:
        problems.append("evaluations.jsonl holds no readable row")
    if best_step not in steps or best_step is None:
        return newest, None, len(lines)
    index = len(steps) - 1 - steps[::-1].index(best_step)
    row = _row(lines[index])
    return newest, None if row is None else _evaluation(row), len(lines) - 1 - index


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    scores, directions = mapping(row.get("scores")), mapping(row.get("directions"))
    return Evaluation(
        step=row["step"],
        seconds=number(row.get("seconds")) or 0.0,
        size=whole(row.get("size")),
        extractor=text(row.get("extractor")),
        metric=text(row.get("best")) or "kid",
        scores={name: float(value) for name, value in scores.items() if _is_number(value)},
        directions={name: _direction(mapping(value)) for name, value in directions.items()},
    )


def _direction(entry: Mapping[str, Any]) -> Direction:
    pictures = entry.get("pictures")
    return Direction(
        source=text(entry.get("source")),
        target=text(entry.get("target")),
        num_sources=whole(entry.get("num_sources")),
        num_references=whole(entry.get("num_references")),
        reference_folder=text(entry.get("reference_folder")),
        files=tuple(text(mapping(each).get("file")) for each in (pictures if isinstance(pictures, list) else ())),
    )


# ---------------------------------------------------------------------------------------------------- values of JSON


def mapping(value: object) -> dict[str, Any]:
    """A section; empty for anything else."""
    return value if isinstance(value, dict) else {}


def text(value: object) -> str:
    """A text; empty for anything else."""
    return value if isinstance(value, str) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, float) or whole(value) is not None


def number(value: object) -> float | None:
    """A finite number; None for anything else."""
    return float(value) if isinstance(value, int | float) and _is_number(value) and math.isfinite(value) else None


def whole(value: object) -> int | None:
    """A count; None for anything else (JSON tells true from 1)."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _LARGEST else None
