"""How many pictures a run would train on, and what keeping them takes: by their headers; nothing is made."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cyclestyle.config.schema import SAMPLE_ROOT, DataConfig
from cyclestyle.data.check import check_images, fits_in_memory
from cyclestyle.data.dataset import stored_bytes
from cyclestyle.data.folders import find_folders
from cyclestyle.data.loader import _num_workers, _requested_workers
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.data.transforms import build_resize, check_augment


@dataclass(frozen=True, kw_only=True)
class Images:
    """The pictures of a run, those of domain A first.

    Attributes:
        names: of the domains.
        num_train: training pictures, broken ones included.
        num_test: pictures that are scored: of the test folder, of the training folder where there is none.
        have_tests: whether there is a test folder.
        cache_bytes: what keeping all training pictures in memory takes; 0 where they are not kept.
        num_workers: processes that prepare batches.
        are_missing: the sample set, which the first start makes; its known numbers stand here.
    """

    names: tuple[str, str]
    num_train: tuple[int, int]
    num_test: tuple[int, int]
    have_tests: tuple[bool, bool]
    cache_bytes: int
    num_workers: int
    are_missing: bool

    @property
    def epoch(self) -> int:
        """Images of each domain that an epoch shows: as many as the larger domain has."""
        return max(self.num_train)


def count_images(config: DataConfig, device_type: str) -> Images:
    """Find and count the pictures, as `loader.build_data` would.

    Args:
        device_type: where training happens, "cpu", "cuda" or "mps".

    Raises:
        DataError: folders or images that cannot be trained on.
        ConfigError: `data.augment` or `data.num_workers` that cannot work.
    """
    requested = _requested_workers(config)
    check_augment(config, [])
    root = config.root
    is_missing = root is not None and Path(root) == Path(SAMPLE_ROOT) and not samples_complete(Path(root))
    if is_missing:
        known = inspect.signature(make_samples).parameters
        trained, tested, size = (known[name].default for name in ("num_train", "num_test", "size"))
        num_train, num_test, have_tests = (trained, trained), (tested, tested), (True, True)
        shape = (*build_resize(config).shape(size, size), config.channels)
        num_bytes = 2 * trained * stored_bytes(shape, np.dtype(np.uint8))
    else:
        a, b = find_folders(config)
        keys = [f"data.{x}.train" if domain.train else "data.root" for x, domain in (("a", config.a), ("b", config.b))]
        checked = [
            check_images(each.train_files, config, each.name, key) for each, key in zip((a, b), keys, strict=True)
        ]
        check_augment(config, {dtype for each in checked for dtype in each.dtypes})
        num_train = (len(a.train_files), len(b.train_files))
        num_test = (len(a.test_files or a.train_files), len(b.test_files or b.train_files))
        have_tests = (a.test is not None, b.test is not None)
        num_bytes = sum(each.cache_bytes for each in checked)
    is_cached = fits_in_memory(num_bytes, config)
    return Images(
        names=(config.a.name or "a", config.b.name or "b"),
        num_train=num_train,
        num_test=num_test,
        have_tests=have_tests,
        cache_bytes=num_bytes if is_cached else 0,
        num_workers=_num_workers(requested, is_cached, device_type),
        are_missing=is_missing,
    )
