"""sampling.py: the order of the images, as a pure function of seed and position."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from cyclestyle.data.sampling import index_at, sample_seed, share_of_batch

GOLDEN_ORDER = [5, 6, 3, 0, 2, 4, 1, 0, 2, 1, 3, 6, 4, 5]
GOLDEN_SEEDS = [328631007472994766, 5885374847780205031, 9031345972442330140]


def draws(first, end, num_images=7, seed=3, domain="a"):
    return [index_at(p, num_images=num_images, seed=seed, domain=domain) for p in range(first, end)]


def test_each_epoch_shows_each_image_once():
    for epoch in range(5):
        assert sorted(draws(7 * epoch, 7 * epoch + 7)) == list(range(7))


def test_epochs_domains_and_seeds_have_orders_of_their_own():
    orders = [tuple(draws(50 * epoch, 50 * epoch + 50, 50, seed, domain)) for epoch in (0, 1) for seed in (0, 1)
              for domain in "ab"]  # fmt: skip
    assert len(set(orders)) == 8


def test_any_position_directly_and_in_any_order():
    forward = draws(0, 40)
    assert [draws(p, p + 1)[0] for p in reversed(range(40))] == forward[::-1]


def test_far_out():
    assert draws(7 * 10**12, 7 * 10**12 + 7) != draws(0, 7)
    assert draws(0, 3, num_images=1) == [0, 0, 0]


def test_the_order_is_the_same_everywhere_and_for_ever():
    # Written down once: runs that are resumed on another machine or version depend on it.
    assert draws(0, 14) == GOLDEN_ORDER
    assert [sample_seed(0, "a", 0), sample_seed(0, "b", 0), sample_seed(-5, "a", 123)] == GOLDEN_SEEDS


def test_other_processes_agree():
    code = "from cyclestyle.data.sampling import *; print(index_at(5, num_images=1000, seed=1, domain='b'))"
    results = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": salt}, capture_output=True, check=True
        ).stdout
        for salt in ("1", "2")
    }
    assert results == {b"%d\n" % index_at(5, num_images=1000, seed=1, domain="b")}


def test_every_start_is_as_likely():
    # 3000 epochs of 3 images: the first is each of them 1000 times, give or take sqrt(3000 * 2/9) = 26
    firsts = Counter(index_at(3 * epoch, num_images=3, seed=0, domain="a") for epoch in range(3000))
    assert all(abs(count - 1000) < 5 * 26 for count in firsts.values())


def test_seeds_of_samples_differ():
    seeds = {sample_seed(seed, domain, position) for seed in (0, 1) for domain in "ab" for position in range(1000)}
    assert len(seeds) == 4000
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (8, 2), (8, 3), (7, 4), (2, 5)])
def test_ranks_together_are_one_process(batch_size, world_size):
    shares = [share_of_batch(batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert [place for share in shares for place in share] == list(range(batch_size))


def test_wrong_ranks_and_positions_are_our_mistake():
    with pytest.raises(AssertionError):
        share_of_batch(4, rank=2, world_size=2)
    with pytest.raises(AssertionError):
        index_at(-1, num_images=4, seed=0, domain="a")
