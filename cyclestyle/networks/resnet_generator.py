"""The ResNet generator of CycleGAN (Zhu et al. 2017, section 7.1; Johnson et al. 2016).

State dicts have the same names and shapes as those of pytorch-CycleGAN-and-pix2pix, so that its checkpoints load.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from torch import Tensor, nn

from cyclestyle.config.rules import middle_block
from cyclestyle.config.schema import NormName
from cyclestyle.networks.attention import SelfAttention
from cyclestyle.networks.layers import (
    BlurPool,
    Pad,
    PaddingName,
    UpsampleName,
    bias_before_norm,
    make_norm,
    make_upsample,
)
from cyclestyle.networks.recomputing import Recomputable, recomputed


class ResnetBlock(nn.Module):
    """x + two padded 3x3 convolutions of x; no activation after the sum."""

    def __init__(self, channels: int, *, norm: NormName, padding: PaddingName, dropout: float) -> None:
        super().__init__()

        def padded_conv() -> list[nn.Module]:
            bias = bias_before_norm(norm)
            # Zero padding has no module of its own: so it is in the indices of the usual checkpoints.
            if padding == "zero":
                return [nn.Conv2d(channels, channels, 3, padding=1, bias=bias), make_norm(norm, channels)]
            conv = nn.Conv2d(channels, channels, 3, bias=bias)
            return [Pad(padding, 1), conv, make_norm(norm, channels)]

        between: list[nn.Module] = [nn.ReLU(), nn.Dropout(dropout)] if dropout > 0 else [nn.ReLU()]
        self.conv_block = nn.Sequential(*padded_conv(), *between, *padded_conv())

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        y: Tensor = self.conv_block(x)
        return x + y

    def recomputing_forward(self, x: Tensor) -> Tensor:
        """The same as `forward`; kept are x and what goes into the last norm."""
        layers, norm = self.conv_block[:-1], self.conv_block[-1]
        y: Tensor = norm(recomputed(layers, [layers], x))
        return x + y


class ResnetGenerator(Recomputable):
    """Two halvings, `blocks` residual blocks at a quarter of the size, two doublings.

    Args:
        channels: of the images, in and out.
        filters: channels after the first convolution; the blocks have four times as many.
        blocks: residual blocks; 9 for 256 pixels, 6 for 128 in the paper.
        norm: after every convolution but the last.
        upsample: transpose as in the paper, or resize / subpixel (no checkerboard).
        padding: beyond the image's borders; the two strided convolutions always pad with zeros, as in the original.
        dropout: probability, inside residual blocks; 0 leaves it out.
        antialias: halve after the ReLU by `BlurPool`, and not in the convolution, as CUT does.
        attention: self-attention after the middle block, or before the doublings where there are no blocks.
    """

    stride = 4

    def __init__(
        self,
        channels: int,
        filters: int = 64,
        blocks: int = 9,
        *,
        norm: NormName = "instance",
        upsample: UpsampleName = "transpose",
        padding: PaddingName = "reflect",
        dropout: float = 0.0,
        antialias: bool = False,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.antialias = antialias
        bias = bias_before_norm(norm)

        def halved(n: int) -> list[nn.Module]:
            conv = nn.Conv2d(n, 2 * n, 3, stride=1 if antialias else 2, padding=1, bias=bias)
            # In one module, so that indices in state dicts stay.
            return [conv, make_norm(norm, 2 * n), nn.Sequential(nn.ReLU(), BlurPool()) if antialias else nn.ReLU()]

        def doubled(n: int) -> list[nn.Module]:
            up = make_upsample(upsample, n, n // 2, kernel_size=3, padding=padding, bias=bias)
            return [up, make_norm(norm, n // 2), nn.ReLU()]

        trunk: list[nn.Module] = [
            ResnetBlock(4 * filters, norm=norm, padding=padding, dropout=dropout) for _ in range(blocks)
        ]
        if attention:
            trunk.insert(middle_block(blocks), SelfAttention(4 * filters))

        self.model = nn.Sequential(
            Pad(padding, 3),
            nn.Conv2d(channels, filters, 7, bias=bias),
            make_norm(norm, filters),
            nn.ReLU(),  # N x filters x H x W
            *halved(filters),  # N x 2 filters x H/2 x W/2
            *halved(2 * filters),  # N x 4 filters x H/4 x W/4
            *trunk,
            *doubled(4 * filters),  # N x 2 filters x H/2 x W/2
            *doubled(2 * filters),  # N x filters x H x W
            Pad(padding, 3),
            nn.Conv2d(filters, channels, 7),
            nn.Tanh(),  # N x channels x H x W
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] to the same shape and range; H and W are multiples of `stride`."""
        if self.recomputes_now:
            return self._recomputing_forward(x)
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
        places = [self._places()[name] for name in names]
        return self._run(x, places, max(places, default=0))[1]

    def translate_with_features(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `encode` in one pass.

        Where activations are recomputed, the features come from a second pass without gradients, and are detached
        (with dropout they are those of another draw).
        """
        if self.recomputes_now:
            return self._recomputing_forward(x), self._features_again(x, names)
        return self._run(x, [self._places()[name] for name in names], len(self.model))

    def _places(self) -> dict[str, int]:
        """Name of a feature -> number of layers of `model` that make it."""
        blocks = [number for number, layer in enumerate(self.model, start=1) if isinstance(layer, ResnetBlock)]
        places = {"image": 0, "down_1": 5, "down_2": 8}
        places |= {f"block_{index}": number for index, number in enumerate(blocks, start=1)}
        if blocks:
            places["block_middle"] = blocks[middle_block(len(blocks)) - 1]
        return places

    def _run(self, x: Tensor, places: Sequence[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """x through the first `stop` layers, and what was there after so many layers; none overwrites its input."""
        found = {0: x}
        for number, layer in enumerate(islice(self.model, stop), start=1):
            x = layer(x)
            if number in places:
                found[number] = x
        return x, [found[place] for place in places]

    def _recomputing_forward(self, x: Tensor) -> Tensor:
        """Keep a quarter: each stretch ends with a convolution, which then does not run twice.

        Of a block that is one of its two convolutions. The full-size maps, at both ends, are not kept at all.
        """
        entry, last_halving = self.model[:8], self.model[8:10]
        x = recomputed(entry, [entry], x)
        # Blurred, the norm and what follows are at half the size still.
        x = recomputed(last_halving, [last_halving], x) if self.antialias else last_halving(x)
        trunk = [layer for layer in self.model if isinstance(layer, ResnetBlock | SelfAttention)]
        for layer in trunk:
            x = layer.recomputing_forward(x) if isinstance(layer, ResnetBlock) else recomputed(layer, [layer], x)
        exit_, tanh = self.model[10 + len(trunk) : -1], self.model[-1]
        y: Tensor = tanh(recomputed(exit_, [exit_], x))
        return y
