"""Self-attention for generators, whose cost grows with the picture and not with its square."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.networks.layers import autocast_off

MOST_PLACES = 32
"""Along each side of the map that is looked at; larger ones are averaged to so many."""


class SelfAttention(nn.Module):
    """x + gamma * what each place takes from all others (SAGAN: Zhang et al. 2019, section 3).

    A place's query is compared with the keys of all places (their products, not scaled), and it takes the mean of
    their values, weighted by a softmax over the places. gamma is learned and starts at 0: the layer starts as an
    identity.

    Unlike the paper's, keys and values are made of features averaged to at most 32 x 32 places: comparing all places
    with all would take a photograph's square in time and memory. On maps up to 32 x 32 (images of 128 pixels) it is the
    paper's.

    Args:
        channels: of the features; an eighth of them is compared, half of them taken, as in the paper's code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        compared, taken = max(1, channels // 8), max(1, channels // 2)
        self.query = nn.Conv2d(channels, compared, 1, bias=False)
        self.key = nn.Conv2d(channels, compared, 1, bias=False)
        self.value = nn.Conv2d(channels, taken, 1, bias=False)
        self.output = nn.Conv2d(taken, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))  # of no dimension: times half precision it gives half precision

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same shape."""
        return self.attend(x, self.pooled(x))

    def pooled(self, x: Tensor) -> Tensor:
        """The places that are looked at: N x C x H x W to N x C x min(H, 32) x min(W, 32)."""
        height, width = x.shape[2:]
        rows, columns = places(height), places(width)
        if (rows, columns) == (height, width):
            return x
        with autocast_off(x.device):
            if height % rows == 0 and width % columns == 0:  # its backward pass is deterministic on GPUs too
                return F.avg_pool2d(x, (height // rows, width // columns))
            return F.adaptive_avg_pool2d(x, (rows, columns))

    def attend(self, x: Tensor, pooled: Tensor) -> Tensor:
        """x with what its places take from those of `pooled`; x may be any part of the map that was pooled."""
        query, key, value = (_as_rows(each) for each in (self.query(x), self.key(pooled), self.value(pooled)))
        # Zeros change no product. Only where all three are equally wide do torch's kernels never hold places x places.
        zeros = [0, value.shape[-1] - query.shape[-1]]
        taken = F.scaled_dot_product_attention(F.pad(query, zeros), F.pad(key, zeros), value, scale=1.0)
        mixed: Tensor = self.output(taken.squeeze(1).transpose(1, 2).unflatten(2, x.shape[2:]))
        return x + self.gamma * mixed


def places(size: int) -> int:
    """Places along a side of so many that are looked at."""
    return min(size, MOST_PLACES)


def averaging(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The matrix, places(size) x size, by which `SelfAttention.pooled` averages along a side."""
    count = places(size)
    index, place = torch.arange(size, device=device), torch.arange(count, device=device)[:, None]
    # Where they do not fit evenly, neighbours share what lies between (as in torch's adaptive pooling).
    first, last = place * size // count, -((-(place + 1) * size) // count)
    inside = ((index >= first) & (index < last)).to(dtype)
    return inside / inside.sum(1, keepdim=True)


def _as_rows(x: Tensor) -> Tensor:
    """N x C x H x W to N x 1 x (H W) x C, contiguous (of channels_last no copy)."""
    return x.flatten(2).transpose(1, 2).contiguous().unsqueeze(1)
