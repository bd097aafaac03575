"""Nearest neighbours and the memorisation ratio, against hand-made sets and brute force."""

from __future__ import annotations

import math

import pytest
import torch

from cyclestyle.evaluation.memorisation import memorisation, nearest


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


def test_nearest_by_hand() -> None:
    distances, indices = nearest(column(0.0, 4.0, 9.0), column(10.0, 1.0, 5.0))
    assert distances.tolist() == [1.0, 1.0, 1.0]
    assert indices.tolist() == [1, 2, 0]


def test_nearest_agrees_with_brute_force_over_several_chunks() -> None:
    features, pool = torch.randn(600, 7), torch.randn(50, 7)
    table = torch.cdist(features.double(), pool.double(), compute_mode="donot_use_mm_for_euclid_dist")
    distances, indices = nearest(features, pool)
    torch.testing.assert_close(distances, table.min(1).values, rtol=1e-12, atol=0)
    assert torch.equal(indices, table.argmin(1))


def test_nearest_keeps_its_digits_far_from_the_origin() -> None:
    # |x|^2 is 4e12, neighbours are 2e-3 apart: |x|^2 + |y|^2 - 2 x.y would be noise, even in float64.
    pool = (1e6 + 1e-3 * torch.arange(10.0, dtype=torch.float64))[:, None].expand(-1, 4)
    distances, indices = nearest(pool + 1e-4, pool)
    torch.testing.assert_close(distances, torch.full((10,), 2e-4, dtype=torch.float64), rtol=1e-5, atol=0)
    assert indices.tolist() == list(range(10))


def test_a_picture_that_is_in_the_pool_is_at_distance_zero() -> None:
    pool = 100 + torch.randn(40, 300)
    distances, indices = nearest(pool[[3, 17]], pool)
    assert distances.tolist() == [0.0, 0.0]
    assert indices.tolist() == [3, 17]


def test_nearest_of_no_features() -> None:
    distances, indices = nearest(torch.zeros(0, 3), torch.zeros(2, 3))
    assert distances.shape == indices.shape == (0,)


def test_memorisation_by_hand() -> None:
    training = column(0.0, 100.0, 1000.0)
    # Outputs are 1, 2 and 9 from the nearest training picture, held-out ones 4 and 8: medians 2 and 6.
    outputs, held_out = column(1.0, 102.0, -9.0), column(4.0, 108.0)
    assert memorisation(outputs, held_out, training) == pytest.approx(2 / 6)


def test_copies_give_zero_and_unseen_pictures_about_one() -> None:
    training, held_out, unseen = torch.randn(200, 20), torch.randn(200, 20), torch.randn(200, 20)
    assert memorisation(training[:50], held_out, training) == 0.0
    assert memorisation(unseen, held_out, training) == pytest.approx(1.0, abs=0.05)
    # Near copies: noise of 0.05 in 20 dimensions is 0.22 away, where unseen points are about 3.6.
    assert memorisation(training + 0.05 * torch.randn(200, 20), held_out, training) < 0.1


@pytest.mark.parametrize("empty", [0, 1, 2])
def test_an_empty_set_has_no_ratio(empty: int) -> None:
    sets = [torch.randn(3, 2) for _ in range(3)]
    sets[empty] = torch.zeros(0, 2)
    assert math.isnan(memorisation(*sets))


def test_held_out_pictures_that_were_trained_on_have_no_ratio() -> None:
    training = torch.randn(5, 2)
    assert math.isnan(memorisation(torch.randn(3, 2), training[:3], training))
