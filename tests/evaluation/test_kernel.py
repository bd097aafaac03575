"""The kernel distance by hand, against moments and torch-fidelity; its errors against naive jackknife and spread."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.errors import DataError
from cyclestyle.evaluation import kernel
from cyclestyle.evaluation.kernel import (
    kernel_difference_error,
    kernel_distance,
    kernel_distance_error,
    kernel_distance_over_subsets,
)


def gaussian(num: int, num_features: int, *, seed: int, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    return mean + deviation * torch.randn(num, num_features, generator=random, dtype=torch.float64)


def test_one_dimension_by_hand() -> None:
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]])
    # k(a, b) = (a b + 1)^3. Within x: k(0, 1) = 1. Within y: k(1, 2) = 27. Between: 1, 1, 8, 27, mean 37 / 4.
    assert kernel_distance(x, y) == pytest.approx(1 + 27 - 2 * 37 / 4, rel=1e-12)
    # Linear kernel a b: within 0 and 2, between 0, 0, 1, 2.
    assert kernel_distance(x, y, degree=1, gamma=1.0, coef0=0.0) == pytest.approx(0 + 2 - 2 * 3 / 4, rel=1e-12)


def test_the_inner_product_is_divided_by_the_number_of_features() -> None:
    x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 2.0]])
    assert kernel_distance(x, y) == pytest.approx(9.5, rel=1e-12)  # as in one dimension
    assert kernel_distance(x, y, gamma=0.5) == pytest.approx(9.5, rel=1e-12)
    assert kernel_distance(x, y, gamma=1.0) != pytest.approx(9.5)


def plain(x: Tensor, y: Tensor) -> float:
    """The definition, sum by sum (Binkowski et al. 2018)."""

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    within_x = [k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j]
    within_y = [k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j]
    between = [k(a, b) for a in x for b in y]
    return statistics.fmean(within_x) + statistics.fmean(within_y) - 2 * statistics.fmean(between)


@pytest.mark.parametrize("block", [3, 1024])
def test_equals_the_definition_for_unequal_numbers(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_BLOCK", block)
    x, y = gaussian(7, 5, seed=1), gaussian(11, 5, seed=2, mean=0.3)
    assert kernel_distance(x, y) == pytest.approx(plain(x, y), rel=1e-10)
    assert kernel_distance(y, x) == pytest.approx(plain(x, y), rel=1e-10)


def test_unbiased_however_few_the_images() -> None:
    """In one dimension (1 + x y)^3 compares moments: MMD^2 = 3 (m1 - m1')^2 + 3 (m2 - m2')^2 + (m3 - m3')^2."""
    a, s = 0.5, 0.5
    # N(a, s^2) against N(0, s^2): m1 = a, m2 = s^2 + a^2, m3 = a^3 + 3 a s^2
    expected = 3 * a**2 + 3 * a**4 + (a**3 + 3 * a * s**2) ** 2
    draws = torch.from_numpy(np.random.default_rng(3).normal(0.0, s, (4000, 9, 1)))
    values = torch.tensor([kernel_distance(draw[:4] + a, draw[4:]) for draw in draws])
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean() - expected) < 4 * error
    x, y = draws[:, :4] + a, draws[:, 4:]
    within_x, within_y, between = ((1 + p @ q.mT) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    biased = (within_x.mean((1, 2)) + within_y.mean((1, 2)) - 2 * between.mean((1, 2))).mean()
    assert biased - expected > 4 * error  # the same draws show the bias of an estimate that keeps the diagonals
    same = torch.tensor([kernel_distance(draw[:4], draw[4:]) for draw in draws])
    assert abs(same.mean()) < 4 * same.std() / math.sqrt(len(same))
    assert (same < 0).float().mean() > 0.3  # it scatters about 0


def test_agrees_with_torch_fidelity() -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is the reference")
    x, y = gaussian(50, 64, seed=4).abs().float(), gaussian(50, 64, seed=5, mean=0.2).abs().float()
    assert kernel_distance(x, y) == pytest.approx(kid.kernel_mmd(x.double().numpy(), y.double().numpy()), rel=1e-9)
    assert kernel_distance(x, y) == pytest.approx(kid.kernel_mmd(x.numpy(), y.numpy()), rel=1e-4)
    for size in (2, 20, 50):
        options = {"kid_subsets": 30, "kid_subset_size": size, "rng_seed": 7, "verbose": False}
        theirs = kid.kid_features_to_metric(x.double(), y.double(), **options)
        mean, std = kernel_distance_over_subsets(x, y, num_subsets=30, subset_size=size, seed=7)
        assert mean == pytest.approx(theirs[kid.KEY_METRIC_KID_MEAN], rel=1e-4)
        # Subsets that are all the images differ by rounding alone.
        assert std == pytest.approx(theirs[kid.KEY_METRIC_KID_STD], rel=1e-4, abs=1e-12)


def test_subsets_are_subsets() -> None:
    """Each of them, drawn again here and measured by `kernel_distance`."""
    x, y = gaussian(9, 4, seed=6), gaussian(14, 4, seed=7, mean=0.5)
    random = np.random.RandomState(11)
    values = []
    for _ in range(20):
        drawn_x, drawn_y = random.choice(9, 4, replace=False), random.choice(14, 4, replace=False)
        values.append(kernel_distance(x[drawn_x], y[drawn_y]))
    # None: half of the smaller side
    mean, std = kernel_distance_over_subsets(x, y, num_subsets=20, seed=11)
    assert mean == pytest.approx(np.mean(values), rel=1e-10)
    assert std == pytest.approx(np.std(values), rel=1e-10)
    assert kernel_distance_over_subsets(x, y, num_subsets=20, seed=12) != (mean, std)
    assert kernel_distance_over_subsets(x[:3], y, subset_size=2) == kernel_distance_over_subsets(x[:3], y)


def naive_jackknife(distances: list[list[float]]) -> float:
    """Standard error from the distances without each image, a list a sample."""
    variances = [
        (len(sample) - 1) / len(sample) * sum((v - np.mean(sample)) ** 2 for v in sample) for sample in distances
    ]
    return math.sqrt(sum(variances))


def without(features: Tensor, index: int) -> Tensor:
    return torch.cat([features[:index], features[index + 1 :]])


@pytest.mark.parametrize("sizes", [(3, 3), (8, 5), (6, 13)])
def test_error_equals_leaving_each_image_out(sizes: tuple[int, int]) -> None:
    x, y = gaussian(sizes[0], 4, seed=8), gaussian(sizes[1], 4, seed=9, mean=0.4)
    expected = naive_jackknife(
        [
            [kernel_distance(without(x, i), y) for i in range(len(x))],
            [kernel_distance(x, without(y, j)) for j in range(len(y))],
        ]
    )
    assert kernel_distance_error(x, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_distance_error(y, x) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(3, 3), (8, 5), (6, 13)])
def test_difference_error_equals_leaving_each_image_out(sizes: tuple[int, int]) -> None:
    x1, y = gaussian(sizes[0], 4, seed=10), gaussian(sizes[1], 4, seed=11, mean=0.4)
    x2 = x1 + gaussian(sizes[0], 4, seed=12, deviation=0.3, mean=0.1)

    def difference(first: Tensor, second: Tensor, references: Tensor) -> float:
        return kernel_distance(first, references) - kernel_distance(second, references)

    expected = naive_jackknife(
        [
            [difference(without(x1, i), without(x2, i), y) for i in range(len(x1))],
            [difference(x1, x2, without(y, j)) for j in range(len(y))],
        ]
    )
    assert kernel_difference_error(x1, x2, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_difference_error(x2, x1, y) == pytest.approx(expected, rel=1e-9)
    assert kernel_difference_error(x1, x1.clone(), y) == 0.0


REPEATS = 500  # the spread over so many draws is known to 1 / sqrt(2 * 500) = 3%


def test_error_is_the_spread_over_draws() -> None:
    values, errors = [], []
    for seed in range(REPEATS):
        x, y = gaussian(60, 8, seed=seed, mean=0.5), gaussian(45, 8, seed=100_000 + seed, deviation=1.2)
        values.append(kernel_distance(x, y))
        errors.append(kernel_distance_error(x, y))
    typical = math.sqrt(np.mean(np.square(errors)))
    assert typical == pytest.approx(np.std(values), rel=0.15)


def test_error_of_equal_kinds_is_on_the_safe_side() -> None:
    """The factor of the docstring: where the first-order terms vanish, the jackknife is up to 1.4 too large."""
    values, errors = [], []
    for seed in range(REPEATS):
        x, y = gaussian(40, 8, seed=seed), gaussian(40, 8, seed=100_000 + seed)
        values.append(kernel_distance(x, y))
        errors.append(kernel_distance_error(x, y))
    assert 0.95 < math.sqrt(np.mean(np.square(errors))) / np.std(values) < 1.6


def test_difference_error_is_the_spread_over_draws_and_below_that_of_unpaired_sets() -> None:
    values, errors, apart = [], [], []
    for seed in range(REPEATS):
        sources, y = gaussian(60, 8, seed=seed), gaussian(45, 8, seed=100_000 + seed)
        x1 = sources + 0.6
        x2 = sources + 0.4 + gaussian(60, 8, seed=200_000 + seed, deviation=0.2)
        values.append(kernel_distance(x1, y) - kernel_distance(x2, y))
        errors.append(kernel_difference_error(x1, x2, y))
        apart.append(math.hypot(kernel_distance_error(x1, y), kernel_distance_error(x2, y)))
    typical = math.sqrt(np.mean(np.square(errors)))
    assert typical == pytest.approx(np.std(values), rel=0.15)
    assert typical < 0.5 * math.sqrt(np.mean(np.square(apart)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_dtype_is_computed_in_float64(dtype: torch.dtype) -> None:
    # Far from zero, kernel values are near 1e9 and their differences near 1: float32 would give noise.
    x, y = gaussian(12, 4, seed=13, mean=32).to(dtype), gaussian(12, 4, seed=14, mean=32).to(dtype)
    assert kernel_distance(x.requires_grad_(), y) == pytest.approx(plain(x.detach().double(), y.double()), rel=1e-6)


def test_errors_and_values_that_are_not_finite() -> None:
    one, two, three = torch.zeros(1, 3), torch.randn(2, 3), torch.randn(3, 3)
    for function in (kernel_distance, kernel_distance_over_subsets, kernel_distance_error):
        for x, y in ((one, two), (two, one), (two[:0], two)):
            with pytest.raises(DataError, match=r"at least 2 images on each side, got \d and \d$"):
                function(x, y)
        with pytest.raises(AssertionError, match="two extractors"):
            function(two, torch.zeros(2, 4))
    with pytest.raises(DataError, match="at least 2 images"):
        kernel_difference_error(one, one, two)
    with pytest.raises(AssertionError, match="same sources"):
        kernel_difference_error(two, three, three)
    for size in (1, 3):
        with pytest.raises(DataError, match=rf"subsets of {size} images .* from 2 to 2"):
            kernel_distance_over_subsets(two, three, subset_size=size)
    # Nothing can be left out of two images, but their distance is defined.
    assert math.isfinite(kernel_distance(two, two + 1))
    assert math.isnan(kernel_distance_error(two, three))
    assert math.isnan(kernel_difference_error(three, three, two))
    assert math.isnan(kernel_distance(three, three * math.nan))
    assert math.isnan(kernel_distance_error(three, three * math.nan))


def test_global_random_states_are_left_alone() -> None:
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1]
    kernel_distance_over_subsets(torch.randn(4, 2, generator=torch.Generator()), torch.ones(4, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)
