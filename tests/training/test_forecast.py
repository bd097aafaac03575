"""What a run will take: arithmetic with a stand-in for the steps, and what the steps that are tried really are."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint
from cyclestyle.config.loading import load_config, to_mapping
from cyclestyle.config.schema import Config
from cyclestyle.data.counting import count_images
from cyclestyle.errors import ConfigError, DataError
from cyclestyle.training import fitting, forecast, learner, probing
from cyclestyle.training.probing import Between, Probe, Task

from ..conftest import TINY

GIB = 2**30


def probe_of(batch: int, *, idle: int = 90, fixed: int = 100, slope: float = 7, seconds: float = 0.01) -> Probe:
    """What steps take that need `fixed + slope * batch` bytes and `seconds * batch` seconds."""
    return Probe(
        micro_batch=batch, num_measured=3, seconds=seconds * batch, fastest=seconds * batch, slowest=seconds * batch,
        processor_seconds=2 * seconds * batch, idle_bytes=idle, peak_bytes=round(fixed + slope * batch),
        host_bytes=round(fixed + slope * batch), free_bytes=0, precision="fp32 (as configured)",
    )  # fmt: skip


BETWEEN = Between(
    look_seconds=0.02, grid_seconds=0.5, evaluation_seconds=4.0, evaluation_bytes=GIB // 2, num_scored=8,
    num_directions=2, checkpoint_bytes=100_000_000, translators_bytes=40_000_000,
    parameters={"generators": 3, "discriminators": 1},
)  # fmt: skip


class StandIn:
    """Steps whose memory is a straight line; remembers what it was asked to try."""

    def __init__(self, runs_out_at: float = float("inf"), **line: Any) -> None:
        self.tasks: list[Task] = []
        self._line = line
        self._runs_out_at = runs_out_at

    def __call__(self, config: Config, task: Task) -> Probe | None:
        self.tasks.append(task)
        if task.micro_batch >= self._runs_out_at:
            return None
        found = probe_of(task.micro_batch, **self._line)
        if not task.is_watched:
            return found
        missing = {} if task.is_evaluated else {"evaluation_seconds": 0.0, "evaluation_bytes": 0}
        return replace(found, between=replace(BETWEEN, **missing))

    def take(self, batch: int, *, is_short: bool) -> Probe | None:
        return self(None, Task(micro_batch=batch, seconds=1.0, is_short=is_short))  # type: ignore[arg-type]

    @property
    def batches(self) -> list[int]:
        return [task.micro_batch for task in self.tasks]


# ------------------------------------------------------------------------------------------------ which batches


def try_batches(stand_in: StandIn, wanted: int = 1, *, limit: float = 1000.0, **more: Any) -> fitting.Tried:
    first = stand_in.take(1, is_short=False)
    assert first is not None
    return fitting.try_batches(stand_in.take, first, wanted, **{"limit": limit, "seconds": 20.0, **more})


def test_the_largest_batch_is_where_the_line_meets_the_limit() -> None:
    stand_in = StandIn()
    tried = try_batches(stand_in)
    assert tried.largest == (1000 - 100) // 7 == 128
    assert stand_in.batches == [1, 2, 128]  # beyond the run's own batch of 1 for the line, then the largest itself
    assert [task.is_short for task in stand_in.tasks] == [False, True, True]
    assert tried.is_sure
    assert tried.bytes_at(50) == 100 + 7 * 50


def test_the_runs_own_batch_is_measured_in_full() -> None:
    stand_in = StandIn()
    tried = try_batches(stand_in, wanted=16)
    assert stand_in.batches == [1, 16, 128]
    assert not stand_in.tasks[1].is_short
    assert tried.probes[16].peak_bytes == tried.bytes_at(16)


def test_what_would_take_long_follows_from_smaller_batches() -> None:
    stand_in = StandIn(seconds=1.0)
    tried = try_batches(stand_in, wanted=32, seconds=20.0)
    assert stand_in.batches == [1, 5, 10]  # four steps of 5, two of 10
    assert tried.seconds_at(32) == pytest.approx(32.0)
    assert tried.bytes_at(32) == 100 + 7 * 32
    assert (tried.largest, tried.is_sure) == (128, False)


def test_two_are_tried_however_long_it_takes() -> None:
    stand_in = StandIn(seconds=1000.0)
    tried = try_batches(stand_in, wanted=8)
    assert stand_in.batches == [1, 2]
    assert tried.bytes_at(8) == 156


def test_nothing_is_tried_that_will_not_fit() -> None:
    stand_in = StandIn()
    tried = try_batches(stand_in, wanted=64, limit=105)  # not even batch 1, which takes 107
    assert (stand_in.batches, tried.largest) == ([1], 0)
    stand_in = StandIn()
    tried = try_batches(stand_in, wanted=64, limit=150)
    assert max(stand_in.batches) <= 7
    assert tried.largest == 7


def test_a_batch_that_runs_out_of_memory_bounds_the_rest() -> None:
    stand_in = StandIn(runs_out_at=100)
    tried = try_batches(stand_in)
    assert stand_in.batches == [1, 2, 128]
    assert (tried.largest, tried.is_sure) == (102, False)  # 0.8 of what failed
    tried = try_batches(StandIn(runs_out_at=2))
    assert tried.largest == 1


def test_trying_leaves_others_their_memory() -> None:
    stand_in = StandIn()
    tried = try_batches(stand_in, limit=5000.0, is_shared=True)
    assert stand_in.batches == [1, 2, 16]
    assert (tried.largest, tried.is_sure) == (700, False)
    stand_in = StandIn(fixed=0, idle=0)
    tried = try_batches(stand_in, limit=140.0, is_shared=True)
    assert stand_in.batches == [1, 2, 10]  # half of it
    assert tried.largest == 20


def test_noise_makes_no_falling_line() -> None:
    line = fitting.line_through({1: 500.0, 2: 480.0}, least_slope=3.0)
    assert line == fitting.Line(474.0, 3.0)
    assert line.reach(534.0) == 20
    assert line.reach(100.0) == 0
    assert fitting.line_through({0: 1.0, 1: 2.0, 3: 10.0}) == fitting.Line(-2.0, 4.0)  # the two largest count


# ------------------------------------------------------------------------------------------------ pictures


def test_pictures_are_counted_by_their_headers(tiny: list[str], dataset: Path) -> None:
    (dataset / "trainA" / "broken_body.png").write_bytes((dataset / "trainA" / "picture_00.png").read_bytes()[:60])
    images = count_images(load_config(None, [*tiny, "train.steps=1"]).data, "cpu")
    assert images.names == ("photo", "painting")
    assert (images.num_train, images.num_test, images.epoch) == ((6, 3), (2, 2), 6)
    # 40 x 36 pictures of 3 bytes a pixel, 20 on the shorter side, each from a multiple of 64 bytes on
    assert images.cache_bytes == 9 * 1344 >= 9 * 22 * 20 * 3
    off = load_config(None, [*tiny, "train.steps=1", "data.cache=off", "data.num_workers=3"]).data
    assert (count_images(off, "cpu").cache_bytes, count_images(off, "cpu").num_workers) == (0, 3)


def test_a_broken_folder_is_refused_as_a_run_would(tiny: list[str], dataset: Path) -> None:
    for index in range(2):
        (dataset / "trainB" / f"broken_{index}.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"2 of 5 images of painting"):
        count_images(load_config(None, [*tiny, "train.steps=1"]).data, "cpu")


def test_the_sample_set_is_counted_but_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(None, [*TINY, "data.root=datasets/landscapes", "train.epochs=2", "output_dir=runs"])
    found = forecast.forecast(config, prober=StandIn())
    assert (found.images.num_train, found.images.num_test) == ((200, 200), (24, 24))
    assert found.num_steps == 400
    assert [note for note in found.notes if "datasets/landscapes is not there" in note]
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ a run's figures


def plan(settings: list[str], *more: str, stand_in: Callable[..., Any] | None = None) -> forecast.Forecast:
    config = load_config(None, [*settings, "evaluate.every=4", *more])
    return forecast.forecast(config, prober=stand_in or StandIn(idle=0, fixed=GIB, slope=GIB // 8, seconds=0.1))


def test_length_and_time(tiny: list[str]) -> None:
    found = plan(tiny, "train.epochs=4", "train.batch_size=2", "doctor.every=10")
    assert (found.num_steps, found.num_epochs) == (10, 4.0)  # 5 images in the larger domain
    assert found.seconds_per_step == pytest.approx(0.2 + 0.02 / 10)
    assert found.images_per_second == pytest.approx(2 / 0.202)
    assert found.processor_seconds_per_step == pytest.approx(0.402)
    seconds = found.seconds
    # Each is due every 4 steps and at the end: 4, 8, 10.
    assert (seconds.num_evaluations, seconds.num_grids, seconds.num_checkpoints) == (3, 3, 3)
    assert seconds.steps == pytest.approx(2.02)
    assert seconds.evaluations == pytest.approx(3 * 4.0 * 2 / 8)  # 2 test pictures, 8 were timed
    assert seconds.grids == pytest.approx(3 * 0.5 * 2)  # log.num_samples=2
    assert seconds.checkpoints == pytest.approx(3 * 0.14e9 / forecast.WRITE_SPEED)
    assert seconds.total == pytest.approx(2.02 + 3 + 3 + 2.1)
    assert found.to_json()["seconds"]["total"] == pytest.approx(seconds.total)


def test_disk(tiny: list[str]) -> None:
    disk = plan(tiny, "train.steps=20", "train.keep_checkpoints=3").disk
    assert disk.num_checkpoints == 3 + 1  # and the best
    assert disk.total == 4 * 100_000_000 + 40_000_000 + disk.grids
    assert plan(tiny, "train.steps=3").disk.num_checkpoints == 1 + 1
    assert plan(tiny, "train.steps=3", "evaluate.every=0").disk.num_checkpoints == 1


def test_memory_is_that_of_steps_and_what_is_kept_beside_them(tiny: list[str]) -> None:
    memory = plan(tiny, "train.steps=4").memory
    # Of 20 px: 2 + 2 test pictures, and 5 + 3 to find copies of.
    kept = 8 * 1344 + (2 + 2 + 5 + 3) * 3 * 20 * 20
    assert memory.cache == 8 * 1344
    assert memory.steps == GIB + GIB // 8 + kept == memory.peak == memory.host
    assert memory.evaluations == GIB // 2 + kept
    assert plan(tiny, "train.steps=4", "data.num_workers=2").memory.workers == 2 * forecast.WORKER_BYTES
    assert plan(tiny, "train.steps=4", "evaluate.every=0", "data.cache=off").memory.peak == GIB + GIB // 8


def test_evaluations_may_take_more_than_steps(tiny: list[str], dataset: Path) -> None:
    stand_in = StandIn(idle=0, fixed=1000, slope=10)
    memory = plan(tiny, "train.steps=4", stand_in=stand_in).memory
    assert memory.peak == memory.evaluations > memory.steps
    assert [task.is_evaluated for task in stand_in.tasks[:2]] == [True, False]
    for number in range(7):  # 9 pictures: one more than was tried
        (dataset / "testA" / f"more_{number}.png").write_bytes((dataset / "testA" / "picture_00.png").read_bytes())
    more = plan(tiny, "train.steps=4", stand_in=stand_in).memory
    picture = 3 * 20 * 20
    assert more.evaluations - memory.evaluations == 7 * picture + 6 * 4 * picture


def test_without_test_pictures_enough_nothing_is_scored(tiny: list[str], dataset: Path) -> None:
    (dataset / "testB" / "picture_01.png").unlink()
    stand_in = StandIn()
    found = plan(tiny, "train.steps=4", stand_in=stand_in)
    assert not stand_in.tasks[0].is_evaluated
    assert (found.seconds.num_evaluations, found.memory.evaluations) == (0, 0)


def test_accumulation_counts_what_goes_through_at_once(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "free_memory", lambda: 10 * GIB)
    monkeypatch.setattr(forecast, "used_memory", lambda _: 0)
    more = ["train.steps=4", "evaluate.every=0", "data.cache=off"]
    found = plan(tiny, *more, "train.batch_size=8", "optimizer.accumulation=4")
    assert found.memory.steps == GIB + 2 * GIB // 8
    assert found.largest_batch == 4 * 64  # (0.9 * 10 - 1) * 8 = 64 at once
    assert found.tried == (4, 8, 64)
    assert plan(tiny, *more, "train.batch_size=8").largest_batch == 64


# ------------------------------------------------------------------------------------------------ what does not fit


@pytest.fixture
def small_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """3 GiB free, of which a training may take 2.7."""
    monkeypatch.setattr(forecast, "free_memory", lambda: 2 * GIB)
    monkeypatch.setattr(forecast, "used_memory", lambda _: GIB)  # of the process that plans


@pytest.mark.usefixtures("small_machine")
def test_a_batch_that_does_not_fit_names_the_knobs_and_what_would(tiny: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(tiny, "train.steps=4", "train.batch_size=16")
    assert str(caught.value) == (
        "does not fit: train.batch_size=16 at data.crop_size=16 takes about 3.0 GiB of cpu memory, 2.7 GiB can be had; "
        "set train.checkpointing=true, set train.batch_size=13 or less, lower data.crop_size or generator.filters, "
        "or raise optimizer.accumulation"
    )
    assert plan(tiny, "train.steps=4", "train.batch_size=13").largest_batch == 13
    with pytest.raises(ConfigError, match=r"can be had; lower data.crop_size or generator.filters$"):
        plan(tiny, "train.steps=4", "train.checkpointing=true", stand_in=StandIn(idle=0, fixed=3 * GIB))


@pytest.mark.usefixtures("small_machine")
def test_workers_evaluations_and_kept_pictures_may_not_fit_either(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert plan(tiny, "train.steps=4", "train.batch_size=12", "data.num_workers=1")
    with pytest.raises(ConfigError, match=r"train.batch_size=5 or less"):  # 16 workers take 1 GiB
        plan(tiny, "train.steps=4", "train.batch_size=12", "data.num_workers=16")
    monkeypatch.setattr(sys.modules[__name__], "BETWEEN", replace(BETWEEN, evaluation_bytes=3 * GIB))
    with pytest.raises(ConfigError, match=r"an evaluation takes 3.0 GiB.*evaluate.num_images"):
        plan(tiny, "train.steps=4")
    config = load_config(None, [*tiny, "train.steps=4", "evaluate.every=0"])
    large = replace(count_images(config.data, "cpu"), cache_bytes=2 * GIB)
    monkeypatch.setattr(forecast, "count_images", lambda *_: large)
    with pytest.raises(ConfigError, match=r"2.0 GiB of it pictures.*data.cache=off"):
        plan(tiny, "train.steps=4", "evaluate.every=0")


def test_what_runs_out_of_memory_at_once(tiny: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"train.batch_size=1 at data.crop_size=16 ran out of memory on cpu; set"):
        plan(tiny, "train.steps=4", stand_in=StandIn(runs_out_at=1))


# ------------------------------------------------------------------------------------------------ the steps tried


def measured(settings: list[str], *more: str, **task: Any) -> Probe:
    config = load_config(None, [*settings, "train.steps=5", *more])
    return probing.measure(config, Task(**{"micro_batch": 1, "seconds": 0.01, **task}))


@pytest.mark.parametrize("again", [False, True])
def test_the_steps_are_those_of_the_run(tiny: list[str], monkeypatch: pytest.MonkeyPatch, again: bool) -> None:
    seen: list[dict[str, Any]] = []
    learn = learner.learn

    def spy(method: Any, optimization: Any, precision: Any, parts: Any) -> Any:
        seen.append({"method": method, "precision": precision.name, "shapes": [each.real_b.shape for each in parts]})
        return learn(method, optimization, precision, parts)

    monkeypatch.setattr(learner, "learn", spy)
    found = measured(
        tiny, f"train.checkpointing={again}", "train.precision=bf16", "optimizer.accumulation=3", "train.batch_size=9",
        "generator.filters=6", "method.pool_size=40", micro_batch=3,
    )  # fmt: skip
    assert len(seen) == 2 + 2  # to warm up, and the fewest that are timed
    assert found.num_measured == 2
    last = seen[-1]
    assert last["precision"] == "bf16"
    assert last["shapes"] == [(3, 3, 16, 16)] * 2  # the third part brings nothing new
    assert [last["method"].get_submodule(name).recomputes for name in ("gen_ab", "gen_ba")] == [again, again]
    assert last["method"].gen_ab.state_dict()["model.1.weight"].shape[0] == 6
    assert len(last["method"].pool_a.images) == 40  # as after some hundred steps; 24 went through
    assert found.seconds >= found.fastest > 0
    assert found.peak_bytes >= found.idle_bytes > 0


def test_a_short_probe_takes_two_steps(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    count = []
    learn = learner.learn
    monkeypatch.setattr(learner, "learn", lambda *args, **more: (count.append(1), learn(*args, **more))[1])
    assert measured(tiny, is_short=True).num_measured == 1
    assert len(count) == 2
    assert measured(tiny, seconds=1000.0).num_measured == 5  # quick steps end at five


def test_checkpoints_weigh_what_was_said(tiny: list[str]) -> None:
    between = measured(tiny, "method.pool_size=3", is_watched=True, is_evaluated=True).between
    assert between is not None
    run = cyclestyle.train(load_config(None, [*tiny, "train.steps=4", "method.pool_size=3", "evaluate.every=0"]))
    state = load_checkpoint(run / "checkpoints" / "step_00000004.pt")

    def weight(value: Any) -> int:
        if isinstance(value, torch.Tensor):
            return value.nbytes
        inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
        return sum(map(weight, inside))

    assert between.checkpoint_bytes == sum(weight(state[name]) for name in ("method", "averages", "optimization"))
    assert between.translators_bytes == weight(state["averages"])
    assert between.parameters["generators"] == 2 * sum(map(torch.numel, state["averages"]["gen_ab"].values()))
    assert between.evaluation_seconds > 0
    assert between.grid_seconds > 0
    assert between.look_seconds > 0


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_nothing_is_written(tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.setenv("CYCLESTYLE_CACHE", str(empty / "cache"))
    before = tree(tmp_path)
    found = forecast.forecast(load_config(None, [*tiny, "train.steps=5"]), seconds=0.01, prober=probing.measure)
    assert found.memory.peak > 0
    assert tree(tmp_path) == before


# ------------------------------------------------------------------------------------------------ their process


def test_a_process_of_its_own(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ballast = torch.zeros(300 * 2**20 // 4)  # of this process, not of that one
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = probing.probe(load_config(None, [*tiny, "train.steps=5"]), Task(micro_batch=2, seconds=0.01, is_short=True))
    assert found is not None
    assert (found.micro_batch, found.num_measured, found.between) == (2, 1, None)
    if sys.platform == "linux":
        assert found.idle_bytes <= found.peak_bytes < own_bytes() - ballast.nbytes // 2


def own_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answer_of(config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the process would say, without starting one."""
    request = {"config": to_mapping(config), "task": {"micro_batch": 1, "seconds": 0.01}}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(request)))
    monkeypatch.setattr(probing.Path, "write_text", lambda *_: 0)  # else this process were the first to go
    probing.main()
    answer: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return answer


def test_running_out_of_memory_is_an_answer(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(None, [*tiny, "train.steps=5"])

    def fail(error: Exception) -> None:
        def raises(*_: object) -> None:
            print("chatter of a library")
            raise error

        monkeypatch.setattr(probing, "measure", raises)

    fail(torch.OutOfMemoryError("CUDA out of memory"))
    assert answer_of(config, monkeypatch, capsys) == {"probe": None, "error": None}
    fail(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert answer_of(config, monkeypatch, capsys) == {"probe": None, "error": None}
    fail(ConfigError("no such extractor"))
    assert answer_of(config, monkeypatch, capsys) == {"probe": None, "error": "no such extractor"}
    fail(RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        answer_of(config, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("code", "out", "expected"),
    [
        (-getattr(signal, "SIGKILL", 9), "", None),
        (0, '{"probe": null, "error": null}\n', None),
        (0, '{"probe": null, "error": "no GPU"}\n', "ConfigError: no GPU"),
        (1, "", "RuntimeError: the probe ended with code 1: Traceback"),
    ],
)
def test_what_the_process_says(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, code: int, out: str, expected: str | None
) -> None:
    done = subprocess.CompletedProcess([], code, out, "Traceback")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    config, task = load_config(None, [*tiny, "train.steps=5"]), Task(micro_batch=1, seconds=1.0)
    if expected is None:
        assert probing.probe(config, task) is None
        return
    with pytest.raises((ConfigError, RuntimeError)) as caught:
        probing.probe(config, task)
    assert f"{type(caught.value).__name__}: {caught.value}" == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu_its_memory_counts(tiny: list[str]) -> None:
    found = measured(tiny, "train.device=cuda", is_watched=True)
    assert found.free_bytes > found.peak_bytes == torch.cuda.max_memory_reserved() > 0
    assert found.num_measured >= 2
    config = load_config(None, [*tiny, "train.device=cuda", "train.steps=5"])
    forecasted = forecast.forecast(config, seconds=0.01)
    assert forecasted.device == "cuda"
    assert forecasted.memory.host > forecasted.memory.cache
