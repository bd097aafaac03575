"""From a generator's features to what contrastive terms compare: places are drawn, and small networks look at them.

The networks are F of CUT (Park et al. 2020, section 3: "a small two-layer MLP"), one a layer. They are built up front,
so that optimizers and checkpoints know all of their parameters from the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cyclestyle.config.schema import InitName
from cyclestyle.losses.widening import widened
from cyclestyle.networks.initialize import initialize
from cyclestyle.networks.layers import autocast_off


def sample_places(sizes: Sequence[tuple[int, int]], num_places: int, generator: torch.Generator) -> list[Tensor]:
    """Different places of each layer, in random order.

    Args:
        sizes: height and width of each layer's features.
        num_places: to be drawn of a layer; of one with fewer, all are taken.
        generator: of the CPU.

    Returns:
        A tensor a layer of min(num_places, H * W) numbers y * W + x, int64, on the CPU.
    """
    # Cloned, so that the numbers that are left out are let go.
    return [torch.randperm(high * wide, generator=generator)[:num_places].clone() for high, wide in sizes]


class PatchFeatures(nn.Module):
    """A two-layer network for each layer's features, place by place.

    Args:
        layers: name to number of channels; weights are drawn from torch's global generator in this order.
        width: channels, hidden and out.
        init: of the weights, as generators have it; biases start at zero.
        gain: of `init`.
    """

    def __init__(
        self, layers: Mapping[str, int], width: int, *, init: InitName = "xavier", gain: float = 0.02
    ) -> None:  # fmt: skip
        super().__init__()
        self.networks = nn.ModuleDict({
            name: nn.Sequential(nn.Linear(channels, width), nn.ReLU(), nn.Linear(width, width))
            for name, channels in layers.items()
        })  # fmt: skip
        initialize(self, init, gain)

    def forward(self, features: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
        """What is at `places`, as vectors of length 1.

        Half precision is left at the door: at so few places it saves no time, and with this gain a new network's
        vectors are about 1e-4 long before they are scaled.

        Args:
            features: N x C x H x W each, a tensor a layer.
            places: of each layer, as `sample_places` draws them, on the device of the features; for all N the same.

        Returns:
            N x P x width a layer, fp32 (or float64). A place where the network gives only zeros stays zero.
        """
        return [
            self._look(network, maps, where)
            for network, maps, where in zip(self.networks.values(), features, places, strict=True)
        ]

    def _look(self, network: nn.Module, maps: Tensor, where: Tensor) -> Tensor:
        with autocast_off(maps.device):
            rows = maps.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, where)  # N x P x C
            vectors: Tensor = network(widened(rows))
            norms = torch.linalg.vector_norm(vectors, dim=2, keepdim=True)
            # Zeros have no direction, and get no gradient: that of the quotient would be 1e7 times what came in.
            return vectors * (norms + 1e-7).reciprocal().masked_fill(norms == 0, 0)
