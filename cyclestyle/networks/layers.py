"""The small parts of generators and discriminators: normalisation, padding, blurred halving, upsampling, spectral norm.

Everything here is a plain module of PyTorch or a few lines around one; images are N x C x H x W throughout.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.config.schema import NormName

UpsampleName = Literal["transpose", "resize", "subpixel"]
PaddingName = Literal["reflect", "zero", "replicate"]

_PAD_MODES: dict[PaddingName, str] = {"reflect": "reflect", "zero": "constant", "replicate": "replicate"}


def autocast_off(device: torch.device) -> AbstractContextManager[object]:
    """Inside, operations keep the dtype of what they are given, also under an outer `torch.autocast`."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class InstanceNorm(nn.Module):
    """Each channel of each image minus its mean, over its standard deviation (Ulyanov et al. 2016); nothing is learned.

    On the CPU it is computed as the batch norm of each image alone, the same function: `F.instance_norm` gives a wrong
    input gradient there for channels_last tensors of batch size 1; `F.group_norm` in channels_last has a backward pass
    up to twenty times as slow, and a forward pass that subtracts squares, which cancels where a channel's mean is large
    beside its deviation. On GPUs it is a group norm with one channel a group.
    It has no parameters and no entries in the state dict. bf16 and fp16 come out as they went in, with sums in fp32
    inside; on GPUs autocast would widen them.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape, dtype and layout; needs more than one pixel."""
        with autocast_off(x.device):
            if x.device.type == "cpu":
                return self._batch_norm_of_each(x)
            return F.group_norm(x, num_groups=self.channels, eps=self.eps)

    def _batch_norm_of_each(self, x: Tensor) -> Tensor:
        scale, shift = None, None
        if x.dtype in (torch.bfloat16, torch.float16):
            # Ones and zeros in fp32 change nothing; without them half precision is rounded twice.
            scale, shift = torch.ones(self.channels), torch.zeros(self.channels)
        normed = [F.batch_norm(each, None, None, scale, shift, training=True, eps=self.eps) for each in x.split(1)]
        return normed[0] if len(normed) == 1 else torch.cat(normed)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"{self.channels}, eps={self.eps}"


def make_norm(name: NormName, channels: int) -> nn.Module:
    """The normalisation after a convolution; none is an identity, so that indices in state dicts stay."""
    if name == "instance":
        return InstanceNorm(channels)
    return nn.BatchNorm2d(channels) if name == "batch" else nn.Identity()


def bias_before_norm(name: NormName) -> bool:
    """Whether a convolution followed by this norm has a bias.

    Batch norm brings its own shift. Instance norm takes a bias away again, but the usual checkpoints have one there.
    """
    return name != "batch"


class Pad(nn.Module):
    """Widens an image by `width` pixels on each side.

    Autocast on the CPU would widen bf16 to fp32 for reflection, only for the next convolution to narrow it again.
    """

    def __init__(self, name: PaddingName, width: int) -> None:
        super().__init__()
        self.mode = _PAD_MODES[name]
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C x (H + 2 width) x (W + 2 width), same dtype; reflection needs H, W > width."""
        with autocast_off(x.device):
            return F.pad(x, [self.width] * 4, mode=self.mode)

    def extra_repr(self) -> str:
        """What `print(network)` shows."""
        return f"{self.mode}, {self.width}"


class BlurPool(nn.Module):
    """Halves height and width without aliasing: a 3x3 binomial blur, of which every second pixel is kept (Zhang 2019).

    It has no entries in the state dict, which so is the same with and without it.
    """

    filter: Tensor

    def __init__(self) -> None:
        super().__init__()
        # On the CPU also where a network is built on the meta device: no file would bring these values.
        row = torch.tensor([0.25, 0.5, 0.25], device="cpu")
        self.register_buffer("filter", torch.outer(row, row)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x C x ceil(H / 2) x ceil(W / 2), same dtype; H and W of at least 2, as it reflects."""
        channels = x.shape[1]
        with autocast_off(x.device):
            weight = self.filter.to(x.dtype).expand(channels, 1, 3, 3)  # exact in half precision too
            return F.conv2d(F.pad(x, [1] * 4, mode="reflect"), weight, stride=2, groups=channels)


class ResizeConv(nn.Module):
    """Bilinear doubling, then a 3x3 convolution: leaves no checkerboard (Odena et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: PaddingName, bias: bool) -> None:
        super().__init__()
        self.pad = Pad(padding, 1)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x out x 2H x 2W."""
        with autocast_off(x.device):  # on GPUs it would widen half precision to fp32 here
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        y: Tensor = self.conv(self.pad(x))
        return y


class SubpixelConv(nn.Module):
    """A 3x3 convolution to four values a pixel, which become 2 x 2 pixels (Shi et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, *, padding: PaddingName, bias: bool) -> None:
        super().__init__()
        self.pad = Pad(padding, 1)
        self.conv = nn.Conv2d(in_channels, 4 * out_channels, 3, bias=bias)
        self.equalize()

    @torch.no_grad()
    def equalize(self) -> None:
        """Give the four pixels of each output channel the same weights (ICNR: Aitken et al. 2017).

        The layer then starts as a convolution and nearest-neighbour doubling, without checkerboard.
        """
        # Output channel c is made of convolution channels 4c .. 4c + 3.
        self.conv.weight.copy_(self.conv.weight[::4].repeat_interleave(4, dim=0))
        if self.conv.bias is not None:
            self.conv.bias.copy_(self.conv.bias[::4].repeat_interleave(4))

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x out x 2H x 2W."""
        return F.pixel_shuffle(self.conv(self.pad(x)), 2)


def make_upsample(
    name: UpsampleName,
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: Literal[3, 4],
    padding: PaddingName,
    bias: bool,
) -> nn.Module:
    """One module that doubles height and width; `kernel_size` is that of the transposed convolution."""
    if name == "resize":
        return ResizeConv(in_channels, out_channels, padding=padding, bias=bias)
    if name == "subpixel":
        return SubpixelConv(in_channels, out_channels, padding=padding, bias=bias)
    return nn.ConvTranspose2d(
        in_channels, out_channels, kernel_size, stride=2, padding=1, output_padding=4 - kernel_size, bias=bias
    )


class BatchStatistics(nn.Module):
    """Appends one feature: how much the images that go through at once differ (Karras et al. 2018, section 3).

    It is the standard deviation over the images, averaged over all channels and places, the same everywhere and for
    all of them. The paper's code takes groups of four; here it is all of them.
    """

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x (C + 1) x H x W, same dtype and layout; the feature is 1e-4 for one image alone."""
        with autocast_off(x.device):
            wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
            deviation = (wide.var(0, correction=0) + 1e-8).sqrt().mean().to(x.dtype)
            # A map laid out like x: beside one of another layout `cat` would make the result contiguous.
            return torch.cat([x, deviation.expand_as(x[:, :1]).clone(memory_format=_format_of(x))], 1)


def _format_of(x: Tensor) -> torch.memory_format:
    is_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last and not x.is_contiguous() else torch.contiguous_format


def mixes_images(network: nn.Module) -> bool:
    """Whether an image's result depends on the others in its batch, so that joining batches would change it."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm | BatchStatistics) for module in network.modules())


class Conv2d(nn.Conv2d):
    """A convolution that reads its weight with autocast off, so that spectral norm is computed in fp32.

    Under autocast on a GPU the matrix products in `torch.nn.utils.parametrizations.spectral_norm` would run in half
    precision. The convolution itself follows autocast as usual.
    """

    def forward(self, input: Tensor) -> Tensor:
        """N x C x H x W to N x out x h x w."""
        with autocast_off(input.device):
            weight = self.weight  # computed here if it is parametrized
        return self._conv_forward(input, weight, self.bias)


def apply_spectral_norm(module: nn.Module) -> None:
    """Divide the weight of every `Conv2d` in `module` by its largest singular value (Miyato et al. 2018), in place.

    The value comes from power iteration, one round a forward pass in training mode, 15 rounds here. Initialise first.
    """
    for part in list(module.modules()):
        if isinstance(part, Conv2d):
            nn.utils.parametrizations.spectral_norm(part)
