"""Recorded steps: what surrounds a CUDA graph, with a stand-in on the CPU; the real one where there is a GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import CycleGANConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig, OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.methods.cyclegan import CycleGAN
from cyclestyle.networks.build import memory_format
from cyclestyle.training.learning import Learned, learn
from cyclestyle.training.optimization import Optimization
from cyclestyle.training.recorded_step import RecordedStep

FP32 = Precision("fp32", "")


class Rerunning:
    """Records nothing: a replay runs the function again and puts its results where the first ones were."""

    def __init__(self) -> None:
        self.num_warm_ups = self.num_replays = 0

    def warm_up(self, function: Callable[[], Learned]) -> Learned:
        self.num_warm_ups += 1
        return function()

    def record(self, function: Callable[[], Learned]) -> tuple[Learned, Callable[[], None]]:
        learned = Learned([], {}, {})

        def replay() -> None:
            self.num_replays += 1
            result = function()
            if not learned.scalars:
                learned.scalars.extend({name: value.clone() for name, value in part.items()} for part in result.scalars)
                learned.norms.update({name: value.clone() for name, value in result.norms.items()})
                learned.translations.update(result.translations)
            for kept, new in zip(learned.scalars, result.scalars, strict=True):
                for name, value in new.items():
                    kept[name].copy_(value)

        return learned, replay


class Failing(Rerunning):
    def __init__(self, error: RuntimeError) -> None:
        super().__init__()
        self.error = error

    def record(self, function: Callable[[], Learned]) -> tuple[Learned, Callable[[], None]]:
        raise self.error


def train(
    device: torch.device,
    wrap: Callable[[Callable[[Sequence[UnpairedBatch]], Learned]], Callable[..., Learned]],
    parts: int,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Ten steps of a small CycleGAN with a pool and a schedule: scalars of each, and the weights at the end."""
    torch.manual_seed(0)
    method = CycleGAN(
        CycleGANConfig(pool_size=2),
        GeneratorConfig(filters=4, blocks=1, init_gain=0.1),
        DiscriminatorConfig(filters=4, layers=1, init_gain=0.1),
        channels=3,
        seed=0,
    ).to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    config = OptimizerConfig(accumulation=parts, decay_start=0.0)
    optimization = Optimization(method, config, FP32, device, num_steps=10)
    step = wrap(lambda given: learn(method, optimization, FP32, given))
    rows = []
    for number in range(10):
        given = []
        for _ in range(parts):
            batch = UnpairedBatch(torch.rand(2, 3, 16, 16) * 2 - 1, torch.rand(2, 3, 16, 16) * 2 - 1)
            given.append(replace(batch, draws=method.draw(batch)).to(device, memory_format(device)))
        optimization.start_step(number)
        learned = step(given)
        rows += [{name: value.item() for name, value in part.items()} for part in learned.scalars]
        rows.append({name: value.item() for name, value in learned.norms.items()})
    return rows, {name: value for name, value in method.state_dict().items() if isinstance(value, Tensor)}


@pytest.mark.parametrize("parts", [1, 2])
def test_replayed_steps_are_the_plain_ones(parts: int) -> None:
    recorder = Rerunning()
    cpu = torch.device("cpu")
    expected, weights = train(cpu, lambda step: step, parts)
    rows, found = train(cpu, lambda step: RecordedStep(step, recorder), parts)
    assert (recorder.num_warm_ups, recorder.num_replays) == (3, 7)
    assert [row for row in rows if "cycle_a" in row] == [row for row in expected if "cycle_a" in row]
    assert all(torch.equal(found[name], value) for name, value in weights.items())


def batch_of(value: float, size: int = 2) -> UnpairedBatch:
    return UnpairedBatch(torch.full((size, 3, 4, 4), value), torch.full((size, 3, 4, 4), value + 1))


def test_a_recording_reads_its_own_memory() -> None:
    seen = []

    def step(parts: Sequence[UnpairedBatch]) -> Learned:
        seen.append((parts[0].real_a.data_ptr(), parts[0].real_a.mean().item(), parts[0].real_b.mean().item()))
        return Learned([{}], {}, {})

    recorded = RecordedStep(step, Rerunning())
    kept = [batch_of(float(number)) for number in range(6)]
    for batch in kept:
        recorded([batch])
    assert [(a, b) for _, a, b in seen] == [(float(n), n + 1.0) for n in range(6)]
    assert len({pointer for pointer, _, _ in seen[3:]}) == 1
    assert [batch.real_a.mean().item() for batch in kept] == list(range(6))  # the given ones were left alone


def test_another_shape_is_no_silent_broadcast() -> None:
    recorded = RecordedStep(lambda parts: Learned([{}], {}, {}), Rerunning())
    for number in range(4):
        recorded([batch_of(float(number))])
    with pytest.raises(AssertionError, match="recorded with"):
        recorded([batch_of(0.0, size=1)])


def test_what_cannot_be_recorded_is_said_once_and_trained_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    expected, weights = train(cpu, lambda step: step, 1)
    failing = Failing(RuntimeError("operation not permitted when stream is capturing"))
    with caplog.at_level(logging.WARNING, "cyclestyle"):
        rows, found = train(cpu, lambda step: RecordedStep(step, failing), 1)
    assert rows == expected
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert [record.message for record in caplog.records] == [
        "the step could not be recorded as a CUDA graph, training goes on without: "
        "operation not permitted when stream is capturing"
    ]


def test_want_of_memory_is_not_taken_for_a_step_that_cannot_be_recorded() -> None:
    failing = Failing(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        train(torch.device("cpu"), lambda step: RecordedStep(step, failing), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need an NVIDIA GPU")
@pytest.mark.parametrize("parts", [1, 2])
def test_a_cuda_graph_takes_the_plain_steps(parts: int) -> None:
    cuda = torch.device("cuda")
    expected, weights = train(cuda, lambda step: step, parts)
    rows, found = train(cuda, RecordedStep, parts)
    for row, plain in zip(rows, expected, strict=True):
        assert row == pytest.approx(plain, rel=1e-4)
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)
