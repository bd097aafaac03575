"""Sample grids: fixed test images, translated, back again, and what the other generator leaves of them (identity)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from cyclestyle.images import to_pixels, to_tensor

_GAP = 4
_HEADER = 18
_PAPER = 255


@dataclass(frozen=True)
class Preview:
    """One direction's grid: a row an image, a column each of real | translated | back | identity."""

    direction: str
    pixels: np.ndarray


class Previews:
    """Draws the grids of a run from the same images each time.

    Args:
        fixed_a, fixed_b: N x C x H x W float32 in [-1, 1], of each domain.
        names: of domain A and domain B.
    """

    def __init__(self, fixed_a: list[np.ndarray], fixed_b: list[np.ndarray], names: tuple[str, str]) -> None:
        self._fixed = {"a": [to_tensor(pixels) for pixels in fixed_a], "b": [to_tensor(pixels) for pixels in fixed_b]}
        self._names = {"a": names[0], "b": names[1]}

    def draw(self, generators: dict[str, nn.Module], device: torch.device) -> list[Preview]:
        """The grid of each direction that `generators` (averaged, eval mode, by name) can translate."""
        previews = []
        for source, target in (("a", "b"), ("b", "a")):
            forth, back = generators.get(f"gen_{source}{target}"), generators.get(f"gen_{target}{source}")
            if forth is None or not self._fixed[source]:
                continue
            titles = [self._names[source], f"as {self._names[target]}"]
            if back is not None:
                titles += [f"back to {self._names[source]}", f"{self._names[source]} left as is"]
            rows = [_row(image.unsqueeze(0).to(device), forth, back) for image in self._fixed[source]]
            previews.append(Preview(f"{self._names[source]}_to_{self._names[target]}", _compose(rows, titles)))
        return previews


@torch.no_grad()
def _row(real: Tensor, forth: nn.Module, back: nn.Module | None) -> list[np.ndarray]:
    """real | translated | back | identity of one image, H x W x 3 uint8 each."""
    fake = forth(real)
    images = [real, fake] if back is None else [real, fake, back(fake), back(real)]
    return [_as_rgb(to_pixels(image[0])) for image in images]


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    """H x W x 3 for showing: grey is repeated, of more channels the first three are taken."""
    return np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]


def _compose(rows: list[list[np.ndarray]], titles: list[str]) -> np.ndarray:
    """Rows of equally large images under a line of titles, on white."""
    height, width = rows[0][0].shape[:2]
    sheet = Image.new(
        "RGB",
        (_GAP + len(titles) * (width + _GAP), _HEADER + len(rows) * (height + _GAP)),
        (_PAPER, _PAPER, _PAPER),
    )
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 3), title, fill=(40, 40, 40))
        for row, images in enumerate(rows):
            sheet.paste(Image.fromarray(images[column]), (left, _HEADER + row * (height + _GAP)))
    return np.asarray(sheet)
