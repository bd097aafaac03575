"""A method small enough to compute by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.methods.base import Method


class Toy(Method):
    """gen_ab is a 1x1 convolution with a batch norm behind it, disc_b one number; terms are simple polynomials."""

    players: ClassVar[tuple[str, ...]] = ("generators", "discriminators")
    generators: ClassVar[tuple[str, ...]] = ("gen_ab",)

    def __init__(self) -> None:
        super().__init__()
        self.gen_ab = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.disc_b = nn.Conv2d(3, 1, 1)

    def networks_of(self, player: str) -> list[nn.Module]:
        return [self.gen_ab] if player == "generators" else [self.disc_b]

    def forward_batch(self, batch: UnpairedBatch) -> Tensor:
        return self.gen_ab[0](batch.real_a)

    def terms(self, player: str, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        if player == "generators":
            return {"adversarial_ab": self.disc_b(outputs).square().mean()}
        return {"discriminator_b": (self.disc_b(outputs.detach()) - 1).square().mean()}

    def observations(self, outputs: Any) -> dict[str, Tensor]:
        return {}

    def translations(self, outputs: Any) -> dict[str, Tensor]:
        return {"ab": outputs.detach()}


def batch_of(size: int) -> UnpairedBatch:
    return UnpairedBatch(torch.rand(size, 3, 4, 4), torch.rand(size, 3, 4, 4))
