"""Scores as text: one evaluation with what each number means, or many under each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from cyclestyle.evaluation.metrics import FEW_PICTURES, METRICS, meaning, rank, split

# Columns of the table of several evaluations; the rest is in `--json`.
_MAIN = ("kid", "kid_error", "fid", "swd", "luminance_correlation", "edge_correlation", "ssim", "change", "diversity",
         "memorisation", "psnr_truth", "ssim_truth", "lpips")  # fmt: skip
_SHORT = {
    "luminance_correlation": "luminance",
    "edge_correlation": "edges",
    "kid_error": "+-",
    "memorisation": "memory",
}


def one_evaluation(row: Mapping[str, Any]) -> list[str]:
    """Lines about one evaluation: each metric, a column a direction, and what it says."""
    directions = list(row["directions"])
    metrics = sorted({split(name)[0] for name in row["scores"]}, key=rank)
    lines = heading(row)
    width = max(len(metric) for metric in metrics) + 2
    if len(directions) > 1:
        lines.append(" " * width + "".join(f"{_arrow(row, direction):>22}" for direction in directions))
    for metric in metrics:
        values = [row["scores"].get(f"{metric}_{direction}".rstrip("_")) for direction in directions]
        better = METRICS[metric].better if metric in METRICS else "lower" if metric.startswith("swd_") else None
        way = f" ({better} is better)" if better else ""
        cells = "".join(f"{shown(value):>{22 if len(directions) > 1 else 10}}" for value in values)
        lines.append(f"{metric:{width}}{cells}  {meaning(metric)}{way}")
    return [*lines, *notes([row])]


def several_evaluations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Lines about evaluations of one run: a table a direction, a line a step."""
    lines: list[str] = []
    for direction in rows[0]["directions"]:
        names = [metric for metric in _MAIN if any(f"{metric}_{direction}" in row["scores"] for row in rows)]
        lines += [
            *heading(rows[0], direction),
            " ".join(["    step", *(f"{_SHORT.get(name, name):>12}" for name in names)]),
        ]
        for row in rows:
            cells = [f"{shown(row['scores'].get(f'{name}_{direction}')):>12}" for name in names]
            lines.append(" ".join([f"{row['step']:8d}", *cells]))
        lines.append("")
    return [*lines[:-1], *notes(rows)]


def heading(row: Mapping[str, Any], direction: str | None = None) -> list[str]:
    """What was compared: counts, extractor, size, step."""
    lines = []
    for name, about in row["directions"].items():
        if direction is not None and name != direction:
            continue
        step = "" if row["step"] is None or direction is not None else f"step {row['step']}: "
        what = (
            f"{about['num_sources']} {about['source']} as {about['target']}"
            if name
            else f"{about['num_sources']} pictures"
        )
        lines.append(
            f"{step}{what} against {about['num_references']} of {about['reference_folder']}; "
            f"extractor {row['extractor']}, {row['size']} px"
        )
    return lines


def notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is to be kept in mind about these numbers."""
    counts = [
        about[key] for row in rows for about in row["directions"].values() for key in ("num_sources", "num_references")
    ]
    lines = []
    if min(counts) < FEW_PICTURES:
        lines.append(
            f"note: fid is biased upwards for so few pictures ({min(counts)}): compare it only between equal numbers; "
            "kid is not biased, its kid_error says how sure it is"
        )
    if any(row["extractor"].startswith("builtin") for row in rows):
        lines.append("note: features are the builtin extractor's: compare with numbers of the same extractor only")
    return lines


def shown(value: float | None) -> str:
    """Four significant digits; "-" where there is none."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4g}"


def as_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """Strict JSON: what is no number becomes null."""
    return json.dumps([_finite(row) for row in rows], indent=2, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _arrow(row: Mapping[str, Any], direction: str) -> str:
    about = row["directions"][direction]
    return f"{about['source']} to {about['target']}"
