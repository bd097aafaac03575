"""What happens to pixels between file and network: resize (fixed), then crop, flip and augmentation (random, seeded).

The only file that knows albumentations. Pixels keep their dtype, uint8 or uint16, and any number of channels.
"""

from __future__ import annotations

import difflib
import os
import random
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from cyclestyle.config.schema import DataConfig
from cyclestyle.errors import ConfigError, DataError

# Without this, importing albumentations asks the network whether there is a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
from albumentations.augmentations.geometric import functional as geometric

cv2.setNumThreads(0)  # its threads deadlock in forked workers, and workers are the parallelism here

_LONGEST_SIDE = 32767  # OpenCV's limit in several functions


class Resize:
    """The part of the way that is the same every time an image is shown, so that its result can be kept in memory."""

    def __init__(self, config: DataConfig) -> None:
        self._mode = config.resize
        self._size = config.load_size

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after `__call__`, in pixels, for an image of this height and width.

        Raises:
            DataError: an image so long and narrow that, resized, it would take the memory of thousands.
        """
        if self._mode == "none":
            return height, width
        if self._mode == "squash":
            return self._size, self._size
        shorter = min(height, width)
        # In integers, half up: the shorter side is exact and the longer one the same on every machine.
        new = (2 * height * self._size + shorter) // (2 * shorter), (2 * width * self._size + shorter) // (2 * shorter)
        if max(new) > _LONGEST_SIDE:
            raise DataError(
                f"{width} x {height} pixels would become {new[1]} x {new[0]}; crop the image or set data.resize: squash"
            )
        return new

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """H x W x C to H' x W' x C of the same dtype. Sides that shrink are averaged, sides that grow interpolated."""
        height, width = self.shape(*pixels.shape[:2])
        smaller = min(pixels.shape[0], height), min(pixels.shape[1], width)
        pixels = _resize(pixels, smaller, cv2.INTER_AREA)
        return _resize(pixels, (height, width), cv2.INTER_CUBIC)


class Augment:
    """Random crop, flip and the transforms of `data.augment`: a pure function of pixels and seed.

    Not for several threads at once: the seed travels through the albumentations objects.
    """

    def __init__(self, config: DataConfig) -> None:
        flip = [A.HorizontalFlip(p=0.5)] if config.flip else []
        further = [_transform(entry) for entry in config.augment]
        self._compose = A.Compose([_crop(A.RandomCrop, config.crop_size), *flip, *further])

    def __call__(self, pixels: np.ndarray, seed: int) -> np.ndarray:
        """H x W x C to crop_size x crop_size x C of the same dtype; smaller images are continued by reflection."""
        # Not Compose.set_random_seed: it hands every transform the same numbers, so that all with p=0.3 fire together.
        self._compose.set_random_state(np.random.Generator(np.random.PCG64(seed)), random.Random(seed))
        return self._compose(image=pixels)["image"]


def build_resize(config: DataConfig) -> Resize:
    """The fixed part: H x W x C to the size that `data.resize` and `data.load_size` say."""
    return Resize(config)


def build_augment(config: DataConfig) -> Augment:
    """The random part: `augment(pixels, seed)`.

    Raises:
        ConfigError: an entry of `data.augment` that albumentations does not know or does not take.
    """
    return Augment(config)


def build_center_crop(size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The middle size x size of H x W x C pixels; smaller images are continued by reflection."""
    crop = A.Compose([_crop(A.CenterCrop, size)])
    return lambda pixels: crop(image=pixels)["image"]


def check_augment(config: DataConfig, dtypes: Iterable[np.dtype]) -> None:
    """Try every transform of `data.augment` once on made-up pixels, so that none fails hours into a run.

    Args:
        config: `channels` and `crop_size` make the trial image.
        dtypes: of the images that will be trained on, uint8 and/or uint16.

    Raises:
        ConfigError: an unknown name or argument; a transform that fails on such images, changes their size, dtype or
            channels, or does not repeat.
    """
    for entry in config.augment:
        _transform(entry)  # for its errors: with the arguments as they were given
        for dtype in sorted(dtypes, key=lambda dtype: dtype.itemsize):
            _try_out(entry, config, dtype)


def _try_out(entry: dict[str, Any], config: DataConfig, dtype: np.dtype) -> None:
    name, kind = entry["name"], f"{dtype.name} images with {config.channels} channel{'s' * (config.channels > 1)}"
    shape = (config.crop_size, config.crop_size, config.channels)
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    certain = A.Compose([_transform({**entry, "p": 1.0})])

    def run(seed: int) -> Any:
        certain.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return certain(image=pixels.copy())["image"]

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = [run(seed) for seed in (0, 1, 2, 0)]
    except Exception as error:
        raise ConfigError(f"data.augment: {name} does not work on {kind}: {_line(error)}") from error
    for result in results:
        if not isinstance(result, np.ndarray) or result.dtype != dtype:
            became = result.dtype if isinstance(result, np.ndarray) else type(result).__name__
            raise ConfigError(f"data.augment: {name} turns {kind} into {became}; remove it, ranges are set elsewhere")
        if result.shape != shape:
            raise ConfigError(
                f"data.augment: {name} changes {' x '.join(map(str, shape))} (height x width x channels) to "
                f"{' x '.join(map(str, result.shape))}; use transforms that keep the size, and data.crop_size for it"
            )
    if not np.array_equal(results[0], results[-1]):
        raise ConfigError(f"data.augment: {name} gives another result for the same seed; runs could not be repeated")


def _transform(entry: dict[str, Any]) -> Any:
    """The albumentations transform that an entry of `data.augment` names."""
    if "name" not in entry:
        raise ConfigError(f"data.augment: an entry needs a name, such as {{name: ColorJitter, p: 0.3}}; got {entry}")
    name, arguments = str(entry["name"]), {key: value for key, value in entry.items() if key != "name"}
    known = _known_transforms()
    if name not in known:
        near = difflib.get_close_matches(name.lower(), {real.lower(): real for real in known}, n=1, cutoff=0.5)
        meant = f"; did you mean {next(real for real in known if real.lower() == near[0])}?" if near else ""
        raise ConfigError(f"data.augment: albumentations has no transform {name!r}{meant}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # albumentations 2 only warns of arguments that it does not know
            return known[name](**arguments)
    except Exception as error:
        raise ConfigError(f"data.augment: {name} does not take {arguments}: {_line(error)}") from error


def _known_transforms() -> dict[str, Any]:
    """Transforms of one image by name; not base classes, not those that hold others."""
    found = {name: getattr(A, name) for name in dir(A) if not name.startswith("_")}
    bases = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.NoOp)
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, type) and issubclass(value, A.BasicTransform) and value not in bases
    }


def _crop(kind: Any, size: int) -> Any:
    return kind(height=size, width=size, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101)


def _resize(pixels: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """H x W x C to size; albumentations takes OpenCV through more channels than OpenCV takes by itself."""
    if pixels.shape[:2] == size:
        return pixels
    resized = geometric.resize(pixels, size, interpolation)
    return resized.reshape(*size, pixels.shape[2])  # OpenCV drops a single channel


def _line(error: Exception) -> str:
    """The first two lines of a message, in one: pydantic's third is a link."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "errors.pydantic.dev" not in line]
    return (": ".join(lines) or type(error).__name__)[:300]
