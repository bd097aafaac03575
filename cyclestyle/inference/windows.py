"""Layers of a generator on one band of rows after another, with the result that the whole picture at once would have.

A band's window is its own rows and those of its neighbours that the layer also sees; beyond the picture's border it is
padded as the layer pads. What a normalisation needs of the whole picture is gathered on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.networks.layers import BlurPool, InstanceNorm, ResizeConv, SubpixelConv

# Pixels whose mean and variance are taken at once, in fp32; these are merged in float64.
_PIXELS_A_SUM = 4096


# The narrowest band: a 7 x 7 convolution sees three rows of each neighbour.
_FEWEST_ROWS = 16


def rows_a_band(tile: int, width: int, stride: int) -> int:
    """Rows of a band of about `tile` x `tile` pixels over the whole width: a multiple of `stride`."""
    return max(-(-_FEWEST_ROWS // stride), round(tile * tile / width / stride)) * stride


class Window(NamedTuple):
    """Rows of a map, 1 x C x n x W each: a band's own, and those above and below it (None at the picture's border)."""

    above: Tensor | None
    rows: Tensor
    below: Tensor | None

    def joined(self) -> Tensor:
        """All of it as one tensor."""
        return torch.cat([part for part in self if part is not None], dim=2)


def with_halos(chunks: Iterable[Tensor], above: int, below: int) -> Iterator[Window]:
    """Each chunk with `above` rows of the one before and `below` of the one after, all that are there if it is short.

    One chunk is drawn ahead.
    """
    before: Tensor | None = None
    current: Tensor | None = None
    for following in chunks:
        if current is not None:
            yield Window(before, current, following[:, :, :below] if below else None)
            before = current[:, :, -above:].clone() if above else None
        current = following
    if current is not None:
        yield Window(before, current, None)


class Canvas:
    """Memory in which windows are padded, the same for all: fresh memory costs more than the copy into it."""

    def __init__(self, device: torch.device) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8, device=device)

    def pad(self, window: Window, width: int, mode: str, dtype: torch.dtype) -> Tensor:
        """The window in one piece, in `dtype`, `width` columns wider on each side.

        Where nothing is above or below, that is the picture's border and `width` rows are added.

        Args:
            mode: reflect, constant (zeros) or replicate, as `torch.nn.functional.pad` names them.

        Returns:
            1 x C x (rows + halos) x (W + 2 width), channels_last; valid until the next call.
        """
        top, bottom = (width if part is None else 0 for part in (window.above, window.below))
        parts = [part for part in window if part is not None]
        _, channels, _, columns = window.rows.shape
        rows = top + sum(part.shape[2] for part in parts) + bottom
        canvas = self._blank(channels, rows, columns + 2 * width, dtype)
        row = top
        for part in parts:
            canvas[:, :, row : row + part.shape[2], width : width + columns] = part
            row += part.shape[2]
        _fill_border(canvas, 2, top, bottom, mode)
        _fill_border(canvas, 3, width, width, mode)
        return canvas

    def _blank(self, channels: int, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        size = channels * rows * columns * dtype.itemsize
        if self._memory.numel() < size:
            device = self._memory.device
            self._memory = torch.empty(0, dtype=torch.uint8, device=device)  # free the old one first
            self._memory = torch.empty(size, dtype=torch.uint8, device=device)
        return self._memory[:size].view(dtype).view(1, rows, columns, channels).permute(0, 3, 1, 2)


def _fill_border(canvas: Tensor, dim: int, before: int, after: int, mode: str) -> None:
    """Write `before` and `after` lines at the ends of `dim` from the lines between."""
    first, last = before, canvas.shape[dim] - after - 1
    for distance in range(1, max(before, after) + 1):
        inward = {"reflect": distance, "replicate": 0, "constant": None}[mode]
        for wanted, line, step in ((before, first, -1), (after, last, 1)):
            if distance <= wanted:
                border = canvas.select(dim, line + step * distance)
                if inward is None:
                    border.zero_()
                else:
                    border.copy_(canvas.select(dim, line - step * inward))


def convolve(window: Window, conv: nn.Module, padding: int, mode: str, canvas: Canvas) -> Tensor:
    """`conv` of a band, padded by `padding`; the window has as many rows above and below as the kernel reaches."""
    assert isinstance(conv, nn.Conv2d)
    padded = canvas.pad(window, padding, mode, conv.weight.dtype)
    return F.conv2d(padded, conv.weight, conv.bias, conv.stride)


def blur(window: Window, layer: BlurPool, canvas: Canvas) -> Tensor:
    """The blurred halving of a band of even height with one row above: 1 x C x n x W to 1 x C x n / 2 x W / 2."""
    padded = canvas.pad(window, 1, "reflect", window.rows.dtype)
    channels = padded.shape[1]
    weight = layer.filter.to(padded.dtype).expand(channels, 1, 3, 3)
    return F.conv2d(padded, weight, stride=2, groups=channels)  # an even height never reaches the padding below


def halos_of_upsample(layer: nn.Module) -> tuple[int, int]:
    """Rows above and below that a doubling sees."""
    # Row o of a transposed convolution is made of rows i with o = 2 i - 1 + k, 0 <= k < kernel.
    return (0, 1) if isinstance(layer, nn.ConvTranspose2d) and layer.kernel_size[0] == 3 else (1, 1)


def upsample(window: Window, layer: nn.Module, canvas: Canvas) -> Tensor:
    """The doubling `layer` of a band: 1 x C x n x W to 1 x out x 2n x 2W."""
    num_rows = window.rows.shape[2]
    if isinstance(layer, nn.ConvTranspose2d):
        return _transposed(window, layer, num_rows)
    if isinstance(layer, SubpixelConv):
        return F.pixel_shuffle(convolve(window, layer.conv, 1, layer.pad.mode, canvas), 2)
    assert isinstance(layer, ResizeConv), f"no rule for {type(layer).__name__} on bands"
    # The outermost rows lack a neighbour and are dropped, but where that is the picture's border.
    doubled = F.interpolate(window.joined(), scale_factor=2, mode="bilinear", align_corners=False)
    start, stop = (0 if window.above is None else 2), doubled.shape[2] - (0 if window.below is None else 2)
    parts = Window(
        None if window.above is None else doubled[:, :, start - 1 : start],
        doubled[:, :, start:stop],
        None if window.below is None else doubled[:, :, stop : stop + 1],
    )
    return convolve(parts, layer.conv, 1, layer.pad.mode, canvas)


def _transposed(window: Window, layer: nn.ConvTranspose2d, num_rows: int) -> Tensor:
    # Without padding of rows there is one more at the top, and two for each row above the band.
    rows = window.joined().to(layer.weight.dtype)
    column_padding = (0, int(layer.output_padding[1]))
    y = F.conv_transpose2d(rows, layer.weight, layer.bias, 2, (0, 1), column_padding)
    first = 1 + (0 if window.above is None else 2 * window.above.shape[2])
    return y[:, :, first : first + 2 * num_rows]


def rectify(x: Tensor) -> Tensor:
    """ReLU in place."""
    if x.dtype == torch.bfloat16 and x.device.type == "cpu":
        # The sign bit is that of the integer: the same zeros, five times as fast as torch's ReLU of bf16.
        x.view(torch.int16).clamp_min_(0)
        return x
    return x.relu_()


class Normalization:
    """A norm layer on bands: `gather` all of a map first, then `apply` to all of it.

    Instance norm takes mean and variance of the whole picture; batch norm has its own; an identity does nothing.
    """

    def __init__(self, layer: nn.Module) -> None:
        assert isinstance(layer, InstanceNorm | nn.BatchNorm2d | nn.Identity), f"no rule for {type(layer).__name__}"
        self._layer = layer
        self.needs_statistics = isinstance(layer, InstanceNorm)
        self._parts: list[tuple[int, Tensor, Tensor]] = []  # pixels, mean, variance; per channel, on the device
        self._constants: list[Tensor | None] | None = None  # mean, variance, weight, bias

    def gather(self, chunk: Tensor) -> Tensor:
        """Take a chunk's statistics, if they are needed; gives the chunk back."""
        if self.needs_statistics:
            per_sum = max(1, _PIXELS_A_SUM // chunk.shape[3]) if chunk.device.type == "cpu" else chunk.shape[2]
            for part in chunk.split(per_sum, dim=2):
                self._parts.append((part.shape[2] * part.shape[3], *_mean_and_variance(part)))
        return chunk

    def apply(self, chunk: Tensor, *, relu: bool = False) -> Tensor:
        """Normalise (and rectify) a chunk, which may be overwritten."""
        if not isinstance(self._layer, nn.Identity):
            if self._constants is None:
                self._constants = self._whole_picture(chunk)
            chunk = _normalize(chunk, self._constants, self._layer.eps)
        return rectify(chunk) if relu else chunk

    def _whole_picture(self, chunk: Tensor) -> list[Tensor | None]:
        device, dtype = chunk.device, statistics_dtype(chunk)
        if isinstance(self._layer, nn.BatchNorm2d):
            layer = self._layer
            constants = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
            return [None if each is None else each.to(device, dtype) for each in constants]
        mean, variance = _merged(self._parts)
        self._parts.clear()
        return [mean.to(dtype).to(device), variance.to(dtype).to(device), None, None]


def statistics_dtype(x: Tensor) -> torch.dtype:
    """In which sums over many pixels of x are computed."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, in fp32 or float64; the variance is that of these pixels (divided by n)."""
    dtype = statistics_dtype(x)
    if x.device.type not in ("cpu", "cuda"):
        variance, mean = torch.var_mean(x.to(dtype), dim=(0, 2, 3), correction=0)
        return mean, variance
    # Several times as fast as var_mean in channels_last; running statistics in fp32 make it answer in fp32.
    running = torch.zeros(2, x.shape[1], dtype=dtype, device=x.device)
    mean, variance = torch.batch_norm_update_stats(x, running[0], running[1], 1.0)
    return mean, variance


def _merged(parts: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and variance of all pixels, in float64 on the CPU (Chan, Golub and LeVeque 1979)."""
    num_pixels = torch.tensor([part[0] for part in parts], dtype=torch.float64)[:, None]
    means = torch.stack([part[1] for part in parts]).cpu().double()
    variances = torch.stack([part[2] for part in parts]).cpu().double()
    total = num_pixels.sum()
    mean = (num_pixels * means).sum(0) / total
    return mean, (num_pixels * (variances + (means - mean) ** 2)).sum(0) / total


def _normalize(x: Tensor, constants: list[Tensor | None], eps: float) -> Tensor:
    """Computed in fp32 (float64) and rounded once to the dtype of `x`; on the CPU in place, three times as fast."""
    mean, variance, weight, bias = constants
    if x.device.type != "cpu":
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps)
    unused = [torch.empty(0, dtype=statistics_dtype(x)) for _ in range(2)]
    torch.ops.aten.native_batch_norm.out(
        x, weight, bias, mean, variance, False, 0.0, eps, out=x, save_mean=unused[0], save_invstd=unused[1]
    )
    return x
