"""Batch norm over the batch of all processes: what one process with the whole batch would compute."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cyclestyle.distributed import differentiable_sum


def share_batch_norm(network: nn.Module) -> None:
    """Let every batch norm in `network` take its statistics over all processes; weights and names stay.

    torch's own `SyncBatchNorm` needs GPUs.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SharedBatchNorm


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm (Ioffe and Szegedy 2015) whose mean and variance are those of the images of all processes.

    Processes may have different numbers of images. In evaluation mode it is an ordinary one.
    """

    def forward(self, input: Tensor) -> Tensor:
        """N x C x H x W to the same; all processes call it together."""
        if not self.training:
            return super().forward(input)
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        number = values.new_full((1,), values.numel() / self.num_features)
        count, total = differentiable_sum(torch.cat([number, values.sum((0, 2, 3))])).split([1, self.num_features])
        mean = total / count
        # A second message, and not E[x^2] - E[x]^2, which cancels where means are large beside deviations.
        centered = values - mean.view(1, -1, 1, 1)
        squares = differentiable_sum(centered.square().sum((0, 2, 3)))
        variance = squares / count
        self._follow(mean.detach(), (squares / (count - 1)).detach())
        normed = centered * torch.rsqrt(variance + self.eps).view(1, -1, 1, 1)
        if self.affine:
            normed = normed * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normed.to(input.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, as `nn.BatchNorm2d` does (with the unbiased variance)."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        momentum = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)
