"""Where the time of a learning step goes: a few steps under torch.profiler, as a trace and as a table.

The trace is gzipped Chrome JSON, `step_XXXXXXXX.pt.trace.json.gz`, named after the last step in it. To look at it:

- Perfetto (https://ui.perfetto.dev, drop the file there) or chrome://tracing: nothing to install, the file stays on the
  machine. This is what PyTorch recommends now.
- TensorBoard alone shows no traces. With `pip install torch-tb-profiler` (0.4.3 is its last release; PyTorch calls it
  deprecated) its tab PYTORCH_PROFILER finds the folder under `--logdir`. tensorboard-plugin-profile (XProf) is of no
  use here: it reads what JAX, TensorFlow and PyTorch/XLA write.

Shapes of the inputs are recorded, stacks and memory are not: a step of the paper's networks is then about 0.3 MB.
"""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import logging
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from cyclestyle.checkpoint import replacing

logger = logging.getLogger("cyclestyle")

SUFFIX = ".pt.trace.json.gz"
"""What TensorBoard's plugin looks for; Perfetto and chrome://tracing take any name."""

NUM_WARM_UP = 5
"""Steps before the first recorded one: algorithms are chosen, moments and pools made, the CUDA graph recorded."""

_STEP = "ProfilerStep"
"""Annotation of a recorded step, `ProfilerStep#12`: the plugin finds its steps by this name. Events say `*` for 12."""

_USER_SCOPE = 7  # at::RecordScope::USER_SCOPE: what `record_function` marks
_NOTHING = nullcontext()


class Profile:
    """Records a few learning steps, once, soon after the start of a training; never ends the training.

    It is used as a context manager around the loop, with `step` around each step. On the thread that trains.

    Args:
        folder: where the trace goes; made when it is written.
        num_steps: how many steps are recorded; 0: none, and nothing is done at all.
        device: that trains. On an NVIDIA GPU its kernels are recorded too.
        start: steps that the run had taken before; the steps here are numbered from `start + 1` on.
    """

    def __init__(self, folder: Path, num_steps: int, device: torch.device, *, start: int = 0) -> None:
        self._folder = folder
        self._num_steps = num_steps
        self._device = device
        self._start = start
        self._num_taken = 0
        self._profiler: profile | None = None
        self._is_recording = False
        self._is_done = num_steps <= 0

    def __enter__(self) -> Profile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def step(self) -> AbstractContextManager[None]:
        """Surrounds one learning step; after the last one that is recorded, the trace and the table are written."""
        return _NOTHING if self._is_done else self._step()

    @contextmanager
    def _step(self) -> Iterator[None]:
        if self._num_taken == NUM_WARM_UP - 1:
            self._attempt(self._prepare)
        elif self._num_taken == NUM_WARM_UP:
            self._attempt(self._record)
        number = self._start + self._num_taken + 1
        with record_function(f"{_STEP}#{number}") if self._is_recording else _NOTHING:
            yield
        self._num_taken += 1
        if self._num_taken == NUM_WARM_UP + self._num_steps:
            self.close()

    def close(self) -> None:
        """Write what was recorded so far, if it was not written yet; the run may have ended early."""
        if not self._is_done:
            self._is_done = True
            self._attempt(self._stop)
            self._profiler = None  # it holds every event

    def _prepare(self) -> None:
        """What takes long at first: on a GPU, hundreds of milliseconds that belong to no step."""
        is_on_gpu = self._device.type == "cuda"
        if not is_on_gpu:  # else it prints that it found no GPU, as an error
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")
        self._profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_on_gpu else [])], record_shapes=True
        )
        self._profiler.prepare_trace()

    def _record(self) -> None:
        assert self._profiler is not None
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # else the end of the steps before is recorded too
        self._profiler.start_trace()
        self._is_recording = True

    def _stop(self) -> None:
        num_recorded = max(self._num_taken - NUM_WARM_UP, 0)
        if self._profiler is not None:
            if not self._is_recording:  # a preparation cannot be taken back otherwise
                self._profiler.start_trace()
            self._is_recording = False
            self._profiler.stop_trace()  # waits for the GPU
        if self._profiler is None or num_recorded == 0:
            logger.warning(
                "train.profile=%d: no step was recorded: the run ended after %d, and the first %d only warm up",
                self._num_steps, self._num_taken, NUM_WARM_UP,
            )  # fmt: skip
            return
        if num_recorded < self._num_steps:
            logger.warning("train.profile=%d: the run ended after %d of them", self._num_steps, num_recorded)
        profiler, last = self._profiler, self._start + self._num_taken
        self._attempt(lambda: self._say(list(profiler.events() or []), last - num_recorded + 1, last))
        self._attempt(lambda: self._write(profiler, last))

    def _attempt(self, action: Callable[[], object]) -> None:
        """A profile is not worth a training: what fails is said in a line."""
        try:
            action()
        except Exception as error:
            self._is_done, self._is_recording = True, False
            logger.warning("profiling failed (%s: %s); training goes on without", type(error).__name__, error)

    def _say(self, events: Sequence[FunctionEvent], first: int, last: int) -> None:
        summary = summarise(events, last - first + 1, on_gpu=self._device.type == "cuda")
        logger.info("\n".join(table(summary, first, last)))

    def _write(self, profiler: profile, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = _free(self._folder, f"step_{step:08d}")
        # Not in the system's folder for temporary files, as torch does it: that may be small.
        with tempfile.TemporaryDirectory(prefix=".trace", dir=self._folder) as scratch, replacing(path) as partial:
            plain = Path(scratch) / "trace.json"
            profiler.export_chrome_trace(str(plain))
            _check_whole(plain)
            with open(plain, "rb") as source, gzip.open(partial, "wb", compresslevel=6) as target:
                shutil.copyfileobj(source, target)
        plugin = importlib.util.find_spec("torch_tb_profiler")
        place = "https://ui.perfetto.dev" + ("" if plugin is None else " or in TensorBoard (PYTORCH_PROFILER)")
        logger.info("profile: %s (%.1f MB), to open in %s", path, path.stat().st_size / 1e6, place)


def _free(folder: Path, stem: str) -> Path:
    """A file that is not there yet: a run that was killed and started again records steps of the same numbers."""
    names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
    return next(path for name in names if not (path := folder / (name + SUFFIX)).exists())


def _check_whole(path: Path) -> None:
    """Raise `OSError` where the profiler's library, which reports no errors, could not write its JSON to the end."""
    end = b""
    if path.is_file():
        with open(path, "rb") as file:
            file.seek(-min(20, path.stat().st_size), os.SEEK_END)
            end = file.read()
    if not end.rstrip().endswith(b"}"):
        raise OSError(f"{path.parent.parent} did not take the trace: is the disk full?")


@dataclass
class Item:
    """One operation, added up over the recorded steps.

    Attributes:
        time: by itself, without the operations that it calls; microseconds.
        calls: how often.
    """

    time: float = 0.0
    calls: int = 0

    def add(self, time: float, calls: int = 1) -> None:
        """Take in some calls that took `time` microseconds together."""
        self.time += time
        self.calls += calls


@dataclass(frozen=True)
class Summary:
    """Operations by name, and what their times are shares of; all over `num_steps` steps, in microseconds.

    Attributes:
        items: of the processor, or of the GPU; what `record_function` marks is none of them.
        whole: CPU: the steps from begin to end, so that what the items leave is Python and waiting; GPU: all its work.
        elapsed: CPU: as `whole`; GPU: from the first step's begin to the last one's end, with what lies between steps.
    """

    items: dict[str, Item]
    whole: float
    elapsed: float
    num_steps: int
    on_gpu: bool


def summarise(events: Sequence[FunctionEvent], num_steps: int, *, on_gpu: bool) -> Summary:
    """Add up the operations inside the first `num_steps` recorded steps; what runs between two steps is left out.

    On a GPU an operation's time is that of the kernels that it launched. Kernels that no operation launched, those of a
    replayed CUDA graph, stand under their own names.
    """
    annotations = {event.name for event in events if event.scope == _USER_SCOPE}  # a GPU repeats them on its time line
    on_cpu = [event for event in events if event.device_type == DeviceType.CPU]
    steps = sorted((event.time_range.start, event.time_range.end) for event in on_cpu if event.name == f"{_STEP}*")
    steps = steps[:num_steps]

    def is_inside(event: FunctionEvent) -> bool:  # by time: autograd runs on a thread of its own for a GPU
        return any(start <= event.time_range.start <= end for start, end in steps)

    inside = [event for event in on_cpu if is_inside(event)]
    operations = [event for event in inside if event.name not in annotations]
    items: defaultdict[str, Item] = defaultdict(Item)
    if not on_gpu:
        for event in operations:
            items[event.name].add(event.self_cpu_time_total)
        whole = sum(event.self_cpu_time_total for event in inside)
        return Summary(dict(items), whole, sum(end - start for start, end in steps), num_steps, on_gpu)

    kernels = [event for event in events if event.device_type != DeviceType.CPU and event.name not in annotations]
    unclaimed: defaultdict[str, Item] = defaultdict(Item)
    for kernel in kernels:
        unclaimed[kernel.name].add(kernel.time_range.elapsed_us())
    for event in on_cpu:
        for launched in event.kernels if event.name not in annotations else ():
            unclaimed[launched.name].add(-launched.duration, -1)
    for event in operations:
        if event.kernels:
            items[event.name].add(sum(launched.duration for launched in event.kernels))
    for name, item in unclaimed.items():
        if item.calls > 0:
            items[name].add(item.time, item.calls)
    ends = [steps[-1][1], *(kernel.time_range.end for kernel in kernels)]
    return Summary(dict(items), sum(item.time for item in items.values()), max(ends) - steps[0][0], num_steps, on_gpu)


def table(summary: Summary, first: int, last: int, most: int = 10) -> list[str]:
    """Lines for people: how long a step took, then the `most` largest operations, largest first."""
    milliseconds = 1e3 * summary.num_steps
    work = sum(item.time for item in summary.items.values())
    used = f"{work / milliseconds:.2f} ms of it work for the GPU" if summary.on_gpu else (
        f"{work / summary.whole:.0%} of it in operations")  # fmt: skip
    largest = sorted(summary.items.items(), key=lambda named: -named[1].time)[:most]
    return [
        f"profile of steps {first} to {last}: {summary.elapsed / milliseconds:.2f} ms a step with the profiler's own "
        f"cost, {used}; the largest operations by their own time ({'GPU' if summary.on_gpu else 'CPU'}), a step:",
        *(
            f"{item.time / summary.whole:6.1%} {item.time / milliseconds:9.2f} ms "
            f"{item.calls / summary.num_steps:8.1f} calls  {_short(name)}"
            for name, item in largest
        ),
    ]


def _short(name: str, most: int = 100) -> str:
    """A kernel's name can be a page of template arguments."""
    return name if len(name) <= most else name[: most - 3] + "..."
