"""Augmentation of what discriminators see: closed forms, gradients, chances, and nothing that a CUDA graph refuses."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cyclestyle.losses.augmentation import augment, draw_augment

ALL = ("color", "translation", "cutout")
SUBSETS = [subset for count in (1, 2, 3) for subset in combinations(ALL, count)]


def drawn(*how: float, num_images: int = 1) -> Tensor:
    """The draw of one kind that is applied: the number that decides is 0."""
    return torch.tensor([[0.0, *how]]).expand(num_images, -1)


def some(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1).to(dtype)


def draws(num_images: int, kinds: tuple[str, ...] = ALL, seed: int = 0) -> Tensor:
    return draw_augment(num_images, kinds, torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------ closed forms

PIXELS = torch.tensor([[[[0.0, 0.6]], [[0.3, -0.6]], [[0.6, 0.3]]]])  # 1 x 3 x 1 x 2; greys 0.3, 0.1; mean 0.2


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ((0.75, 0.5, 0.5), [[0.25, 0.85], [0.55, -0.35], [0.85, 0.55]]),
        ((0.0, 0.5, 0.5), [[-0.5, 0.1], [-0.2, -1.1], [0.1, -0.2]]),  # not clamped
        ((0.5, 0.0, 0.5), [[0.3, 0.1], [0.3, 0.1], [0.3, 0.1]]),  # grey
        ((0.5, 0.75, 0.5), [[-0.15, 0.85], [0.3, -0.95], [0.75, 0.4]]),
        ((0.5, 0.5, 0.0), [[0.1, 0.4], [0.25, -0.2], [0.4, 0.25]]),
        ((0.5, 0.5, 0.75), [[-0.05, 0.7], [0.325, -0.8], [0.7, 0.325]]),
        # brightness 0.25 first: greys 0.55, 0.35; doubled distance from them; then halved from the mean 0.45
        ((0.75, 1.0, 0.0), [[0.2, 0.9], [0.5, -0.3], [0.8, 0.6]]),
        ((0.5, 0.5, 0.5), [[0.0, 0.6], [0.3, -0.6], [0.6, 0.3]]),
    ],
)
def test_colors_by_hand(how: tuple[float, ...], expected: list[list[float]]) -> None:
    for shape in ((1, 3, 1, 2), (1, 3, 2, 1)):
        result = augment(PIXELS.reshape(shape), drawn(*how), ["color"], 1.0)
        torch.testing.assert_close(result, torch.tensor(expected).reshape(shape))


def rolled(image: Tensor, down: int, right: int) -> Tensor:
    """C x H x W, moved; zeros come in."""
    moved = torch.roll(image, (down, right), (1, 2)).clone()
    height, width = image.shape[1:]
    moved[:, : max(down, 0)] = 0
    moved[:, height + min(down, 0) :] = 0
    moved[:, :, : max(right, 0)] = 0
    moved[:, :, width + min(right, 0) :] = 0
    return moved


@pytest.mark.parametrize(("height", "width"), [(16, 24), (17, 9), (4, 3), (3, 1)])
def test_translations_are_rolls_with_zeros(height: int, width: int) -> None:
    """Every move there is, each by the middle of its share of [0, 1)."""
    most_down, most_right = int(height / 8 + 0.5), int(width / 8 + 0.5)
    moves = [(y, x) for y in range(-most_down, most_down + 1) for x in range(-most_right, most_right + 1)]
    draw = torch.tensor(
        [[0.0, (y + most_down + 0.5) / (2 * most_down + 1), (x + most_right + 0.5) / (2 * most_right + 1)]
         for y, x in moves]
    )  # fmt: skip
    images = some(len(moves), 2, height, width)
    result = augment(images, draw, ["translation"], 1.0)
    for image, move, moved in zip(images, moves, result, strict=True):
        assert torch.equal(moved, rolled(image, *move)), move


@pytest.mark.parametrize(("size", "length"), [(8, 4), (7, 4), (6, 3), (5, 3), (1, 1)])
def test_cutouts_are_zero_and_the_rest_is_not_touched(size: int, length: int) -> None:
    """Every place there is; the paper's code has one more of an even length than of an odd one."""
    num_places = size + 1 - length % 2
    middles = (torch.arange(num_places) + 0.5) / num_places
    draw = torch.stack([torch.zeros(num_places), middles, middles.flip(0)], 1)
    images = some(num_places, 3, size, size) + 3  # nowhere zero
    result = augment(images, draw, ["cutout"], 1.0)
    for place in range(num_places):
        expected = images[place].clone()
        top, left = place - length // 2, num_places - 1 - place - length // 2
        expected[:, max(top, 0) : top + length, max(left, 0) : left + length] = 0
        assert torch.equal(result[place], expected), place


def test_the_ends_of_the_uniform_numbers() -> None:
    """0 and the last number before 1 give the outermost moves and places, never one beyond."""
    almost = 1 - 2**-24
    for size in (256, 255, 64, 12):
        images, most = some(2, 1, size, size) + 3, (size + 4) // 8
        draw = torch.tensor([[0.0, 0.0, almost], [0.0, almost, 0.0]])
        moved = augment(images, draw, ["translation"], 1.0)
        for image, move, result in zip(images, ((-most, most), (most, -most)), moved, strict=True):
            assert torch.equal(result, rolled(image, *move))
        cut = augment(images, draw, ["cutout"], 1.0) == 0
        visible = (size + 1) // 2
        visible -= visible // 2  # half of the cut hangs over
        assert cut.sum().item() == pytest.approx(2 * visible * visible, rel=0.4)


def test_kinds_come_in_the_papers_order_and_chance_does_not_mix() -> None:
    images, draw = some(4, 3, 16, 16), draws(4)
    expected = images
    for kind, numbers in zip(ALL, draw.split([4, 3, 3], 1), strict=True):
        expected = augment(expected, numbers, [kind], 0.7)
    assert torch.equal(augment(images, draw, ALL, 0.7), expected)
    assert torch.equal(augment(images, draw, ("cutout", "color", "translation"), 0.7), expected)
    assert torch.equal(augment(images, draws(4, ()), (), 1.0), images)
    for i in range(4):  # images do not know of each other
        assert torch.equal(augment(images[i : i + 1], draw[i : i + 1], ALL, 0.7), expected[i : i + 1])


# ------------------------------------------------------------------------------------------ chances


def test_draws_come_from_the_generator_alone() -> None:
    state = torch.get_rng_state()
    draw = draws(1000)
    assert torch.equal(torch.get_rng_state(), state)
    assert draw.shape == (1000, 10)
    assert draw.dtype == torch.float32
    assert draw.min() >= 0
    assert draw.max() < 1
    assert torch.equal(draws(1000), draw)
    assert not torch.equal(draws(1000, seed=1), draw)
    correlation = torch.corrcoef(draw.T) - torch.eye(10)
    assert correlation.abs().max() < 5 / 1000**0.5  # each number is one of its own


@pytest.mark.parametrize("probability", [0.0, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("kind", ALL)
def test_the_share_of_changed_images(kind: str, probability: float) -> None:
    images = some(1, 3, 4, 8).expand(4000, -1, -1, -1) + 3
    result = augment(images, draws(4000, (kind,)), [kind], torch.tensor(probability))
    share = (result != images).flatten(1).any(1).float().mean().item()
    expected = probability
    if kind == "translation":  # of 3 x 3 moves one is none
        expected *= 8 / 9
    sigma = (expected * (1 - expected) / 4000) ** 0.5
    assert abs(share - expected) <= 4 * sigma


def test_kinds_are_applied_independently() -> None:
    images = some(1, 1, 1, 64).expand(8000, -1, -1, -1) + 3
    draw = draws(8000)
    one, other, third = (
        (augment(images, numbers, [kind], 0.5) != images).flatten(1).any(1).double()
        for kind, numbers in zip(ALL, draw.split([4, 3, 3], 1), strict=True)
    )
    for x, y in ((one, other), (one, third), (other, third)):
        assert abs((x * y).mean() - x.mean() * y.mean()).item() < 4 * 0.25 / 8000**0.5


def test_brightness_is_unbiased_and_as_wide_as_it_should_be() -> None:
    images = torch.zeros(20000, 1, 1, 1)  # of one pixel: saturation and contrast change nothing
    result = augment(images, draws(20000, ("color",)), ["color"], 1.0)
    assert abs(result.mean().item()) < 4 / (12 * 20000) ** 0.5
    assert result.min().item() == pytest.approx(-0.5, abs=1e-3)
    assert result.max().item() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_what_is_not_applied_stays_bit_for_bit(kinds: tuple[str, ...], dtype: torch.dtype) -> None:
    images = some(6, 3, 9, 10, dtype=dtype)
    images[0, 0, 0, 0] = -0.0
    draw = draws(6, kinds)
    for never in (0.0, torch.tensor(0.0)):
        result = augment(images, draw, kinds, never)
        assert torch.equal(result, images)
        assert torch.signbit(result[0, 0, 0, 0])
    assert torch.equal(augment(images, torch.zeros_like(draw), kinds, 0.0), images)  # not by the smallest number either
    some_of_them = augment(images, draw, kinds, 0.5)
    decisions = torch.stack([numbers[:, 0] for numbers in draw.split([4 if k == "color" else 3 for k in kinds], 1)])
    untouched = (decisions >= 0.5).all(0)
    assert torch.equal(some_of_them[untouched], images[untouched])


def test_a_probability_on_the_device_is_as_good_as_a_number() -> None:
    images, draw = some(32, 3, 8, 8), draws(32)
    for probability in (0.0, 0.3, 1.0):
        expected = augment(images, draw, ALL, probability)
        assert torch.equal(augment(images, draw, ALL, torch.tensor(probability)), expected)


# ------------------------------------------------------------------------------------------ gradients


@pytest.mark.parametrize("kinds", [("color",), ("translation",), ("cutout",), ALL], ids="+".join)
def test_gradients_by_finite_differences(kinds: tuple[str, ...]) -> None:
    images = some(2, 2, 4, 5, dtype=torch.float64).requires_grad_(True)
    draw = draws(2, kinds, seed=5)
    assert (augment(images, draw, kinds, 0.9) != images).any()
    assert torch.autograd.gradcheck(lambda x: augment(x, draw, kinds, 0.9), images)
    # Gradient penalties. In fast mode: along one direction at random.
    assert torch.autograd.gradgradcheck(lambda x: augment(x, draw, kinds, 0.9) ** 2, images, fast_mode=True)


def test_no_gradient_from_where_nothing_is_seen() -> None:
    images = some(8, 3, 8, 8).requires_grad_(True)
    result = augment(images, draws(8, ("cutout",)), ["cutout"], 1.0)
    result.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, (result != 0).float())
    assert (images.grad == 0).flatten(1).any(1).all()


def test_the_gradient_moves_back_with_the_image() -> None:
    images, weights = some(5, 2, 16, 16).requires_grad_(True), some(5, 2, 16, 16, seed=1)
    draw = draws(5, ("translation",))
    (augment(images, draw, ["translation"], 1.0) * weights).sum().backward()
    back = draw.clone()
    back[:, 1:] = 1 - draw[:, 1:]  # the opposite move
    assert images.grad is not None
    assert torch.equal(images.grad, augment(weights, back, ["translation"], 1.0))


# ------------------------------------------------------------------------------------------ layouts, dtypes, devices


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("kinds", SUBSETS, ids="+".join)
def test_layouts_give_the_same_and_are_kept(kinds: tuple[str, ...], channels: int) -> None:
    images, draw = some(4, channels, 17, 10), draws(4, kinds)
    plain = augment(images, draw, kinds, 0.9)
    assert plain.shape == images.shape
    last = augment(images.to(memory_format=torch.channels_last), draw, kinds, 0.9)
    torch.testing.assert_close(last, plain, rtol=0, atol=0 if "color" not in kinds else 1e-6)  # sums in another order
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_fp32(dtype: torch.dtype) -> None:
    images, draw = some(4, 3, 32, 32, dtype=dtype), draws(4)
    expected = augment(images.float(), draw, ALL, 0.9).to(dtype)
    assert torch.equal(augment(images, draw, ALL, 0.9), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(augment(images, draw, ALL, 0.9), expected)
        full = augment(images.float(), draw, ALL, 0.9)
    assert torch.equal(full, augment(images.float(), draw, ALL, 0.9))


class Watching(TorchDispatchMode):
    """Notes every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


FORBIDDEN = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "equal", "bernoulli", "normal",
             "rand", "uniform", "scatter_add", "index_put", "_index_put_impl_")  # fmt: skip
"""What waits for the device, draws, or adds up in an order that changes."""


def test_nothing_waits_draws_or_scatters() -> None:
    images, draw, probability = some(2, 3, 8, 8).requires_grad_(True), draws(2), torch.tensor(0.5)
    with Watching() as mode:
        augment(images, draw, ALL, probability).sum().backward()
    assert mode.seen
    assert not [name for name in mode.seen if name.startswith(FORBIDDEN)]
    with Watching() as mode:
        torch.rand(3)[torch.rand(3) > 0.5].sum().item()
    assert [name for name in mode.seen if name.startswith(FORBIDDEN)]
