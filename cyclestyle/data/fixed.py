"""The same few pictures each time: what sample grids show and evaluations look at."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.decode import decode
from cyclestyle.data.transforms import build_center_crop, build_resize
from cyclestyle.devices import num_cores
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
    count = min(count, len(files))
    read = square_reader(config, size)

    def first_good(share: int) -> Fixed | None:
        for path in files[share * len(files) // count : (share + 1) * len(files) // count]:
            try:
                return read(path)
            except DataError as error:
                _log.warning("skipped, %s", error)
        return None

    with ThreadPoolExecutor(max_workers=min(8, num_cores())) as threads:
        return [found for found in threads.map(first_good, range(count)) if found is not None]


def square_reader(config: DataConfig, size: int) -> Callable[[Path], Fixed]:
    """What reads one file so; it raises `DataError` for a broken one, and threads may share it."""
    resize, crop = build_resize(config), build_center_crop(size)
    return lambda path: Fixed(path, crop(resize(decode(path, config.channels))))
