"""The look at all images before training starts: broken ones are named, and what fits is kept in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.dataset import BadFile, ImageCache, stored_bytes
from cyclestyle.data.decode import Header, decode, read_header
from cyclestyle.data.transforms import build_resize
from cyclestyle.devices import free_memory, num_cores
from cyclestyle.distributed import neighbours
from cyclestyle.errors import DataError

_log = logging.getLogger("cyclestyle")
_GIB = 2**30
_MOST_NAMED = 10
Result = TypeVar("Result")


@dataclass(frozen=True)
class Checked:
    """The training files of a domain, looked at.

    Attributes:
        files: all of them, the broken too: positions in this list must not depend on what is found broken when.
        bad: the broken ones by their index in `files`.
        shapes: H x W x C of each after resizing; zeros for those whose header is broken.
        dtypes: uint8 or uint16 of each.
        cache: all images that are not bad, or None if they were not read whole.
    """

    files: tuple[Path, ...]
    bad: dict[int, BadFile] = field(default_factory=dict)
    shapes: tuple[tuple[int, int, int], ...] = ()
    dtypes: tuple[np.dtype, ...] = ()
    cache: ImageCache | None = None

    @property
    def cache_bytes(self) -> int:
        """What keeping all images in memory takes."""
        return sum(stored_bytes(shape, dtype) for shape, dtype in zip(self.shapes, self.dtypes, strict=True))


def check_images(files: Sequence[Path], config: DataConfig, domain_name: str, key: str) -> Checked:
    """Read the headers of all files of a domain: cheap, finds what is no image at all and how large the rest is.

    Broken files are named on the logger "cyclestyle" and skipped.

    Args:
        domain_name: for messages.
        key: the config key that names the folder, for messages.

    Raises:
        DataError: more than `data.max_bad_fraction` of the files are broken, or all.
    """
    resize = build_resize(config)

    def look(index: int) -> tuple[int, int, Header] | BadFile:
        try:
            header = read_header(files[index], config.channels)
            return *_named(files[index], lambda: resize.shape(header.height, header.width)), header
        except DataError as error:
            return BadFile(files[index], str(error))

    bad: dict[int, BadFile] = {}
    shapes, dtypes = [], []
    for index, found in enumerate(_in_threads(look, len(files), f"checking {domain_name}")):
        if isinstance(found, BadFile):
            bad[index] = found
            shapes.append((0, 0, 0))
            dtypes.append(np.dtype(np.uint8))
        else:
            shapes.append((found[0], found[1], config.channels))
            dtypes.append(found[2].dtype)
    _report(bad, bad, len(files), config, domain_name=domain_name, key=key)
    return Checked(tuple(files), bad, tuple(shapes), tuple(dtypes))


def read_images(checked: Checked, config: DataConfig, domain_name: str, key: str) -> Checked:
    """Decode and resize every file into a cache; finds every broken file. Arguments and errors as `check_images`."""
    resize = build_resize(config)
    cache = ImageCache(checked.shapes, checked.dtypes)

    def read(index: int) -> BadFile | None:
        path = checked.files[index]
        if index in checked.bad:
            return None
        try:
            pixels = resize(decode(path, config.channels))
            _named(path, lambda: cache.put(index, pixels))
        except DataError as error:
            return BadFile(path, str(error))
        return None

    found = enumerate(_in_threads(read, len(checked.files), f"reading {domain_name}"))
    new = {index: bad for index, bad in found if bad is not None}
    bad = dict(sorted({**checked.bad, **new}.items()))
    _report(new, bad, len(checked.files), config, domain_name=domain_name, key=key)
    return replace(checked, bad=bad, cache=cache)


def fits_in_memory(num_bytes: int, config: DataConfig) -> bool:
    """Whether `data.cache` has images of so many bytes in all kept in memory, by each process."""
    if config.cache != "auto":
        return config.cache == "on"
    return num_bytes <= min(config.cache_limit_gb * _GIB, free_memory() / 4 / neighbours())


def _in_threads(work: Callable[[int], Result], count: int, label: str) -> Iterator[Result]:
    """`work(0)` .. `work(count - 1)` in order, computed by a few threads, with a progress bar on a terminal."""
    with ThreadPoolExecutor(max_workers=min(8, num_cores())) as threads:
        yield from tqdm(threads.map(work, range(count)), total=count, desc=label, unit="img", leave=False, disable=None)


def _named(path: Path, work: Callable[[], Result]) -> Result:
    """Put the file's name before errors that do not know it."""
    try:
        return work()
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _report(
    new: dict[int, BadFile], bad: dict[int, BadFile], num_files: int, config: DataConfig, *, domain_name: str, key: str
) -> None:
    """Warn of the files newly found broken; raise `DataError` if there are too many in all."""
    if len(bad) > config.max_bad_fraction * num_files or len(bad) == num_files:
        reasons = [file.reason for file in bad.values()]
        more = f"; and {len(reasons) - _MOST_NAMED} more" if len(reasons) > _MOST_NAMED else ""
        raise DataError(
            f"{key}: {len(bad)} of {num_files} images of {domain_name} cannot be used, more than data.max_bad_fraction "
            f"({config.max_bad_fraction:g}) allows: {'; '.join(reasons[:_MOST_NAMED])}{more}"
        )
    for file in new.values():
        _log.warning("skipped, %s", file.reason)
