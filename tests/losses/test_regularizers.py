"""Consistency of coarse colours in closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.losses.regularizers import low_frequency

SHAPES = {(8, 8): 2, (8, 12): 4, (12, 8): 4, (9, 7): 3, (10, 25): 4}
"""Height and width: size of the shorter side."""


@pytest.mark.parametrize(("shape", "size"), SHAPES.items())
@pytest.mark.parametrize("shift", [0.25, -0.5])
def test_a_shift_costs_its_size(shape, size, shift):
    source = torch.rand(2, 3, *shape, dtype=torch.float64) - 0.5
    assert low_frequency(source + shift, source, size).item() == pytest.approx(abs(shift), rel=1e-12)


def noise(shape: tuple[int, int], cell: tuple[int, int]) -> Tensor:
    """Random values whose mean is zero in each cell."""
    values = torch.randn(2, 3, *shape, dtype=torch.float64)
    means = F.avg_pool2d(values, cell)
    return values - means.repeat_interleave(cell[0], 2).repeat_interleave(cell[1], 3)


@pytest.mark.parametrize(
    ("shape", "size", "cell"), [((8, 8), 2, (4, 4)), ((8, 12), 4, (2, 2)), ((12, 8), 4, (2, 2)), ((6, 15), 2, (3, 3))]
)
def test_details_cost_nothing(shape, size, cell):
    """Noise without a mean in its cell is averaged away; finer cells see it."""
    source = torch.rand(2, 3, *shape, dtype=torch.float64)
    details = noise(shape, cell)
    assert low_frequency(source + details, source, size).item() == pytest.approx(0, abs=1e-15)
    assert low_frequency(source + details, source, 2 * size).item() > 0.1


@pytest.mark.parametrize(("shape", "size"), {(8, 8): 2, (8, 12): 4, (32, 16): 16, (32, 96): 8}.items())
def test_whole_cells_are_plain_means(shape, size):
    made, source = torch.randn(2, 2, 3, *shape, dtype=torch.float64).unbind()
    side = min(shape) // size
    expected = (F.avg_pool2d(made, side) - F.avg_pool2d(source, side)).abs().mean()
    assert low_frequency(made, source, size).item() == pytest.approx(expected.item(), rel=1e-12)


def test_pixels_on_an_edge_are_shared():
    """Three pixels a, b, c to two cells: (a + b / 2) / 1.5 and (b / 2 + c) / 1.5."""
    made = torch.tensor([0.3, -0.6, 0.9], dtype=torch.float64)
    cells = [(0.3 - 0.3) / 1.5, (-0.3 + 0.9) / 1.5]
    square = made[:, None] * torch.ones(3, dtype=torch.float64)
    expected = sum(map(abs, cells)) / 2
    for image in (square, square.T):
        assert low_frequency(image[None, None], torch.zeros(1, 1, 3, 3), 2).item() == pytest.approx(expected, rel=1e-12)


def test_cells_keep_the_aspect():
    """Ten by 25 pixels at size 4 are 4 x 10 cells: stripes of five columns, +1 and -1, are seen in full."""
    image = torch.ones(1, 1, 10, 25, dtype=torch.float64)
    image[..., 5:10] = image[..., 15:20] = -1
    assert low_frequency(image, torch.zeros_like(image), 4).item() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("size", [5, 6, 100])
def test_small_images_stay_as_they_are(size):
    made, source = torch.randn(2, 1, 3, 5, 9).unbind()
    assert low_frequency(made, source, size).item() == pytest.approx((made - source).abs().mean().item(), rel=1e-6)


@pytest.mark.parametrize(("shape", "size"), [((4, 6), 2), ((5, 7), 3), ((3, 3), 8)])
def test_gradient_is_right_numerically(shape, size):
    made, source = torch.randn(2, 2, 2, *shape, dtype=torch.float64).unbind()
    assert torch.autograd.gradcheck(lambda made: low_frequency(made, source, size), made.requires_grad_(True))


def test_layouts_agree():
    made, source = torch.randn(2, 2, 3, 8, 12).unbind()
    last = low_frequency(made.to(memory_format=torch.channels_last), source, 4)
    torch.testing.assert_close(last, low_frequency(made, source, 4), rtol=1e-6, atol=0)


def test_half_precision_is_averaged_in_fp32():
    """A difference of 2^-10 beside 0.75 is below bf16's step there, and must not vanish."""
    made = torch.full((1, 3, 16, 16), 0.75, dtype=torch.bfloat16, requires_grad=True)
    source = torch.full((1, 3, 16, 16), 0.75 + 2**-10)
    with torch.autocast("cpu", torch.bfloat16):
        value = low_frequency(made, source, 3)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2**-10, rel=1e-4)
    value.backward()
    assert made.grad.dtype == torch.bfloat16
    assert (made.grad < 0).all()
