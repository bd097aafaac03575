"""A trained generator as a function on pictures: any kind, any size, the same kind and size back."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from cyclestyle.data.decode import picture_of
from cyclestyle.devices import Precision, choose_device, choose_precision, is_out_of_memory
from cyclestyle.errors import ConfigError, DataError
from cyclestyle.images import to_pixels, to_tensor
from cyclestyle.inference.arrays import as_picture, check_pixels, padded_indices, padded_size
from cyclestyle.inference.files import TranslatorSpec, build_translator_network, read_translator
from cyclestyle.inference.look import lay_over, resized, work_shape
from cyclestyle.inference.memory import choose_tile, default_limit
from cyclestyle.inference.options import SMALLEST_TILE, Look
from cyclestyle.inference.tiling import ReadRows, WriteRows, translate_tiled
from cyclestyle.networks.build import memory_format
from cyclestyle.run_index import best_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cyclestyle.inference.folder import Result

AnyPicture = TypeVar("AnyPicture", Image.Image, np.ndarray, Tensor)
Tile = int | Literal["auto"] | None

# Pixels that any machine translates whole.
_SMALL = 256 * 256
# Sides of tiles that are tried in turn where memory ran out.
_TILES_TO_FALL_BACK_ON = (512, 256, 128)


class Translator:
    """Translates pictures of one domain into the other; its attribute `spec` says which, and how it was trained.

    Pictures keep their size and kind: any size is padded by reflection to what the generator takes, and cropped back.
    Networks run as in `eval()`. May be called from several threads at once.
    """

    def __init__(
        self,
        spec: TranslatorSpec,
        generator: nn.Module,
        device: torch.device,
        precision: Precision,
        *,
        tile: Tile = "auto",
        memory_limit: int | None = None,
    ) -> None:
        if tile is not None and tile != "auto" and not (isinstance(tile, int) and tile >= SMALLEST_TILE):
            raise ConfigError(f"a tile of {tile!r} was given, needed is at least {SMALLEST_TILE}, 'auto' or None")
        self.spec = spec
        self.device = device
        self.precision = precision
        self.tile = tile
        self.memory_limit = memory_limit
        self._generator = generator.eval().requires_grad_(False)  # the weights as they were trained
        self._networks: dict[torch.dtype, nn.Module] = {}
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        source: str | Path,
        to: str | None = None,
        *,
        best: bool = False,
        device: str = "auto",
        precision: str = "auto",
        tile: Tile = "auto",
        memory_limit: int | None = None,
    ) -> Translator:
        """Load a translator.

        Args:
            source: a run folder, a checkpoint (.pt), a translator file (.safetensors) or an old .pth.
            to: name of the domain to translate to, e.g. "vangogh"; None: the second domain of the run.
            best: of a run folder, take the best checkpoint (`evaluate.best`) in place of the newest weights.
            device: auto, cpu, cuda or mps.
            precision: auto, fp32, bf16 or fp16.
            tile: side in pixels of the tiles that large pictures are translated in; None: always whole; "auto": tiles
                where the whole would not fit `memory_limit` or what is free.
            memory_limit: bytes that the process may take up with tiles; None: what is free.

        Raises:
            CheckpointError: missing, damaged, no translator to that domain in it, or no best checkpoint.
            ConfigError: device or precision not to be had here.
        """
        where = choose_device(device)
        arithmetic = choose_precision(precision, where)
        source = best_checkpoint(Path(source)) if best else Path(source)
        spec, weights = read_translator(source, to)
        generator = build_translator_network(spec, weights, source)
        return cls(spec, generator, where, arithmetic, tile=tile, memory_limit=memory_limit)

    @overload
    def __call__(self, picture: AnyPicture) -> AnyPicture: ...
    @overload
    def __call__(self, picture: list[AnyPicture]) -> list[AnyPicture]: ...
    def __call__(self, picture: Any) -> Any:
        """Translate a picture or a list of them, one after another.

        Args:
            picture: one of
                a PIL image of any mode;
                a numpy array H x W x C, or H x W for grey, of uint8 (0..255), uint16 (0..65535) or floats (0..1);
                a torch batch N x C x H x W of floats in [-1, 1], on any device;
                a list of these.

        Returns:
            The same kind and size. A PIL image in mode RGB or L (of 16 bits: I;16), with the alpha that it came with,
            turned upright if its EXIF says how; an array or tensor of the same dtype, axes and device (a grey H x W
            that becomes RGB comes back H x W x 3).

        Raises:
            DataError: something else.
        """
        if isinstance(picture, list):
            return [self(each) for each in picture]
        if isinstance(picture, Image.Image):
            return self._translate_image(picture)
        if isinstance(picture, np.ndarray):
            return self._translate_array(picture)
        if isinstance(picture, Tensor):
            return self.tensor(picture)
        raise DataError(
            f"{type(picture).__name__} was given, needed is a PIL image, a numpy array, a torch batch or a list of them"
        )

    def _translate_image(self, image: Image.Image) -> Image.Image:
        if self.spec.channels not in (1, 3):
            raise DataError(f"this translator takes {self.spec.channels} channels: give an array, not a PIL image")
        picture = picture_of(image, self.spec.channels)
        return as_picture(self.pixels(picture.pixels, alpha=picture.alpha), picture.alpha)

    def _translate_array(self, array: np.ndarray) -> np.ndarray:
        channels = self.spec.channels
        is_flat = array.ndim == 2 and channels == 1
        if array.ndim == 2 and channels == 3:  # as grey files are taken
            array = array[..., None].repeat(3, axis=-1)
        if not is_flat and (array.ndim != 3 or array.shape[-1] != channels):
            raise DataError(f"an array of shape {array.shape} was given, needed is height x width x {channels}")
        return self.pixels(array[..., None])[..., 0] if is_flat else self.pixels(array)

    def pixels(
        self,
        pixels: np.ndarray,
        look: Look | None = None,
        mask: np.ndarray | None = None,
        alpha: np.ndarray | None = None,
    ) -> np.ndarray:
        """Translate one picture as an array.

        Args:
            pixels: H x W x C, uint8 (0..255), uint16 (0..65535) or floating point (0..1).
            look: scale, strength, colours; None: as the generator gives it.
            mask: H x W in [0, 1], where to translate; None: everywhere.
            alpha: H x W; where it is 0 the colours are arbitrary: the generator sees white there, and they stay.

        Returns:
            The same shape and dtype; with 8 bits computed in `precision`, with more in fp32 (bf16 would leave a few
            hundred of 65536 values).

        Raises:
            DataError: another dtype, no pixels, floats outside [0, 1].
        """
        check_pixels(pixels)
        look = look or Look()
        height, width, _ = pixels.shape
        for name, plane in (("mask", mask), ("alpha", alpha)):
            if plane is not None and plane.shape != (height, width):
                raise DataError(
                    f"a {name} of shape {plane.shape} was given, needed is that of the picture, {height} x {width}"
                )
        network = self._network(self.precision.dtype if pixels.dtype == np.uint8 else torch.float32)
        result = np.full_like(pixels, 0)  # written to now, so that its memory counts before features take the rest
        hidden = None if alpha is None or alpha.all() else alpha == 0

        def source(rows: Any, columns: Any = slice(None)) -> Tensor:
            part = pixels[rows][:, columns]
            if hidden is not None:
                part = part.copy()
                part[hidden[rows][:, columns]] = 1 if part.dtype.kind == "f" else np.iinfo(part.dtype).max
            return self._placed(to_tensor(part)[None])

        def finish(low: int, translated: Tensor) -> None:
            rows = slice(low, low + translated.shape[2])
            weight = (
                None if mask is None else torch.from_numpy(np.ascontiguousarray(mask[rows], np.float32)).to(self.device)
            )
            if weight is not None or look.strength < 1 or look.keep_colors:
                translated = lay_over(self._placed(to_tensor(pixels[rows])[None]), translated, look, weight)
            result[rows] = to_pixels(translated[0], pixels.dtype)

        with torch.inference_mode():
            shape = work_shape(height, width, look.work_size)
            if shape == (height, width):
                self._run(network, source, finish, height, width)
            else:
                small = resized(source(slice(None)), *shape)
                finish(0, resized(self._run_tensor(network, small), height, width))
        if hidden is not None:
            result[hidden] = pixels[hidden]
        return result

    def shape_inside(self, height: int, width: int, look: Look) -> tuple[int, int]:
        """Height and width that the generator works on for such a picture: at its working scale, padded."""
        stride = _stride(self._generator)
        shape = work_shape(height, width, look.work_size)
        return padded_size(shape[0], stride), padded_size(shape[1], stride)

    def batch(
        self,
        pictures: Sequence[np.ndarray],
        look: Look | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> list[np.ndarray]:
        """Translate pictures of one shape and dtype together: faster on GPUs, the same as one by one.

        Args:
            pictures: each as `pixels` takes it.
            look, masks: as there, a mask a picture.
        """
        masks = masks or [None] * len(pictures)
        look = look or Look()
        first = pictures[0]
        plain = look == Look() and all(mask is None for mask in masks) and first.dtype == np.uint8
        if len(pictures) == 1 or not plain:
            return [self.pixels(picture, look, mask) for picture, mask in zip(pictures, masks, strict=True)]
        stack = np.stack(pictures)
        check_pixels(stack[0])
        with torch.inference_mode():
            translated = self._run_tensor(self._network(self.precision.dtype), self._placed(to_tensor(stack)))
        return list(to_pixels(translated))

    @torch.no_grad()  # not inference_mode: what comes out may be fed to a training
    def tensor(self, images: Tensor) -> Tensor:
        """Translate N x C x H x W floats in [-1, 1] of any size and device to the same, in `precision`."""
        if images.ndim != 4 or images.shape[1] != self.spec.channels or not images.is_floating_point():
            raise DataError(
                f"a tensor of {images.dtype} and shape {tuple(images.shape)} was given, needed is floating point in "
                f"[-1, 1], batch x {self.spec.channels} x height x width"
            )
        if 0 in images.shape:
            raise DataError(
                f"a tensor of shape {tuple(images.shape)} was given, needed is at least one image and pixel"
            )
        network = self._network(self.precision.dtype)
        return self._run_tensor(network, self._placed(images.float())).to(images.device, images.dtype)

    def folder(self, input: str | Path, output: str | Path, **options: Any) -> Iterator[Result]:
        """Translate a file, folder, glob or list as `cyclestyle translate` does, a result a picture as they are done.

        Args:
            input: what `--input` takes.
            output: folder for the results, mirrored, with a manifest.jsonl.
            options: fields of `cyclestyle.inference.folder.Options`, such as `strength=0.5` or `overwrite=True`.
        """
        from cyclestyle.inference.folder import Options, iterate_folder

        return iterate_folder(self, input, Path(output), Options(**options))

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the spec and the precision: the same pictures come out where it is the same."""
        digest = hashlib.sha256(json.dumps([asdict(self.spec), self.precision.name], sort_keys=True).encode())
        for name, weight in sorted(self._generator.state_dict().items()):
            digest.update(name.encode() + weight.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    # ------------------------------------------------------------------------------------------------ computing

    def _network(self, dtype: torch.dtype) -> nn.Module:
        """The generator on the device with convolutions in `dtype`; made once, also where threads ask together."""
        with self._lock:
            if dtype not in self._networks:
                self._networks[dtype] = _in_dtype(self._generator, dtype, self.device)
            return self._networks[dtype]

    def _placed(self, images: Tensor) -> Tensor:
        is_upload = self.device.type == "cuda" and images.device.type == "cpu"
        images = images.pin_memory() if is_upload else images  # so that the copy runs beside what the GPU still does
        return images.to(self.device, non_blocking=is_upload, memory_format=memory_format(self.device))

    def _run_tensor(self, network: nn.Module, images: Tensor) -> Tensor:
        """N x C x H x W float32 on the device to the same, of any size: together where all fit, else in turn."""
        count, _, height, width = images.shape
        if count > 1 and self._tiles(network, count * height, width)[0] is not None:  # tiles are of one picture
            return torch.cat([self._run_tensor(network, image) for image in images.split(1)])
        result = torch.empty_like(images)

        def finish(low: int, translated: Tensor) -> None:
            result[..., low : low + translated.shape[2], :] = translated

        try:
            self._run(
                network, lambda rows, columns: images[..., rows, :][..., columns], finish, height, width, count=count
            )
        except torch.OutOfMemoryError:
            if count == 1:
                raise
            result = torch.cat([self._run_tensor(network, image) for image in images.split(1)])
        return result

    def _run(
        self,
        network: nn.Module,
        source: Callable[[np.ndarray, np.ndarray], Tensor],
        finish: Callable[[int, Tensor], None],
        height: int,
        width: int,
        *,
        count: int = 1,
    ) -> None:
        """Feed the rows of `source`, padded to the stride by reflection, and hand the result to `finish`, cropped.

        Args:
            network: takes and gives N x C x H x W.
            source: (indices of rows, indices of columns) to N x C x rows x columns in [-1, 1].
            finish: takes (first row, N x C x rows x width).
            height, width: of the picture.
            count: N; several go whole, or not at all.
        """
        rows, columns = (padded_indices(size, _stride(network)) for size in (height, width))

        def read(low: int, high: int) -> Tensor:
            return source(rows[low:high], columns)

        def write(low: int, translated: Tensor) -> None:
            if low < height:
                finish(low, translated[:, :, : height - low, :width].float())

        tiles = self._tiles(network, len(rows), len(columns)) if count == 1 else [None]
        for attempt, tile in enumerate(tiles):
            try:
                self._run_padded(network, read, write, (len(rows), len(columns)), tile)
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or attempt + 1 == len(tiles):
                    raise
            # Outside the handler, whose traceback would keep the tensors alive.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _tiles(self, network: nn.Module, height: int, width: int) -> list[int | None]:
        """What to try in turn: None is the whole at once."""
        if self.tile != "auto":
            return [None if self.tile is None or self.tile**2 >= height * width else self.tile]
        if height * width <= _SMALL and self.memory_limit is None:
            return [None]
        chosen = choose_tile(network, height, width, self.device, self.memory_limit)
        smaller = [
            tile for tile in _TILES_TO_FALL_BACK_ON if tile**2 < height * width and (not chosen or tile < chosen)
        ]
        return [chosen, *smaller]

    def _run_padded(
        self, network: nn.Module, read: ReadRows, write: WriteRows, shape: tuple[int, int], tile: int | None
    ) -> None:
        height, width = shape
        if tile is None:
            write(0, network(read(0, height)))
            return
        limit = default_limit(self.device) if self.memory_limit is None else self.memory_limit
        translate_tiled(network, read, write, height, width, tile=tile, device=self.device, memory_limit=limit)


def _in_dtype(generator: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A copy whose convolutions compute in `dtype`; norms keep fp32 (their sums are fp32 in any case)."""
    network = copy.deepcopy(generator).to(device).to(memory_format=memory_format(device))
    if dtype != torch.float32:
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                module.to(dtype)
        # Features then stay in that dtype from layer to layer: the first convolution is all that has to be fed.
        network.register_forward_pre_hook(lambda _, images: (images[0].to(dtype),))
    return network


def _stride(network: nn.Module) -> int:
    stride: int = network.stride  # type: ignore[assignment]  # every generator has it
    return stride
