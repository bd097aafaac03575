"""Times whole short trainings from folders of JPEG files, loader included, ours by its command and another tool's.

    python benchmarks/epoch.py --size 64 --steps 40
    python benchmarks/epoch.py --data ROOT --size 256           # trainA and trainB of one's own
    python benchmarks/epoch.py --other FOLDER                   # a checkout of pytorch-CycleGAN-and-pix2pix beside
    python benchmarks/epoch.py --device cuda --size 256 --batch 8 --steps 300 --workers 0 8 auto

Ours is `train.py` with its images in memory (`data.cache=on`) and read from files each time (`off`), without worker
processes and with as many as it chooses; averages, doctor and all else as shipped, but without evaluations, and with
one sample grid at the end, outside the steps. The other's is its `train.py` in fp32 with its own defaults (4
worker processes, no cache), but for sizes, lengths and `--no_html`; ours runs in the precisions asked for. Both squash
the pictures to 286/256 of the size, crop and flip, and train the same networks with batches of the same size from the
same files. Tools take turns, a whole training each, in processes of their own.

s/step is the median over blocks of a fifth of the steps, the first block of each training left out; ours from
metrics.jsonl (`seconds_per_step`: a step and the wait for its data), the other's by the clock between the beginnings of
its steps. "data wait" is the share of that time in which no step could begin for want of data; on a GPU the other's
holds whatever its loop waits for between two steps. "run" is a whole training in seconds: start-up, filling the cache,
the steps, saving. "processor" are seconds of all cores in it, workers' included. Memory is the largest resident set of
one process, or what torch held of the GPU at most.

The last lines time the loader alone, on the same files, and compare it with the fastest step.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cyclestyle.config.loading import config_from_mapping  # noqa: E402
from cyclestyle.data.landscapes import render_landscape  # noqa: E402
from cyclestyle.data.loader import build_data  # noqa: E402
from cyclestyle.devices import choose_device, choose_precision  # noqa: E402

NUM_BLOCKS = 5
NUM_PICTURES = 32
"""Rendered of each domain; further files are copies under names of their own."""

TIMED = """
import json, runpy, sys, time
import torch
from models.cycle_gan_model import CycleGANModel

begun, ended = [], []
set_input, optimize = CycleGANModel.set_input, CycleGANModel.optimize_parameters

def timed_set_input(self, data):
    begun.append(time.perf_counter())
    set_input(self, data)

def timed_optimize(self):
    optimize(self)
    ended.append(time.perf_counter())

CycleGANModel.set_input, CycleGANModel.optimize_parameters = timed_set_input, timed_optimize
times = sys.argv.pop(1)
runpy.run_path("train.py", run_name="__main__")
gpu = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
json.dump({"begun": begun, "ended": ended, "gpu": gpu}, open(times, "w"))
"""
"""Runs the other tool's train.py, and notes when it took up a batch and when it had learned from it."""


@dataclass
class Tool:
    """One row of the table.

    Attributes:
        name: as shown.
        precision: of ours; "fp32" of the other tool.
        cache: "on" or "off".
        workers: a number, or "auto".
        other: the other tool's checkout, None for ours.
        steps: seconds a step, of each block of each training.
        waits: share of data waits of each training.
        runs: seconds of each whole training.
        processor: seconds of all cores in each.
        memory: GiB at most.
    """

    name: str
    precision: str = "fp32"
    cache: str = "off"
    workers: str = "4"
    other: Path | None = None
    steps: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    runs: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    memory: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What all tools share."""

    root: Path
    work: Path
    size: int
    load_size: int
    filters: int
    blocks: int
    batch: int
    num_steps: int
    device: str
    environment: dict[str, str]

    @property
    def block(self) -> int:
        """Steps of which one figure is made."""
        return self.num_steps // NUM_BLOCKS


def write_pictures(root: Path, count: int, side: int) -> None:
    """trainA and trainB of so many JPEGs each."""
    for domain, name in enumerate(("trainA", "trainB")):
        (root / name).mkdir(parents=True)
        for index in range(count):
            file = root / name / f"{index:05d}.jpg"
            if index < NUM_PICTURES:
                Image.fromarray(render_landscape((0, 1 + domain, index), side)).save(file, quality=92)
            else:
                shutil.copyfile(root / name / f"{index % NUM_PICTURES:05d}.jpg", file)


def run_child(tool: Tool, command: list[str], setting: Setting, folder: Path) -> None:
    """A whole training; notes what it took. Its failure ends the benchmark."""
    log = setting.work / "log.txt"
    started = time.perf_counter()
    with log.open("w") as file:
        child = subprocess.Popen(command, cwd=folder, env=setting.environment, stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        stop(f"{' '.join(command[:3])} ... ended with {child.returncode}:\n{log.read_text()[-2000:]}")
    tool.runs.append(time.perf_counter() - started)
    tool.processor.append(used.ru_utime + used.ru_stime)
    if setting.device != "cuda":
        tool.memory = max(tool.memory, used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20))


def train_ours(tool: Tool, setting: Setting) -> None:
    """One training by the command."""
    shutil.rmtree(setting.work / "runs", ignore_errors=True)
    settings = {
        "name": "timed", "output_dir": setting.work / "runs", "data.root": setting.root, "data.resize": "squash",
        "data.load_size": setting.load_size, "data.crop_size": setting.size, "data.cache": tool.cache,
        "data.num_workers": tool.workers, "generator.filters": setting.filters, "generator.blocks": setting.blocks,
        "discriminator.filters": setting.filters, "train.steps": setting.num_steps, "train.batch_size": setting.batch,
        "train.precision": tool.precision, "train.device": setting.device, "log.scalars_every": setting.block,
        "log.samples_every": setting.num_steps, "evaluate.every": 0, "train.checkpoint_every": setting.num_steps,
    }  # fmt: skip
    command = [sys.executable, "train.py", *(f"{key}={value}" for key, value in settings.items())]
    run_child(tool, command, setting, REPOSITORY)
    lines = (setting.work / "runs" / "timed" / "metrics.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "seconds_per_step" in row][1:]
    tool.steps += [row["seconds_per_step"] for row in rows]
    learned = sum(row["seconds_per_step"] for row in rows)
    tool.waits.append(sum(row["data_wait"] * row["seconds_per_step"] for row in rows) / learned)
    if setting.device == "cuda":
        tool.memory = max(tool.memory, *(row["memory_gb"] for row in rows))


def train_other(tool: Tool, setting: Setting) -> None:
    """One training of the other tool: epochs until there were as many steps."""
    assert tool.other is not None
    most = setting.num_steps * setting.batch
    images = min(most, max(sum(1 for _ in (setting.root / name).iterdir()) for name in ("trainA", "trainB")))
    options = {
        "dataroot": setting.root, "name": "timed", "checkpoints_dir": setting.work / "checkpoints",
        "model": "cycle_gan", "preprocess": "resize_and_crop", "load_size": setting.load_size,
        "crop_size": setting.size, "num_threads": tool.workers, "batch_size": setting.batch, "ngf": setting.filters,
        "ndf": setting.filters, "netG": f"resnet_{setting.blocks}blocks", "max_dataset_size": most,
        "n_epochs": -(-most // images), "n_epochs_decay": 0, "print_freq": setting.block * setting.batch,
    }  # fmt: skip
    times = setting.work / "times.json"
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-c", TIMED, str(times), *given, "--no_dropout", "--no_html"]
    run_child(tool, command, setting, tool.other)
    noted = json.loads(times.read_text())
    begun, ended = noted["begun"], noted["ended"]
    starts = range(setting.block, min(len(begun), setting.num_steps) - setting.block, setting.block)
    tool.steps += [(begun[start + setting.block] - begun[start]) / setting.block for start in starts]
    first, last = starts[0], starts[-1] + setting.block
    waited = sum(begun[step + 1] - ended[step] for step in range(first, last))
    tool.waits.append(waited / (begun[last] - begun[first]))
    if setting.device == "cuda":
        tool.memory = max(tool.memory, noted["gpu"] / 2**30)


def print_table(tools: list[Tool], setting: Setting) -> None:
    """Medians over blocks and trainings; ratios are to the first row."""
    print(f"{'':>34} {'s/step':>8} {'range':>15} {'images/s':>8} {'ratio':>6} {'data wait':>9} "
          f"{'run':>6} {'processor':>9} {'GiB':>6}")  # fmt: skip
    first = statistics.median(tools[0].steps)
    for tool in tools:
        middle = statistics.median(tool.steps)
        print(f"{tool.name:>34} {middle:8.4f} {min(tool.steps):7.4f}-{max(tool.steps):7.4f} "
              f"{setting.batch / middle:8.2f} {first / middle:5.2f}x {statistics.median(tool.waits):9.2%} "
              f"{statistics.median(tool.runs):6.1f} {statistics.median(tool.processor):9.1f} {tool.memory:6.2f}",
              flush=True)  # fmt: skip


def loader_alone(cache: str, workers: str, setting: Setting) -> float:
    """Images of each domain a second that the loader gives when nothing is learned, once it is under way."""
    section = {
        "root": str(setting.root), "resize": "squash", "load_size": setting.load_size, "crop_size": setting.size,
        "cache": cache, "num_workers": int(workers) if workers.isdecimal() else workers,
    }  # fmt: skip
    config = config_from_mapping({"data": section, "train": {"steps": 1}}).data
    data = build_data(config, seed=0, device_type=setting.device)
    ahead, num_batches = 1 + 2 * data.num_workers, max(20, 200 // setting.batch) + 2 * data.num_workers
    started = 0.0
    for number, _ in enumerate(data.batches(0, num_batches, setting.batch), start=1):
        if number == ahead:
            started = time.perf_counter()
    return setting.batch * (num_batches - ahead) / (time.perf_counter() - started)


def print_loaders(tools: list[Tool], setting: Setting) -> None:
    """How many times as fast as the fastest step each way of loading is."""
    torch.set_num_threads(1)
    fastest = max(setting.batch / statistics.median(tool.steps) for tool in tools if tool.other is None)
    for cache, workers in dict.fromkeys((tool.cache, tool.workers) for tool in tools if tool.other is None):
        speed = loader_alone(cache, workers, setting)
        print(f"loader alone, cache {cache}, workers {workers}: {speed:.0f} images/s of each domain, "
              f"{speed / fastest:.1f} times what the fastest step takes")  # fmt: skip


def stop(message: str) -> NoReturn:
    """End with a message and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def build_tools(args: argparse.Namespace, device: torch.device) -> list[Tool]:
    """The rows: the other tool first, then ours by precision, cache and workers."""
    tools = [Tool("other fp32, 4 workers", other=args.other.resolve())] if args.other else []
    for precision in args.precision or [choose_precision("auto", device).name]:
        for cache in args.cache:
            for workers in args.workers:
                name = f"ours {precision}, cache {cache}, workers {workers}"
                tools.append(Tool(name, precision=precision, cache=cache, workers=workers))
    return tools


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="ROOT", help="holds trainA and trainB; else rendered landscapes")
    parser.add_argument("--other", type=Path, metavar="FOLDER", help="checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--size", type=int, default=128, help="pixels of the squares that are trained on")
    parser.add_argument("--side", type=int, default=286, help="pixels of the rendered JPEGs")
    parser.add_argument("--filters", type=int, default=64, help="of both networks")
    parser.add_argument("--blocks", type=int, default=9, choices=(6, 9))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=40, help="of each training")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each tool")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "bf16", "fp16"], help="of ours; the default: auto's")
    parser.add_argument("--cache", nargs="+", default=["on", "off"], choices=["on", "off"])
    parser.add_argument("--workers", nargs="+", default=["0", "auto"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every child, on the CPU")
    args = parser.parse_args()
    if args.steps < 2 * NUM_BLOCKS or args.rounds < 1:
        parser.error(f"needed are --steps of {2 * NUM_BLOCKS} or more and --rounds of 1 or more")
    if args.other is not None and not (args.other / "models" / "cycle_gan_model.py").is_file():
        parser.error(f"there is no models/cycle_gan_model.py in --other {args.other}")
    if args.data is not None and not all((args.data / name).is_dir() for name in ("trainA", "trainB")):
        parser.error(f"there are no trainA and trainB in --data {args.data}")
    return args


def main() -> None:
    """Make folders, train in turns, print."""
    args = parse_arguments()
    device = choose_device(args.device)
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONWARNINGS": "ignore"}
    if device.type == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        root = args.data.resolve() if args.data else work / "data"
        if not args.data:
            write_pictures(root, min(args.steps * args.batch, 512), args.side)
        setting = Setting(
            root, work, args.size, round(args.size * 286 / 256), args.filters, args.blocks, args.batch,
            args.steps // NUM_BLOCKS * NUM_BLOCKS, device.type, environment,
        )  # fmt: skip
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads"
        source = "own pictures" if args.data else f"landscapes of {args.side} px"
        print(f"torch {torch.__version__}, {name}, {os.cpu_count()} cores; ResNet-{args.blocks}/{args.filters}, "
              f"{args.size} px, batch {args.batch}, {setting.num_steps} steps, {args.rounds} rounds, "
              f"{source}")  # fmt: skip
        tools = build_tools(args, device)
        for number in range(args.rounds):
            for tool in tools:
                print(f"\rround {number + 1}: {tool.name:40}", end="", file=sys.stderr)
                (train_other if tool.other else train_ours)(tool, setting)
        print(file=sys.stderr)
        print_table(tools, setting)
        print_loaders(tools, setting)


if __name__ == "__main__":
    main()
