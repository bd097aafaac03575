"""The U-Net generator of pix2pix (Isola et al. 2017, section 6.1.1; Ronneberger et al. 2015).

State dicts have the same names and shapes as those of pytorch-CycleGAN-and-pix2pix, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cyclestyle.config.rules import MIN_UNET_DEPTH
from cyclestyle.config.schema import NormName
from cyclestyle.networks.layers import UpsampleName, bias_before_norm, make_norm, make_upsample
from cyclestyle.networks.recomputing import Recomputable, recomputed


class UnetStage(nn.Module):
    """Halve, go through the inner stages, double, and put the input beside the result (not in the outermost stage).

    `model` is one of
        outermost  [conv, inner, ReLU, up, Tanh]
        middle     [LeakyReLU, conv, norm, inner, ReLU, up, norm, (dropout)]
        innermost  [LeakyReLU, conv, ReLU, up, norm]: no norm at the bottom, where one pixel may be all that is left
    """

    def __init__(self, layers: list[nn.Module], *, skip: bool) -> None:
        super().__init__()
        self.skip = skip
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor, halved: list[Tensor] | None = None) -> Tensor:
        """N x C x H x W to N x 2C x H x W, or to N x channels x H x W for the outermost stage.

        `halved`, if given, gets what `halvings` tells, of the same pass.
        """
        if halved is None:
            return self._beside(x, self.model(x))
        parts = self._parts()
        y = x
        for layer in parts.sink:
            y = layer(y)
            if isinstance(layer, nn.Conv2d):
                halved.append(y)
        if parts.inner is not None:
            y = parts.inner(y, halved)
        return self._beside(x, parts.finish(parts.rise(y)))

    def halvings(self, x: Tensor) -> Iterator[Tensor]:
        """What the halving convolutions of this stage and of the inner ones give before their norms, outside in.

        Each is computed when it is asked for.
        """
        parts = self._parts()
        for layer in parts.sink:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                yield x
        if parts.inner is not None:
            yield from parts.inner.halvings(x)

    def recomputing_forward(self, x: Tensor) -> Tensor:
        """The same as `forward`; kept are the input of each stage and what its doubling gives, before the norm."""
        return self._beside(x, self._parts().finish(self._risen(x)))

    def _beside(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1) if self.skip else y

    def _risen(self, x: Tensor) -> Tensor:
        """N x C x H x W to N x channels x H x W, before the norm; x is kept, and the same of each inner stage."""
        parts = self._parts()
        y = recomputed(parts.sink, [parts.sink], x)
        inner = parts.inner
        if inner is None:
            return recomputed(parts.rise, [parts.rise], y)
        finish = inner._parts().finish

        def rise(y: Tensor, risen: Tensor) -> Tensor:
            z: Tensor = parts.rise(inner._beside(y, finish(risen)))
            return z

        return recomputed(rise, [finish, parts.rise], y, inner._risen(y))

    def _parts(self) -> _Parts:
        layers = list(self.model)
        up = next(index for index, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
        below = layers[up - 1]
        inner = below if isinstance(below, UnetStage) else None
        return _Parts(
            self.model[: up if inner is None else up - 1], inner, self.model[up : up + 2], self.model[up + 2 :]
        )


class _Parts(NamedTuple):
    """Of a stage, in the order in which they run."""

    sink: nn.Sequential
    """To half the size, with the norm."""
    inner: UnetStage | None
    rise: nn.Sequential
    """ReLU and the doubling."""
    finish: nn.Sequential
    """Norm and dropout, or Tanh."""


class UnetGenerator(Recomputable):
    """`depth` halvings and doublings, each doubling beside what its halving saw.

    Args:
        channels: of the images, in and out.
        filters: channels of the outermost stage; they double inwards, up to eight times as many.
        depth: number of halvings, at least 2; 7 and 8 are the usual ones, for images of at least 128 and 256 pixels.
        norm: after every convolution but the outermost two and the innermost.
        dropout: probability in the middle stages, those that repeat the greatest width (from depth 6 on); 0: none.
        upsample: transpose as in the paper, or resize / subpixel (no checkerboard).
    """

    def __init__(
        self,
        channels: int,
        filters: int = 64,
        depth: int = 8,
        *,
        norm: NormName = "instance",
        dropout: float = 0.0,
        upsample: UpsampleName = "transpose",
    ) -> None:
        super().__init__()
        assert depth >= MIN_UNET_DEPTH, f"a U-Net needs a depth of at least {MIN_UNET_DEPTH}, got {depth}"
        self.channels = channels
        self.stride = 2**depth
        bias = bias_before_norm(norm)

        def down(n_in: int, n_out: int) -> nn.Module:
            return nn.Conv2d(n_in, n_out, 4, stride=2, padding=1, bias=bias)

        def up(n_in: int, n_out: int, bias: bool = bias) -> nn.Module:
            return make_upsample(upsample, n_in, n_out, kernel_size=4, padding="zero", bias=bias)

        widths = [filters * min(2**level, 8) for level in range(depth)]  # outside in

        outer, inner = widths[-2], widths[-1]
        layers = [nn.LeakyReLU(0.2), down(outer, inner), nn.ReLU(), up(inner, outer), make_norm(norm, outer)]
        stage = UnetStage(layers, skip=True)
        for level in reversed(range(1, depth - 1)):
            outer, inner = widths[level - 1], widths[level]
            layers = [nn.LeakyReLU(0.2), down(outer, inner), make_norm(norm, inner), stage]
            layers += [nn.ReLU(), up(2 * inner, outer), make_norm(norm, outer)]
            if dropout > 0 and level >= 4:
                layers.append(nn.Dropout(dropout))
            stage = UnetStage(layers, skip=True)
        layers = [down(channels, filters), stage, nn.ReLU(), up(2 * filters, channels, bias=True), nn.Tanh()]
        self.model = UnetStage(layers, skip=False)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] to the same shape and range; H and W are multiples of `stride`."""
        if self.recomputes_now:
            return self.model.recomputing_forward(x)
        y: Tensor = self.model(x)
        return y

    def encode(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Features of the first half, computed no further than the deepest that is named.

        Args:
            x: N x C x H x W, as in `forward`.
            names: of `config.rules.encoder_layers`; what each one means stands there.

        Returns:
            One tensor a name, in their order.
        """
        levels = [_level(name) for name in names]
        found = [x, *islice(self.model.halvings(x), max(levels, default=0))]
        return [found[level] for level in levels]

    def translate_with_features(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `encode` in one pass.

        Where activations are recomputed, the features come from a second pass without gradients, and are detached
        (with dropout they are those of another draw).
        """
        if self.recomputes_now:
            return self.model.recomputing_forward(x), self._features_again(x, names)
        found = [x]
        y: Tensor = self.model(x, found)
        return y, [found[_level(name)] for name in names]


def _level(name: str) -> int:
    """Halvings that make a feature: 0 of the image, k of down_k."""
    return 0 if name == "image" else int(name.removeprefix("down_"))
