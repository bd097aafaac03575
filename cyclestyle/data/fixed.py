"""The same few pictures each time: what sample grids show and evaluations look at."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.decode import decode
from cyclestyle.data.transforms import build_center_crop, build_resize
from cyclestyle.errors import DataError

_log = logging.getLogger("cyclestyle")


class Fixed(NamedTuple):
    """A picture and the file that it comes from.

    Attributes:
        path: of the file.
        pixels: H x W x C, uint8 or uint16.
    """

    path: Path
    pixels: np.ndarray


def load_fixed(files: Sequence[Path], config: DataConfig, count: int, size: int) -> list[Fixed]:
    """A few pictures, always the same, resized as for training, the middle cut out.

    Args:
        files: to choose from, evenly over the list; broken ones are named and passed over.
        count: how many, fewer if there are not so many.
        size: pixels of each side of the result.
    """
    resize, crop = build_resize(config), build_center_crop(size)
    count = min(count, len(files))
    chosen: list[Fixed] = []
    for share in range(count):
        first, end = share * len(files) // count, (share + 1) * len(files) // count
        for path in files[first:end]:
            try:
                chosen.append(Fixed(path, crop(resize(decode(path, config.channels)))))
                break
            except DataError as error:
                _log.warning("skipped, %s", error)
    return chosen
