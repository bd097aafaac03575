"""What one training step is fed: a batch of two unpaired image sets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class UnpairedBatch:
    """Images of both domains that have nothing to do with each other.

    Attributes:
        real_a: N x C x H x W float32 in [-1, 1], domain A.
        real_b: N x C x H x W float32 in [-1, 1], domain B.
    """

    real_a: Tensor
    real_b: Tensor

    def __len__(self) -> int:
        return len(self.real_a)

    def pin_memory(self) -> UnpairedBatch:
        """Called by `torch.utils.data.DataLoader` in its pinning thread."""
        return UnpairedBatch(self.real_a.pin_memory(), self.real_b.pin_memory())

    def to(self, device: torch.device, memory_format: torch.memory_format) -> UnpairedBatch:
        """Copy to `device` (asynchronously from pinned memory), in `memory_format`."""
        return UnpairedBatch(
            self.real_a.to(device, non_blocking=True, memory_format=memory_format),
            self.real_b.to(device, non_blocking=True, memory_format=memory_format),
        )
