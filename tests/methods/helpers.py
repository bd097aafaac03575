"""Small methods in float64, and discriminators that keep what they are given."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import (
    ContrastConfig,
    CUTConfig,
    CycleGANConfig,
    DCLGANConfig,
    MethodConfig,
)
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.methods.adversarial import AdversarialMethod
from cyclestyle.methods.build import build_method

ALL_KINDS = ("color", "translation", "cutout")
CONTRAST = ContrastConfig(layers=("image", "down_1"), num_places=4, width=8)
GENERATOR = GeneratorConfig(filters=4, blocks=1, init_gain=0.2)

METHODS: dict[str, MethodConfig] = {
    "cyclegan": CycleGANConfig(pool_size=0, consistency_size=4),
    "cut": CUTConfig(contrast=CONTRAST, consistency_size=4),
    "dclgan": DCLGANConfig(contrast=CONTRAST, pool_size=0, consistency_size=4),
}
EVERY = pytest.mark.parametrize("name", METHODS)


def build(method: str, weights: dict[str, float] | None = None, *, options: dict[str, Any] | None = None, **disc: Any):
    """A small method in float64; its discriminators without norm unless `disc` says so."""
    torch.manual_seed(3)
    config = METHODS[method]
    config = replace(config, weights=replace(config.weights, **(weights or {})), **(options or {}))
    judge = DiscriminatorConfig(**{"filters": 4, "layers": 1, "norm": "none", "init_gain": 0.2} | disc)
    built = build_method(config, GENERATOR, judge, channels=3, seed=0).double()
    assert isinstance(built, AdversarialMethod)
    return built


def random_batch(size: int = 2, side: int = 16) -> UnpairedBatch:
    shape = (size, 3, side, side)
    return UnpairedBatch(*(torch.rand(shape, dtype=torch.float64) * 2 - 1 for _ in range(2)))


def drawn(method: AdversarialMethod, batch: UnpairedBatch) -> UnpairedBatch:
    return replace(batch, draws=method.draw(batch))


def sides(batch: UnpairedBatch, domain: str) -> tuple[str, Tensor, Tensor]:
    """Of a domain: the direction to it, the sources of its translations, its own real images."""
    return ("ab", batch.real_a, batch.real_b) if domain == "b" else ("ba", batch.real_b, batch.real_a)


class Recording(nn.Module):
    """A discriminator whose score of an image is its mean; keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[Tensor] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        self.given.append(images)
        return [images.mean((1, 2, 3), keepdim=True)]


def recorded(method: AdversarialMethod) -> dict[str, Recording]:
    """Put recording discriminators in place of the method's."""
    discs = {domain: Recording() for domain in method.judged}
    for domain, disc in discs.items():
        method.add_module(f"disc_{domain}", disc)
    return discs
