"""A trained generator as a function on pictures: loaded from a run, a checkpoint or a translator file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.data.decode import pixels_of
from cyclestyle.devices import Precision, choose_device, choose_precision
from cyclestyle.errors import CheckpointError, DataError
from cyclestyle.images import to_pixels, to_tensor
from cyclestyle.inference.files import TranslatorSpec, read_translator
from cyclestyle.networks.build import build_generator, inference_memory_format

Picture = TypeVar("Picture", Image.Image, np.ndarray)

# Below this the reflections inside a ResNet are wider than its quarter-size features.
_SMALLEST_SIDE = 16


class Translator:
    """Translates pictures of one domain into the other; its attribute `spec` says which, and how it was trained.

    Pictures keep their size and kind: any size is padded by reflection to what the generator takes, and cropped back.
    """

    def __init__(self, spec: TranslatorSpec, generator: nn.Module, device: torch.device, precision: Precision) -> None:
        self.spec = spec
        self.device = device
        self.precision = precision
        self._generator = generator.to(device).to(memory_format=inference_memory_format(device))
        self._generator.eval().requires_grad_(False)

    @classmethod
    def load(
        cls, source: str | Path, to: str | None = None, *, device: str = "auto", precision: str = "auto"
    ) -> Translator:
        """Load a translator.

        Args:
            source: a run folder, a checkpoint (.pt) or a translator file (.safetensors).
            to: name of the domain to translate to, e.g. "vangogh"; None: the second domain of the run.
            device: auto, cpu, cuda or mps.
            precision: auto, fp32, bf16 or fp16.

        Raises:
            CheckpointError: missing, damaged, or no translator to that domain in it.
            ConfigError: device or precision not to be had here.
        """
        spec, weights = read_translator(Path(source), to)
        generator = build_generator(GeneratorConfig(**spec.generator), spec.channels)
        try:
            generator.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{source}: the weights do not fit the generator that it describes") from error
        where = choose_device(device)
        return cls(spec, generator, where, choose_precision(precision, where))

    @overload
    def __call__(self, picture: Picture) -> Picture: ...
    @overload
    def __call__(self, picture: list[Picture]) -> list[Picture]: ...
    def __call__(self, picture: Any) -> Any:
        """Translate a picture or a list of them, one after another.

        Args:
            picture: a PIL image; or H x W x C (grey also H x W) uint8 or uint16; or a list of these.

        Returns:
            The same kind and size: a PIL image in mode RGB, L or I;16, turned upright if its EXIF says how, alpha laid
            over white; an array of the same dtype and number of axes.

        Raises:
            DataError: an array of another shape or dtype.
        """
        if isinstance(picture, list):
            return [self(each) for each in picture]
        if isinstance(picture, Image.Image):
            if self.spec.channels not in (1, 3):
                raise DataError(f"this translator takes {self.spec.channels} channels: give an array, not a PIL image")
            return as_picture(self.pixels(pixels_of(picture, self.spec.channels)))
        if isinstance(picture, np.ndarray):
            return self._translate_array(picture)
        raise DataError(f"{type(picture).__name__} was given, needed is a PIL image, a numpy array or a list of them")

    def _translate_array(self, array: np.ndarray) -> np.ndarray:
        channels = self.spec.channels
        is_flat = array.ndim == 2 and channels == 1
        if not is_flat and (array.ndim != 3 or array.shape[-1] != channels):
            raise DataError(f"an array of shape {array.shape} was given, needed is height x width x {channels}")
        if array.dtype not in (np.uint8, np.uint16):
            raise DataError(f"an array of {array.dtype} was given, needed is uint8 (0..255) or uint16 (0..65535)")
        return self.pixels(array[..., None])[..., 0] if is_flat else self.pixels(array)

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Translate H x W x C uint8 or uint16 pixels to the same shape and dtype."""
        height, width = pixels.shape[:2]
        if not height or not width:
            raise DataError(f"a picture of {width} x {height} pixels was given, needed is at least one pixel")
        stride: int = self._generator.stride  # type: ignore[assignment]  # every generator has it
        padded = np.pad(pixels, (_missing(height, stride), _missing(width, stride), (0, 0)), mode="reflect")
        images = to_tensor(padded)[None].to(self.device, memory_format=inference_memory_format(self.device))
        # bf16 would leave a few hundred of 65536 values.
        exact = Precision("fp32", "16-bit pixels") if pixels.dtype == np.uint16 else None
        translated = self.tensor(images, exact)[0, :, :height, :width]
        return to_pixels(translated, pixels.dtype.type)

    @torch.inference_mode()
    def tensor(self, images: Tensor, precision: Precision | None = None) -> Tensor:
        """Translate N x C x H x W in [-1, 1] on the translator's device; H and W multiples of its stride."""
        with (precision or self.precision).autocast(self.device):
            translated: Tensor = self._generator(images)
        return translated.float()


def as_picture(pixels: np.ndarray) -> Image.Image:
    """H x W x 1 or 3 as a PIL image: L, I;16 or RGB; Pillow has no RGB of 16 bits, so that becomes 8."""
    if pixels.shape[-1] == 1:
        return Image.fromarray(pixels[..., 0])
    return Image.fromarray(pixels if pixels.dtype == np.uint8 else np.round(pixels / 257.0).astype(np.uint8))


def _missing(size: int, stride: int) -> tuple[int, int]:
    """Rows or columns to add before (none) and after, up to a multiple of the stride that the generator can take."""
    wanted = max(size, _SMALLEST_SIDE, stride)
    return 0, -(-wanted // stride) * stride - size
