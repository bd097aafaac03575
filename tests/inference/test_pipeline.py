"""Reading, computing and writing overlap; order, memory and failures stay in hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from cyclestyle.inference.pipeline import Stages, Threads, overlap


@dataclass
class Recorder:
    """Stages on integers: each counts its pixels in flight and can be told to fail or to take time."""

    pixels: Callable[[int], int] = lambda item: 1_000_000
    fails: dict[tuple[str, int], Exception] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    done: list[tuple[str, int]] = field(default_factory=list)
    chunks: list[list[int]] = field(default_factory=list)
    read_ahead: int = 0
    most_ahead: int = 0
    most_behind: int = 0
    behind: int = 0
    guard: Any = field(default_factory=threading.Lock)

    def stages(self) -> Stages[int]:
        return Stages(measure=self.measure, read=self.read, compute=self.compute, write=self.write)

    def _do(self, stage: str, item: int) -> None:
        time.sleep(self.seconds.get(stage, 0.0))
        if (stage, item) in self.fails:
            raise self.fails[stage, item]
        with self.guard:
            self.done.append((stage, item))

    def measure(self, item: int) -> int:
        self._do("measure", item)
        return self.pixels(item)

    def read(self, item: int) -> None:
        with self.guard:
            self.read_ahead += self.pixels(item)
            self.most_ahead = max(self.most_ahead, self.read_ahead)
        self._do("read", item)

    def compute(self, items: Sequence[int]) -> list[Exception | None]:
        self.chunks.append(list(items))
        with self.guard:
            self.read_ahead -= sum(map(self.pixels, items))
        time.sleep(self.seconds.get("compute", 0.0))
        with self.guard:
            self.behind += sum(map(self.pixels, items))
            self.most_behind = max(self.most_behind, self.behind)
        return [self.fails.get(("compute", item)) for item in items]

    def write(self, item: int) -> None:
        try:
            self._do("write", item)
        finally:
            with self.guard:
                self.behind -= self.pixels(item)


ONE = Threads(readers=1, writers=1, chunk=1)
MANY = Threads(readers=4, writers=4, chunk=8)


@pytest.mark.parametrize("threads", [ONE, MANY])
@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_every_item_once_and_in_order(threads: Threads, count: int) -> None:
    recorder = Recorder()
    assert list(overlap(range(count), recorder.stages(), threads)) == [(item, None) for item in range(count)]
    assert sorted(recorder.done) == sorted(
        (stage, item) for stage in ("measure", "read", "write") for item in range(count)
    )
    assert [item for chunk in recorder.chunks for item in chunk] == list(range(count))


@pytest.mark.parametrize("threads", [ONE, MANY])
def test_a_failure_is_its_items_alone(threads: Threads) -> None:
    fails = {(stage, item): MemoryError(stage) for item, stage in enumerate(("measure", "read", "compute", "write"), 3)}
    recorder = Recorder(fails=fails)
    outcomes = dict(overlap(range(20), recorder.stages(), threads))
    assert {item: str(error) for item, error in outcomes.items() if error} == {
        3: "measure", 4: "read", 5: "compute", 6: "write",
    }  # fmt: skip
    assert len(outcomes) == 20
    assert ("write", 5) not in recorder.done


@pytest.mark.parametrize("slow", ["read", "compute", "write"])
@pytest.mark.parametrize("threads", [ONE, MANY])
def test_pixels_in_flight_are_bounded(slow: str, threads: Threads) -> None:
    """Pictures of 1 to 10 megapixels, with one of 100 among them; the slow stage piles up what comes before it."""
    recorder = Recorder(pixels=lambda item: (100 if item == 17 else 1 + item % 10) * 1_000_000, seconds={slow: 0.002})
    assert len(list(overlap(range(60), recorder.stages(), threads))) == 60
    # The large one is read when it is awaited: beside it only what was read ahead, less than a chunk of it in hand.
    in_hand = 16_000_000 + 10_000_000 if threads.chunk > 1 else 0
    assert recorder.most_ahead <= 100_000_000 + 32_000_000 + in_hand
    assert recorder.most_behind <= 100_000_000 + 32_000_000 + in_hand
    recorder = Recorder(pixels=lambda item: 4_000_000, seconds={slow: 0.002})
    list(overlap(range(60), recorder.stages(), ONE))
    assert recorder.most_ahead <= 32_000_000 + 4_000_000
    assert recorder.most_behind <= 32_000_000 + 4_000_000


def test_a_picture_too_large_for_the_room_is_read_when_its_turn_has_come() -> None:
    recorder = Recorder(pixels=lambda item: 90_000_000)
    assert len(list(overlap(range(5), recorder.stages(), Threads(readers=3, writers=2, chunk=1)))) == 5
    # strictly one after the other
    assert recorder.most_ahead == recorder.most_behind == 90_000_000


def test_the_stages_overlap() -> None:
    """Reading item 2, computing item 1 and writing item 0 wait for each other: alone none would end."""
    meeting = threading.Barrier(3, timeout=20)
    recorder = Recorder()
    read, compute, write = recorder.read, recorder.compute, recorder.write

    def meet(stage: Callable[[Any], Any], item: Any, meets: bool) -> Any:
        if meets:
            meeting.wait()
        return stage(item)

    stages = Stages(
        measure=recorder.measure,
        read=lambda item: meet(read, item, item == 2),
        compute=lambda items: meet(compute, items, items == [1]),
        write=lambda item: meet(write, item, item == 0),
    )
    assert list(overlap(range(5), stages, ONE)) == [(item, None) for item in range(5)]


def test_stopping_early_writes_what_is_computed_and_reads_no_more() -> None:
    recorder = Recorder(seconds={"write": 0.01})
    results = overlap(range(1000), recorder.stages(), ONE)
    assert next(results) == (0, None)
    results.close()
    computed = {item for chunk in recorder.chunks for item in chunk}
    assert {item for stage, item in recorder.done if stage == "write"} == computed
    assert len(computed) < 100
    assert not any(thread.name.startswith(("read", "write")) for thread in threading.enumerate())


def test_a_signal_in_the_middle_of_computing_does_the_same() -> None:
    recorder = Recorder(seconds={"write": 0.01})
    compute = recorder.compute

    def interrupted(items: Sequence[int]) -> list[Exception | None]:
        if 5 in items:
            raise KeyboardInterrupt
        return compute(items)

    recorder.compute = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        list(overlap(range(1000), recorder.stages(), ONE))
    assert sorted(item for stage, item in recorder.done if stage == "write") == [0, 1, 2, 3, 4]


def test_division_of_cores() -> None:
    assert Threads.dividing(2, has_gpu=False) == Threads(1, 1, 1)
    assert Threads.dividing(64, has_gpu=False) == Threads(2, 2, 1)
    assert Threads.dividing(16, has_gpu=True) == Threads(8, 8, 16)
