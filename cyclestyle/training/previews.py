"""Sample grids: fixed test images, translated, back again, and what the other generator leaves of them (identity)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from cyclestyle.evaluation.content import change, luminance_correlation
from cyclestyle.images import to_pixels, to_tensor

_GAP = 4
_NARROWEST = 96  # pixels of a cell: smaller pictures are enlarged, so that the words over and under them can be read
_PAPER, _INK, _PALE = (255, 255, 255), (30, 30, 30), (110, 110, 110)

# Points; small enough for pictures of 96 px, and growing with larger ones, which viewers show at a smaller scale.
_SMALLEST_TYPE, _LARGEST_TYPE, _PIXELS_A_POINT = 10, 20, 15

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Preview:
    """One direction's grid: a row an image, a column each of real | translated | back | identity.

    Attributes:
        direction: "photo_to_painting".
        pixels: H x W x 3 uint8.
        info: where the cells are, in pixels: row r, column c starts at x = left + c * (width + gap) and
            y = top + r * (height + label_height + gap); and `step`, `source`, `target`, `titles` of the columns, number
            of `rows`, `scale` (how often each pixel of a picture is repeated, across and down), and `pictures`: the
            `label`, `luminance_correlation` and `change` of each row.
    """

    direction: str
    pixels: np.ndarray
    info: dict[str, Any]


@dataclass(frozen=True)
class _Row:
    """A picture's cells, H x W x 3 uint8 each, and what is said of it."""

    label: str
    images: list[np.ndarray]
    luminance_correlation: float
    change: float


class Previews:
    """Draws the grids of a run from the same images each time.

    Args:
        fixed_a, fixed_b: label (a file's name) and pixels of each image, H x W x C uint8 or uint16, of each domain.
        names: of domain A and domain B.
    """

    def __init__(
        self,
        fixed_a: Sequence[tuple[str, np.ndarray]],
        fixed_b: Sequence[tuple[str, np.ndarray]],
        names: tuple[str, str],
    ) -> None:
        self._fixed = {
            side: [(label, to_tensor(pixels)) for label, pixels in fixed]
            for side, fixed in (("a", fixed_a), ("b", fixed_b))
        }
        self._names = {"a": names[0], "b": names[1]}

    def draw(self, generators: dict[str, nn.Module], device: torch.device, step: int = 0) -> list[Preview]:
        """The grid of each direction that `generators` (averaged, eval mode, by name) can translate."""
        previews = []
        for side, other in (("a", "b"), ("b", "a")):
            forth, back = generators.get(f"gen_{side}{other}"), generators.get(f"gen_{other}{side}")
            if forth is None or not self._fixed[side]:
                continue
            source, target = self._names[side], self._names[other]
            titles = [source, f"as {target}"]
            if back is not None:
                titles += [f"back to {source}", f"{source} left as is"]
            rows = [_row(label, image.unsqueeze(0).to(device), forth, back) for label, image in self._fixed[side]]
            pixels, places = _compose(rows, titles, f"step {step}: {source} to {target}")
            info = {"step": step, "source": source, "target": target, "titles": titles, **places}
            previews.append(Preview(f"{source}_to_{target}", pixels, info))
        return previews


@torch.no_grad()
def _row(label: str, real: Tensor, forth: nn.Module, back: nn.Module | None) -> _Row:
    """real | translated | back | identity of one image, 1 x C x H x W."""
    fake = forth(real)
    images = [real, fake] if back is None else [real, fake, back(fake), back(real)]
    real, fake = real.float(), fake.float()
    return _Row(
        label,
        [_as_rgb(to_pixels(image[0].nan_to_num(0.0))) for image in images],  # NaN: grey
        luminance_correlation(real, fake).item(),
        change(real, fake).item(),
    )


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    """H x W x 3 for showing: grey is repeated, of more channels the first three are taken."""
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]


def _compose(rows: list[_Row], titles: list[str], header: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Rows of equally large images on white, under a header and a line of titles, and the places of all (`Preview`)."""
    scale = max(1, math.ceil(_NARROWEST / rows[0].images[0].shape[1]))
    height, width = (scale * side for side in rows[0].images[0].shape[:2])
    size = min(max(round(width / _PIXELS_A_POINT), _SMALLEST_TYPE), _LARGEST_TYPE)
    font = ImageFont.load_default(size)
    line = round(1.3 * size)
    top, label_height = 2 * line + 3 * _GAP, 2 * line + _GAP
    sheet = Image.new(
        "RGB", (_GAP + len(titles) * (width + _GAP), top + len(rows) * (height + label_height + _GAP)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), _fitting([header], font, sheet.width - 2 * _GAP), fill=_INK, font=font)
    for column, title in enumerate(titles):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 2 * _GAP + line), _fitting([title], font, width), fill=_PALE, font=font)
        for index, row in enumerate(rows):
            y = top + index * (height + label_height + _GAP)
            sheet.paste(Image.fromarray(row.images[column].repeat(scale, 0).repeat(scale, 1)), (left, y))
            for number, words in enumerate(_captions(row)[column] if column < 2 else []):
                draw.text((left, y + height + 1 + number * line), _fitting(words, font, width), fill=_INK, font=font)
    places = {
        "left": _GAP,
        "top": top,
        "gap": _GAP,
        "width": width,
        "height": height,
        "label_height": label_height,
        "rows": len(rows),
        "scale": scale,
        "pictures": [
            {"label": row.label, "luminance_correlation": row.luminance_correlation, "change": row.change}
            for row in rows
        ],
    }
    return np.asarray(sheet), places


def _captions(row: _Row) -> tuple[list[list[str]], list[list[str]]]:
    """Lines under the source and under the translation, each in longer and shorter words."""
    kept, changed = _number(row.luminance_correlation), _number(row.change)
    correlation = [f"{words} {kept}" for words in ("luminance correlation", "luminance corr.", "lum. corr.", "corr.")]
    return [[row.label]], [correlation, [f"change {changed}", changed]]


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "-"


def _fitting(wordings: Sequence[str], font: Font, width: int) -> str:
    """The longest wording that fits; where none does, the last, its middle left out."""
    for words in wordings:
        if font.getlength(words) <= width:
            return words
    words = wordings[-1]
    for kept in range(len(words) - 1, 1, -1):
        head = (kept + 1) // 2
        shortened = f"{words[:head]}...{words[len(words) - kept + head :]}"
        if font.getlength(shortened) <= width:
            return shortened
    return words[:1]
