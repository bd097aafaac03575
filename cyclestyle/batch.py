"""What one training step is fed: a batch of two unpaired image sets, and what chance has in store for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

Domain = Literal["a", "b"]


@dataclass(frozen=True)
class UnpairedBatch:
    """Images of both domains that have nothing to do with each other.

    Attributes:
        real_a: N x C x H x W float32 in [-1, 1], domain A.
        real_b: N x C x H x W float32 in [-1, 1], domain B.
        draws: what `Method.draw` drew for this batch, by name.
    """

    real_a: Tensor
    real_b: Tensor
    draws: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.real_a)

    def pin_memory(self) -> UnpairedBatch:
        """The same in page-locked memory, from which it is copied to a GPU beside the work there."""
        return replace(self, real_a=self.real_a.pin_memory(), real_b=self.real_b.pin_memory())

    def to(self, device: torch.device, memory_format: torch.memory_format) -> UnpairedBatch:
        """Copy to `device` (asynchronously from pinned memory), images in `memory_format`."""
        return UnpairedBatch(
            self.real_a.to(device, non_blocking=True, memory_format=memory_format),
            self.real_b.to(device, non_blocking=True, memory_format=memory_format),
            {name: draw.to(device, non_blocking=True) for name, draw in self.draws.items()},
        )

    def tensors(self) -> list[Tensor]:
        """All that a step reads, always in the same order."""
        return [self.real_a, self.real_b, *self.draws.values()]
