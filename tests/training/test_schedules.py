"""Learning rates, written out by hand."""

from __future__ import annotations

import pytest

from cyclestyle.config.schema import OptimizerConfig
from cyclestyle.training.schedules import learning_rate_factor


def factors(num_steps: int, **options: object) -> list[float]:
    config = OptimizerConfig(**options)
    return [learning_rate_factor(step, num_steps, config) for step in range(num_steps)]


def test_constant() -> None:
    assert factors(3, schedule="constant") == [1.0, 1.0, 1.0]


def test_linear_is_flat_then_falls_straight() -> None:
    assert factors(8, schedule="linear", decay_start=0.5) == pytest.approx(
        # the first half is flat, then 4, 3, 2, 1 quarters of the second half are left
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25]
    )


def test_linear_from_the_start() -> None:
    assert factors(4, schedule="linear", decay_start=0.0) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_linear_that_never_falls() -> None:
    assert factors(4, schedule="linear", decay_start=1.0) == [1.0] * 4


def test_cosine_is_half_a_wave_and_never_climbs() -> None:
    found = factors(4, schedule="cosine", decay_start=0.0)
    # 0.5 * (1 - cos(pi * left)) for left = 1, 3/4, 1/2, 1/4
    assert found == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])
    assert factors(200, schedule="cosine") == sorted(factors(200, schedule="cosine"), reverse=True)


def test_step_halves_every_so_many_steps() -> None:
    assert factors(7, schedule="step", step_every=3, step_factor=0.5) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.25]


def test_warmup_rises_to_the_peak() -> None:
    assert factors(6, schedule="constant", warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_warmup_multiplies_the_schedule() -> None:
    # warm-up 1/2, 1, 1, 1 times linear 1, 3/4, 1/2, 1/4
    assert factors(4, schedule="linear", decay_start=0.0, warmup_steps=2) == pytest.approx([0.5, 0.75, 0.5, 0.25])
