"""The scores by name: what each one says, and which way is better. Everything that shows scores asks here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """A score's meaning for people.

    Attributes:
        better: which way is better; None: neither end is good.
        meaning: half a line.
    """

    better: Literal["lower", "higher"] | None
    meaning: str


METRICS: dict[str, Metric] = {
    "kid": Metric("lower", "distance of the translations from real pictures of the target; unbiased, 0: none"),
    "kid_error": Metric(None, "standard error of kid on these pictures"),
    "kid_std": Metric(None, "standard deviation of kid over random halves"),
    "kid_untranslated": Metric(None, "kid of the sources as they are: what doing nothing would score"),
    "fid": Metric("lower", "the same with means and covariances; biased upwards for few pictures"),
    "swd": Metric("lower", "sliced Wasserstein distance of small patches, mean over sizes"),
    "luminance_correlation": Metric("higher", "light and dark stay where they were; below 0: inverted"),
    "edge_correlation": Metric("higher", "contours stay where they were"),
    "ssim": Metric("higher", "structural similarity with the source; 1: nothing was changed"),
    "lpips": Metric("lower", "perceptual distance from the source; 0: nothing was changed"),
    "change": Metric(None, "mean difference from the source, share of the full range; near 0: does nothing"),
    "diversity": Metric(None, "how much translations vary against how much sources do; near 0: all alike"),
    "memorisation": Metric(None, "distance from training pictures, of that of unseen real ones; far below 1: copied"),
    "psnr_truth": Metric("higher", "dB, nearness to the true picture of the same scene"),
    "ssim_truth": Metric("higher", "structural similarity with the true picture of the same scene"),
}
"""In the order in which they are shown; `swd_<pixels>` are the levels of `swd`."""

FEW_PICTURES = 2000
"""Below so many pictures FID is said to be biased (Binkowski et al. 2018, section 4: visibly so for thousands)."""


def split(name: str) -> tuple[str, str]:
    """A flat score name to metric and direction: kid_ab -> ("kid", "ab"); the direction is "" where there is none."""
    metric, _, direction = name.rpartition("_")
    return (metric, direction) if direction in ("ab", "ba") else (name, "")


def rank(metric: str) -> tuple[int, str]:
    """Where a metric stands among others."""
    names = list(METRICS)
    if metric.startswith("swd_"):
        return names.index("swd"), f"{int(metric.removeprefix('swd_')):08d}" if metric[4:].isdecimal() else metric
    return (names.index(metric), "") if metric in METRICS else (len(names), metric)


def meaning(metric: str) -> str:
    """What a metric says, half a line; empty for names that are unknown here."""
    if metric.startswith("swd_"):
        return f"swd of the detail that {metric.removeprefix('swd_')} px show"
    return METRICS[metric].meaning if metric in METRICS else ""
