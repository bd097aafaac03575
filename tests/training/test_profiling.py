"""The trace is read back as JSON; the table is compared with events made by hand."""

from __future__ import annotations

import gzip
import importlib.util
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from cyclestyle.training import profiling
from cyclestyle.training.profiling import NUM_WARM_UP, Item, Profile, summarise, table

CPU = torch.device("cpu")
USER = 7


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="cyclestyle")


def learn() -> None:
    with record_function("generators"):
        torch.ones(4).mul(2)
    with record_function("discriminators"):
        torch.ones(4).add(2)


def loop(profile: Profile, num_steps: int, step: Callable[[], object] = learn) -> None:
    with profile:
        for _ in range(num_steps):
            with profile.step():
                step()
            torch.ones(4).cosh()  # between two steps


def read(path: Path) -> Counter[tuple[str, str]]:
    """How often an event of a kind and a name is in a trace."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    return Counter((event["cat"], event["name"]) for event in events if event["ph"] == "X")


def steps_of(path: Path) -> list[str]:
    return sorted(name for kind, name in read(path) if kind == "user_annotation" and name.startswith("ProfilerStep"))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for message in caplog.messages for line in message.splitlines()]


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def is_free() -> bool:
    """Whether the profiler was left as it was found: torch allows one at a time."""
    with profile(activities=[ProfilerActivity.CPU]) as other:
        torch.ones(4).mul(2)
    return any(event.name == "aten::mul" for event in other.events() or [])


def test_the_steps_after_the_warm_up_are_recorded_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = iter(range(100))

    def step() -> None:
        learn()
        is_early = next(count) < NUM_WARM_UP
        (torch.sinh if is_early else torch.tanh)(torch.ones(4))

    loop(Profile(tmp_path / "profile", 3, CPU, start=1000), NUM_WARM_UP + 3 + 4, step)

    last = 1000 + NUM_WARM_UP + 3
    (path,) = (tmp_path / "profile").iterdir()
    assert path.name == f"step_{last:08d}.pt.trace.json.gz"
    assert steps_of(path) == [f"ProfilerStep#{number}" for number in (last - 2, last - 1, last)]
    events = read(path)
    assert events["user_annotation", "generators"] == events["user_annotation", "discriminators"] == 3
    assert events["cpu_op", "aten::mul"] == events["cpu_op", "aten::tanh"] == 3
    assert events["cpu_op", "aten::sinh"] == 0
    assert events["cpu_op", "aten::cosh"] == 2  # between the recorded steps, and not after the last
    assert not warnings(caplog)
    assert is_free()


def test_shapes_are_recorded_and_stacks_are_not(tmp_path: Path) -> None:
    loop(Profile(tmp_path, 1, CPU), NUM_WARM_UP + 1)
    (path,) = tmp_path.iterdir()
    with gzip.open(path, "rt", encoding="utf-8") as file:
        trace = json.load(file)
    (mul,) = [event for event in trace["traceEvents"] if event["name"] == "aten::mul"]
    assert mul["args"]["Input Dims"] == [[4], []]
    assert not any(event.get("cat") == "python_function" for event in trace["traceEvents"])


def test_nothing_is_done_for_no_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(profiling, "profile", None)
    profile = Profile(tmp_path / "profile", 0, CPU)
    assert profile.step() is profile.step()
    loop(profile, NUM_WARM_UP + 5)
    assert not (tmp_path / "profile").exists()
    assert not caplog.records


def test_a_run_that_ends_early_leaves_what_was_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loop(Profile(tmp_path, 5, CPU), NUM_WARM_UP + 2)
    (path,) = tmp_path.iterdir()
    assert path.name == f"step_{NUM_WARM_UP + 2:08d}.pt.trace.json.gz"
    assert len(steps_of(path)) == 2
    assert warnings(caplog) == ["train.profile=5: the run ended after 2 of them"]


@pytest.mark.parametrize("num_steps", [0, 1, NUM_WARM_UP - 1, NUM_WARM_UP])
def test_a_run_that_ends_in_the_warm_up_leaves_nothing(
    num_steps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    profile = Profile(tmp_path / "profile", 5, CPU)
    loop(profile, num_steps)
    profile.close()  # a second time
    assert not (tmp_path / "profile").exists()
    assert warnings(caplog) == [
        f"train.profile=5: no step was recorded: the run ended after {num_steps}, "
        f"and the first {NUM_WARM_UP} only warm up"
    ]
    assert "disableProfiler" not in capfd.readouterr().err  # torch, where a profile is ended before it began
    assert is_free()


@pytest.mark.parametrize("num_whole", [0, 2])
def test_a_step_that_fails_is_none_of_the_recorded_ones(
    num_whole: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    count = iter(range(100))

    def step() -> None:
        torch.ones(4).tanh()
        if next(count) == NUM_WARM_UP + num_whole:
            raise KeyError("a step of the trainer's")

    with pytest.raises(KeyError, match="a step of the trainer's"):
        loop(Profile(tmp_path, 5, CPU), 100, step)
    assert len(list(tmp_path.iterdir())) == (num_whole > 0)
    calls = [message for message in said(caplog) if message.endswith("aten::tanh")]
    assert all("1.0 calls" in line for line in calls)
    assert len(calls) == (num_whole > 0)
    assert is_free()


def test_a_second_profile_leaves_the_first_trace_alone(tmp_path: Path) -> None:
    """A run that was killed before its first checkpoint takes the same steps again."""
    loop(Profile(tmp_path, 1, CPU, start=7), NUM_WARM_UP + 1)
    (path,) = tmp_path.iterdir()
    first = path.read_bytes()
    loop(Profile(tmp_path, 1, CPU, start=7), NUM_WARM_UP + 1)
    loop(Profile(tmp_path, 1, CPU, start=7), NUM_WARM_UP + 1)
    stem = f"step_{7 + NUM_WARM_UP + 1:08d}"
    assert sorted(path.name.removesuffix(".pt.trace.json.gz") for path in tmp_path.iterdir()) == [
        stem, f"{stem}_2", f"{stem}_3"
    ]  # fmt: skip
    assert path.read_bytes() == first


def test_a_full_disk_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    resource = pytest.importorskip("resource", reason="only Unix can limit the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    num_done = 0

    def step() -> None:
        nonlocal num_done
        learn()
        num_done += 1

    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, hard))
    try:
        loop(Profile(tmp_path, 2, CPU), NUM_WARM_UP + 4, step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert num_done == NUM_WARM_UP + 4
    assert list(tmp_path.iterdir()) == []
    (line,) = warnings(caplog)
    assert "is the disk full?" in line
    assert any("aten::mul" in message for message in caplog.messages)  # the table is for stderr


def test_a_folder_that_cannot_be_made_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "profile").write_text("a file")
    loop(Profile(tmp_path / "profile", 1, CPU), NUM_WARM_UP + 3)
    (line,) = warnings(caplog)
    assert line.startswith("profiling failed (FileExistsError")
    assert line.endswith("; training goes on without")


def test_a_trace_that_was_cut_off_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Older versions of the profiler's library leave the part that fitted, and say nothing."""
    whole = profile.export_chrome_trace

    def cut_off(self: object, path: str) -> None:
        whole(self, path)
        Path(path).write_bytes(Path(path).read_bytes()[:-100])

    monkeypatch.setattr(profile, "export_chrome_trace", cut_off)
    loop(Profile(tmp_path, 1, CPU), NUM_WARM_UP + 1)
    assert list(tmp_path.iterdir()) == []
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize("stage", ["prepare_trace", "start_trace", "stop_trace", "events"])
def test_a_profiler_that_fails_is_one_warning(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CUPTI that the driver does not let in, say."""
    works = getattr(profile, stage)

    def fail(self: object) -> None:
        if stage == "stop_trace":
            works(self)  # else torch goes on recording
        raise RuntimeError("CUPTI is not allowed")

    monkeypatch.setattr(profile, stage, fail)
    count = iter(range(100))
    loop(Profile(tmp_path, 1, CPU), NUM_WARM_UP + 3, lambda: next(count))
    assert next(count) == NUM_WARM_UP + 3
    assert warnings(caplog) == ["profiling failed (RuntimeError: CUPTI is not allowed); training goes on without"]
    assert len(list(tmp_path.iterdir())) == (stage == "events")  # the trace is written all the same


@pytest.mark.parametrize("has_plugin", [False, True])
def test_it_says_where_the_trace_is_and_what_opens_it(
    has_plugin: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if has_plugin else None)
    loop(Profile(tmp_path, 1, CPU), NUM_WARM_UP + 1)
    (path,) = tmp_path.iterdir()
    assert str(path) in caplog.messages[-1]
    assert "https://ui.perfetto.dev" in caplog.messages[-1]
    assert ("TensorBoard" in caplog.messages[-1]) == has_plugin
    # torch_tb_profiler/consts.py of torch-tb-profiler 0.4.3: worker, span in nanoseconds, ending
    assert re.match(r"^(.*?)(\.\d+)?\.pt\.trace\.json(?:\.gz)?$", path.name)


def test_the_table_of_a_real_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def step() -> None:
        with record_function("generators"):
            x = torch.ones(64, 64, requires_grad=True)
            (x.sin() + x.cos() * x.exp() - x.tanh().sigmoid() / x.abs().sqrt()).relu().square().mean().backward()

    loop(Profile(tmp_path, 2, CPU), NUM_WARM_UP + 2, step)
    head, *rows, _ = said(caplog)
    assert head.startswith(f"profile of steps {NUM_WARM_UP + 1} to {NUM_WARM_UP + 2}: ")
    assert len(rows) == 10
    shares = [float(row.split("%")[0]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 100.1  # each is rounded
    names = [row.split()[-1] for row in rows]
    assert len(set(names)) == 10
    assert not {"generators", "ProfilerStep*", "aten::cosh"} & set(names)


def on_cpu(
    name: str, start: float, end: float, *children: FunctionEvent, thread: int = 1, scope: int = 0
) -> FunctionEvent:
    event = FunctionEvent(id=0, name=name, thread=thread, start_us=start, end_us=end, scope=scope)
    for child in children:
        event.append_cpu_child(child)
    return event


def on_gpu(name: str, start: float, end: float) -> FunctionEvent:
    return FunctionEvent(id=0, name=name, thread=7, start_us=start, end_us=end, device_type=DeviceType.CUDA)


def everything(*roots: FunctionEvent) -> Iterator[FunctionEvent]:
    for root in roots:
        yield root
        yield from everything(*root.cpu_children)


def launches(event: FunctionEvent, *kernels: FunctionEvent) -> FunctionEvent:
    for kernel in kernels:
        event.append_kernel(kernel.name, 0, kernel.time_range.elapsed_us())
    return event


def test_times_on_the_processor_are_an_operations_own() -> None:
    events = everything(
        on_cpu(
            "ProfilerStep*", 0, 100,
            on_cpu(
                "generators", 10, 90,
                on_cpu("conv", 10, 70, on_cpu("copy", 20, 30)),
                on_cpu("copy", 75, 85),
                scope=USER,
            ),
            scope=USER,
        ),
        on_cpu("picture", 110, 190),  # between the steps
        on_cpu("ProfilerStep*", 200, 300, on_cpu("conv", 200, 290), scope=USER),
        on_cpu("ProfilerStep*", 400, 500, on_cpu("conv", 400, 500), scope=USER),  # failed half-way
    )  # fmt: skip
    summary = summarise(list(events), 2, on_gpu=False)
    assert summary.items == {"conv": Item(50 + 90, 2), "copy": Item(20, 2)}
    assert summary.whole == summary.elapsed == 200
    assert table(summary, 6, 7) == [
        "profile of steps 6 to 7: 0.10 ms a step with the profiler's own cost, 80% of it in operations; "
        "the largest operations by their own time (CPU), a step:",
        " 70.0%      0.07 ms      1.0 calls  conv",
        " 10.0%      0.01 ms      1.0 calls  copy",
    ]


def test_times_on_a_gpu_are_those_of_kernels_by_the_operation_that_launched_them() -> None:
    matmul, layout, between, replayed = (
        on_gpu("sm90_gemm", 120, 160), on_gpu("nchw_to_nhwc", 160, 170), on_gpu("sm90_gemm", 175, 180),
        on_gpu("sm90_gemm", 300, 330),
    )  # fmt: skip
    conv = launches(on_cpu("aten::conv", 10, 30), matmul, layout)
    backward = launches(on_cpu("ConvolutionBackward0", 40, 90, thread=2), on_gpu("dgrad", 180, 252))
    events = [
        *everything(on_cpu("ProfilerStep*", 0, 100, conv, scope=USER)),
        backward,  # autograd's thread
        launches(on_cpu("aten::conv", 110, 115), between),  # a sample grid
        *everything(on_cpu("ProfilerStep*", 200, 220, on_cpu("cudaGraphLaunch", 205, 210), scope=USER)),
        matmul, layout, between, replayed, on_gpu("dgrad", 180, 252),
        on_gpu("ProfilerStep*", 120, 330),  # annotations show on the GPU's time line too
    ]  # fmt: skip
    summary = summarise(events, 2, on_gpu=True)
    assert summary.items == {
        "aten::conv": Item(40 + 10, 1), "ConvolutionBackward0": Item(72, 1), "sm90_gemm": Item(30, 1)
    }  # fmt: skip
    assert summary.whole == 152
    assert summary.elapsed == 330
    head, *rows = table(summary, 6, 7)
    assert "0.17 ms a step" in head
    assert "0.08 ms of it work for the GPU" in head
    assert [row.split()[-1] for row in rows] == ["ConvolutionBackward0", "aten::conv", "sm90_gemm"]
    assert [row.split()[0] for row in rows] == ["47.4%", "32.9%", "19.7%"]


def test_long_names_of_kernels_are_cut() -> None:
    events = [on_cpu("ProfilerStep*", 0, 10, scope=USER), on_gpu("void at::native::" + "x" * 500, 5, 8)]
    _, row = table(summarise(events, 1, on_gpu=True), 6, 6)
    assert row.endswith("xxx...")
    assert len(row) < 140
