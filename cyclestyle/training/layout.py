"""Where each number stands in TensorBoard: tags, the charts of the custom-scalars page, columns of the HParams page.

Plain data: names in, names out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

# What is not listed is a loss term.
_GROUPS = {"lr_": "learning_rate", "score_": "score", "grad_norm_": "gradient_norm", "doctor_": "doctor"}
_SPEED = ("seconds_per_step", "images_per_second", "data_wait", "gpu_memory_gb")
_CONTENT = ("luminance_correlation", "edge_correlation", "ssim", "lpips", "change", "diversity")

_FINAL_SCORES = ("kid", "fid", "swd", "luminance_correlation", "ssim", "change", "diversity", "memorisation")
"""Columns of the HParams page, in every run alike: TensorBoard takes the columns of the first run for all."""

Charts = dict[str, tuple[str, list[str]]]
"""Title -> ("Multiline", [regular expression of tags]) or ("Margin", [tag, tag of its lower end, of its upper end])."""


def tensorboard_tag(name: str) -> str:
    """The group and name under which a scalar of metrics.jsonl stands in TensorBoard: cycle_a -> loss/cycle_a."""
    if name in _SPEED:
        return f"speed/{name}"
    for prefix, group in _GROUPS.items():
        if name.startswith(prefix):
            return f"{group}/{name.removeprefix(prefix)}"
    return f"loss/{name}"


def score_tag(name: str) -> str:
    """The same for a score of an evaluation: kid_ab -> quality/kid_ab, ssim_ab -> content/ssim_ab."""
    metric = name.removesuffix("_ab").removesuffix("_ba")
    return f"{'content' if metric in _CONTENT else 'quality'}/{name}"


def final_score_tag(name: str) -> str:
    """The same for the score that a run ends with, as the HParams page shows it: kid_ab -> hparam/kid_ab."""
    return f"hparam/{name}"


def final_score_names(scores: Sequence[str]) -> list[str]:
    """The columns of the HParams page: those that every run has, then the others of `scores`."""
    common = [f"{metric}_{direction}" for direction in ("ab", "ba") for metric in _FINAL_SCORES]
    return [*common, *(name for name in scores if name not in common)]


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, float | str]:
    """Nested settings -> dotted keys with what the HParams page can show: numbers and texts.

    Lists and switches become texts as in YAML; what is null is left out.
    """
    flat: dict[str, float | str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{name}."))
        elif isinstance(value, bool) or (value is not None and not isinstance(value, int | float | str)):
            flat[name] = json.dumps(value, default=str)
        elif value is not None:
            flat[name] = value
    return flat


def custom_scalars(directions: Sequence[str]) -> dict[str, Charts]:
    """The custom-scalars page: category -> charts, in the order in which one asks.

    Args:
        directions: that are evaluated, "ab" and "ba".
    """
    return {
        "Is it working": _working(directions),
        "Adversarial balance": _balance([direction[-1] for direction in directions]),
        "Cycle and identity": {
            "cycle: away and back again": _lines("loss/cycle_.*"),
            "identity: what needs no change": _lines("loss/identity_.*"),
        },
        "Speed": {
            "images a second": _lines("speed/images_per_second"),
            "share of the time spent waiting for data": _lines("speed/data_wait"),
        },
        "Doctor": {
            "alarms: 1 while active (their words: Text tab)": _lines("alarm/.*"),
            "what the doctor measures": _lines("doctor/.*"),
        },
    }


def _working(directions: Sequence[str]) -> Charts:
    kid: Charts = {
        f"KID {direction} and its error: lower is better": (
            "Margin",
            [score_tag(f"kid{end}_{direction}") for end in ("", "_lower", "_upper")],
        )
        for direction in directions
    }
    return {
        **kid,
        "best so far: lower is better": _lines("quality/best_.*"),
        "content kept: 1 is all of it": _lines("content/(luminance_correlation|edge_correlation|ssim)_.*"),
        "change from the source, diversity": _lines("content/(change|diversity)_.*"),
    }


def _balance(judged: Sequence[str]) -> Charts:
    scores = {
        f"scores of discriminator {side}: far apart it wins, together it is blind": _lines(f"score/(real|fake)_{side}")
        for side in judged
    }
    return {
        **scores,
        "discriminators: loss": _lines("loss/discriminator_.*"),
        "generators: adversarial loss": _lines("loss/adversarial_.*"),
    }


def _lines(pattern: str) -> tuple[str, list[str]]:
    return "Multiline", [f"^{pattern}$"]
