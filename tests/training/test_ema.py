"""The averaged generators against the recurrence in numbers."""

from __future__ import annotations

import pytest
import torch

from cyclestyle.config.schema import EmaConfig
from cyclestyle.training.ema import Averages

from .helpers import Toy


def set_all(toy: Toy, value: float) -> None:
    for parameter in toy.gen_ab.parameters():
        torch.nn.init.constant_(parameter, value)


def test_follows_the_recurrence() -> None:
    toy = Toy()
    set_all(toy, 0.0)
    averages = Averages(toy, EmaConfig(decay=0.9, warmup=False))
    set_all(toy, 1.0)
    for step, expected in enumerate([0.1, 0.19, 0.271], start=1):  # 1 - 0.9^step
        averages.update(step)
        for parameter in averages.generators["gen_ab"].parameters():
            torch.testing.assert_close(parameter, torch.full_like(parameter, expected))


def test_warmup_averages_over_fewer_steps_at_first() -> None:
    averages = Averages(Toy(), EmaConfig(decay=0.5))
    # (1 + step) / (10 + step) until it reaches the decay at step 8
    assert [averages.decay_at(step) for step in (1, 2, 8, 100)] == pytest.approx([2 / 11, 3 / 12, 0.5, 0.5])


def test_decay_zero_is_the_newest_weights() -> None:
    toy = Toy()
    averages = Averages(toy, EmaConfig(decay=0.0))
    set_all(toy, 0.25)
    averages.update(1)
    for parameter in averages.generators["gen_ab"].parameters():
        assert torch.equal(parameter, torch.full_like(parameter, 0.25))


def test_decay_zero_takes_no_memory_and_a_resume_keeps_the_newest_weights() -> None:
    toy = Toy()
    averages = Averages(toy, EmaConfig(decay=0.0))
    averaged = averages.generators["gen_ab"]
    sources = {tensor.data_ptr() for tensor in (*toy.gen_ab.parameters(), *toy.gen_ab.buffers())}
    assert {tensor.data_ptr() for tensor in (*averaged.parameters(), *averaged.buffers())} == sources
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    older = {name: {key: torch.zeros_like(value) for key, value in state.items()}
             for name, state in averages.state_dict().items()}  # fmt: skip
    set_all(toy, 0.25)
    averages.load_state_dict(older)  # of a run that averaged so far
    assert all(torch.equal(parameter, torch.full_like(parameter, 0.25)) for parameter in toy.gen_ab.parameters())


def test_buffers_are_copied_not_averaged() -> None:
    toy = Toy()
    averages = Averages(toy, EmaConfig(decay=0.999))
    toy.gen_ab[1](torch.rand(4, 3, 2, 2) + 5)  # moves the running mean
    averages.update(1)
    assert torch.equal(averages.generators["gen_ab"][1].running_mean, toy.gen_ab[1].running_mean)
    assert averages.generators["gen_ab"][1].num_batches_tracked == 1


def test_is_a_copy_in_eval_mode_without_gradients() -> None:
    toy = Toy()
    averaged = Averages(toy, EmaConfig()).generators["gen_ab"]
    assert not averaged.training
    assert toy.gen_ab.training
    assert not any(parameter.requires_grad for parameter in averaged.parameters())
    assert all(parameter.requires_grad for parameter in toy.gen_ab.parameters())
    assert averaged[0].weight.data_ptr() != toy.gen_ab[0].weight.data_ptr()


def test_state_survives_a_round_trip() -> None:
    averages, other = Averages(Toy(), EmaConfig()), Averages(Toy(), EmaConfig())
    other.load_state_dict(averages.state_dict())
    assert torch.equal(other.generators["gen_ab"][0].weight, averages.generators["gen_ab"][0].weight)
