"""What a translation takes, told before it starts, and what there is."""
from __future__ import annotations

import torch
from torch import nn


def host_budget() -> int:
    return 1 << 40


def map_budget(generator: nn.Module, width: int, rows: int, device: torch.device, memory_limit: int | None) -> int | None:
    return memory_limit
