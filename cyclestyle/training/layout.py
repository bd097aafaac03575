"""Where each number stands in TensorBoard: tags, the charts of the custom-scalars page, columns of the HParams page.

Plain data: names in, names out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# What is not listed is a loss term.
_GROUPS = {
    "lr_": "learning_rate",
    "score_": "score",
    "accuracy_": "accuracy",
    "grad_norm_": "gradient_norm",
    "doctor_": "doctor",
    "augment_": "augmentation",
}
_SPEED = ("seconds_per_step", "images_per_second", "data_wait", "memory_gb")
_CONTENT = ("luminance_correlation", "edge_correlation", "ssim", "lpips", "change", "diversity")

_FINAL_SCORES = ("kid", "luminance_correlation", "change", "fid", "swd", "ssim", "diversity", "memorisation")
"""Columns of the HParams page, the first five shown; alike in all runs, since TensorBoard takes those of one."""

HEADLINE_SETTINGS = (
    "discriminator.spectral_norm",
    "generator.name",
    "method.weights.identity_b",
    "optimizer.generator_lr",
    "train.steps",
)
"""Settings that the HParams page shows at first; it shows five, the others at a tick."""

_DOCTOR = {
    "luminance_correlation": "light and dark kept; below 0: inverted",
    "change": "share changed: 0 is nothing",
    "variation": "variation: 1 is that of real pictures",
    "checkerboard": "checkerboard: decibels above real",
    "accuracy": "discriminators: 1 wins, 0.5 is blind",
    "surge": "losses, gradients: times the usual",
}
"""What the doctor measures, with the title of its chart."""

_CONTENT_TERMS = {
    "cycle: away and back again": "cycle",
    "identity: what needs no change": "identity",
    "contrast: each place knows where it comes from": "(nce|nce_identity)",
    "similarities between places kept": "src",
    "coarse consistency, VGG's content and style, total variation": "(consistency|content|style|total_variation)",
}
"""Title of a chart -> the kinds of terms that it shows."""

Setting = bool | float | str

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


def is_loss_term(name: str) -> bool:
    """Whether a scalar of metrics.jsonl is a loss term: those end in the side that they are of, as cycle_a does."""
    return name.rpartition("_")[2] in ("a", "b", "ab", "ba") and tensorboard_tag(name).startswith("loss/")


def score_tag(name: str) -> str:
    """The same for a score of an evaluation: kid_ab -> quality/kid_ab, ssim_ab -> content/ssim_ab."""
    metric = name.removesuffix("_ab").removesuffix("_ba")
    return f"{'content' if metric in _CONTENT else 'quality'}/{name}"


def final_score_tag(name: str) -> str:
    """The same for the score that a run ends with, as the HParams page shows it: kid_ab -> hparam/kid_ab."""
    return f"hparam/{name}"


def final_score_names(scores: Iterable[str]) -> list[str]:
    """The columns of the HParams page: those that every run has, then the others of `scores`."""
    common = [f"{metric}_{direction}" for metric in _FINAL_SCORES for direction in ("ab", "ba")]
    return [*common, *(name for name in scores if name not in common)]


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Nested settings -> dotted keys with what the HParams page can show; lists as text, null left out."""
    flat: dict[str, Setting] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flat_settings(value, f"{name}."))
        elif value is not None:
            flat[name] = value if isinstance(value, bool | int | float | str) else json.dumps(value, default=str)
    return flat


def custom_scalars(directions: Sequence[str], terms: Iterable[str]) -> dict[str, Charts]:
    """The custom-scalars page: category -> charts, in the order in which one asks.

    Args:
        directions: that are evaluated, "ab" and "ba".
        terms: loss terms that the method has, and augment_... where it adapts that; charts of others are left out.
    """
    kinds = {name.rpartition("_")[0] for name in terms}
    content = {title: _lines(f"loss/{stems}_.*") for title, stems in _CONTENT_TERMS.items() if _is_any(stems, kinds)}
    return {
        "Is it working: KID and its error, lower is better": _kid(directions),
        "Quality and content": {
            "lowest score so far": _lines("quality/lowest_.*"),
            "light and dark kept: 1 is all": _lines("content/luminance_correlation_.*"),
            "edges and structure kept: 1 is all": _lines("content/(edge_correlation|ssim)_.*"),
            "share changed: 0 is nothing": _lines("content/change_.*"),
            "diversity: 1 is that of the sources": _lines("content/diversity_.*"),
            "memorisation: far below 1 is copying": _lines("quality/memorisation_.*"),
        },
        "Adversarial balance": _balance([direction[-1] for direction in directions], kinds),
        "What keeps the content": content,
        "Speed": {
            "images a second": _lines("speed/images_per_second"),
            "share of time waiting for data": _lines("speed/data_wait"),
        },
        "Doctor": {
            "alarms: 1 while active (words: Text)": _lines("alarm/.*"),
            **{title: _lines(f"doctor/{measure}_.*") for measure, title in _DOCTOR.items()},
        },
    }


def _is_any(stems: str, kinds: Iterable[str]) -> bool:
    return any(re.fullmatch(stems, kind) for kind in kinds)


def _kid(directions: Sequence[str]) -> Charts:
    """A band for each direction, the first last: TensorBoard shows bands in reverse order."""
    return {
        f"KID {direction}": ("Margin", [score_tag(f"kid{end}_{direction}") for end in ("", "_lower", "_upper")])
        for direction in reversed(directions)
    }


def _balance(judged: Sequence[str], kinds: Iterable[str]) -> Charts:
    adapting = {"augmentation: how likely for what they see": _lines("augmentation/.*")} if "augment" in kinds else {}
    scores = {f"disc {side}: apart it wins, as one it is blind": _lines(f"score/(real|fake)_{side}") for side in judged}
    return {
        **scores,
        "discriminators: loss": _lines("loss/discriminator_.*"),
        "generators: adversarial loss": _lines("loss/adversarial_.*"),
        **adapting,
    }


def _lines(pattern: str) -> tuple[str, list[str]]:
    return "Multiline", [f"^{pattern}$"]
