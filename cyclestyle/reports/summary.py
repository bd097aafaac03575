"""A run folder read to what people ask first: how far it is, how good, what is wrong, how large, how old.

Reads no weights, imports no torch, and reads only the end of long files, so that a folder of many runs is listed at
once. Nothing that a folder may hold makes it fail: what is damaged is named in `problems`, the rest is told.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cyclestyle.config.yaml_text import read_yaml_file
from cyclestyle.errors import CheckpointError, ConfigError

State = Literal["not started", "in progress", "finished", "stopped early", "stopped by alarm", "stopped"]

# Rows of metrics.jsonl are read from its end in blocks of so many bytes, and so many at most.
_BLOCK, _MOST = 1 << 16, 1 << 22
# A run is taken for in progress for so many seconds after its last sign of life, or the time of so many rows.
_QUIET_SECONDS, _QUIET_ROWS = 120.0, 3
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


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What a run folder says of itself.

    Attributes:
        path: the run folder; its name is the run's.
        config: of config.yaml, nested, as it stands there; empty where it cannot be read.
        step: of the newest row or checkpoint; None: none yet.
        num_steps: length of the run; None: unknown (a run by epochs without a checkpoint).
        seconds_per_step: of the newest row.
        state: see `_state_of`.
        newest, best: evaluations; None where there is none.
        best_checkpoint: the file that index.json names as the best; None where there is none.
        best_reason: why it is, in words.
        alarms: of the newest row: name -> one line.
        num_bytes: of all files.
        active: seconds since 1970 of its last sign of life.
        problems: what is damaged, a few words each.
    """

    path: Path
    config: dict[str, Any] = field(repr=False)
    step: int | None
    num_steps: int | None
    seconds_per_step: float | None
    state: State
    newest: Evaluation | None
    best: Evaluation | None
    best_checkpoint: Path | None
    best_reason: str
    alarms: dict[str, str]
    num_bytes: int
    active: float
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of the run: that of its folder, which may have been renamed."""
        return self.path.name or self.path.resolve().name

    @property
    def domains(self) -> tuple[str, str]:
        """Names of domain A and domain B."""
        a, b = (self.option(f"data.{letter}.name") for letter in "ab")
        return a if isinstance(a, str) else "a", b if isinstance(b, str) else "b"

    def option(self, key: str) -> Any:
        """A value of the config by its dotted key; None where it is absent."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    @property
    def judged_direction(self) -> str:
        """The direction whose score names the best checkpoint: ab, ba or both."""
        direction = self.option("evaluate.direction")
        return direction if direction in ("ab", "ba", "both") else "ab"


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


def list_runs(folder: Path) -> list[RunSummary]:
    """The runs directly in `folder` (those with a config.yaml), or that run itself; newest activity first.

    Raises:
        CheckpointError: no such folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}: needed is the folder that holds runs, by default runs")
    try:
        inside = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if is_run(path))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}): give the folder that holds runs") from error
    return sorted((read_run(path) for path in inside), key=lambda run: -run.active)


def is_run(path: Path) -> bool:
    """Whether it is a run folder: there is a config.yaml in it."""
    try:
        return (path / "config.yaml").is_file()
    except OSError:
        return False


def read_run(path: Path, *, now: float | None = None) -> RunSummary:
    """What the run folder `path` says of itself, whatever is damaged in it.

    Args:
        now: seconds since 1970, for tests; None: the present.
    """
    problems: list[str] = []
    config = _read_config(path / "config.yaml", problems)
    index = _read_index(path / "checkpoints" / "index.json", problems)
    latest, best = (_named_checkpoint(path, index, which, problems) for which in ("latest", "best"))
    step, seconds_per_step, alarms = _read_metrics(path / "metrics.jsonl", problems)
    steps = [each for each in (step, _step_of(latest)) if each is not None]
    best_step = index.get("best_step") if best is not None else None
    newest, best_evaluation, num_since = _read_evaluations(path / "evaluations.jsonl", best_step, problems)
    run = RunSummary(
        path=path,
        config=config,
        step=max(steps, default=None),
        num_steps=None,
        seconds_per_step=seconds_per_step,
        state="stopped",
        newest=newest,
        best=best_evaluation,
        best_checkpoint=best,
        best_reason=_text(index.get("best_reason")) if best is not None else "",
        alarms=alarms,
        num_bytes=_bytes_in(path),
        active=_last_change(path),
        problems=(),
    )
    num_steps = _whole(run.option("train.steps")) or _steps_in_checkpoint(latest)
    state = _state_of(run, num_steps, num_since, time.time() if now is None else now)
    fields = {**vars(run), "num_steps": num_steps, "state": state, "problems": tuple(problems)}
    return RunSummary(**fields)


def _state_of(run: RunSummary, num_steps: int | None, num_since: int, now: float) -> State:
    """What became of a run.

    A run leaves no note when it ends, so this follows from its files: finished when its last step is done; stopped
    early when `evaluate.patience` evaluations brought nothing better; stopped by an alarm where `doctor.on_alarm` says
    so; in progress when it wrote something within the time of three rows, at least two minutes; else stopped.

    Args:
        num_since: evaluations after the best one.
    """
    if run.step is not None and num_steps is not None and run.step >= num_steps:
        return "finished"
    patience, least = _whole(run.option("evaluate.patience")), _whole(run.option("evaluate.least_steps"))
    if patience and num_since >= patience and (run.step or 0) >= (least or 0):
        return "stopped early"
    if run.alarms and run.option("doctor.on_alarm") == "stop":
        return "stopped by alarm"
    row = (run.seconds_per_step or 0.0) * (_whole(run.option("log.scalars_every")) or 0)
    evaluation = run.newest.seconds if run.newest is not None else 0.0
    if now - run.active < max(_QUIET_SECONDS, _QUIET_ROWS * row + evaluation):
        return "in progress"
    return "not started" if run.step is None else "stopped"


# ---------------------------------------------------------------------------------------------------- files of a run


def _read_config(path: Path, problems: list[str]) -> dict[str, Any]:
    # Not through the schema: a run of another version has keys that this one does not know.
    try:
        return read_yaml_file(path)[0]
    except ConfigError as error:
        problems.append(str(error).replace(str(path), path.name))
        return {}


def _read_index(path: Path, problems: list[str]) -> dict[str, Any]:
    try:
        index = json.loads(path.read_bytes())
    except FileNotFoundError:
        if next(path.parent.glob("step_*.pt"), None) is not None:
            problems.append("checkpoints/index.json is missing")
        return {}
    except OSError as error:
        problems.append(f"checkpoints/index.json cannot be read ({error.strerror})")
        return {}
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        problems.append("checkpoints/index.json is damaged")
        return {}
    return index


def _named_checkpoint(run: Path, index: Mapping[str, Any], which: str, problems: list[str]) -> Path | None:
    """The file that index.json names as `latest` or `best`."""
    name = index.get(which)
    if name is None:
        return None
    # A name alone: an index may come from anywhere.
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        problems.append(f"checkpoints/index.json: {which} is no file name")
        return None
    path = run / "checkpoints" / name
    if not os.path.isfile(path):
        problems.append(f"checkpoints/{name} ({which}) is missing")
        return None
    return path


def _step_of(checkpoint: Path | None) -> int | None:
    found = None if checkpoint is None else re.fullmatch(r"step_(\d{1,15})", checkpoint.stem)
    return int(found[1]) if found else None


def _read_metrics(path: Path, problems: list[str]) -> tuple[int | None, float | None, dict[str, str]]:
    """Step of the newest row; seconds a step and active alarms of the newest row of the training itself."""
    step: int | None = None
    try:
        for row in _rows_from_the_end(path):
            step = row["step"] if step is None else step
            # Rows of an evaluation hold scores alone and say nothing of alarms.
            if "seconds_per_step" in row or "alarms" in row:
                alarms = row.get("alarms")
                lines = {_text(name): _text(line) for name, line in alarms.items()} if isinstance(alarms, dict) else {}
                return step, _number(row.get("seconds_per_step")), lines
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
    return row if isinstance(row, dict) and _whole(row.get("step")) is not None else None


def _read_evaluations(
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
    newest = next((_evaluation(row) for row in rows if row is not None), None)
    if newest is None and lines:
        problems.append("evaluations.jsonl holds no readable row")
    if best_step not in steps or best_step is None:
        return newest, None, len(lines)
    index = len(steps) - 1 - steps[::-1].index(best_step)
    row = _row(lines[index])
    return newest, None if row is None else _evaluation(row), len(lines) - 1 - index


def _evaluation(row: Mapping[str, Any]) -> Evaluation:
    scores, directions = _mapping(row.get("scores")), _mapping(row.get("directions"))
    return Evaluation(
        step=row["step"],
        seconds=_number(row.get("seconds")) or 0.0,
        size=_whole(row.get("size")),
        extractor=_text(row.get("extractor")),
        metric=_text(row.get("best")) or "kid",
        scores={name: float(value) for name, value in scores.items() if _is_number(value)},
        directions={name: _direction(_mapping(value)) for name, value in directions.items()},
    )


def _direction(entry: Mapping[str, Any]) -> Direction:
    pictures = entry.get("pictures")
    return Direction(
        source=_text(entry.get("source")),
        target=_text(entry.get("target")),
        num_sources=_whole(entry.get("num_sources")),
        num_references=_whole(entry.get("num_references")),
        reference_folder=_text(entry.get("reference_folder")),
        files=tuple(_text(_mapping(each).get("file")) for each in (pictures if isinstance(pictures, list) else ())),
    )


def _steps_in_checkpoint(path: Path | None) -> int | None:
    """Length of the run as a checkpoint knows it, for runs by epochs; None where it cannot be told.

    It is among the first values that a checkpoint holds. They are looked at as a list of instructions that is never
    carried out: no torch is needed, and nothing in the file can run.
    """
    if path is None:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as file:
                start = file.read(4096)
        previous: object = None
        for code, value, _ in pickletools.genops(start):
            if "PUT" in code.name or "MEMOIZE" in code.name:  # they stand between a key and its value
                continue
            if previous == "num_steps":
                return _whole(value)
            previous = value
    except (OSError, ValueError, zipfile.BadZipFile, StopIteration, NotImplementedError, RuntimeError, EOFError):
        pass  # also the end of what was read
    return None


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; links count nothing."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _bytes_in(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    except OSError:  # a run in progress removes files while we look
        pass
    return total


def _last_change(run: Path) -> float:
    """When the training last wrote; not when its translations or reports were made."""
    times = []
    for name in ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "checkpoints/index.json"):
        try:
            times.append((run / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


# ---------------------------------------------------------------------------------------------------- values of JSON


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _whole(value) is not None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and _is_number(value) and math.isfinite(value) else None


def _whole(value: object) -> int | None:
    """A count; None for anything else (JSON tells true from 1)."""
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value < _LARGEST else None
