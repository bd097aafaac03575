"""Averaged generators, used for samples and translation: a moving average over optimizer steps (Yazici et al. 2019)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from cyclestyle.config.schema import EmaConfig
from cyclestyle.methods.base import Method


class Averages:
    """A copy of each generator of a method, in eval mode, that follows its weights slowly.

    With `ema.decay=0` it follows at once: copies then have the generators' own memory, and cost nothing.

    Attributes:
        generators: "gen_ab" -> the averaged network, without gradients.
    """

    def __init__(self, method: Method, config: EmaConfig) -> None:
        self.config = config
        self._sources = {name: method.get_submodule(name) for name in method.generators}
        self.generators: dict[str, nn.Module] = {
            name: copy.deepcopy(source).eval().requires_grad_(False) for name, source in self._sources.items()
        }
        if not config.decay:
            for name, source in self._sources.items():
                _share_memory(self.generators[name], source)

    def decay_at(self, step: int) -> float:
        """Share of the old average that stays after `step` optimizer steps (1 for the first)."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- decay * average + (1 - decay) * weights, after the `step`-th step; buffers are copied."""
        if not self.config.decay:
            return
        share_of_new = 1.0 - self.decay_at(step)
        for name, average in self.generators.items():
            source = self._sources[name]
            torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), share_of_new)
            for kept, new in zip(average.buffers(), source.buffers(), strict=True):
                kept.copy_(new)

    def state_dict(self) -> dict[str, Any]:
        """State dict of each averaged generator, by name."""
        return {name: average.state_dict() for name, average in self.generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`, once the generators themselves are loaded."""
        if not self.config.decay:
            return
        for name, average in self.generators.items():
            average.load_state_dict(state[name])


def _share_memory(network: nn.Module, source: nn.Module) -> None:
    """Let the parameters and buffers of `network` lie where those of `source` do."""
    for own, others in ((network.parameters(), source.parameters()), (network.buffers(), source.buffers())):
        for kept, original in zip(own, others, strict=True):
            kept.data = original.data
