"""Reads a run folder to plain data for a report: what was logged, scored and drawn, whatever of it is there.

Files may be missing, cut off by a crash, or written to at this moment; only a folder that is no run is an error.
"""

from __future__ import annotations

import json
import logging
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cyclestyle.errors import CheckpointError
from cyclestyle.reports.rows import mapping, text, whole
from cyclestyle.reports.summary import RunSummary, is_run, read_run

logger = logging.getLogger("cyclestyle")

GRID_KEY = "cyclestyle"
"""Text chunk of a sample grid's PNG that says where its cells are."""

_TRAINING_KEYS = ("lr_", "seconds_per_step")
"""Begin keys that only rows of training have: evaluations write rows of their own, which know nothing of alarms."""

_CHECKPOINT_NAME = re.compile(r"step_(\d{1,15})\.pt")
_GRID_NAME = re.compile(r"step_\d{1,15}_.+\.png")


class Series(NamedTuple):
    """One curve: `steps` int64, ascending, each once, and `values` float64 of the same length, maybe not finite."""

    steps: np.ndarray
    values: np.ndarray


@dataclass
class Alarm:
    """One time that an alarm rang: from the row of step `start`; `end` is the first row without it, None: it rings."""

    name: str
    line: str
    start: int
    end: int | None = None


@dataclass(frozen=True)
class EvaluationRow:
    """A row of evaluations.jsonl, whose `directions` stay as they stand there; of all but the newest and best they go.

    Attributes:
        metric: that names the best checkpoint: "kid", "fid" or "swd"; empty where the row does not say.
    """

    step: int
    size: int | None
    extractor: str
    metric: str
    scores: dict[str, float]
    directions: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A sample grid and where its cells are, in pixels.

    Attributes:
        left, top, gap, width, height, label_height: row r, column c starts at x = left + c * (width + gap) and
            y = top + r * (height + label_height + gap), as `cyclestyle.training.previews.Preview` says.
        rows: number of pictures.
        labels: what each is called; empty where the grid does not say.
        captions: scores of each translation, in words; empty where the grid does not say.
    """

    path: Path
    step: int
    source: str
    target: str
    left: int
    top: int
    gap: int
    width: int
    height: int
    label_height: int
    rows: int
    labels: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def form(self) -> tuple[int, int, int, tuple[str, ...]]:
        """What must agree for two grids to show the same pictures."""
        return self.width, self.height, self.rows, self.labels


@dataclass(frozen=True)
class Run:
    """A run folder, read whole.

    Attributes:
        summary: what can be told at a glance: config, state, length, best checkpoint.
        config_text: config.yaml as it stands; empty where it cannot be read.
        series: the curve of each number in metrics.jsonl and each score in evaluations.jsonl.
        step: the newest that anything was logged, drawn or saved at.
        seconds: that training took so far.
        alarms: in the order in which they began.
        evaluations: by step.
        grids: by step, both directions.
        num_odd_grids: pictures in samples/ that do not say where their cells are.
        checkpoints: steps that have one, ascending.
        best_step: of the best checkpoint; None where there is none.
    """

    summary: RunSummary
    config_text: str
    series: dict[str, Series]
    step: int
    seconds: float
    alarms: list[Alarm]
    evaluations: list[EvaluationRow]
    grids: list[Grid]
    num_odd_grids: int
    checkpoints: list[int]
    best_step: int | None

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.summary.path

    @property
    def names(self) -> tuple[str, str]:
        """Of domain A and domain B."""
        return self.summary.domains

    @property
    def ringing(self) -> list[Alarm]:
        """The alarms that ring in the newest row."""
        return [alarm for alarm in self.alarms if alarm.end is None]

    def direction(self, source: str, target: str) -> str:
        """ "ab" or "ba" for a pair of domains."""
        return "ba" if (target, source) == self.names and source != target else "ab"


def gather(folder: Path, now: float | None = None) -> Run:
    """Read the run in `folder`; `now` is in seconds since 1970, for tests.

    Raises:
        CheckpointError: there is no run.
    """
    if not is_run(folder):
        raise CheckpointError(
            f"no run in {folder}: needed is a folder with a config.yaml, as train.py leaves under runs/"
        )
    summary = read_run(folder, now=now)
    series, alarms = _read_metrics(folder / "metrics.jsonl")
    best = None if summary.best_checkpoint is None else _CHECKPOINT_NAME.fullmatch(summary.best_checkpoint.name)
    best_step = None if best is None else int(best[1])
    evaluations = _read_evaluations(folder / "evaluations.jsonl", best_step)
    _add_scores(series, evaluations)
    grids, num_odd = _read_grids(folder / "samples")
    steps = [int(curve.steps[-1]) for curve in series.values()] + [grid.step for grid in grids]
    return Run(
        summary=summary,
        config_text=_read_text(folder / "config.yaml"),
        series=series,
        step=max([*steps, summary.step or 0]),
        seconds=_training_time(series.get("seconds_per_step")),
        alarms=alarms,
        evaluations=evaluations,
        grids=grids,
        num_odd_grids=num_odd,
        checkpoints=_checkpoint_steps(folder / "checkpoints"),
        best_step=best_step,
    )


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _checkpoint_steps(folder: Path) -> list[int]:
    found = (_CHECKPOINT_NAME.fullmatch(path.name) for path in folder.glob("*.pt"))
    return sorted(int(match[1]) for match in found if match)


# ---------------------------------------------------------------------------------------------------- rows


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a .jsonl file that have a step; lines that were cut off are passed over."""
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and whole(row.get("step")) is not None:
                yield row


def _read_metrics(path: Path) -> tuple[dict[str, Series], list[Alarm]]:
    """Each number's curve, and when which alarm rang."""
    points: dict[str, tuple[array[int], array[float]]] = {}  # 100 000 rows of 30 numbers as dicts would take 300 MB
    alarms: list[Alarm] = []
    ringing: dict[str, Alarm] = {}
    for row in _rows(path):
        step = row["step"]
        for key, value in row.items():
            number = _number(value)
            if number is not None and key != "step":
                steps, values = points.setdefault(key, (array("q"), array("d")))
                steps.append(step)
                values.append(number)
        lines = row.get("alarms")
        if isinstance(lines, dict) or any(key.startswith(_TRAINING_KEYS) for key in row):
            _follow(step, lines if isinstance(lines, dict) else {}, ringing, alarms)
    return {key: _series(*columns) for key, columns in points.items()}, alarms


def _follow(step: int, lines: Mapping[str, Any], ringing: dict[str, Alarm], alarms: list[Alarm]) -> None:
    """Take in which alarms ring at a row of training."""
    for name in [name for name in ringing if name not in lines]:
        ringing.pop(name).end = step
    for name, line in lines.items():
        if name not in ringing:
            ringing[name] = Alarm(name, "", step)
            alarms.append(ringing[name])
        ringing[name].line = " ".join(str(line).split()).removeprefix(f"{name}: ")  # a title says the name


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:  # a whole number of hundreds of digits
        return float("inf")


def _series(steps: array[int], values: array[float]) -> Series:
    """Sorted by step; of several values of one step the last."""
    x, y = np.frombuffer(steps, np.int64), np.frombuffer(values, np.float64)
    if np.any(np.diff(x) <= 0):
        order = np.argsort(x, kind="stable")
        x, y = x[order], y[order]
        last = np.append(x[1:] != x[:-1], True)
        x, y = x[last], y[last]
    return Series(x, y)


def _training_time(seconds_per_step: Series | None) -> float:
    """Seconds, from means over the steps since the row before."""
    if seconds_per_step is None:
        return 0.0
    values = seconds_per_step.values
    spent = np.diff(seconds_per_step.steps, prepend=0) * np.where(np.isfinite(values), values, 0.0)
    return float(spent.sum())


def _read_evaluations(path: Path, best_step: int | None) -> list[EvaluationRow]:
    """By step; of several rows of one step the last."""
    found: dict[int, EvaluationRow] = {}
    newest: int | None = None
    for row in _rows(path):
        scores = {name: _number(value) for name, value in mapping(row.get("scores")).items()}
        if newest not in (None, best_step, row["step"]):
            found[newest].directions.clear()  # hundreds of evaluations name tens of thousands of pictures
        newest = row["step"]
        found[newest] = EvaluationRow(
            step=newest,
            size=whole(row.get("size")) or None,
            extractor=text(row.get("extractor")),
            metric=text(row.get("best")),
            scores={name: number for name, number in scores.items() if number is not None},
            directions=mapping(row.get("directions")),
        )
    return [found[step] for step in sorted(found)]


def _add_scores(series: dict[str, Series], evaluations: list[EvaluationRow]) -> None:
    """Scores that stand only in evaluations.jsonl become curves too."""
    for name in sorted({name for evaluation in evaluations for name in evaluation.scores} - set(series)):
        points = [(each.step, each.scores[name]) for each in evaluations if name in each.scores]
        series[name] = _series(array("q", [p[0] for p in points]), array("d", [p[1] for p in points]))


# ---------------------------------------------------------------------------------------------------- sample grids


def _read_grids(folder: Path) -> tuple[list[Grid], int]:
    """The grids that say where their cells are, and the number of those that do not."""
    paths = [path for path in sorted(folder.glob("*.png")) if _GRID_NAME.fullmatch(path.name)]
    grids = [_read_grid(path) for path in paths]
    good = sorted((grid for grid in grids if grid is not None), key=lambda grid: grid.step)
    return good, len(paths) - len(good)


def _read_grid(path: Path) -> Grid | None:
    """A grid without its pixels; None where it does not fit the format."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            size, info = image.size, json.loads(image.info[GRID_KEY])
            numbers = {key: info[key] for key in ("step", "left", "top", "gap", "width", "height", "rows")}
            numbers["label_height"] = info.get("label_height", 0)
            source, target = str(info["source"]), str(info["target"])
    except Exception:  # Pillow raises about every exception there is, and JSON may be nested without end
        return None
    if any(whole(number) is None for number in numbers.values()) or 0 in (numbers["width"], numbers["height"]):
        return None
    pictures = info.get("pictures")
    rows = [mapping(each) for each in pictures] if isinstance(pictures, list) else []
    is_told = len(rows) == numbers["rows"]
    grid = Grid(
        path,
        **numbers,
        source=source,
        target=target,
        labels=tuple(text(row.get("label")) for row in rows) if is_told else (),
        captions=tuple(map(_caption, rows)) if is_told else (),
    )
    right = grid.left + 2 * grid.width + grid.gap  # of the translations, the second column
    bottom = grid.top + grid.rows * grid.height + (grid.rows - 1) * (grid.label_height + grid.gap)
    return grid if grid.rows and right <= size[0] and bottom <= size[1] else None


def _caption(picture: Mapping[str, Any]) -> str:
    """What the doctor would ask first of a translation."""
    names = {"luminance_correlation": "light kept", "change": "change"}
    found = {words: _number(picture.get(name)) for name, words in names.items()}
    return ", ".join(f"{words} {number:.2f}" for words, number in found.items() if number is not None)
