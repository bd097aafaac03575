"""What learning steps take: a few real ones on random pictures, in a process of their own, whose peak memory is theirs.

They are built from the parts that a run is built from, and what a run does between steps (sample grids, evaluations,
looks of the doctor) is done once. An out-of-memory ends that process alone. Nothing is written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.loading import config_from_mapping, to_mapping
from cyclestyle.config.schema import Config
from cyclestyle.data.fixed import Fixed
from cyclestyle.devices import choose_device, choose_precision, is_out_of_memory
from cyclestyle.errors import ConfigError, CyclestyleError
from cyclestyle.evaluation.evaluate import Evaluator, Pictures
from cyclestyle.evaluation.features import build_extractor
from cyclestyle.evaluation.perceptual import build_lpips
from cyclestyle.methods.base import Method
from cyclestyle.methods.image_pool import ImagePool
from cyclestyle.networks.build import count_parameters, memory_format
from cyclestyle.training.doctor import Doctor
from cyclestyle.training.failures import explained
from cyclestyle.training.feed import Feed
from cyclestyle.training.learner import Learner, build_learner
from cyclestyle.training.learning import Learned
from cyclestyle.training.previews import Previews
from cyclestyle.training.scoring import square_size

NUM_SCORED = 8
"""Pictures in the evaluation that is tried: as many as an `Evaluator` translates at once."""

_NUM_COMPARED = 16  # training pictures in it: as many as go through its extractor at once

_MOST_PARTS = 2  # of a batch: the second part meets the first one's gradients, those after it bring nothing new
_DOMAINS = ("a", "b")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure.

    Attributes:
        micro_batch: images of each domain that go through the networks at once: a batch by `optimizer.accumulation`.
        seconds: about so long may the steps take, but two are measured whatever they take.
        is_short: only for its memory: the fewest steps that reach the peak.
        is_watched: try what a run does between steps too.
        is_evaluated: and an evaluation among it.
    """

    micro_batch: int
    seconds: float
    is_short: bool = False
    is_watched: bool = False
    is_evaluated: bool = False


@dataclass(frozen=True, kw_only=True)
class Between:
    """What a run does between its steps, and what it leaves on the disk.

    Attributes:
        look_seconds: one look of the doctor.
        grid_seconds: a picture of each domain in the sample grids.
        evaluation_seconds: one of `num_scored` pictures of each domain; 0: nothing is evaluated.
        evaluation_bytes: peak memory during it, all that stays from the steps included.
        num_scored: see above.
        num_directions: that the method translates.
        checkpoint_bytes: what a checkpoint holds.
        translators_bytes: what the translators hold together.
        parameters: of each player's networks.
    """

    look_seconds: float
    grid_seconds: float
    evaluation_seconds: float
    evaluation_bytes: int
    num_scored: int
    num_directions: int
    checkpoint_bytes: int
    translators_bytes: int
    parameters: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured; bytes are the GPU's that torch holds, or without a GPU what is resident of the process.

    Attributes:
        micro_batch: of the task.
        num_measured: steps that the seconds are the median of.
        seconds: of one step, by the clock, with all its `optimizer.accumulation` parts.
        fastest, slowest: of those steps.
        processor_seconds: the same of all threads of the process.
        idle_bytes: before the first step.
        peak_bytes: the most during the steps.
        host_bytes: the most of the process itself, also where it trains on a GPU.
        free_bytes: what the GPU had free before anything was put there; 0 without one.
        precision: the arithmetic, and why, in words.
        between: see `Task.is_watched`.
    """

    micro_batch: int
    num_measured: int
    seconds: float
    fastest: float
    slowest: float
    processor_seconds: float
    idle_bytes: int
    peak_bytes: int
    host_bytes: int
    free_bytes: int
    precision: str
    between: Between | None = None


def probe(config: Config, task: Task) -> Probe | None:
    """`measure` in a process of its own; None where it ran out of memory.

    Raises:
        ConfigError: something in the config cannot work here.
    """
    # The very modules that run here, wherever this process found them.
    program = f"import sys; sys.path[:] = {sys.path!r}; from cyclestyle.training import probing; probing.main()"
    request = json.dumps({"config": to_mapping(config), "task": asdict(task), "parent": os.getpid()})
    done = subprocess.run([sys.executable, "-c", program], input=request, capture_output=True, text=True, check=False)
    if done.returncode == -getattr(signal, "SIGKILL", 9):  # so the system ends who took the last of the memory
        return None
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise RuntimeError(f"the probe ended with code {done.returncode}: {done.stderr[-2000:]}") from None
    if answer["error"] is not None:
        raise ConfigError(answer["error"])
    return None if answer["probe"] is None else _read(answer["probe"])


def main() -> None:
    """The process: a request as JSON on stdin, the answer as the last line on stdout."""
    with contextlib.suppress(OSError):  # Linux: where memory runs out this process is to go, and no other
        Path("/proc/self/oom_score_adj").write_text("1000")
    request = json.load(sys.stdin)
    if "parent" in request:
        threading.Thread(target=_end_with, args=(request["parent"],), daemon=True).start()
    answer: dict[str, Any] = {"probe": None, "error": None}
    config = config_from_mapping(request["config"])
    with contextlib.redirect_stdout(sys.stderr):
        try:
            answer["probe"] = asdict(measure(config, Task(**request["task"])))
        except CyclestyleError as error:
            answer["error"] = str(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                line = explained(error, config.train, choose_device(config.train.device))
                if line is None:
                    raise
                answer["error"] = str(line)
    print(json.dumps(answer), flush=True)


def _end_with(parent: int) -> None:
    """End this process when the one that asked is gone: nobody would read the answer."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def measure(config: Config, task: Task) -> Probe:
    """Take a few learning steps as a run with this config does, here and now."""
    device = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, device)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
    learner = build_learner(config, device, precision, num_steps=10**6)
    idle = _peak(device)
    num_warm_up = 5 if learner.is_recorded else 1 if task.is_short else 2
    walls, processors = [], []
    steps = take_steps(config, learner, device, task.micro_batch)
    started = time.perf_counter()
    for number in itertools.count(1):
        wall, processor = time.perf_counter(), time.process_time()
        batch, learned = next(steps)
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
        if number == 1:
            _fill_pools(learner.method)
        if _is_enough(number - num_warm_up, time.perf_counter() - started, task, device):
            break
    scale = config.optimizer.accumulation / _num_parts(config)
    peak, host = _peak(device), _peak(torch.device("cpu"))
    between = None
    if task.is_watched:
        between = _between(config, learner, batch, learned, is_evaluated=task.is_evaluated)
    return Probe(
        micro_batch=task.micro_batch,
        num_measured=len(walls) - num_warm_up,
        seconds=scale * statistics.median(walls[num_warm_up:]),
        fastest=scale * min(walls[num_warm_up:]),
        slowest=scale * max(walls[num_warm_up:]),
        processor_seconds=scale * statistics.median(processors[num_warm_up:]),
        idle_bytes=idle,
        peak_bytes=peak,
        host_bytes=max(host, _peak(torch.device("cpu"))),
        free_bytes=free,
        precision=f"{precision.name} ({precision.reason})",
        between=between,
    )


def take_steps(
    config: Config, learner: Learner, device: torch.device, micro_batch: int
) -> Iterator[tuple[UnpairedBatch, Learned]]:
    """A learning step on noise each time one is asked for; gives its batch, the first part of it, and what it left."""
    feed = Feed(_random_batches(config, micro_batch, device), learner.method, device, _num_parts(config))
    step = learner.step()
    for number in itertools.count(1):
        parts = feed.hand_over(feed.fetch())
        learner.optimization.start_step(number - 1)
        learned = step(parts)
        learner.averages.update(number)
        yield parts[0], learned


def _num_parts(config: Config) -> int:
    return min(config.optimizer.accumulation, _MOST_PARTS)


def _is_enough(num_measured: int, elapsed: float, task: Task, device: torch.device) -> bool:
    """Whether no further step is needed; on a GPU they are quick, and the first ones after a recording are uneven."""
    if task.is_short:
        return num_measured >= 1
    most = 5 if device.type == "cpu" else 20
    return num_measured >= most or (num_measured >= 2 and elapsed >= task.seconds)


def _random_batches(config: Config, size: int, device: torch.device) -> Iterator[UnpairedBatch]:
    """Noise of the configured size, as the loader would give it."""
    shape = (size, config.data.channels, config.data.crop_size, config.data.crop_size)
    while True:
        batch = UnpairedBatch(torch.rand(shape).mul_(2).sub_(1), torch.rand(shape).mul_(2).sub_(1))
        yield batch.pin_memory() if device.type == "cuda" else batch


def _fill_pools(method: Method) -> None:
    """Give image pools what they hold after some hundred steps: until then the system keeps their memory back."""
    for pool in method.modules():
        if isinstance(pool, ImagePool) and pool.size:
            state = pool.get_extra_state()
            shape = state["images"].shape[1:]
            pool.set_extra_state({**state, "images": torch.zeros((pool.size, *shape))})


def _between(
    config: Config, learner: Learner, batch: UnpairedBatch, learned: Learned, *, is_evaluated: bool
) -> Between:
    """Do once what a run does every so many steps."""
    method, averages, precision = learner.method, learner.averages, learner.precision
    device = batch.real_a.device
    size = square_size(config.data, config.generator)
    shape = (size, size, config.data.channels)
    random = np.random.default_rng(config.seed)
    pictures = {
        domain: [Fixed(Path(str(index)), random.integers(0, 256, shape, np.uint8)) for index in range(_NUM_COMPARED)]
        for domain in _DOMAINS
    }
    doctor = Doctor(every=1, names=_DOMAINS, options={})
    doctor.look(1, batch, learned.translations)  # the first look makes what later ones use again
    look = _timed(lambda: doctor.look(1, batch, learned.translations), device)
    row_a, row_b = ([("", pictures[domain][0].pixels)] for domain in _DOMAINS)
    previews = Previews(row_a, row_b, _DOMAINS)

    def draw() -> None:
        with precision.autocast(device):
            previews.draw(averages.generators, device)

    grid = _timed(draw, device)
    evaluation, evaluation_peak = 0.0, 0
    if is_evaluated:
        _forget_peak(device)
        evaluator = _evaluator(config, method, pictures, size, device)

        def translate(direction: str, images: Tensor) -> Tensor:
            with precision.autocast(device):
                translations: Tensor = averages.generators[f"gen_{direction}"](
                    images.to(device, memory_format=memory_format(device))
                )
            return translations

        evaluation = _timed(lambda: evaluator.evaluate(0, translate), device)
        evaluation_peak = _peak(device)
    return Between(
        look_seconds=look,
        grid_seconds=grid,
        evaluation_seconds=evaluation,
        evaluation_bytes=evaluation_peak,
        num_scored=NUM_SCORED,
        num_directions=len(method.directions),
        checkpoint_bytes=sum(_bytes_in(part.state_dict()) for part in (method, averages, learner.optimization)),
        translators_bytes=_bytes_in(averages.state_dict()),
        parameters={player: sum(map(count_parameters, method.networks_of(player))) for player in method.players},
    )


def _evaluator(
    config: Config, method: Method, pictures: Mapping[str, list[Fixed]], size: int, device: torch.device
) -> Evaluator:
    """As `scoring.build_evaluator` makes it, of these pictures, with what it computes only once already there."""
    few = {domain: each[:NUM_SCORED] for domain, each in pictures.items()}
    sides = [
        Pictures(
            direction=direction,
            source=direction[0],
            target=direction[1],
            sources=few[direction[0]],
            references=few[direction[1]],
            training=pictures[direction[1]],
        )
        for direction in method.directions
    ]
    section, channels = config.evaluate, config.data.channels
    extractor = build_extractor(section.extractor, section.weights, device, channels)
    evaluator = Evaluator(sides, extractor, size=size, perceptual=build_lpips(device) if channels == 3 else None)
    for each in (*pictures.values(), *few.values()):
        evaluator.features_of(each)
    return evaluator


def _timed(action: Any, device: torch.device) -> float:
    """Seconds that `action()` takes by the clock, the GPU's work included."""
    started = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _bytes_in(state: Any) -> int:
    """Of all tensors in nested dicts and lists."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(map(_bytes_in, state.values()))
    return sum(map(_bytes_in, state)) if isinstance(state, list | tuple) else 0


def _peak(device: torch.device) -> int:
    """Bytes: the most so far of the GPU's memory that torch holds, or of what was resident of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    try:  # Linux; what `resource` says there includes the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _forget_peak(device: torch.device) -> None:
    """Let `_peak` count anew; where the system cannot, it goes on from what it knows."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _read(answer: dict[str, Any]) -> Probe:
    between = answer.pop("between")
    return Probe(**answer, between=None if between is None else Between(**between))
