"""The networks that judge: each returns a list of maps of raw scores (no sigmoid), one map a scale, N x 1 x h x w.

State dicts of `PatchDiscriminator` and `PixelDiscriminator` have the same names and shapes as those of
pytorch-CycleGAN-and-pix2pix, so that its checkpoints load. How far a score sees: `config.rules.receptive_field`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.config.schema import NormName
from cyclestyle.networks.layers import BatchStatistics, BlurPool, Conv2d, bias_before_norm, make_norm


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017, section 3.2.2): each score judges one of many overlapping patches.

    Args:
        channels: of the images.
        filters: channels after the first convolution; they double with each, up to eight times as many.
        layers: strided convolutions; 3 judge patches of 70 x 70 pixels.
        norm: after every convolution but the first and the last.
        antialias: halve after the activation by `BlurPool`, and not in the convolution, as CUT does.
        batch_statistics: show the last convolution how much the images of a batch differ (`BatchStatistics`).
    """

    def __init__(
        self,
        channels: int,
        filters: int = 64,
        layers: int = 3,
        norm: NormName = "instance",
        *,
        antialias: bool = False,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        assert layers >= 1, f"a PatchGAN needs at least one strided convolution, got {layers}"
        bias = bias_before_norm(norm)
        widths = [filters * min(2**level, 8) for level in range(layers + 1)]
        stride, halving = (1, [BlurPool()]) if antialias else (2, [])
        # H - 1 after a convolution of stride 1, and half of that, rounded up, is H / 2 rounded down: as with stride 2.
        sequence: list[nn.Module] = [Conv2d(channels, filters, 4, stride=stride, padding=1), _activation(*halving)]
        for level in range(1, layers):
            sequence += [
                Conv2d(widths[level - 1], widths[level], 4, stride=stride, padding=1, bias=bias),
                make_norm(norm, widths[level]),
                _activation(*halving),  # N x widths[level] x (H >> level + 1) x (W >> level + 1)
            ]
        statistics = [BatchStatistics()] if batch_statistics else []
        sequence += [
            Conv2d(widths[-2], widths[-1], 4, padding=1, bias=bias),
            make_norm(norm, widths[-1]),
            _activation(*statistics),
            Conv2d(widths[-1] + len(statistics), 1, 4, padding=1),
        ]
        self.model = nn.Sequential(*sequence)

    def forward(self, x: Tensor) -> list[Tensor]:
        """N x C x H x W to one map, N x 1 x (H >> layers) - 2 x (W >> layers) - 2."""
        return [self.model(x)]


def _activation(*after: nn.Module) -> nn.Module:
    """The LeakyReLU and what comes after it, in one module: so indices in state dicts stay."""
    return nn.Sequential(nn.LeakyReLU(0.2), *after) if after else nn.LeakyReLU(0.2)


class PixelDiscriminator(nn.Module):
    """A 1x1 PatchGAN (Isola et al. 2017, section 6.1.2): judges colours, pixel by pixel.

    Args:
        channels: of the images.
        filters: channels after the first convolution.
        norm: after the second convolution.
    """

    def __init__(self, channels: int, filters: int = 64, norm: NormName = "instance") -> None:
        super().__init__()
        bias = bias_before_norm(norm)
        self.net = nn.Sequential(
            Conv2d(channels, filters, 1),
            nn.LeakyReLU(0.2),
            Conv2d(filters, 2 * filters, 1, bias=bias),
            make_norm(norm, 2 * filters),
            nn.LeakyReLU(0.2),
            Conv2d(2 * filters, 1, 1, bias=bias),  # the original leaves out this bias too with batch norm
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """N x C x H x W to one map, N x 1 x H x W."""
        return [self.net(x)]


class MultiscaleDiscriminator(nn.Module):
    """Several PatchGANs, each looking at the image at half the size of the one before (pix2pixHD, Wang et al. 2018).

    Args:
        channels: of the images.
        filters: channels after the first convolution of each.
        layers: strided convolutions of each.
        scales: number of sizes, the full one first.
        norm, antialias, batch_statistics: as in `PatchDiscriminator`.
    """

    def __init__(
        self,
        channels: int,
        filters: int = 64,
        layers: int = 3,
        scales: int = 2,
        norm: NormName = "instance",
        *,
        antialias: bool = False,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        assert scales >= 1, f"a multiscale discriminator needs at least one scale, got {scales}"
        self.scales = nn.ModuleList(
            PatchDiscriminator(channels, filters, layers, norm, antialias=antialias, batch_statistics=batch_statistics)
            for _ in range(scales)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """N x C x H x W to one map a scale, the finest first."""
        maps: list[Tensor] = []
        for index, scale in enumerate(self.scales):
            if index > 0:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)  # rounds sizes up
            maps += scale(x)
        return maps
