"""Cycle and identity losses by hand."""

from __future__ import annotations

import pytest
import torch

from cyclestyle.losses.reconstruction import cycle, identity


@pytest.mark.parametrize("loss", [cycle, identity])
def test_mean_absolute_difference(loss):
    """(0.5 + 0 + 1 + 2) / 4."""
    made = torch.tensor([[[[0.5, 0.0], [1.0, -1.0]]]])
    real = torch.tensor([[[[0.0, 0.0], [0.0, 1.0]]]])
    assert loss(made, real).item() == 0.875
    assert loss(real, real).item() == 0


@pytest.mark.parametrize("loss", [cycle, identity])
def test_gradient_is_the_sign_over_the_count(loss):
    made = torch.tensor([[[[0.5, -0.25, 1.0, -1.0]]]], requires_grad=True)
    loss(made, torch.zeros(1, 1, 1, 4)).backward()
    assert made.grad.flatten().tolist() == [0.25, -0.25, 0.25, -0.25]


@pytest.mark.parametrize("loss", [cycle, identity])
def test_half_precision_images_are_compared_in_fp32(loss):
    """A difference of 2^-10 beside 0.75 is below bf16's step there (2^-9) and must not vanish."""
    made = torch.full((1, 3, 20, 20), 0.75, dtype=torch.bfloat16, requires_grad=True)
    real = torch.full((1, 3, 20, 20), 0.75 + 2**-10)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(made, real)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2**-10, rel=1e-4)
    value.backward()
    assert made.grad.dtype == torch.bfloat16
    assert (made.grad < 0).all()
