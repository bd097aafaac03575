"""All scores of a set of translations: what they are compared with, and the row that is kept of an evaluation.

Owns which metrics are computed on what. Pictures are squares of one size; translations are rounded to their source's
integers first, as a file would hold them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclestyle.data.fixed import Fixed
from cyclestyle.distributed import gathered, group_rank, world_size
from cyclestyle.evaluation import content
from cyclestyle.evaluation.cache import FeatureCache, cached_features
from cyclestyle.evaluation.features import Extractor
from cyclestyle.evaluation.frechet import frechet_distance_of
from cyclestyle.evaluation.kernel import kernel_distance, kernel_distance_error, kernel_distance_over_subsets
from cyclestyle.evaluation.memorisation import memorisation, nearest
from cyclestyle.evaluation.sliced import sliced_wasserstein
from cyclestyle.images import to_pixels, to_tensor

_BATCH = 8

Translate = Callable[[str, Tensor], Tensor]
"""Direction ("ab"), N x C x H x W float32 in [-1, 1] on the CPU -> the translations, same shape, any device."""
Translations = dict[str, list[np.ndarray]]
"""Direction -> H x W x C each, in the order of the sources."""
Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Two N x C x H x W in [-1, 1] -> N distances."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """What the translations of one direction are compared with; all squares of one size.

    Attributes:
        direction: "ab" or "ba"; "" where pictures are compared that no run made.
        source, target: names of the domains.
        sources: what is translated; empty where only the translations are known.
        references: real pictures of the target that training did not see.
        training: real pictures of the target that it did see; empty: nothing is said about memorisation.
        truths: the true translation of each source, or None where none is known.
        reference_folder: where the references come from, for people.
    """

    direction: str
    source: str
    target: str
    sources: Sequence[Fixed]
    references: Sequence[Fixed]
    training: Sequence[Fixed] = ()
    truths: Sequence[np.ndarray] | None = None
    reference_folder: str = ""


@dataclass(frozen=True)
class Judged:
    """The scores of one direction.

    Attributes:
        scores: by metric, without direction.
        pictures: a row for each source: its file and its own scores.
        features: N x D of the translations.
    """

    scores: dict[str, float]
    pictures: list[dict[str, Any]]
    features: Tensor = field(repr=False)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a run.

    Attributes:
        row: JSON-able, what `evaluations.jsonl` holds (docs/architecture.md).
        features: direction -> N x D of the translations, to tell noise from progress.
        outputs: direction -> the translations, H x W x C each.
    """

    row: dict[str, Any]
    features: dict[str, Tensor] = field(repr=False)
    outputs: dict[str, list[np.ndarray]] = field(repr=False)

    @property
    def scores(self) -> dict[str, float]:
        """By flat name, e.g. kid_ab."""
        scores: dict[str, float] = self.row["scores"]
        return scores


class Evaluator:
    """Scores generators on the same pictures each time.

    Args:
        sides: a `Pictures` for each direction.
        extractor: of the features behind FID, KID and memorisation.
        size: pixels of a side of every picture.
        perceptual: LPIPS, where it is there.
        cache: where features of references and training pictures are kept; None: nowhere.
    """

    def __init__(
        self,
        sides: Sequence[Pictures],
        extractor: Extractor,
        *,
        size: int,
        perceptual: Perceptual | None = None,
        cache: FeatureCache | None = None,
    ) -> None:
        self.sides = list(sides)
        self.extractor = extractor
        self.size = size
        self._perceptual = perceptual
        self._cache = cache
        self._known: dict[int, Tensor] = {}

    def features_of(self, pictures: Sequence[Fixed]) -> Tensor:
        """N x D of pictures that one of the sides has; computed once, also where two sides share them."""
        key = id(pictures)  # sides live as long as this does
        if key not in self._known:
            self._known[key] = cached_features(self.extractor, [each.pixels for each in pictures], cache=self._cache)
        return self._known[key]

    def evaluate(self, step: int, translate: Translate) -> Evaluation:
        """Translate the sources of every direction and score the result."""
        started = time.perf_counter()
        return self.score(step, self.translations(translate), started)

    def translations(self, translate: Translate) -> Translations:
        """Of the sources of every direction; several processes share the work, and the first one is given all."""
        return {side.direction: translated(side, translate) for side in self.sides}

    def score(self, step: int, translations: Translations, started: float) -> Evaluation:
        """Score all translations; `started`: of `time.perf_counter`, when the evaluation began."""
        scores: dict[str, float] = {}
        directions: dict[str, Any] = {}
        features: dict[str, Tensor] = {}
        for side in self.sides:
            judged = self.judge(side, translations[side.direction])
            scores |= {f"{name}_{side.direction}": value for name, value in judged.scores.items()}
            features[side.direction] = judged.features
            directions[side.direction] = describe(side, judged.pictures)
        row = {
            "step": step,
            "seconds": round(time.perf_counter() - started, 3),
            "size": self.size,
            "extractor": self.extractor.name,
            "scores": scores,
            "directions": directions,
        }
        return Evaluation(row, features, translations)

    def judge(self, side: Pictures, outputs: Sequence[np.ndarray]) -> Judged:
        """The scores of translations that exist already.

        Args:
            outputs: H x W x C each, uint8 or uint16; in the order of `side.sources` where there are any.
        """
        features = cached_features(self.extractor, list(outputs))
        references = self.features_of(side.references)
        scores = nearness(features, references)
        if side.sources:
            scores["kid_untranslated"] = kernel_distance(self.features_of(side.sources), references)
        scores |= _patches(outputs, [picture.pixels for picture in side.references])
        pictures: list[dict[str, Any]] = [{"file": str(picture.path)} for picture in side.sources]
        if side.sources:
            kept = self._content(side, outputs)
            for name, values in kept.items():
                scores[name] = _mean(values)
                for picture, value in zip(pictures, values, strict=True):
                    picture[name] = value
            scores["diversity"] = _diversity(side, outputs)
        if side.training:
            training = self.features_of(side.training)
            scores["memorisation"] = memorisation(features, references, training)
            distances, indices = nearest(features, training)
            for picture, distance, index in zip(pictures, distances.tolist(), indices.tolist(), strict=False):
                picture["nearest"] = str(side.training[index].path)
                picture["nearest_distance"] = distance
        return Judged(scores, pictures, features)

    def _content(self, side: Pictures, outputs: Sequence[np.ndarray]) -> dict[str, list[float]]:
        """Per picture, by metric: how much of each source its translation keeps, and how near it is to the truth."""
        measures: dict[str, Perceptual] = {
            "luminance_correlation": content.luminance_correlation,
            "edge_correlation": content.edge_correlation,
            "ssim": content.ssim,
            "change": content.change,
        }
        if self._perceptual is not None:
            measures["lpips"] = self._perceptual
        found: dict[str, list[float]] = {}
        for start in range(0, len(outputs), _BATCH):
            part = slice(start, start + _BATCH)
            translations = to_tensor(np.stack(outputs[part]))
            sources = to_tensor(np.stack([picture.pixels for picture in side.sources[part]]))
            for name, measure in measures.items():
                found.setdefault(name, []).extend(measure(sources, translations).tolist())
            if side.truths is not None:
                truths = to_tensor(np.stack(side.truths[part]))
                found.setdefault("psnr_truth", []).extend(content.psnr(truths, translations).tolist())
                found.setdefault("ssim_truth", []).extend(content.ssim(truths, translations).tolist())
        return found


def describe(side: Pictures, pictures: list[dict[str, Any]]) -> dict[str, Any]:
    """What a row says about a direction, beside its scores."""
    return {
        "source": side.source,
        "target": side.target,
        "num_sources": len(side.sources),
        "num_references": len(side.references),
        "reference_folder": side.reference_folder,
        "pictures": pictures,
    }


@torch.no_grad()
def translated(side: Pictures, translate: Translate) -> list[np.ndarray]:
    """The translation of every source, H x W x C in its dtype; each process makes its share, the first has all."""
    starts = range(0, len(side.sources), _BATCH)
    own: dict[int, list[np.ndarray]] = {}
    for start in starts[group_rank() :: world_size()]:
        pixels = [picture.pixels for picture in side.sources[start : start + _BATCH]]
        images = translate(side.direction, torch.stack([to_tensor(picture) for picture in pixels]))
        own[start] = [to_pixels(image, picture.dtype) for image, picture in zip(images, pixels, strict=True)]
    made = {start: outputs for each in gathered(own) for start, outputs in each.items()}
    return [output for start in sorted(made) for output in made[start]]


def nearness(features: Tensor, references: Tensor) -> dict[str, float]:
    """KID with its errors, and FID, of N x D features against M x D.

    Raises:
        DataError: fewer than two of either.
    """
    _, deviation = kernel_distance_over_subsets(features, references)
    return {
        "kid": kernel_distance(features, references),
        "kid_error": kernel_distance_error(features, references),
        "kid_std": deviation,
        "fid": frechet_distance_of(features, references),
    }


def _patches(outputs: Sequence[np.ndarray], references: Sequence[np.ndarray]) -> dict[str, float]:
    levels = sliced_wasserstein(*(torch.stack([to_tensor(each) for each in side]) for side in (outputs, references)))
    return {"swd": _mean(list(levels.values())), **{f"swd_{size}": value for size, value in levels.items()}}


def _diversity(side: Pictures, outputs: Sequence[np.ndarray]) -> float:
    sources = [picture.pixels for picture in side.sources]
    return content.diversity(*(torch.stack([to_tensor(each) for each in images]) for images in (sources, outputs)))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def truth_of(files: Sequence[Path], folder: Path, truth_folder: Path) -> dict[Path, Path]:
    """The file of the same relative name, whatever its suffix, in the folder of truths; those without are left out."""
    known = {path.relative_to(truth_folder).with_suffix(""): path for path in sorted(truth_folder.rglob("*.*"))}
    pairs = ((path, known.get(path.relative_to(folder).with_suffix(""))) for path in files)
    return {path: truth for path, truth in pairs if truth is not None}
