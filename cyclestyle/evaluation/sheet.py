"""A picture of an evaluation: each source, its translation, and the training picture that this comes nearest to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclestyle.checkpoint import replacing
from cyclestyle.data.fixed import Fixed
from cyclestyle.errors import ConfigError
from cyclestyle.evaluation.evaluate import Pictures

_MOST_ROWS = 12
_LARGEST = 256
_GAP, _LABEL = 8, 18
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def write_sheet(path: Path, side: Pictures, outputs: Sequence[np.ndarray], pictures: Sequence[dict[str, Any]]) -> None:
    """Write a PNG: a row a translation, those nearest to a training picture first, the copied before the painted.

    Args:
        path: ends in .png; replaced if it exists.
        side: what the translations were compared with.
        outputs: the translations, H x W x C.
        pictures: the row of each, as an evaluation has it; "nearest" where there are training pictures.

    Raises:
        ConfigError: another suffix, or a folder that cannot be written to.
    """
    if path.suffix.lower() != ".png":
        raise ConfigError(f"--sheet {path} was given, needed is a file that ends in .png")
    training = {str(picture.path): picture for picture in side.training}
    order = sorted(range(len(outputs)), key=lambda index: pictures[index].get("nearest_distance", math.inf))
    rows = []
    for index in order[:_MOST_ROWS]:
        nearest = training.get(pictures[index].get("nearest", ""))
        source = side.sources[index] if side.sources else None
        rows.append((source, outputs[index], nearest, pictures[index].get("nearest_distance")))
    titles = [*([side.source] if side.sources else []), f"as {side.target}" if side.direction else "generated",
              *(["nearest training picture"] if training else [])]  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            _draw(rows, titles).save(partial, format="PNG")
    except OSError as error:
        raise ConfigError(f"--sheet {path} cannot be written ({error.strerror})") from error


_Row = tuple[Fixed | None, np.ndarray, Fixed | None, float | None]


def _draw(rows: Sequence[_Row], titles: Sequence[str]) -> Image.Image:
    font = ImageFont.load_default(12)
    cell = min(_LARGEST, max(rows[0][1].shape[:2]))
    size = _GAP + len(titles) * (cell + _GAP), _LABEL + _GAP + len(rows) * (cell + _LABEL + _GAP)
    page = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(titles):
        draw.text((_GAP + column * (cell + _GAP), 4), title, fill=_INK, font=font)
    for number, (source, output, nearest, distance) in enumerate(rows):
        top = _LABEL + _GAP + number * (cell + _LABEL + _GAP)
        cells = [
            *([] if source is None else [(source.pixels, source.path.name)]),
            (output, ""),
            *([] if nearest is None else [(nearest.pixels, f"distance {distance:.3g}: {nearest.path.name}")]),
        ]
        for column, (pixels, label) in enumerate(cells):
            left = _GAP + column * (cell + _GAP)
            page.paste(_as_rgb(pixels).resize((cell, cell), Image.Resampling.LANCZOS), (left, top))
            shown = label.encode("utf-8", "replace").decode()
            while font.getlength(shown) > cell and len(shown) > 4:
                shown = shown[:-4] + "..."
            draw.text((left, top + cell + 2), shown, fill=_INK, font=font)
    return page


def _as_rgb(pixels: np.ndarray) -> Image.Image:
    """For showing: 8 bits, grey repeated, of many channels the first three."""
    if pixels.dtype == np.uint16:
        pixels = (pixels >> 8).astype(np.uint8)
    channels = pixels.shape[-1]
    return Image.fromarray(np.ascontiguousarray(pixels[..., [0, 0, 0] if channels < 3 else [0, 1, 2]]))
