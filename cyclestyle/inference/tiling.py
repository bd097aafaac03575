"""A picture of any size through a generator in bounded memory: the same result as the whole picture at once.

Bands of rows go through a layer or two at a time, so that each normalisation can see the whole picture before the next
layer does. Kept are the maps between, at half and quarter size; a chunk is freed as soon as nothing needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.inference.feature_maps import ChunkStore, FeatureMap
from cyclestyle.inference.memory import host_budget, map_budget
from cyclestyle.inference.windows import (
    Canvas,
    Normalization,
    blur,
    convolve,
    halos_of_upsample,
    rectify,
    rows_a_band,
    statistics_dtype,
    upsample,
    with_halos,
)
from cyclestyle.networks.attention import SelfAttention, averaging
from cyclestyle.networks.layers import BlurPool
from cyclestyle.networks.resnet_generator import ResnetBlock, ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator, UnetStage

__all__ = ["ReadRows", "WriteRows", "rows_a_band", "translate_tiled"]

ReadRows = Callable[[int, int], Tensor]
"""(lo, hi) to rows lo .. hi - 1 of the picture: 1 x C x (hi - lo) x W float32 in [-1, 1] on the device."""

WriteRows = Callable[[int, Tensor], None]
"""(lo, rows): 1 x C x n x W float32 in [-1, 1], on the device; called from the top to the bottom."""

_ReadBands = Callable[[], Iterator[Tensor]]
_WriteBand = Callable[[int, Tensor], None]


@torch.inference_mode()
def translate_tiled(
    generator: nn.Module,
    read_rows: ReadRows,
    write_rows: WriteRows,
    height: int,
    width: int,
    *,
    tile: int,
    device: torch.device,
    memory_limit: int | None = None,
    scratch: Path | None = None,
) -> None:
    """Translate a picture in bands of about `tile` x `tile` pixels.

    Args:
        generator: in evaluation mode; a convolution computes in the dtype of its weight, without autocast.
        read_rows: every row is asked for once, those of a ResNet with instance norm twice (with antialias too: thrice).
        height, width: of the picture, multiples of `generator.stride`.
        memory_limit: bytes that the process may hold (on a GPU: of the GPU's memory). What does not fit goes to the
            processor's memory if there is a GPU, then to a file; a limit that the bands alone pass is not kept.
        scratch: folder of that file; None: the system's folder for temporary files.

    Raises:
        CyclestyleError: the scratch folder is full or cannot be written.
    """
    rows = rows_a_band(tile, width, generator.stride)  # type: ignore[arg-type]  # every generator has it
    starts = range(0, height, rows)

    def read_bands() -> Iterator[Tensor]:
        return (read_rows(start, min(start + rows, height)) for start in starts)

    def write_band(index: int, band: Tensor) -> None:
        write_rows(starts[index], band if band.dtype == torch.float64 else band.float())

    budget = map_budget(generator, width, rows, device, memory_limit)
    with ChunkStore(device, budget, host_budget, scratch) as store:
        if isinstance(generator, ResnetGenerator):
            _bands_through_resnet(generator, read_bands, write_band, len(starts), store, height=height)
        else:
            _bands_through_unet(generator, read_bands, write_band, len(starts), store)  # type: ignore[arg-type]


def _bands_through_resnet(
    generator: ResnetGenerator,
    read_bands: _ReadBands,
    write_band: _WriteBand,
    num_bands: int,
    store: ChunkStore,
    *,
    height: int,
) -> None:
    layers = list(generator.model)
    middle = [layer for layer in layers if isinstance(layer, ResnetBlock | SelfAttention)]
    mode = str(layers[0].mode)
    canvas = Canvas(store.device)
    halved_twice = _blurred_twice if generator.antialias else _halved_twice
    x, norm = halved_twice(layers[:10], read_bands, num_bands, store, canvas)
    trunk = _Trunk(x, norm, FeatureMap(store), num_bands)
    for layer in middle:
        if isinstance(layer, ResnetBlock):
            _through_block(layer, trunk, mode, canvas)
        else:
            _through_attention(layer, trunk, height // generator.stride)
    bands = _doubled_twice(layers[10 + len(middle) : -3], trunk, store, canvas)
    for index, window in enumerate(with_halos(bands, 3, 3)):
        write_band(index, torch.tanh(convolve(window, layers[-2], 3, mode, canvas)))


def _halved_twice(
    layers: list[nn.Module], read_bands: _ReadBands, num_bands: int, store: ChunkStore, canvas: Canvas
) -> tuple[FeatureMap, Normalization]:
    """Image to quarter size, raw, and the norm and ReLU that it still needs."""
    pad, wide_conv, norm_layer, _, conv, half_norm_layer, _, half_conv, quarter_norm_layer, _ = layers

    def after_first() -> Iterator[Tensor]:
        for window in with_halos(read_bands(), 3, 3):
            yield convolve(window, wide_conv, 3, str(pad.mode), canvas)

    norm, half_norm, quarter_norm = (Normalization(each) for each in (norm_layer, half_norm_layer, quarter_norm_layer))
    if norm.needs_statistics:
        for band in after_first():
            norm.gather(band)
    half, quarter = FeatureMap(store), FeatureMap(store)
    full_size = (norm.apply(band, relu=True) for band in after_first())
    for index, window in enumerate(with_halos(full_size, 1, 0)):
        half.put(index, half_norm.gather(convolve(window, conv, 1, "constant", canvas)))
    half_size = (half_norm.apply(half.take(index), relu=True) for index in range(num_bands))
    for index, window in enumerate(with_halos(half_size, 1, 0)):
        quarter.put(index, quarter_norm.gather(convolve(window, half_conv, 1, "constant", canvas)))
    return quarter, quarter_norm


def _blurred_twice(
    layers: list[nn.Module], read_bands: _ReadBands, num_bands: int, store: ChunkStore, canvas: Canvas
) -> tuple[FeatureMap, None]:
    """Image to quarter size through blurred halvings, after which nothing is left to do.

    Each convolution before a blur makes a map four times as large as the one after: where its norm asks for the whole
    picture, the convolution runs twice, rather than that its map is kept.
    """
    pad, wide_conv, norm_layer = layers[:3]
    norm = Normalization(norm_layer)

    def after_first() -> Iterator[Tensor]:
        for window in with_halos(read_bands(), 3, 3):
            yield convolve(window, wide_conv, 3, str(pad.mode), canvas)

    def full_size() -> Iterator[Tensor]:
        return (norm.apply(band, relu=True) for band in after_first())

    if norm.needs_statistics:
        for band in after_first():
            norm.gather(band)
    half, quarter = FeatureMap(store), FeatureMap(store)
    for index, chunk in enumerate(_blurred(layers[4:7], full_size, full_size, canvas)):
        half.put(index, chunk)

    def half_size() -> Iterator[Tensor]:
        return (half.get(index) for index in range(num_bands))

    def last_half_size() -> Iterator[Tensor]:
        return (half.take(index) for index in range(num_bands))

    for index, chunk in enumerate(_blurred(layers[7:], half_size, last_half_size, canvas)):
        quarter.put(index, chunk)
    return quarter, None


def _blurred(layers: list[nn.Module], bands: _ReadBands, last_bands: _ReadBands, canvas: Canvas) -> Iterator[Tensor]:
    """Bands through a convolution, its norm, ReLU and blur.

    If the norm asks for the whole picture they are read as `bands` first, and always as `last_bands` at last.
    """
    conv, norm_layer, activation = layers
    assert isinstance(activation, nn.Sequential)
    pool = activation[1]
    assert isinstance(pool, BlurPool)
    norm = Normalization(norm_layer)

    def convolved(read: _ReadBands) -> Iterator[Tensor]:
        return (convolve(window, conv, 1, "constant", canvas) for window in with_halos(read(), 1, 1))

    if norm.needs_statistics:
        for band in convolved(bands):
            norm.gather(band)
    rectified = (norm.apply(band, relu=True) for band in convolved(last_bands))
    return (blur(window, pool, canvas) for window in with_halos(rectified, 1, 0))


class _Trunk:
    """The maps x and y at quarter size. What is still to be done to x is done when the next layer reads it."""

    def __init__(self, x: FeatureMap, norm: Normalization | None, y: FeatureMap, num_bands: int) -> None:
        self.x, self.y = x, y
        self.entry_norm = norm  # x becomes relu(norm(x)) first,
        self.block_norm: Normalization | None = None  # x + norm(y) after each block,
        self.attended: Callable[[Tensor], Tensor] | None = None  # and this of x after attention
        self.indices = range(num_bands)

    def chunks(self, *, keep_x: bool = True, keep_y: bool = True) -> Iterator[Tensor]:
        """The chunks of x, finished, in place of the ones before if they are kept."""
        for index in self.indices:
            x = self.x.get(index) if keep_x else self.x.take(index)
            if self.entry_norm is not None:
                x = self.entry_norm.apply(x, relu=True)
            if self.block_norm is not None:
                x.add_(self.block_norm.apply(self.y.get(index) if keep_y else self.y.take(index)))
            if self.attended is not None:
                x = self.attended(x)
            if keep_x:
                self.x.put(index, x)
            yield x


def _through_block(block: ResnetBlock, trunk: _Trunk, mode: str, canvas: Canvas) -> None:
    """One residual block: y becomes its convolutions of x, the second in place."""
    first, second = (layer for layer in block.conv_block if isinstance(layer, nn.Conv2d))
    between, after = (Normalization(layer) for layer in _layers_after_convolutions(block.conv_block))
    y = trunk.y
    for index, window in enumerate(with_halos(trunk.chunks(), 1, 1)):
        y.put(index, between.gather(convolve(window, first, 1, mode, canvas)))
    # y is read one chunk ahead of where it is replaced, and a window keeps the rows above.
    rectified = (between.apply(y.get(index), relu=True) for index in trunk.indices)
    for index, window in enumerate(with_halos(rectified, 1, 1)):
        y.put(index, after.gather(convolve(window, second, 1, mode, canvas)))
    trunk.entry_norm, trunk.block_norm, trunk.attended = None, after, None


def _through_attention(attention: SelfAttention, trunk: _Trunk, height: int) -> None:
    """x, of `height` rows in all, is averaged; what its places take from the averages is left to the next layer."""
    pooled: Tensor | None = None
    row = 0
    for chunk in trunk.chunks(keep_y=False):
        wide = chunk.to(statistics_dtype(chunk))
        along, across = (averaging(size, wide.device, wide.dtype) for size in (height, wide.shape[3]))
        rows = along[:, row : row + wide.shape[2]]
        part = rows @ (wide @ across.T)
        pooled = part if pooled is None else pooled + part
        row += wide.shape[2]
        dtype = chunk.dtype
    assert pooled is not None
    assert row == height, f"{row} rows of {height}"
    trunk.entry_norm, trunk.block_norm = None, None
    trunk.attended = partial(attention.attend, pooled=pooled.to(dtype))


def _layers_after_convolutions(layers: nn.Sequential) -> list[nn.Module]:
    return [after for layer, after in pairwise(layers) if isinstance(layer, nn.Conv2d)]


def _doubled_twice(layers: list[nn.Module], trunk: _Trunk, store: ChunkStore, canvas: Canvas) -> Iterator[Tensor]:
    """Quarter size to bands of full size, rectified; the map of half size is all that is kept."""
    up, half_norm_layer, _, last_up, norm_layer, _ = layers
    half_norm, norm = Normalization(half_norm_layer), Normalization(norm_layer)
    half = FeatureMap(store)
    for index, window in enumerate(with_halos(trunk.chunks(keep_x=False, keep_y=False), *halos_of_upsample(up))):
        half.put(index, half_norm.gather(upsample(window, up, canvas)))

    def rectified() -> Iterator[Tensor]:
        for index in trunk.indices:
            chunk = half_norm.apply(half.get(index), relu=True)
            half.put(index, chunk)
            yield chunk

    halos = halos_of_upsample(last_up)
    if norm.needs_statistics:
        for window in with_halos(rectified(), *halos):
            norm.gather(upsample(window, last_up, canvas))
        last_reading = (half.take(index) for index in trunk.indices)
    else:
        last_reading = (half_norm.apply(half.take(index), relu=True) for index in trunk.indices)
    for window in with_halos(last_reading, *halos):
        yield norm.apply(upsample(window, last_up, canvas), relu=True)


def _bands_through_unet(
    generator: UnetGenerator, read_bands: _ReadBands, write_band: _WriteBand, num_bands: int, store: ChunkStore
) -> None:
    """Every stage's map is kept on the way in, and freed on the way out."""
    stages = _stages(generator)
    canvas = Canvas(store.device)
    indices = range(num_bands)
    chunks = read_bands()
    halvings: list[tuple[FeatureMap, Normalization]] = []
    for stage in stages:
        convolution, norm = FeatureMap(store), Normalization(stage.down_norm)
        for index, window in enumerate(with_halos(chunks, 1, 1)):
            convolution.put(index, norm.gather(convolve(window, stage.down, 1, "constant", canvas)))
        halvings.append((convolution, norm))
        chunks = _activated(convolution, norm, indices, innermost=stage is stages[-1])

    for stage in reversed(stages[1:]):
        doubling, norm = FeatureMap(store), Normalization(stage.up_norm)
        for index, window in enumerate(with_halos(chunks, *halos_of_upsample(stage.up))):
            doubling.put(index, norm.gather(upsample(window, stage.up, canvas)))
        halvings.pop()
        chunks = _beside(halvings[-1][0], doubling, norm, indices)
    for index, window in enumerate(with_halos(chunks, *halos_of_upsample(stages[0].up))):
        write_band(index, torch.tanh(upsample(window, stages[0].up, canvas)))


class _Stage(NamedTuple):
    """The layers of a `UnetStage` that compute; where there is no norm, an identity."""

    down: nn.Module
    down_norm: nn.Module
    up: nn.Module
    up_norm: nn.Module


def _stages(generator: UnetGenerator) -> list[_Stage]:
    """From the outermost to the innermost."""
    stages: list[_Stage] = []
    inner: UnetStage | None = generator.model
    while inner is not None:
        layers = [layer for layer in inner.model if not isinstance(layer, _WITHOUT_WEIGHTS)]
        inner = next((layer for layer in layers if isinstance(layer, UnetStage)), None)
        middle = layers.index(inner) if inner is not None else 1
        down, down_norm = _with_norm(layers[:middle])
        up, up_norm = _with_norm(layers[middle + (inner is not None) :])
        stages.append(_Stage(down, down_norm, up, up_norm))
    return stages


def _with_norm(layers: list[nn.Module]) -> tuple[nn.Module, nn.Module]:
    return layers[0], layers[1] if len(layers) > 1 else nn.Identity()


_WITHOUT_WEIGHTS = (nn.LeakyReLU, nn.ReLU, nn.Tanh, nn.Dropout)


def _activated(halving: FeatureMap, norm: Normalization, indices: range, *, innermost: bool) -> Iterator[Tensor]:
    """What the next stage reads. It is kept: the skip's own ReLU makes the same of it as of the map before."""
    for index in indices:
        chunk = norm.apply(halving.take(index) if innermost else halving.get(index), relu=innermost)
        if not innermost:
            halving.put(index, F.leaky_relu_(chunk, 0.2))
        yield chunk


def _beside(skip: FeatureMap, doubling: FeatureMap, norm: Normalization, indices: range) -> Iterator[Tensor]:
    """Both maps in one, rectified; neither is kept."""
    for index in indices:
        yield rectify(torch.cat([skip.take(index), norm.apply(doubling.take(index))], dim=1))
