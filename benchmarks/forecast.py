"""What `cyclestyle plan` says, against what a short training then does: memory and seconds a step.

    python benchmarks/forecast.py [--size 64 96] [--batch 1 4] [--filters 16 64] [--checkpointing false true]
        [--steps 12] [--evaluated] [--repeat 1] [key=value ...]

Each combination is planned, then trained for a few steps on pictures of noise in a temporary folder, each in a process
of its own; prints a row each. filters 64: the paper's networks; smaller ones have 3 residual blocks.

Memory is the peak resident set of the training process (`ru_maxrss`) until its run is over; when Python then ends,
torch takes another 0.1 GB for a moment. Seconds are medians of the steps after the second, by the clock and of the
processor. Where other work comes and goes on the machine, plan and training meet different machines: the last columns
are of one process, in which a step of the training and one like the plan's take turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TRAIN = """
import json, resource, sys, time
import torch
import cyclestyle
from cyclestyle.config.loading import load_config
from cyclestyle.training import learner, probing
from cyclestyle.training.trainer import Trainer

config = load_config(None, sys.argv[2:])
seconds = {"trained": [], "tried": [], "trained processor": [], "tried processor": []}

def timed(name, action):
    wall, processor = time.perf_counter(), time.process_time()
    action()
    seconds[name].append(time.perf_counter() - wall)
    seconds[name + " processor"].append(time.process_time() - processor)

def take_turns(self, feed):
    timed("trained", lambda: learn(self, feed))
    if sys.argv[1] == "alternating":
        if not tried:
            ours = learner.build_learner(config, self.device, self.precision, num_steps=1000)
            tried.append(probing.take_steps(config, ours, self.device, config.train.batch_size))
        timed("tried", lambda: next(tried[0]))

learn, tried = Trainer.learn, []
Trainer.learn = take_turns
cyclestyle.train(config)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "peak": peak}))
"""
"""Trains, if so wished with a step like the plan's after each; prints what each step took, and the peak of memory."""

_MIB = 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[64, 96])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--filters", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--checkpointing", nargs="+", default=["false", "true"])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--evaluated", action="store_true", help="with an evaluation of 24 pictures at the end")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_intermixed_args()
    print(f"{'':34}{'MiB':^24}{'s a step':^24}{'processor s a step':^24}{'s a step, in turns':^24}{'plan':>7}")
    print(f"{'px':>4}{'batch':>7}{'filters':>9}{'checkpointing':>14}" + f"{'forecast':>10}{'did':>8}{'ratio':>6}" * 4)
    ratios: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder) / "data")
        for size, batch, filters, again, _ in itertools.product(
            args.size, args.batch, args.filters, args.checkpointing, range(args.repeat)
        ):
            settings = [
                f"data.root={folder}/data", f"output_dir={folder}/runs", f"train.steps={args.steps}",
                f"data.crop_size={size}", f"data.load_size={size * 9 // 8}", f"train.batch_size={batch}",
                f"generator.filters={filters}", f"discriminator.filters={filters}",
                f"generator.blocks={9 if filters >= 64 else 3}", f"train.checkpointing={again}",
                f"evaluate.every={1000 if args.evaluated else 0}", "evaluate.num_images=24", *args.settings,
            ]  # fmt: skip
            row = compare(settings, Path(folder))
            cells = ""
            for name, (told, did) in row["pairs"].items():
                ratios[name].append(told / did)
                cells += f"{told:10.4g}{did:8.4g}{told / did:6.2f}"
            print(f"{size:>4}{batch:>7}{filters:>9}{again:>14}{cells}{row['plan_seconds']:6.0f}s", flush=True)
    for name, values in ratios.items():
        inside = sum(0.8 <= value <= 1.2 for value in values)
        print(
            f"{name}: ratio {min(values):.2f} to {max(values):.2f}, median {statistics.median(values):.2f}, "
            f"{inside} of {len(values)} within 20%"
        )


def write_noise(root: Path) -> None:
    """A data set of smooth noise, 256 px."""
    random = np.random.default_rng(0)
    for name, count in {"trainA": 40, "trainB": 32, "testA": 24, "testB": 24}.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            coarse = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            coarse.resize((256, 256), Image.Resampling.BICUBIC).save(root / name / f"{index}.jpg")


def compare(settings: list[str], folder: Path) -> dict[str, Any]:
    """Forecast and measured: pairs of MiB, and of seconds a step."""
    started = time.perf_counter()
    told = run(folder, "-m", "cyclestyle.cli.main", "plan", "--json", *settings)
    plan_seconds = time.perf_counter() - started
    plan = json.loads(told)
    alone, turns = (
        json.loads(run(folder, "-c", TRAIN, how, *settings).splitlines()[-1]) for how in ("alone", "alternating")
    )

    def median(of: dict[str, Any], name: str) -> float:
        return statistics.median(of["seconds"][name][2:])

    pairs = {
        "memory": (plan["memory"]["peak"] / _MIB, alone["peak"] / _MIB),
        "seconds": (plan["seconds_per_step"], median(alone, "trained")),
        "processor": (plan["processor_seconds_per_step"], median(alone, "trained processor")),
        "in turns": (median(turns, "tried"), median(turns, "trained")),
    }
    return {"plan_seconds": plan_seconds, "pairs": pairs}


def run(folder: Path, *words: str) -> str:
    """What a Python process prints; run folders of those before it are removed.

    The system counts the memory of the process that starts it into its peak, so nothing large is imported here.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "CYCLESTYLE_CACHE": str(folder / "cache"),
    }
    shutil.rmtree(folder / "runs", ignore_errors=True)
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{words[:4]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    main()
