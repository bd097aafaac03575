"""A run folder read to what people ask first: how far it is, how good, what is wrong, how large, how old.

Reads no weights, imports no torch, and reads only the end of long files, so that a folder of many runs is listed at
once. Nothing that a folder may hold makes it fail: what is damaged is named in `problems`, the rest is told.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from cyclestyle.config.yaml_text import read_yaml_file
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.reports.rows import Direction, Evaluation, read_evaluations, read_metrics, score_of, text, whole

__all__ = ["Direction", "Evaluation", "RunSummary", "State", "is_run", "list_runs", "read_run", "score_of"]

State = Literal["not started", "in progress", "finished", "stopped early", "stopped by alarm", "stopped"]

# A run is taken for in progress for so many seconds after its last sign of life, or the time of so many rows.
_QUIET_SECONDS, _QUIET_ROWS = 120.0, 3


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


def list_runs(folder: Path, *, now: float | None = None) -> list[RunSummary]:
    """The runs directly in `folder` (those with a config.yaml), or that run itself; newest activity first.

    Args:
        now: as `read_run` takes it.

    Raises:
        CheckpointError: no such folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"no folder {folder}: needed is the folder that holds runs, by default runs")
    try:
        inside = [folder] if is_run(folder) else sorted(path for path in folder.iterdir() if is_run(path))
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be read ({error.strerror}): give the folder that holds runs") from error
    return sorted((read_run(path, now=now) for path in inside), key=lambda run: -run.active)


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
    step, seconds_per_step, alarms = read_metrics(path / "metrics.jsonl", problems)
    steps = [each for each in (step, _step_of(latest)) if each is not None]
    best_step = index.get("best_step") if best is not None else None
    newest, best_evaluation, num_since = read_evaluations(path / "evaluations.jsonl", best_step, problems)
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
        best_reason=text(index.get("best_reason")) if best is not None else "",
        alarms=alarms,
        num_bytes=_bytes_in(path),
        active=_last_change(path),
        problems=(),
    )
    num_steps = whole(run.option("train.steps")) or _steps_in_checkpoint(latest)
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
    patience, least = whole(run.option("evaluate.patience")), whole(run.option("evaluate.least_steps"))
    if patience and num_since >= patience and (run.step or 0) >= (least or 0):
        return "stopped early"
    if run.alarms and run.option("doctor.on_alarm") == "stop":
        return "stopped by alarm"
    row = (run.seconds_per_step or 0.0) * (whole(run.option("log.scalars_every")) or 0)
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
    except yaml.YAMLError:  # control characters: PyYAML refuses them before it reads
        problems.append(f"{path.name}: no valid YAML")
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
                return whole(value)
            previous = value
    except Exception:  # damage, for which each kind of compression has exceptions of its own; the end of what was read
        pass
    return None


def _bytes_in(folder: Path) -> int:
    """Bytes of all files below a folder; links count nothing."""
    total, pending = 0, [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
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
