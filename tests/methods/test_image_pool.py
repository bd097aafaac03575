"""The pool: fills first, then swaps half of the time, replays exactly from its state; draws are made ahead."""

from __future__ import annotations

import pytest
import torch

from cyclestyle.methods.image_pool import ImagePool


def numbered(first: int, count: int) -> torch.Tensor:
    """Images that carry their number in every pixel."""
    return torch.arange(first, first + count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()


def query(pool: ImagePool, fakes: torch.Tensor) -> torch.Tensor:
    return pool.query(fakes, pool.draw(fakes.shape))


def numbers(images: torch.Tensor) -> list[int]:
    return [int(image[0, 0, 0]) for image in images]


def test_size_zero_hands_back_what_it_gets() -> None:
    fakes = numbered(0, 3)
    assert query(ImagePool(0, seed=0), fakes) is fakes


def test_fills_before_it_shows_anything_old() -> None:
    pool = ImagePool(4, seed=0)
    assert numbers(query(pool, numbered(0, 3))) == [0, 1, 2]
    assert numbers(query(pool, numbered(3, 1))) == [3]
    assert [int(image[0, 0, 0]) for image in pool.images] == [0, 1, 2, 3]


def test_shows_old_images_half_of_the_time_and_keeps_each_image_once() -> None:
    pool = ImagePool(50, seed=0)
    query(pool, numbered(0, 50))
    shown = numbers(query(pool, numbered(50, 2000)))
    old = sum(image != number for image, number in zip(shown, range(50, 2050), strict=True))
    # Binomial(2000, 1/2): standard deviation 22.4; five of them.
    assert abs(old - 1000) < 112
    # An image that is shown leaves the pool: nothing is lost and nothing doubled.
    assert sorted(shown + [int(image[0, 0, 0]) for image in pool.images]) == list(range(2050))


def test_replaced_places_are_spread_over_the_pool() -> None:
    pool = ImagePool(10, seed=0)
    query(pool, numbered(0, 10))
    query(pool, numbered(10, 400))
    # After 200 swaps no place still holds its first image (chance 10 * 0.9^200 < 1e-8).
    assert min(int(image[0, 0, 0]) for image in pool.images) >= 10


def test_goes_on_from_its_state_as_if_never_stopped() -> None:
    pool = ImagePool(5, seed=7)
    query(pool, numbered(0, 20))
    resumed = ImagePool(5, seed=99)
    resumed.load_state_dict(pool.state_dict())
    assert numbers(query(pool, numbered(20, 50))) == numbers(query(resumed, numbered(20, 50)))


def test_empty_pool_survives_a_round_trip() -> None:
    resumed = ImagePool(5, seed=1)
    resumed.load_state_dict(ImagePool(5, seed=0).state_dict())
    assert len(resumed.images) == 0
    assert numbers(query(resumed, numbered(0, 2))) == [0, 1]


def test_keeps_a_copy_that_later_changes_do_not_reach() -> None:
    pool = ImagePool(1, seed=0)
    fakes = numbered(1, 1)
    query(pool, fakes)
    fakes.zero_()
    assert int(pool.images[0][0, 0, 0]) == 1


def test_refuses_images_that_carry_a_graph() -> None:
    with pytest.raises(AssertionError, match="detach"):
        query(ImagePool(1, seed=0), numbered(0, 1).requires_grad_())
