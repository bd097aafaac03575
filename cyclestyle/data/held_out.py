"""Images that nobody trains on, prepared as if somebody did: files of the test folders, cropped, flipped, augmented.

How a discriminator rates them, against training images and translations, says whether it learns its images by heart
(Karras et al. 2020, eq. 1, there r_v).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cyclestyle.batch import Domain
from cyclestyle.config.schema import DataConfig
from cyclestyle.data.dataset import BadFile, DomainImages
from cyclestyle.data.folders import DomainFolders
from cyclestyle.errors import ConfigError

_MOST_KEPT = 2**27
"""Bytes of decoded, resized pictures that each domain keeps in memory; 286 x 286 take 2**18."""


class HeldOut:
    """Batches of test images by position, made in this process.

    A pure function of position, files and seed, independent of what training shows: a resumed run sees the same.
    Nothing is read before it is asked for; pictures that were are kept, as far as a small limit goes.
    """

    def __init__(
        self,
        folders: tuple[DomainFolders, DomainFolders],
        config: DataConfig,
        seed: int,
        domains: Iterable[Domain],
        note: Callable[[Sequence[BadFile]], None],
    ) -> None:
        """Nothing is read yet.

        Args:
            folders: of domain A and domain B.
            seed: the run's.
            domains: which are wanted; the others need no test files.
            note: told of files that cannot be read, each time that they are met.

        Raises:
            ConfigError: one of them has no test files.
        """
        by_letter = {"a": folders[0], "b": folders[1]}
        self._sources: dict[Domain, _Source] = {}
        for domain in sorted(set(domains)):
            folder = by_letter[domain]
            if not folder.test_files:
                raise ConfigError(_missing(folder, domain, config.root))
            self._sources[domain] = _Source(folder.test_files, config, seed, label=f"{domain} (held out)")
        self._note = note
        self._shape = config.channels, config.crop_size, config.crop_size

    def images(self, position: int, num_images: int) -> dict[Domain, Tensor]:
        """What each domain shows at `position` and the places after it: N x C x crop x crop float32 in [-1, 1].

        The next file takes the place of a broken one.

        Args:
            position: held-out images of each domain that were asked for before, from 0.
            num_images: N.

        Raises:
            DataError: no file of a domain can be read.
        """
        return {domain: self._of(source, position, num_images) for domain, source in self._sources.items()}

    def _of(self, source: _Source, position: int, num_images: int) -> Tensor:
        shown = torch.empty(num_images, *self._shape)
        failures: list[BadFile] = []
        try:
            for place in range(num_images):
                shown[place] = source.show(position + place, failures)
        finally:  # also before the error that none is left
            self._note(failures)
        return shown


class _Source(DomainImages):
    """Test pictures of one domain, kept after their first use."""

    def __init__(self, files: Sequence[Path], config: DataConfig, seed: int, *, label: str) -> None:
        super().__init__(files, config, seed, label=label)
        self._kept: dict[int, np.ndarray] = {}
        self._num_bytes = 0

    def _pixels(self, index: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index].copy()  # transforms may write into what they are given
        pixels = super()._pixels(index)
        if self._num_bytes + pixels.nbytes <= _MOST_KEPT:
            self._num_bytes += pixels.nbytes
            self._kept[index] = pixels.copy()
        return pixels


def _missing(folder: DomainFolders, domain: Domain, root: str | None) -> str:
    """What to do about a domain without test files, in one line."""
    name = f"{folder.name} (domain {domain})"
    beside = f", or put a folder test{domain.upper()} into {root} (data.root)" if root is not None else ""
    return (
        f"discriminator.augment_adaptive: got true, but {name} has no test images to try its discriminator on; "
        f"set data.{domain}.test to a folder of them{beside}, or discriminator.augment_adaptive=false"
    )
