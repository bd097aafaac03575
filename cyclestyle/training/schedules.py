"""Learning rates over a run: pure functions of the step, so that a resumed run needs no state for them."""

from __future__ import annotations

import math

from cyclestyle.config.schema import OptimizerConfig


def learning_rate_factor(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """What the peak learning rate is multiplied by in one step.

    Args:
        step: steps taken before this one, 0 .. num_steps - 1.
        num_steps: length of the run.
        config: names the schedule and its options.

    Returns:
        A number in (0, 1]: warm-up times schedule.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "step":
        return warmup * config.step_factor ** (step // config.step_every)
    if config.schedule == "constant":
        return warmup
    start = config.decay_start * num_steps
    if step < start:
        return warmup
    # From 1 in the first step of the decay towards 0, which the step after the last would have.
    left = (num_steps - step) / (num_steps - start)
    return warmup * (left if config.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left)))
