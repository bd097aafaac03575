"""From a config to a stream of batches: the one door through which training gets its data."""

from __future__ import annotations

import contextlib
import logging
import math
import mmap
import multiprocessing
import shutil
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cyclestyle.batch import Domain, UnpairedBatch
from cyclestyle.config.schema import DataConfig
from cyclestyle.data.check import Checked, check_images, fits_in_memory, read_images
from cyclestyle.data.dataset import BadFile, UnpairedDataset
from cyclestyle.data.folders import DomainFolders, find_folders
from cyclestyle.data.held_out import HeldOut
from cyclestyle.data.sampling import share_of_batch
from cyclestyle.data.transforms import check_augment
from cyclestyle.data.workers import PREFETCH, Found, LostError, by_workers, fill
from cyclestyle.devices import num_cores
from cyclestyle.distributed import group_rank, neighbours, world_size
from cyclestyle.errors import ConfigError, DataError

_log = logging.getLogger("cyclestyle")

_MOST_RESTARTS, _WITHIN = 3, 100  # of lost workers; so many in so many batches


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
            batch_size: images of each domain in one, over all processes: this one is given its share of each.
        """
        share = share_of_batch(batch_size, rank=group_rank(), world_size=world_size())
        first = start_position + share.start
        starts = range(first, first + num_batches * batch_size, batch_size)
        shape = 2, len(share), *self.dataset.sample_shape
        made = self._made_by_workers(starts, shape) if self.num_workers else self._made_here(starts, shape)
        with contextlib.closing(made):
            for images, found in made:
                if isinstance(found, DataError):
                    raise found
                self._note(found)
                yield UnpairedBatch(images[0], images[1])

    def held_out(self, domains: Iterable[Domain]) -> HeldOut:
        """Images of the test folders of these domains, prepared as for training; nothing is read yet.

        Files that turn out broken are noted as those of training are.

        Raises:
            ConfigError: one of these domains has no test files.
        """
        return HeldOut(self.folders, self.dataset.config, self.dataset.seed, domains, self._note)

    def _made_here(self, starts: range, shape: tuple[int, ...]) -> Generator[tuple[Tensor, Found]]:
        """Both domains' images of each batch, 2 x N x C x crop x crop, and what was found on the way."""
        for start in starts:
            images = torch.empty(shape, pin_memory=self.pin_memory)
            yield images, fill(images, self.dataset, start)

    def _made_by_workers(self, starts: range, shape: tuple[int, ...]) -> Generator[tuple[Tensor, Found]]:
        """The same, prepared ahead by worker processes, which are started again where they are lost.

        A batch is a function of its position, so those that were lost come out the same.
        """
        num_made = 0
        restarts: list[int] = []  # the batch before each
        while (slots := self._slots(shape)) is not None:
            try:
                made = by_workers(self.dataset, slots, starts[num_made:], self.num_workers, self.start_method)
                with contextlib.closing(made):
                    for images, found in made:  # copied: the slot is written again
                        yield images.pin_memory() if self.pin_memory else images.clone(), found
                        num_made += 1
                return
            except LostError as loss:
                restarts = [number for number in restarts if num_made - number < _WITHIN]
                if len(restarts) == _MOST_RESTARTS:
                    raise DataError(
                        f"{loss}, the {len(restarts) + 1}. time in {_WITHIN} batches: lower data.num_workers (now "
                        f"{self.num_workers}; with 0 the training process reads by itself), or data.cache_limit_gb"
                    ) from loss
                restarts.append(num_made)
                _log.warning(
                    "%s; workers are started again, from the batch that is missing on: it will be the same (restart %d "
                    "of at most %d in %d batches)", loss, len(restarts), _MOST_RESTARTS, _WITHIN,
                )  # fmt: skip
        yield from self._made_here(starts[num_made:], shape)

    def _slots(self, shape: tuple[int, ...]) -> Tensor | None:
        """Memory for as many batches of this shape as workers can have begun, and the one being read; None: no room.

        It is shared once. Tensors that pass through a queue cost several times what making a cached image costs: a file
        each, its pages, two sockets.
        """
        shape = self.num_workers * PREFETCH + 1, *shape
        num_bytes = math.prod(shape) * 4
        if _is_forking(self.start_method):  # then any shared mapping will do, and /dev/shm is often small
            return torch.frombuffer(mmap.mmap(-1, num_bytes), dtype=torch.float32).view(shape)
        if not _fits_in_shared_memory(num_bytes, "the batches", "a container's --shm-size"):
            return None
        return torch.empty(shape).share_memory_()

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
    return max(1, min(8, num_cores() // neighbours() - 1))


def _share(checked: Sequence[Checked], num_workers: int, start_method: str | None) -> int:
    """Put the caches where workers find them; returns how many workers there can be."""
    caches = [domain.cache for domain in checked if domain.cache is not None]
    if num_workers == 0 or not caches or _is_forking(start_method):
        return num_workers
    if not _fits_in_shared_memory(sum(cache.num_bytes for cache in caches), "the images", "data.cache: off"):
        return 0
    for cache in caches:
        cache.share()
    return num_workers


def _is_forking(start_method: str | None) -> bool:
    return (start_method or multiprocessing.get_start_method()) == "fork"


def _fits_in_shared_memory(needed: int, what: str, remedy: str) -> bool:
    """Whether /dev/shm holds so many bytes; says so where not."""
    room = shutil.disk_usage("/dev/shm").free if sys.platform == "linux" else needed
    if room < needed:  # usual in containers: 64 MB. Filling it up would kill the process without a word.
        _log.warning(
            "no worker processes: /dev/shm has %d MB free and %s need %d; set %s to have workers",
            room // 2**20,
            what,
            needed // 2**20,
            remedy,
        )
    return room >= needed
