"""The Fréchet distance: closed forms, scipy's matrix root and torch-fidelity as references, sums that lose nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.errors import DataError
from cyclestyle.evaluation.frechet import GaussianStatistics, frechet_distance, frechet_distance_of


def statistics(features: Tensor, splits: list[int] | None = None) -> GaussianStatistics:
    result = GaussianStatistics()
    for batch in features.split(splits or [len(features)]):
        result.add(batch)
    return result


def correlated(num: int, num_features: int, *, seed: int, offset: float = 0.0) -> Tensor:
    """Features whose directions differ in spread, as those of a network do."""
    random = torch.Generator().manual_seed(seed)
    mixing = torch.randn(num_features, num_features, generator=random, dtype=torch.float64) / math.sqrt(num_features)
    mixing = mixing * torch.logspace(0, -2, num_features, dtype=torch.float64)[:, None]
    return torch.randn(num, num_features, generator=random, dtype=torch.float64) @ mixing + offset


def exactly(mean: list[float], deviation: list[float], num: int) -> Tensor:
    """Features whose sample mean and (diagonal, unbiased) sample covariance are just these."""
    raw = torch.randn(num, len(mean), dtype=torch.float64)
    orthonormal, _ = torch.linalg.qr(raw - raw.mean(dim=0))  # its columns are orthogonal to the vector of ones, too
    return orthonormal * math.sqrt(num - 1) * torch.tensor(deviation) + torch.tensor(mean)


def reference(x: Tensor, y: Tensor) -> float:
    """Eq. 6 letter by letter, with scipy's matrix root of the D x D product."""
    linalg = pytest.importorskip("scipy.linalg", reason="scipy's matrix root is the reference")
    cov_x, cov_y = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    root = linalg.sqrtm(cov_x @ cov_y)
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * np.real(root)))


def test_one_dimension_by_hand() -> None:
    x = torch.tensor([[0.0], [2.0]])  # mean 1, variance 2
    y = torch.tensor([[0.0], [6.0]])  # mean 3, variance 18
    # (1 - 3)^2 + 2 + 18 - 2 sqrt(2 * 18) = 4 + 20 - 12
    assert frechet_distance_of(x, y) == pytest.approx(12.0, rel=1e-12)
    # The same line laid into five dimensions: fewer images than features, the route of small matrices.
    line = torch.tensor([[0.5, 0.5, -0.5, 0.5, 0.0]])
    assert frechet_distance_of(x @ line, y @ line) == pytest.approx(12.0, rel=1e-12)


@pytest.mark.parametrize("num", [6, 40])
def test_gaussians_of_known_mean_and_covariance(num: int) -> None:
    x = exactly([1.0, 0.0, -2.0, 5.0], [1.0, 2.0, 0.5, 0.0], num)
    y = exactly([1.0, 3.0, -2.0, 4.0], [3.0, 2.0, 1.0, 0.2], num + 3)
    # Diagonal covariances commute: sum of squared differences of means and of standard deviations.
    expected = (3.0**2 + 1.0**2) + (2.0**2 + 0.0 + 0.5**2 + 0.2**2)
    assert frechet_distance_of(x, y) == pytest.approx(expected, rel=1e-10)
    assert torch.allclose(statistics(y).covariance.diag(), torch.tensor([9.0, 4.0, 1.0, 0.04], dtype=torch.float64))


SIZES = {"many images": (200, 150), "few images": (20, 31), "few against many": (12, 90), "as many": (32, 33)}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_equals_the_matrix_root(sizes: tuple[int, int]) -> None:
    x, y = correlated(sizes[0], 32, seed=1), correlated(sizes[1], 32, seed=2, offset=0.1)
    # scipy's root of a singular product is good to about the root of the rounding error.
    few = min(sizes) <= 32
    assert frechet_distance_of(x, y) == pytest.approx(reference(x, y), rel=1e-6 if few else 1e-10)


def test_small_matrices_give_what_covariances_give() -> None:
    x, y = correlated(20, 64, seed=1), correlated(30, 64, seed=2, offset=0.1)
    folded_x, folded_y = statistics(x), statistics(y)
    folded_x._fold()
    folded_y._fold()
    assert folded_x.factor().shape == (64, 64)
    assert statistics(x).factor().shape == (20, 64)
    by_covariances = frechet_distance(folded_x, folded_y)
    assert frechet_distance_of(x, y) == pytest.approx(by_covariances, rel=1e-7)
    assert frechet_distance(statistics(x), folded_y) == pytest.approx(by_covariances, rel=1e-7)


def test_features_that_never_vary_or_vary_together() -> None:
    """More images than features, but covariances without full rank."""
    x, y = correlated(90, 12, seed=1), correlated(70, 12, seed=2, offset=0.1)
    expected = frechet_distance_of(x, y)
    dead_x, dead_y = (torch.cat([v, torch.ones(len(v), 3)], dim=1) for v in (x, y))
    assert frechet_distance_of(dead_x, dead_y) == pytest.approx(expected, rel=1e-7)
    # Turned into more dimensions, distances stay.
    turn, _ = torch.linalg.qr(torch.randn(20, 12, dtype=torch.float64))
    turned = statistics(x @ turn.T)
    assert torch.linalg.matrix_rank(turned.covariance) == 12
    assert torch.allclose(turned.factor().T @ turned.factor(), turned.covariance, atol=1e-14)
    assert frechet_distance(turned, statistics(y @ turn.T)) == pytest.approx(expected, rel=1e-6)


def test_few_images_make_no_square_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> Tensor:
        raise AssertionError("a D x D matrix was asked for")

    monkeypatch.setattr(torch.linalg, "eigh", forbidden)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", forbidden)
    monkeypatch.setattr(GaussianStatistics, "_fold", forbidden)
    # Their covariances would take 80 GB each.
    x, y = torch.randn(6, 100_000), torch.randn(5, 100_000)
    assert frechet_distance_of(x, y) > 0


@pytest.mark.parametrize("num", [8, 100], ids=["few", "many"])
def test_identity_and_symmetry(num: int) -> None:
    x, y = correlated(num, 24, seed=3), correlated(num + 5, 24, seed=4)
    assert 0.0 <= frechet_distance_of(x, x) < 1e-9
    assert 0.0 <= frechet_distance_of(x, x.flip(0)) < 1e-9
    assert frechet_distance_of(x, y) == pytest.approx(frechet_distance_of(y, x), rel=1e-9)
    # A shift of all features by one vector adds its squared length.
    assert frechet_distance_of(x, x + 0.5) == pytest.approx(24 * 0.25, rel=1e-9)


SPLITS = {
    "one by one": [1] * 50,
    "in two": [25, 25],
    "small, then large": [1, 49],
    "large, then small": [49, 1],
    "with an empty one": [0, 13, 0, 37],
    "over the border": [9, 2, 2, 37],
}


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("num_features", [10, 80])
def test_streaming_equals_one_shot(splits: list[int], num_features: int) -> None:
    features = correlated(50, num_features, seed=5, offset=3.0)
    streamed = statistics(features, splits)
    assert streamed.count == 50
    assert torch.allclose(streamed.mean, features.mean(dim=0), rtol=1e-12)
    expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    assert torch.allclose(streamed.covariance, expected, rtol=1e-10, atol=1e-14)
    other = correlated(60, num_features, seed=6)
    whole = frechet_distance_of(features, other)
    assert frechet_distance(streamed, statistics(other)) == pytest.approx(whole, rel=1e-9)


def test_a_large_offset_does_not_cancel() -> None:
    features = correlated(300, 6, seed=7)
    expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False))
    far = features + 1e4

    def relative_error(covariance: Tensor) -> float:
        return ((covariance - expected).abs().max() / expected.abs().max()).item()

    naive = (far.T @ far - 300 * torch.outer(far.mean(0), far.mean(0))) / 299
    assert relative_error(naive) > 1e-9  # what this test is about
    for splits in ([300], [1] * 300, [150, 150]):
        assert relative_error(statistics(far, splits).covariance) < 1e-11
    assert frechet_distance_of(far, far) < 1e-9
    y = correlated(200, 6, seed=8)
    assert frechet_distance_of(far, y + 1e4) == pytest.approx(frechet_distance_of(features, y), rel=1e-8)


def test_later_changes_to_a_batch_do_not_count() -> None:
    features = correlated(5, 8, seed=9)
    result = statistics(features)
    mean = result.mean
    features.zero_()
    result.mean.zero_()
    assert torch.equal(result.mean, mean)
    assert not torch.equal(mean, torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_any_dtype_is_summed_in_float64(dtype: torch.dtype) -> None:
    features = correlated(20, 4, seed=10).to(dtype)
    result = statistics(features.requires_grad_())
    assert result.mean.dtype == result.covariance.dtype == torch.float64
    assert not result.mean.requires_grad
    assert torch.allclose(result.mean, features.detach().double().mean(dim=0), rtol=1e-12)


@pytest.mark.parametrize("sizes", [(150, 100), (25, 40)], ids=["many", "few"])
def test_agrees_with_torch_fidelity(sizes: tuple[int, int]) -> None:
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is the reference")
    x, y = correlated(sizes[0], 64, seed=11).float(), correlated(sizes[1], 64, seed=12, offset=0.1).float()
    theirs = fid.fid_statistics_to_metric(
        fid.fid_features_to_statistics(x), fid.fid_features_to_statistics(y), verbose=False
    )
    assert frechet_distance_of(x, y) == pytest.approx(theirs[fid.KEY_METRIC_FID], rel=1e-4)


def test_few_images_bias_it_upwards() -> None:
    """What the docstring warns of: two sets of one kind, the distance shrinks with their number."""
    draws = torch.randn(2, 640, 8)
    few, some, many = (frechet_distance_of(draws[0, :num], draws[1, :num]) for num in (10, 80, 640))
    assert few > 3 * some > 9 * many > 0


def test_errors_and_values_that_are_not_finite() -> None:
    one, two = torch.zeros(1, 3), torch.zeros(2, 3)
    for x, y in ((one, two), (two, one), (two[:0], two)):
        with pytest.raises(DataError, match=r"at least 2 images on each side, got [01]$"):
            frechet_distance_of(x, y)
    with pytest.raises(DataError, match="at least 1"):
        _ = GaussianStatistics().mean
    with pytest.raises(DataError, match="at least 2"):
        _ = statistics(one).covariance
    for value in (math.nan, math.inf):
        for num in (2, 9):
            assert math.isnan(frechet_distance_of(torch.full((num, 3), value), torch.randn(num, 3)))
    with pytest.raises(AssertionError, match="N x D"):
        GaussianStatistics().add(torch.zeros(3))
    with pytest.raises(AssertionError, match="unequal"):
        statistics(two).add(torch.zeros(2, 4))
