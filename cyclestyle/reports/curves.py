"""Curves for a page: which series share a chart, thinned to what a screen can show, in numbers that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from cyclestyle.evaluation import metrics
from cyclestyle.reports.gather import Series

MOST_POINTS = 500
"""That one curve is drawn with; of more, each stretch keeps its lowest and its highest."""

_MOST_MARKS = 50  # of places where a curve was not finite
_SMOOTH_FROM = 60  # points: fewer are few enough to be read as they are
_SMOOTH_POINTS = 160
_SIDES = ("ab", "ba", "a", "b")
_SHORT = {
    "kid_untranslated": "untranslated",
    "score_real": "real",
    "score_fake": "translated",
    "kid": "translated",
    "ssim": "SSIM",
}


@dataclass(frozen=True)
class _Chart:
    """One chart: `stems` are names without their side (cycle_a: cycle), in the order in which they are drawn."""

    title: str
    note: str
    stems: tuple[str, ...]
    better: str = ""


_SCORES = (
    _Chart("KID", "distance from real pictures of the target", ("kid", "kid_untranslated"), "lower"),
    _Chart(
        "Content kept",
        "light and dark, contours, structure of the source",
        ("luminance_correlation", "edge_correlation", "ssim"),
        "higher",
    ),
)
_MORE_SCORES = (
    _Chart("FID", "the same as KID by means and covariances", ("fid",), "lower"),
    _Chart("SWD", "sliced Wasserstein distance of small patches", ("swd",), "lower"),
    _Chart("Change and diversity", "near 0: the generator does nothing, or always the same", ("change", "diversity")),
    _Chart("Memorisation", "far below 1: copies of training pictures", ("memorisation",), "higher"),
    _Chart("LPIPS", "perceptual distance from the source", ("lpips",), "lower"),
    _Chart("PSNR to the true picture", "dB", ("psnr_truth",), "higher"),
    _Chart("SSIM to the true picture", "1 is the same picture", ("ssim_truth",), "higher"),
)
_LOSSES = (
    _Chart("Cycle and identity", "what is lost there and back, and where nothing should change", ("cycle", "identity")),
    _Chart("Contrast", "how well places of a translation know where they come from", ("nce", "nce_identity", "src")),
    _Chart(
        "Further terms",
        "coarse consistency, VGG's content and style, total variation",
        ("consistency", "content", "style", "total_variation"),
    ),
    _Chart("Adversarial", "a balance, not a descent", ("adversarial", "discriminator")),
    _Chart("What the discriminators say", "far apart: they win", ("score_real", "score_fake")),
    _Chart("How often the discriminators are right", "near 0.5: they guess; near 1: they win", ("accuracy",)),
)
_SPEED = (
    _Chart("Images a second", "of each domain", ("images_per_second",), "higher"),
    _Chart("Waiting for data", "share of the time of a step", ("data_wait",), "lower"),
)
_MORE = (
    _Chart("Gradient norms", "before clipping", ("grad_norm_generators", "grad_norm_discriminators")),
    _Chart("Gradient penalty", "of the discriminators", ("gradient_penalty", "r1")),
    _Chart("Augmentation", "how likely for what discriminators see", ("augment",)),
    _Chart("Learning rates", "", ("lr_generators", "lr_discriminators")),
    _Chart("Memory", "GiB: of the GPU, the most so far; without one, of the process", ("memory_gb",)),
)


def chart_groups(series: Mapping[str, Series], names: tuple[str, str]) -> list[dict[str, Any]]:
    """What the page draws: [{"title", "folded", "charts": [{"title", "note", "better", "top", "series": [...]}]}].

    Args:
        series: all curves of a run, by name.
        names: of domain A and domain B.
    """
    left = {key: curve for key, curve in series.items() if len(curve.steps)}
    scores = {key: curve for key, curve in left.items() if _is_score(key)}
    losses = {key: curve for key, curve in left.items() if key not in scores}
    doctor = {key: losses.pop(key) for key in list(losses) if key.startswith("doctor_")}
    losses.pop("seconds_per_step", None)  # images_per_second says the same
    kept, speed, more = (_drawn(charts, losses, names) for charts in (_LOSSES, _SPEED, _MORE))
    unknown = _drawn(_one_each(losses), losses, names)  # terms of another version or method
    groups = [
        ("Scores", False, _drawn(_SCORES, scores, names)),
        ("More scores", True, _drawn(_MORE_SCORES, scores, names)),
        ("Losses", False, kept + unknown),
        ("Speed", False, speed),
        ("Gradients, learning rates, memory", True, more),
        ("What the doctor measures", True, _drawn(_one_each(doctor, "doctor_"), doctor, names)),
    ]
    return [{"title": title, "folded": folded, "charts": charts} for title, folded, charts in groups if charts]


def side_of(key: str) -> tuple[str, str]:
    """A name's stem and side: cycle_a -> ("cycle", "a"), kid_ab -> ("kid", "ab"), data_wait -> ("data_wait", "")."""
    stem, _, side = key.rpartition("_")
    return (stem, side) if stem and side in _SIDES else (key, "")


def side_words(side: str, names: tuple[str, str]) -> str:
    """A side in the domains' names: "a" -> photo, "ab" -> photo → painting."""
    a, b = names
    return {"a": a, "b": b, "ab": f"{a} → {b}", "ba": f"{b} → {a}"}.get(side, "")


def figure(value: float) -> float | None:
    """Five digits, as JSON can hold them; None where it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _is_score(key: str) -> bool:
    metric, direction = metrics.split(key)
    return bool(direction) and (metric in metrics.METRICS or metric.startswith("swd_"))


def _one_each(series: Iterable[str], prefix: str = "") -> list[_Chart]:
    """A chart for each stem, titled by it without the prefix."""
    stems = dict.fromkeys(side_of(key)[0] for key in series)
    return [_Chart(_words(stem.removeprefix(prefix)), "", (stem,)) for stem in stems]


def _drawn(charts: Iterable[_Chart], series: dict[str, Series], names: tuple[str, str]) -> list[dict[str, Any]]:
    """Those charts that have series, which are taken out of `series`."""
    return [found for chart in charts if (found := _take(chart, series, names)) is not None]


def _words(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def _label(stem: str) -> str:
    return _SHORT.get(stem) or _words(stem.removeprefix("lr_").removeprefix("grad_norm_")).lower()


def _take(chart: _Chart, series: dict[str, Series], names: tuple[str, str]) -> dict[str, Any] | None:
    """The chart with its series, which are taken out of `series`; None where there are none."""
    keys = [
        (dash, stem, side, f"{stem}_{side}" if side else stem)
        for dash, stem in enumerate(chart.stems)
        for side in (*_SIDES, "")
        if (f"{stem}_{side}" if side else stem) in series
    ]
    if not keys:
        return None
    drawn = []
    for dash, stem, side, key in keys:
        name = _label(stem) if len(chart.stems) > 1 else ""
        label = f"→ {side_words(side, names).rpartition(' → ')[2]}" if len(side) == 2 else side_words(side, names)
        # Two series of one chart without sides (generators, discriminators) are told apart by colour too.
        looks = {"hue": side[:1] or ("a", "b")[dash % 2], "dash": dash if side else 0}
        words = {"group": name if side else "", "label": label if side else name}
        drawn.append({**words, **looks, **_curve(series[key], series.get(f"{stem}_error_{side}"))})
    values = np.concatenate([series[key].values for *_, key in keys])
    for *_, key in keys:
        del series[key]
    return {
        "title": chart.title,
        "note": chart.note,
        "better": chart.better,
        "top": _top(values),
        "series": drawn,
    }


def _curve(curve: Series, error: Series | None) -> dict[str, Any]:
    """Points, smoothed points where there are many, and where it was not finite."""
    x, y = curve
    finite = np.isfinite(y)
    bad = x[~finite]
    data: dict[str, Any] = {
        **_points(*thinned(x, y, MOST_POINTS)),
        "bad": [int(step) for step in bad[:: max(1, math.ceil(len(bad) / _MOST_MARKS))]],
    }
    if finite.sum() > _SMOOTH_FROM:
        data["smooth"] = _points(*smoothed(x[finite], y[finite], _SMOOTH_POINTS))
    if error is not None:
        known = dict(zip(error.steps.tolist(), error.values.tolist(), strict=True))
        data["error"] = [figure(known.get(step, math.nan)) for step in data["x"]]
    return data


def _points(x: np.ndarray, y: np.ndarray) -> dict[str, list[Any]]:
    return {"x": [int(step) for step in x], "y": [figure(value) for value in y.tolist()]}


def thinned(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points of a curve: of each stretch its lowest and its highest, of the whole the first and last.

    Args:
        x: steps, ascending.
        y: values of the same length. What is not finite is kept only where all fit, or a whole stretch is.
        limit: at least 8.
    """
    if len(x) <= limit:
        return x, y
    kept = [0, len(x) - 1]
    bounds = np.linspace(0, len(x), limit // 2).astype(int)  # limit // 2 - 1 stretches, two points each
    for low, high in pairwise(bounds.tolist()):
        part = y[low:high]
        finite = np.flatnonzero(np.isfinite(part))
        if not len(finite):
            kept.append(low)
            continue
        kept += [low + finite[part[finite].argmin()], low + finite[part[finite].argmax()]]
    indices = np.unique(kept)
    return x[indices], y[indices]


def smoothed(x: np.ndarray, y: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """A moving average over a twentieth of the curve, half as wide at its ends, at `limit` places.

    Args:
        x: steps, ascending.
        y: finite values of the same length.
    """
    half = max(2, len(y) // 40)
    places = np.unique(np.linspace(0, len(y) - 1, limit).astype(int))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(y))
    with np.errstate(all="ignore"):  # numbers near the end of their range
        sums = np.append(0.0, np.cumsum(y))
        return x[places], (sums[high] - sums[low]) / (high - low)


def _top(values: np.ndarray) -> float | None:
    """Where the axis ends although single peaks go on, so that the rest can be read; None: at the highest value."""
    values = values[np.isfinite(values)]
    if len(values) < 20:
        return None
    with np.errstate(all="ignore"):
        usual, highest, lowest = np.quantile(values, 0.98), values.max(), values.min()
        return figure(float(usual + 0.25 * (usual - lowest))) if highest - lowest > 4 * (usual - lowest) > 0 else None
