"""Self-attention against the paper's formula, and what it looks at on maps beyond 32 x 32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cyclestyle.networks.attention import SelfAttention, averaging
from cyclestyle.networks.initialize import initialize

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def drawn(channels: int, dtype: torch.dtype = torch.float64) -> SelfAttention:
    """With weights that make some places matter much more than others."""
    torch.manual_seed(0)
    attention = SelfAttention(channels)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, 0.3, 0.6)
    return attention.to(dtype)


def by_definition(attention: SelfAttention, x: Tensor, looked_at: Tensor) -> Tensor:
    """SAGAN, equations 1 to 3, place by place."""
    query, key, value, output = (
        layer.weight[:, :, 0, 0] for layer in (attention.query, attention.key, attention.value, attention.output)
    )
    result = torch.empty_like(x)
    for image, (features, others) in enumerate(zip(x, looked_at.flatten(2), strict=True)):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                here = features[:, row, column]
                weights = torch.softmax((key @ others).T @ (query @ here), dim=0)
                taken = output @ ((value @ others) @ weights)
                result[image, :, row, column] = attention.gamma * taken + here
    return result


@pytest.mark.parametrize("channels", [1, 2, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_small_maps_are_the_papers(channels, layout):
    attention = drawn(channels)
    x = torch.randn(2, channels, 4, 5, dtype=torch.float64).to(memory_format=LAYOUTS[layout])
    y = attention(x)
    assert y.is_contiguous(memory_format=LAYOUTS[layout])
    torch.testing.assert_close(y, by_definition(attention, x, x), rtol=0, atol=1e-12)


def test_channels_of_its_parts():
    shapes = {name: tuple(value.shape) for name, value in SelfAttention(256).state_dict().items()}
    assert shapes == {
        "gamma": (),
        "query.weight": (32, 256, 1, 1),
        "key.weight": (32, 256, 1, 1),
        "value.weight": (128, 256, 1, 1),
        "output.weight": (256, 128, 1, 1),
    }


@pytest.mark.parametrize(
    ("size", "pooled"), [((32, 8), (32, 8)), ((33, 8), (32, 8)), ((64, 32), (32, 32)), ((40, 36), (32, 32))]
)
def test_larger_maps_are_averaged_for_keys_and_values(size, pooled):
    attention = drawn(2)
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    looked_at = F.adaptive_avg_pool2d(x, pooled)
    assert attention.pooled(x).shape[2:] == pooled
    torch.testing.assert_close(attention.pooled(x), looked_at, rtol=0, atol=1e-14)
    torch.testing.assert_close(attention(x), by_definition(attention, x, looked_at), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 7, 32, 33, 50, 64, 100, 1000])
def test_the_matrix_that_averages(size):
    """Against torch's pooling of each unit vector."""
    matrix = averaging(size, torch.device("cpu"), torch.float64)
    pooled = F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64), min(size, 32)).T
    torch.testing.assert_close(matrix, pooled, rtol=0, atol=1e-14)


def test_a_part_of_a_map_attends_as_in_the_whole():
    attention = drawn(4)
    x = torch.randn(1, 4, 40, 36, dtype=torch.float64)
    pooled = attention.pooled(x)
    bands = torch.cat([attention.attend(band, pooled) for band in x.split(7, dim=2)], dim=2)
    torch.testing.assert_close(bands, attention(x), rtol=0, atol=1e-13)


@pytest.mark.parametrize("init", ["normal", "xavier", "kaiming", "orthogonal"])
def test_it_starts_as_an_identity_and_learns(init):
    torch.manual_seed(0)
    attention = SelfAttention(8)
    initialize(attention, init, 0.5)
    x = torch.randn(1, 8, 6, 6)
    y = attention(x)
    assert y.equal(x)
    y.square().sum().backward()
    assert attention.gamma.grad.abs() > 0


def test_gradients():
    attention = drawn(4)
    x = torch.randn(1, 4, 34, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attention, (x,), fast_mode=True)
    attention(x).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in attention.parameters())


def test_half_precision_stays_under_autocast():
    attention = drawn(16, torch.float32)
    nn.init.normal_(attention.query.weight, 0, 0.1)
    nn.init.normal_(attention.key.weight, 0, 0.1)
    nn.init.constant_(attention.gamma, 30.0)  # so that what it adds is most of the result
    x = torch.randn(1, 16, 40, 40)
    exact = attention(x)
    with torch.autocast("cpu", torch.bfloat16):
        y = attention(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (exact - x).norm() > x.norm()
    assert (y.float() - exact).norm() < 2**-6 * exact.norm()


class Largest(TorchDispatchMode):
    """Numbers in the largest tensor that an operation made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [each.numel() for each in tree_leaves(result) if isinstance(each, Tensor)]
        self.numbers = max([self.numbers, *made])
        return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_matrix_of_places_by_places(layout):
    """Neither forward nor backward: 64 x 64 places times 32 x 32 would be 64 times the features."""
    attention = drawn(16, torch.float32)
    x = torch.randn(1, 16, 64, 64).to(memory_format=LAYOUTS[layout]).requires_grad_(True)
    with Largest() as largest:
        attention(x).sum().backward()
    assert largest.numbers == x.numel()
