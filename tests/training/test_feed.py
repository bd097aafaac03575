"""feed.py: whose batch a step gets, when chance decides about it, and what counts as waiting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.data.loader import build_data
from cyclestyle.errors import DataError
from cyclestyle.networks.build import memory_format
from cyclestyle.training import feed as feed_module
from cyclestyle.training.feed import Feed

from .helpers import Toy

CPU = torch.device("cpu")


class Drawing(Toy):
    """Draws a number a batch, and tells when."""

    def __init__(self, when: Callable[[str], None] = lambda _: None) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(7)
        self.when = when

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        self.when(f"draw {int(batch.real_a[0, 0, 0, 0])}")
        return {"coin": torch.rand(len(batch), generator=self.random)}


def numbered(count: int, when: Callable[[str], None] = lambda _: None) -> Iterator[UnpairedBatch]:
    """Batches of two images; A holds the batch's number, B its negative."""
    for number in range(count):
        when(f"load {number}")
        a = torch.full((2, 3, 4, 5), float(number))
        yield UnpairedBatch(a, -a)


def following(feed: Feed) -> list[UnpairedBatch]:
    return feed.hand_over(feed.fetch())


def numbers(parts: list[UnpairedBatch]) -> list[tuple[float, float]]:
    return [(part.real_a.mean().item(), part.real_b.mean().item()) for part in parts]


@pytest.mark.parametrize("num_parts", [1, 2, 3])
def test_steps_get_the_parts_in_the_loaders_order_to_the_last(num_parts):
    feed = Feed(numbered(2 * num_parts), Drawing(), CPU, num_parts)
    for step in range(2):
        first = step * num_parts
        assert numbers(following(feed)) == [(number, -number) for number in range(first, first + num_parts)]
    with pytest.raises(StopIteration):
        following(feed)


def test_nothing_is_loaded_or_drawn_before_its_step():
    seen: list[str] = []
    method = Drawing(seen.append)
    feed = Feed(numbered(4, seen.append), method, CPU, num_parts=2)
    assert seen == []
    following(feed)
    assert seen == ["load 0", "load 1", "draw 0", "draw 1"]
    state = method.random.get_state()  # what a checkpoint after the first step would hold
    second = following(feed)
    assert seen[4:] == ["load 2", "load 3", "draw 2", "draw 3"]
    method.random.set_state(state)
    for part in second:
        assert torch.equal(part.draws["coin"], torch.rand(2, generator=method.random))


def test_each_part_has_draws_of_its_own():
    expected = torch.rand(8, generator=torch.Generator().manual_seed(7))
    feed = Feed(numbered(4), Drawing(), CPU, num_parts=2)
    drawn = [part.draws["coin"] for _ in range(2) for part in following(feed)]
    assert torch.equal(torch.cat(drawn), expected)


def test_waiting_is_what_the_loader_takes_and_nothing_else(monkeypatch):
    now = 0.0

    def pass_time(event: str) -> None:
        nonlocal now
        now += 2.0 if event.startswith("load") else 100.0

    monkeypatch.setattr(feed_module.time, "perf_counter", lambda: now)
    feed = Feed(numbered(6, pass_time), Drawing(pass_time), CPU, num_parts=2)
    assert feed.waited == 0.0
    following(feed)
    assert feed.waited == 4.0
    now += 1000.0  # the step
    following(feed)
    assert feed.waited == 8.0
    feed.waited = 0.0  # as the trainer does when it has logged it
    following(feed)
    assert feed.waited == 4.0


def test_waiting_by_the_real_clock():
    feed = Feed(numbered(2, lambda _: time.sleep(0.02)), Drawing(), CPU, num_parts=2)
    following(feed)
    assert 0.04 <= feed.waited < 4.0  # other work may hold this process up


def test_on_the_processor_nothing_changes_but_the_layout():
    random = torch.Generator().manual_seed(3)
    batch = UnpairedBatch(torch.rand(2, 3, 4, 5, generator=random), torch.rand(2, 3, 4, 5, generator=random))
    (part,) = following(Feed(iter([batch]), Drawing(), CPU, num_parts=1))
    for given, got in ((batch.real_a, part.real_a), (batch.real_b, part.real_b)):
        assert torch.equal(got, given)
        assert got.dtype == torch.float32
        assert got.device == CPU
        assert got.is_contiguous(memory_format=memory_format(CPU))


def test_what_the_loader_cannot_read_reaches_the_trainer():
    def broken() -> Iterator[UnpairedBatch]:
        yield from numbered(3)
        raise DataError("no image of domain a can be read any more")

    drawn: list[str] = []
    feed = Feed(broken(), Drawing(drawn.append), CPU, num_parts=2)
    following(feed)
    drawn.clear()
    with pytest.raises(DataError, match="no image of domain a"):
        following(feed)
    assert drawn == []  # so that what is saved now, and resumed from, has drawn nothing for the step that never came


@pytest.mark.parametrize("num_workers", [0, 1])
def test_parts_of_a_real_batch_are_the_batch(dataset, num_workers):
    config = DataConfig(
        root=str(dataset), a=DomainConfig(name="photo"), b=DomainConfig(name="painting"), load_size=20, crop_size=16,
        num_workers=num_workers,
    )  # fmt: skip
    data = build_data(config, seed=0, device_type="cpu")
    whole = Feed(data.batches(0, 3, 4), Drawing(), CPU, num_parts=1)
    halves = Feed(data.batches(0, 6, 2), Drawing(), CPU, num_parts=2)
    for _ in range(3):
        (one,), two = following(whole), following(halves)
        for part_of in (lambda batch: batch.real_a, lambda batch: batch.real_b, lambda batch: batch.draws["coin"]):
            assert torch.equal(torch.cat([part_of(part) for part in two]), part_of(one))


# ------------------------------------------------------------------------------------------------------ an NVIDIA GPU

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="streams and events need an NVIDIA GPU")
LONG = 300_000_000
"""Cycles that a stand-in for a step takes: 0.1 s at 3 GHz, more on slower ones."""


def pinned(count: int, when: Callable[[str], None] = lambda _: None) -> Iterator[UnpairedBatch]:
    for batch in numbered(count, when):
        yield batch.pin_memory()


def launch_long_step() -> torch.cuda.Event:
    """Keep the GPU busy; the event comes to pass when it is done."""
    torch.cuda._sleep(LONG)
    done = torch.cuda.Event()
    done.record()
    return done


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    torch.cuda.synchronize()
    yield torch.device("cuda")
    torch.cuda.synchronize()


@on_a_gpu
def test_batches_arrive_on_the_gpu_whole(gpu):
    feed = Feed(pinned(20), Drawing(), gpu, num_parts=2)
    coins = torch.rand(40, generator=torch.Generator().manual_seed(7))
    for step in range(10):
        parts = following(feed)
        for part in parts:
            assert {tensor.device.type for tensor in part.tensors()} == {"cuda"}
            assert part.real_a.is_contiguous(memory_format=memory_format(gpu))
        # Read on the computing stream at once, which must have waited for the copies.
        sums = [part.real_a.sum() + 1000 * part.real_b.sum() for part in parts]
        assert [value.item() for value in sums] == [number * 120 * -999 for number in (2 * step, 2 * step + 1)]
        drawn = torch.cat([part.draws["coin"] for part in parts]).cpu()
        assert torch.equal(drawn, coins[4 * step : 4 * step + 4])


@on_a_gpu
def test_batches_are_copied_while_the_step_runs(gpu):
    feed = Feed(pinned(2), Drawing(), gpu, num_parts=1)
    following(feed)
    step = launch_long_step()
    following(feed)
    assert feed._stream is not None
    feed._stream.synchronize()
    assert not step.query(), "the copy waited for the step"


@on_a_gpu
def test_the_processor_runs_one_step_ahead_and_no_more(gpu):
    feed = Feed(pinned(6), Drawing(), gpu, num_parts=1)
    following(feed)
    steps = []
    for _ in range(5):
        steps.append(launch_long_step())
        following(feed)
        assert not steps[-1].query(), "waited for the step that was launched last"
        assert all(step.query() for step in steps[:-1]), "ran more than one step ahead"


@on_a_gpu
def test_nothing_has_waited_while_the_gpu_was_busy(gpu):
    feed = Feed(pinned(3, lambda _: time.sleep(0.01)), Drawing(), gpu, num_parts=1)
    following(feed)
    feed.waited = 0.0
    launch_long_step()
    following(feed)
    assert feed.waited == 0.0
    torch.cuda.synchronize()
    following(feed)
    assert feed.waited >= 0.01
