"""`cyclestyle compare`: runs beside each other: their scores, whether these compare, and the settings that differ."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclestyle.errors import CheckpointError
from cyclestyle.evaluation.metrics import METRICS, rank, split
from cyclestyle.reports.runs import display_width, printable, text_table
from cyclestyle.reports.summary import Direction, Evaluation, RunSummary, is_run, read_run

ABSENT = object()
"""The value of a key that a run's config does not have."""

# They name the run, so they always differ.
_PLACE = ("name", "output_dir")


@dataclass(frozen=True)
class Column:
    """A run in the comparison.

    Attributes:
        run: what its folder says.
        label: its name, or its path where two have one name.
        direction: that is compared, ab or ba.
        source, target: names of the domains, in that direction.
    """

    run: RunSummary
    label: str
    direction: str
    source: str
    target: str

    def judged(self, evaluation: Evaluation | None) -> Direction | None:
        """What the evaluation says about this direction; None where it was not judged."""
        return None if evaluation is None else evaluation.directions.get(self.direction)


def open_runs(paths: Sequence[Path], to: str | None) -> tuple[list[Column], list[str]]:
    """The runs to compare, and for each that cannot be compared a line why.

    Args:
        paths: run folders.
        to: name of the domain to translate to; None: each run's second.

    Raises:
        CheckpointError: no run there; fewer than two that can be compared.
    """
    for path in paths:
        if not is_run(path):
            raise CheckpointError(f"no run in {path}: needed is a folder with a config.yaml, as train.py leaves it")
    if len(paths) < 2:
        raise CheckpointError(f"one run was given, {paths[0]}: needed are at least two to compare")
    runs = [read_run(path) for path in paths]
    names = [run.name for run in runs]
    columns, skipped = [], []
    for run in runs:
        label = printable(run.name if names.count(run.name) == 1 else str(run.path))
        skipped += [f"{label}: {problem}" for problem in run.problems]
        a, b = run.domains
        if to is not None and to not in (a, b):
            skipped.append(f"{label} is left out: it has no domain {to}, but {a} and {b}")
            continue
        direction = "ba" if to == a else "ab"
        columns.append(Column(run, label, direction, *((b, a) if direction == "ba" else (a, b))))
    if len(columns) < 2:
        raise CheckpointError(f"fewer than two runs to compare; {'; '.join(skipped)}: choose another --to")
    return columns, skipped


# ---------------------------------------------------------------------------------------------------- scores


def evaluations(columns: Sequence[Column]) -> dict[str, list[Evaluation | None]]:
    """What is compared: "best" and "newest" evaluations, one a run; left out where they say nothing new."""
    best, newest = [column.run.best for column in columns], [column.run.newest for column in columns]
    found = {"best": best} if any(best) else {}
    if any(each is not None and each != other for each, other in zip(newest, best, strict=True)):
        found["newest"] = newest
    return found


def score_table(columns: Sequence[Column], which: str, found: Sequence[Evaluation | None]) -> list[str]:
    """Lines of a table: a row a metric, a column a run."""
    judged = [column.judged(evaluation) for column, evaluation in zip(columns, found, strict=True)]

    def row(title: str, value: Callable[[Evaluation, Direction], object]) -> list[str]:
        cells = [None if e is None or d is None else value(e, d) for e, d in zip(found, judged, strict=True)]
        return [title, *("-" if cell is None or cell == "" else str(cell) for cell in cells)]

    rows = [
        [f"{which} evaluation", *(column.label for column in columns)],
        row("step", lambda evaluation, _: evaluation.step),
        row("translated pictures (n)", lambda _, direction: direction.num_sources),
        row("real pictures of the target (n)", lambda _, direction: direction.num_references),
        row("extractor", lambda evaluation, _: printable(evaluation.extractor)),
        row("size of the squares, px", lambda evaluation, _: evaluation.size),
    ]
    scores = [_scores(column, evaluation) for column, evaluation in zip(columns, found, strict=True)]
    for metric in sorted({metric for each in scores for metric in each}, key=rank):
        better = "lower" if metric.startswith("swd_") else METRICS[metric].better if metric in METRICS else None
        title = f"{printable(metric)} ({better} is better)" if better else printable(metric)
        rows.append([title, *(f"{each[metric]:.4g}" if metric in each else "-" for each in scores)])
    return text_table(rows, right=range(1, len(columns) + 1))


def _scores(column: Column, evaluation: Evaluation | None) -> dict[str, float]:
    """Scores of the direction that is compared, by metric."""
    named = {} if evaluation is None else {split(name): value for name, value in evaluation.scores.items()}
    return {metric: value for (metric, direction), value in named.items() if direction == column.direction}


def not_comparable(columns: Sequence[Column], which: str, found: Sequence[Evaluation | None]) -> list[str]:
    """A line for each way in which the evaluations were made differently, so that numbers say nothing together."""
    rows = [
        (column, evaluation, about)
        for column, evaluation in zip(columns, found, strict=True)
        if evaluation is not None and (about := column.judged(evaluation)) is not None
    ]
    values: dict[str, dict[str, object]] = {
        "extractors differ": {column.label: evaluation.extractor for column, evaluation, _ in rows},
        "sizes differ": {column.label: evaluation.size for column, evaluation, _ in rows},
        "numbers of translated pictures differ": {column.label: about.num_sources for column, _, about in rows},
        "numbers of real pictures differ": {column.label: about.num_references for column, _, about in rows},
        "domains differ": {column.label: f"{column.source} -> {column.target}" for column, _, _ in rows},
        "test pictures differ": {column.label: _pictures(about) for column, _, about in rows if about.files},
    }
    lines: list[str] = []
    for what, by_run in values.items():
        is_said = what == "test pictures differ" and any("translated pictures differ" in line for line in lines)
        if len(set(by_run.values())) > 1 and not is_said:
            told = "" if what == "test pictures differ" else f" ({_told(by_run)})"
            lines.append(f"{which} evaluations: {what}{told}, so the scores are not comparable")
    if not any("pictures differ" in line for line in lines):  # of one name and number, but perhaps other ones
        folders = {column.label: _folders(about) for column, _, about in rows}
        if len(set(folders.values())) > 1:
            lines.append(f"{which} evaluations: pictures of one name in different folders ({_told(folders)}): "
                         "the scores are comparable only where these hold the same")  # fmt: skip
    return lines


def _pictures(direction: Direction) -> object:
    """The names of the pictures; their folders may be spelled otherwise, or lie on another machine."""
    return tuple(sorted(os.path.basename(file) for file in direction.files))


def _folders(direction: Direction) -> str:
    folders = sorted({os.path.realpath(os.path.dirname(file)) for file in direction.files})
    return " and ".join([*folders, os.path.realpath(direction.reference_folder)])


def _told(by_run: Mapping[str, object]) -> str:
    return ", ".join(f"{label}: {printable(str(value))}" for label, value in by_run.items())


def within_noise(columns: Sequence[Column], which: str, found: Sequence[Evaluation | None]) -> list[str]:
    """A line for each pair whose KID differs by less than two standard errors (taken as independent)."""
    known = [
        (column.label, scores["kid"], scores["kid_error"])
        for column, evaluation in zip(columns, found, strict=True)
        if {"kid", "kid_error"} <= (scores := _scores(column, evaluation)).keys()
    ]
    return [
        f"{which} evaluations: kid of {one} and {other} differ by {abs(value - beside):.2g}, within noise "
        f"(twice their errors: {2 * math.hypot(error, error_beside):.2g})"
        for index, (one, value, error) in enumerate(known)
        for other, beside, error_beside in known[index + 1 :]
        if abs(value - beside) < 2 * math.hypot(error, error_beside)
    ]


# ---------------------------------------------------------------------------------------------------- settings


def config_differences(columns: Sequence[Column]) -> dict[str, list[Any]]:
    """Dotted key -> the value of each run, `ABSENT` where it has no such key; only keys that differ, in their order."""
    flat = [_flatten(column.run.config) for column in columns]
    keys = dict.fromkeys(key for config in flat for key in config if key not in _PLACE)
    values = {key: [config.get(key, ABSENT) for config in flat] for key in keys}
    return {key: found for key, found in values.items() if any(shown(each) != shown(found[0]) for each in found)}


def shown(value: object) -> str:
    """A setting as the YAML has it, on one line; "-" where there is none."""
    if value is ABSENT:
        return "-"
    return printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def config_table(columns: Sequence[Column], differences: Mapping[str, Sequence[Any]], width: int | None) -> list[str]:
    """Lines: a row a key and a column a run; where that is wider than the terminal, a line a run below each key."""
    rows = [[printable(key), *map(shown, values)] for key, values in differences.items()]
    labels = [column.label for column in columns]
    table = text_table([["setting", *labels], *rows])
    if width is None or max(map(display_width, table)) <= width:
        return table
    return [line for key, *cells in rows for line in (key, *text_table([*zip(_indented(labels), cells, strict=True)]))]


def _indented(labels: Sequence[str]) -> list[str]:
    return [f"  {label}" for label in labels]


def _flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(_flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat
