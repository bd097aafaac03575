"""From a config to a stream of batches: the one door through which training gets its data."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import DataConfig
from cyclestyle.data.check import Checked, check_images, fits_in_memory, read_images
from cyclestyle.data.dataset import BadFile, UnpairedDataset
from cyclestyle.data.folders import DomainFolders, find_folders
from cyclestyle.data.transforms import check_augment
from cyclestyle.devices import num_cores
from cyclestyle.errors import ConfigError

_log = logging.getLogger("cyclestyle")


@dataclass
class Data:
    """The training data of a run.

    Attributes:
        folders: of domain A and domain B, with names and files.
        channels: of every image.
        num_images_a: training files of A, broken ones included: they stay in the order, the next one takes their place.
        num_images_b: the same of B.
        cached: whether all images are kept in memory.
        num_workers: processes that prepare batches, 0: this one.
        bad_files: files found broken so far; grows during a run.
    """

    folders: tuple[DomainFolders, DomainFolders]
    channels: int
    num_images_a: int
    num_images_b: int
    cached: bool
    num_workers: int
    bad_files: list[BadFile]
    dataset: UnpairedDataset = field(repr=False)
    pin_memory: bool = False
    start_method: str | None = None

    @property
    def epoch_images(self) -> int:
        """Images of each domain that an epoch shows: as many as the larger domain has."""
        return max(self.num_images_a, self.num_images_b)

    def batches(self, start_position: int, num_batches: int, batch_size: int) -> Iterator[UnpairedBatch]:
        """The batches of the rest of a run; the worker processes live until the iterator is exhausted or closed.

        Args:
            start_position: images of each domain that were shown before.
            num_batches: how many to give.
            batch_size: images of each domain in one.
        """
        loader = DataLoader(
            _Batches(self.dataset),
            sampler=_Positions(start_position, num_batches, batch_size),
            batch_size=None,  # _Batches makes whole batches
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            pin_memory=self.pin_memory,
            worker_init_fn=_ignore_signals,
            # Its own, unused: else every iterator would draw from torch's global generator and move what comes after.
            generator=torch.Generator(),
            multiprocessing_context=self.start_method if self.num_workers > 0 else None,
        )
        iterator = iter(loader)
        try:
            for batch, failures in iterator:
                self._note(failures)
                yield batch
        finally:
            # Now, and not when the last traceback that mentions the iterator is forgotten: that may be never.
            if isinstance(iterator, _MultiProcessingDataLoaderIter):
                iterator._shutdown_workers()

    def _note(self, failures: Sequence[BadFile]) -> None:
        """Remember and name files that broke since the start, each once."""
        known = {bad.path for bad in self.bad_files}
        for bad in failures:
            if bad.path not in known:
                known.add(bad.path)
                self.bad_files.append(bad)
                _log.warning("skipped, another image takes its place: %s", bad.reason)


def build_data(config: DataConfig, *, seed: int, device_type: str, start_method: str | None = None) -> Data:
    """Find, check and perhaps read all images.

    Args:
        seed: fixes order and augmentation.
        device_type: where training happens, "cpu", "cuda" or "mps"; the stream of batches does not depend on it.
        start_method: of worker processes, "fork", "spawn" or "forkserver"; None: the platform's own.

    Raises:
        DataError: folders or images that cannot be trained on.
        ConfigError: `data.augment` or `data.num_workers` that cannot work.
    """
    check_augment(config, [])  # names and arguments, before minutes of reading
    requested = _requested_workers(config)
    folders = find_folders(config)
    keys = [f"data.{x}.train" if domain.train else "data.root" for x, domain in (("a", config.a), ("b", config.b))]
    checked = [_check(folder, config, key) for folder, key in zip(folders, keys, strict=True)]
    check_augment(config, {dtype for domain in checked for dtype in domain.dtypes})
    cached = fits_in_memory(sum(domain.cache_bytes for domain in checked), config)
    if cached:
        named = zip(checked, folders, keys, strict=True)
        checked = [read_images(domain, config, folder.name, key) for domain, folder, key in named]
    num_workers = _share(checked, _num_workers(requested, cached, device_type), start_method)
    a, b = checked
    dataset = UnpairedDataset(
        a.files, b.files, config, seed, cache_a=a.cache, cache_b=b.cache, bad_a=a.bad, bad_b=b.bad
    )
    return Data(
        folders=folders,
        channels=config.channels,
        num_images_a=len(a.files),
        num_images_b=len(b.files),
        cached=cached,
        num_workers=num_workers,
        bad_files=[*a.bad.values(), *b.bad.values()],
        dataset=dataset,
        pin_memory=device_type == "cuda",
        start_method=start_method,
    )


class _Batches(Dataset[tuple[UnpairedBatch, list[BadFile]]]):
    """Whole batches by their positions, with the files that failed: workers cannot speak to the user themselves."""

    def __init__(self, dataset: UnpairedDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, positions: range) -> tuple[UnpairedBatch, list[BadFile]]:
        samples = [self._dataset.load(position) for position in positions]
        batch = UnpairedBatch(
            torch.stack([sample.real_a for sample in samples]), torch.stack([sample.real_b for sample in samples])
        )
        return batch, [bad for sample in samples for bad in sample.failures]


class _Positions(Sampler[range]):
    """The positions of each batch of the rest of a run, never held all at once."""

    def __init__(self, start: int, num_batches: int, batch_size: int) -> None:
        self._start, self._num_batches, self._batch_size = start, num_batches, batch_size

    def __iter__(self) -> Iterator[range]:
        for batch in range(self._num_batches):
            first = self._start + batch * self._batch_size
            yield range(first, first + self._batch_size)

    def __len__(self) -> int:
        return self._num_batches


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_signals(_worker: int) -> None:
    """In a worker: Ctrl-C and a SIGTERM to the whole group are for the main process, which still wants to save.

    Workers end when it closes their queue, sends them SIGTERM itself (as it does at its own end: one that ignored this
    would be waited for without end), or when they notice, within seconds, that it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None and hasattr(signal, "sigwaitinfo"):  # elsewhere a SIGTERM ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(main.pid,), daemon=True).start()


def _end_when_told_by(pid: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)


def _check(folder: DomainFolders, config: DataConfig, key: str) -> Checked:
    return check_images(folder.train_files, config, folder.name, key)


def _requested_workers(config: DataConfig) -> int | None:
    """`data.num_workers` as a number, None for auto."""
    wanted = str(config.num_workers)
    if wanted == "auto":
        return None
    if not wanted.isdecimal():
        raise ConfigError(f"data.num_workers: got {config.num_workers!r}, needed: auto or a number from 0")
    return int(wanted)


def _num_workers(requested: int | None, cached: bool, device_type: str) -> int:
    if requested is not None:
        return requested
    if cached and device_type == "cpu":
        return 0  # crop and flip of an image in memory take 0.1 ms, a step on the CPU hundreds
    return max(1, min(8, num_cores() - 1))


def _share(checked: Sequence[Checked], num_workers: int, start_method: str | None) -> int:
    """Put the caches where workers find them; returns how many workers there can be."""
    caches = [domain.cache for domain in checked if domain.cache is not None]
    method = start_method or multiprocessing.get_start_method()
    if num_workers == 0 or not caches or method == "fork":
        return num_workers
    needed = sum(cache.num_bytes for cache in caches)
    room = shutil.disk_usage("/dev/shm").free if sys.platform == "linux" else needed
    if room < needed:  # usual in containers: 64 MB. Filling it up would kill the process without a word.
        _log.warning(
            "no worker processes: /dev/shm has %d MB free and the images need %d; set data.cache: off to have workers",
            room // 2**20,
            needed // 2**20,
        )
        return 0
    for cache in caches:
        cache.share()
    return num_workers
