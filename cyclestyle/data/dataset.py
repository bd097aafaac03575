"""Pairs of unpaired images by position: decode, resize (or take from memory), augment, to tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cyclestyle import images
from cyclestyle.batch import Domain
from cyclestyle.config.schema import DataConfig
from cyclestyle.data.decode import decode
from cyclestyle.data.sampling import index_at, sample_seed
from cyclestyle.data.transforms import build_augment, build_resize
from cyclestyle.errors import DataError

DOMAINS: tuple[Domain, Domain] = ("a", "b")

_ALIGNMENT = 64  # bytes; a cache line, and any dtype may start there


@dataclass(frozen=True)
class BadFile:
    """A file that cannot be used, and why, in one line that names it."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Sample:
    """What is shown at one position.

    Attributes:
        real_a: C x H x W float32 in [-1, 1].
        real_b: C x H x W float32 in [-1, 1].
        failures: files that should have been shown but could not be read; others took their place.
    """

    real_a: Tensor
    real_b: Tensor
    failures: tuple[BadFile, ...]


class ImageCache:
    """Decoded, resized images of one domain in one flat block of memory, which worker processes share.

    One block, not a tensor an image: shared memory costs a file descriptor a tensor.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], dtypes: Sequence[np.dtype]) -> None:
        """Room for images of these H x W x C shapes and dtypes (uint8 or uint16), all still missing."""
        self._shapes = list(shapes)
        self._dtypes = list(dtypes)
        sizes = [stored_bytes(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
        self._offsets = [0, *np.cumsum(sizes).tolist()]
        self._memory = torch.empty(self._offsets[-1], dtype=torch.uint8)

    @property
    def num_bytes(self) -> int:
        """Size of the block."""
        return self._memory.numel()

    def put(self, index: int, pixels: np.ndarray) -> None:
        """Keep an image, H x W x C; threads may do so at once, for different indices."""
        if pixels.shape != self._shapes[index] or pixels.dtype != self._dtypes[index]:
            raise DataError(
                f"the file's header promises {self._shapes[index]} {self._dtypes[index]}, "
                f"but it holds {pixels.shape} {pixels.dtype} (after resizing)"
            )
        self._view(index)[...] = pixels

    def get(self, index: int) -> np.ndarray:
        """An image that was put, H x W x C; a copy, since transforms may write into what they are given."""
        return self._view(index).copy()

    def share(self) -> None:
        """Move the block to shared memory, for workers that are not forked (forked ones see it anyway)."""
        self._memory.share_memory_()

    def _view(self, index: int) -> np.ndarray:
        shape, dtype = self._shapes[index], self._dtypes[index]
        start = self._offsets[index]
        flat = self._memory.numpy()[start : start + int(np.prod(shape)) * dtype.itemsize]
        return flat.view(dtype).reshape(shape)


def stored_bytes(shape: tuple[int, int, int], dtype: np.dtype) -> int:
    """What an image takes in an `ImageCache`."""
    return -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT


class DomainImages:
    """What one domain shows at a position of the run: a C x crop x crop float32 in [-1, 1].

    A pure function of the position, the files and the seed: whatever the process, the order of calls or the cache.
    A broken file is replaced by the next one that is not, whether it was found at the start or is found now.
    """

    def __init__(
        self,
        files: Sequence[Path],
        config: DataConfig,
        seed: int,
        *,
        label: str,
        cache: ImageCache | None = None,
        bad: Mapping[int, BadFile] | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            files: of the domain, the broken too.
            seed: the run's.
            label: "a", or what else sets its order, crops and flips apart from others'.
            cache: all files that are not in `bad`, if they were read whole.
            bad: files known to be broken, by index.
        """
        self._files = tuple(files)
        self._config = config
        self._seed = seed
        self._label = label
        self._cache = cache
        self._bad = dict(bad or {})
        self._resize = build_resize(config)
        self._augment = build_augment(config)

    def show(self, position: int, failures: list[BadFile]) -> Tensor:
        """The image of a position, C x crop x crop, or the next one in the list that can be read.

        Args:
            position: images of this domain shown before this one, from 0.
            failures: files newly found broken on the way are added to it.

        Raises:
            DataError: no file can be read.
        """
        first = index_at(position, num_images=len(self._files), seed=self._seed, domain=self._label)
        for attempt in range(len(self._files)):
            index = (first + attempt) % len(self._files)
            if index in self._bad:
                continue
            try:
                pixels = self._pixels(index)  # H x W x C
                pixels = self._cut(pixels, self._files[index], sample_seed(self._seed, self._label, position))
                return images.to_tensor(pixels)
            except DataError as error:
                failures.append(BadFile(self._files[index], str(error)))
        raise DataError(f"no image of domain {self._label} can be read any more; the last: {failures[-1].reason}")

    def picture(self, index: int) -> np.ndarray | None:
        """The `index`-th picture, resized, H x W x C; None for a broken one."""
        if index in self._bad:
            return None
        try:
            return self._pixels(index)
        except DataError:
            return None

    def _pixels(self, index: int) -> np.ndarray:
        """The `index`-th picture, resized, H x W x C, to be written into as one likes."""
        if self._cache is not None:
            return self._cache.get(index)
        path = self._files[index]
        pixels = decode(path, self._config.channels)
        try:
            return self._resize(pixels)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error

    def _cut(self, pixels: np.ndarray, path: Path, seed: int) -> np.ndarray:
        """H x W x C to crop x crop x C. `data.augment` was tried on the files as they were at the start."""
        try:
            return self._augment(pixels, seed)
        except Exception as error:  # whatever albumentations and OpenCV raise on, say, another bit depth
            reason = " ".join(str(error).split())[:160]
            raise DataError(
                f"{path}: data.augment fails on its {pixels.shape[1]} x {pixels.shape[0]} {pixels.dtype} pixels "
                f"({type(error).__name__}: {reason})"
            ) from error


class UnpairedDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """`dataset[position]` is what both domains show at a position of the run, each as its `DomainImages` says."""

    def __init__(
        self,
        files_a: Sequence[Path],
        files_b: Sequence[Path],
        config: DataConfig,
        seed: int,
        *,
        cache_a: ImageCache | None = None,
        cache_b: ImageCache | None = None,
        bad_a: Mapping[int, BadFile] | None = None,
        bad_b: Mapping[int, BadFile] | None = None,
    ) -> None:
        """`bad_a`, `bad_b`: files known to be broken, by index; with a cache all others must have been put into it."""
        self.config = config
        self.seed = seed
        self._domains: dict[Domain, DomainImages] = {
            "a": DomainImages(files_a, config, seed, label="a", cache=cache_a, bad=bad_a),
            "b": DomainImages(files_b, config, seed, label="b", cache=cache_b, bad=bad_b),
        }

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C x crop x crop of every image that it gives."""
        return self.config.channels, self.config.crop_size, self.config.crop_size

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        sample = self.load(position)
        return sample.real_a, sample.real_b

    def load(self, position: int) -> Sample:
        """Like `dataset[position]`, and names the files that were newly found broken on the way."""
        failures: list[BadFile] = []
        real_a, real_b = (self._domains[domain].show(position, failures) for domain in DOMAINS)
        return Sample(real_a, real_b, tuple(failures))

    def picture(self, domain: Domain, index: int) -> np.ndarray | None:
        """The `index`-th training picture, resized, H x W x C; None for a broken one."""
        return self._domains[domain].picture(index)
