"""The best and the worst translations of an evaluation, translated again, beside the nearest training pictures."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from cyclestyle.data.pixels import to_8_bits
from cyclestyle.errors import CyclestyleError
from cyclestyle.reports.gather import EvaluationRow, Run
from cyclestyle.reports.pictures import bounded
from cyclestyle.reports.rows import mapping
from cyclestyle.reports.verdict import directions

if TYPE_CHECKING:
    from cyclestyle.inference.translator import Translator

logger = logging.getLogger("cyclestyle")

CONTENT = ("luminance_correlation", "edge_correlation", "ssim")
"""Their mean is what the best and the worst translations are told by."""

_NUM_CARDS = 2  # best and worst, each
_LARGEST = 320  # pixels of a side


@dataclass(frozen=True)
class Card:
    """A translation of an evaluation, its source and the training picture nearest to it.

    Attributes:
        name: of the source's file.
        content: mean of the scores of `CONTENT`.
        scores: name -> number, those of `CONTENT`.
        source, translation, nearest: data URIs; None: could not be had.
        missing: what could not be had and why, in words.
        nearest_name: of the file; empty: the evaluation did not look.
        nearest_distance: in features; None: the evaluation does not say.
    """

    name: str
    content: float
    scores: dict[str, float]
    source: str | None
    translation: str | None
    nearest: str | None
    missing: list[str]
    nearest_name: str
    nearest_distance: float | None


@dataclass(frozen=True)
class Gallery:
    """The best and the worst translations of one direction by content.

    Attributes:
        direction, source, target: as in `Film`.
        step: of the evaluation whose scores these are.
        translated_step: of the generator that translated them again; None: there is none.
        num_pictures: of the evaluation.
        best, worst: cards, the best first and the worst first.
    """

    direction: str
    source: str
    target: str
    step: int
    translated_step: int | None
    num_pictures: int
    best: list[Card]
    worst: list[Card]


def galleries(run: Run) -> list[Gallery]:
    """A gallery for each direction that was evaluated; translates a handful of pictures."""
    found = []
    for direction in directions(run):
        evaluations = [each for each in run.evaluations if _pictures_of(each, direction)]
        if evaluations:
            found.append(_gallery(run, evaluations, direction))
    return found


def _pictures_of(evaluation: EvaluationRow, direction: str) -> list[dict[str, Any]]:
    """The pictures of a direction that have a file and a content score, the best first."""
    side = evaluation.directions.get(direction)
    pictures = side.get("pictures") if isinstance(side, dict) else None
    usable = [
        picture
        for picture in (pictures if isinstance(pictures, list) else [])
        if isinstance(picture, dict) and isinstance(picture.get("file"), str) and math.isfinite(_content(picture))
    ]
    return sorted(usable, key=_content, reverse=True)


def _content(picture: dict[str, Any]) -> float:
    numbers = list(_scores(picture).values())
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _scores(picture: dict[str, Any]) -> dict[str, float]:
    found = {name: picture.get(name) for name in CONTENT}
    return {name: float(score) for name, score in found.items() if isinstance(score, int | float)}


def _gallery(run: Run, evaluations: list[EvaluationRow], direction: str) -> Gallery:
    source, target = run.names if direction == "ab" else run.names[::-1]
    translator, why = _load(run, target)
    step = None if translator is None else translator.spec.step
    # Scores and pictures of one step where that can be; otherwise the page says of which each is.
    evaluation = next((each for each in evaluations if each.step == step), evaluations[-1])
    pictures = _pictures_of(evaluation, direction)
    num_best = min(_NUM_CARDS, (len(pictures) + 1) // 2)
    num_worst = min(_NUM_CARDS, len(pictures) - num_best)
    maker = _CardMaker(run, evaluation.size or 256, translator, why)
    return Gallery(
        direction=direction,
        source=source,
        target=target,
        step=evaluation.step,
        translated_step=step,
        num_pictures=len(pictures),
        best=[maker.card(picture) for picture in pictures[:num_best]],
        worst=[maker.card(picture) for picture in pictures[::-1][:num_worst]],
    )


def _load(run: Run, target: str) -> tuple[Translator | None, str]:
    """The run's newest translator to a domain, on the processor: a training may have the GPU. Or why there is none."""
    from cyclestyle.inference.translator import Translator

    try:
        return Translator.load(run.folder, to=target, device="cpu"), ""
    except CyclestyleError as error:
        logger.warning("nothing is translated again: %s", error)
        return None, "no translator saved yet" if not run.checkpoints else "the translator cannot be loaded"


class _CardMaker:
    """Reads, translates and encodes the pictures of one gallery."""

    def __init__(self, run: Run, size: int, translator: Translator | None, why: str) -> None:
        self._size = size
        self._translator = translator
        self._why = why
        settings = mapping(run.summary.config.get("data"))
        self._settings = {key: settings[key] for key in ("channels", "resize", "load_size") if key in settings}

    def card(self, picture: dict[str, Any]) -> Card:
        """The card of one row of an evaluation's pictures."""
        missing: list[str] = []
        path = Path(picture["file"])
        pixels = self._read(path, "source", missing)
        translation = None if pixels is None else self._translate(pixels, missing)
        near, distance = picture.get("nearest"), picture.get("nearest_distance")
        near_pixels = self._read(Path(near), "training picture", missing) if isinstance(near, str) else None
        return Card(
            name=path.name,
            content=_content(picture),
            scores=_scores(picture),
            source=_shown(pixels),
            translation=_shown(translation),
            nearest=_shown(near_pixels),
            missing=missing,
            nearest_name=Path(near).name if isinstance(near, str) else "",
            nearest_distance=float(distance) if isinstance(distance, int | float) else None,
        )

    def _read(self, path: Path, what: str, missing: list[str]) -> np.ndarray | None:
        """The square that was evaluated, H x W x C."""
        from cyclestyle.config.schema import DataConfig
        from cyclestyle.data.fixed import load_fixed

        if not path.is_file():
            missing.append(f"the {what} {path.name} is gone")
            return None
        try:
            found = load_fixed([path], DataConfig(**self._settings), 1, self._size)
        except (CyclestyleError, OSError, TypeError, ValueError) as error:
            logger.warning("%s: %s", path, error)
            found = []
        if not found:
            missing.append(f"the {what} {path.name} cannot be read")
        return found[0].pixels if found else None

    def _translate(self, pixels: np.ndarray, missing: list[str]) -> np.ndarray | None:
        if self._translator is None:
            missing.append(f"no translation: {self._why}")
            return None
        try:
            return self._translator.pixels(pixels)
        except (CyclestyleError, RuntimeError, ValueError) as error:
            logger.warning("not translated: %s", error)
            missing.append("no translation: the picture does not fit the translator")
            return None


def _shown(pixels: np.ndarray | None) -> str | None:
    """H x W x C of any channels, 8 or 16 bits, as a data URI: grey is repeated, of more channels the first three."""
    if pixels is None:
        return None
    pixels = np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]
    pixels = np.ascontiguousarray(pixels if pixels.dtype == np.uint8 else to_8_bits(pixels))
    return bounded(Image.fromarray(pixels), _LARGEST)
