"""How weights start: the four choices of the original CycleGAN code, drawn from torch's global generator."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize

from cyclestyle.config.schema import InitName
from cyclestyle.networks.layers import SubpixelConv


def _draw(weight: Tensor, name: InitName, gain: float) -> None:
    if name == "normal":
        nn.init.normal_(weight, 0.0, gain)
    elif name == "xavier":
        nn.init.xavier_normal_(weight, gain)
    elif name == "kaiming":
        nn.init.kaiming_normal_(weight)
    else:
        nn.init.orthogonal_(weight, gain)


def initialize(module: nn.Module, name: InitName, gain: float) -> None:
    """Draw all weights of `module` anew, in place; the caller seeds.

    Convolutions and linear layers: `name` with `gain` (its standard deviation for normal; kaiming has none), biases
    zero. Batch norm: scale from N(1, gain), shift zero. Comes before spectral norm, which would hide the weight.
    """
    for part in module.modules():
        assert not parametrize.is_parametrized(part), "initialise before spectral norm"
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            _draw(part.weight, name, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, gain)
            nn.init.zeros_(part.bias)
    for part in module.modules():
        if isinstance(part, SubpixelConv):
            part.equalize()
