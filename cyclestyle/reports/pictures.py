"""Sample grids cut into their cells, for a page: the test pictures over the steps, as data URIs."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from cyclestyle.reports.gather import Grid, Run
from cyclestyle.reports.verdict import directions

logger = logging.getLogger("cyclestyle")

MOST_STEPS = 40
"""That the slider has."""

_FILM_PIXELS = 11_000_000  # of all pictures behind the slider together: a page of some megabytes
_LARGEST = 512  # pixels of a side of the pictures to wipe
_QUALITY = 82


@dataclass(frozen=True)
class Film:
    """One direction's test pictures over the steps, as data URIs.

    Attributes:
        direction: "ab" or "ba".
        source, target: names.
        width, height: of a picture as it was drawn, in pixels.
        sources: a picture each.
        labels: what each is called; empty where the grids do not say.
        steps: that are shown, ascending.
        frames: for each step the translations, in the order of `sources`.
        captions: for each step the scores of each translation, in words; empty where the grids do not say.
        best: index of the step nearest to the best checkpoint; None without one.
        large: index of a step -> its translations in full size, of the newest and of `best`.
        large_sources: the sources in full size.
        num_left_out: grids of this direction that show other pictures, and are not shown.
    """

    direction: str
    source: str
    target: str
    width: int
    height: int
    sources: list[str]
    labels: tuple[str, ...]
    steps: list[int]
    frames: list[list[str]]
    captions: list[tuple[str, ...]]
    best: int | None
    large: dict[int, list[str]]
    large_sources: list[str]
    num_left_out: int


def films(run: Run) -> list[Film]:
    """The direction whose score counts, then the other; none where there are no grids."""
    found = []
    for direction in directions(run):
        grids = [grid for grid in run.grids if run.direction(grid.source, grid.target) == direction]
        if grids:
            found.append((direction, [grid for grid in grids if grid.form == grids[-1].form], len(grids)))
    chosen = [(direction, _thinned(grids, run.best_step), total - len(grids)) for direction, grids, total in found]
    pixels = sum(len(grids) * grids[-1].rows * grids[-1].width * grids[-1].height for _, grids, _ in chosen)
    scale = min(1.0, math.sqrt(_FILM_PIXELS / max(1, pixels)))
    return [film for each in chosen if (film := _film(run, *each, scale)) is not None]


def _thinned(grids: list[Grid], best_step: int | None) -> list[Grid]:
    """At most `MOST_STEPS`, evenly; the first, the last and the one nearest to the best are kept."""
    if len(grids) <= MOST_STEPS:
        return grids
    indices = set(np.linspace(0, len(grids) - 1, MOST_STEPS - 1).round().astype(int).tolist())
    if best_step is not None:
        indices.add(_nearest([grid.step for grid in grids], best_step))
    return [grids[index] for index in sorted(indices)]


def _nearest(steps: Sequence[int], step: int) -> int:
    return min(range(len(steps)), key=lambda index: abs(steps[index] - step))


def _film(run: Run, direction: str, grids: list[Grid], num_left_out: int, scale: float) -> Film | None:
    cells = {grid: found for grid in grids if (found := _cut(grid)) is not None}  # one may be half written just now
    if not cells:
        return None
    readable = list(cells)
    newest = readable[-1]
    steps = [grid.step for grid in readable]
    best = None if run.best_step is None else _nearest(steps, run.best_step)
    large = {index: cells[readable[index]][1] for index in {len(steps) - 1, best} if index is not None}
    sources = cells[newest][0]
    return Film(
        direction=direction,
        source=newest.source,
        target=newest.target,
        width=newest.width,
        height=newest.height,
        sources=[data_uri(picture, scale) for picture in sources],
        labels=newest.labels,
        steps=steps,
        frames=[[data_uri(picture, scale) for picture in cells[grid][1]] for grid in readable],
        captions=[grid.captions for grid in readable],
        best=best,
        large={index: [bounded(picture, _LARGEST) for picture in pictures] for index, pictures in large.items()},
        large_sources=[bounded(picture, _LARGEST) for picture in sources],
        num_left_out=num_left_out,
    )


def _cut(grid: Grid) -> tuple[list[Image.Image], list[Image.Image]] | None:
    """Sources and translations, top to bottom; None where the file cannot be read."""
    try:
        with Image.open(grid.path, formats=["PNG"]) as image:
            sheet = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        logger.warning("%s was left out (%s)", grid.path, error)
        return None
    columns = []
    for column in (0, 1):
        left = grid.left + column * (grid.width + grid.gap)
        tops = [grid.top + row * (grid.height + grid.label_height + grid.gap) for row in range(grid.rows)]
        columns.append([sheet.crop((left, top, left + grid.width, top + grid.height)) for top in tops])
    return columns[0], columns[1]


def data_uri(picture: Image.Image, scale: float = 1.0) -> str:
    """An RGB picture, made smaller by `scale`, as a WebP that stands in the page itself."""
    if scale < 1:
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "WEBP", quality=_QUALITY, method=2)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def bounded(picture: Image.Image, side: int) -> str:
    """The same, its longer side at most `side` pixels."""
    return data_uri(picture, min(1.0, side / max(picture.size)))
