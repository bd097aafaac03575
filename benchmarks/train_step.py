"""Times whole CycleGAN training steps, ours and another tool's, in turns.

    python benchmarks/train_step.py --size 64 128
    python benchmarks/train_step.py --other FOLDER           # a checkout of pytorch-CycleGAN-and-pix2pix beside
    python benchmarks/train_step.py --device cuda --size 256 --batch 1 4 8 16 --also train.compile=true \
        --also train.cuda_graph=false

A step is everything that changes weights: both generators (ResNet-9/64, identity on), both 70x70 discriminators, pools,
Adam, and for ours the averaged weights; the other tool's is `CycleGANModel.optimize_parameters`. Each tool runs in a
process of its own, so that its peak memory is its own, and they take turns (A B C, A B C, ...) on the same pictures.
Seconds are medians with quartiles; on a machine where other guests steal time, the fastest step says more.
"of peak" is the arithmetic of the step (counted, not assumed) by the fastest step and the speed of a 3x3 convolution of
256 channels in the same arithmetic, measured in the same run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.loading import config_from_mapping
from cyclestyle.config.schema import Config
from cyclestyle.devices import choose_device, choose_precision, used_memory
from cyclestyle.networks.build import memory_format
from cyclestyle.training.learner import build_learner

NUM_WARM_UP = 5
"""Steps before the clock starts: a CUDA graph is recorded in the fourth."""


@dataclass
class Tool:
    """One row of the table.

    Attributes:
        name: as shown.
        precision: of ours; "fp32" for the other tool.
        settings: `key=value` of ours beyond the paper's.
        other: the other tool's checkout, None for ours.
    """

    name: str
    precision: str
    settings: tuple[str, ...] = ()
    other: str | None = None
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Setting:
    """What is common to the tools of a table."""

    size: int
    batch: int
    device: str
    threads: int


def pictures(setting: Setting, device: torch.device) -> UnpairedBatch:
    """The same random pictures for all."""
    random = torch.Generator().manual_seed(0)
    shape = (setting.batch, 3, setting.size, setting.size)
    a, b = (torch.rand(shape, generator=random) * 2 - 1 for _ in "ab")
    return UnpairedBatch(a, b).to(device, torch.contiguous_format)


def our_config(tool: Tool, setting: Setting) -> Config:
    """The paper's networks and objective, and what the tool turns."""
    nested: dict[str, Any] = {
        "data": {"root": "unused", "crop_size": setting.size, "load_size": setting.size},
        "train": {"steps": 100000, "precision": tool.precision, "batch_size": setting.batch},
    }
    for assignment in tool.settings:
        key, _, value = assignment.partition("=")
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = {"true": True, "false": False}.get(value, value)
    return config_from_mapping(nested)


def our_step(tool: Tool, setting: Setting, device: torch.device) -> Callable[[], object]:
    """A step of ours, made of the parts that `cyclestyle train` puts together."""
    config = our_config(tool, setting)
    precision = choose_precision(config.train.precision, device)
    learner = build_learner(config, device, precision, num_steps=100000)
    take = learner.step()
    batch = pictures(setting, device)
    number = 0

    def step() -> None:
        nonlocal number
        learner.optimization.start_step(number)
        take([replace(batch, draws=learner.method.draw(batch)).to(device, memory_format(device))])
        number += 1
        learner.averages.update(number)

    return step


def other_step(folder: str, setting: Setting, device: torch.device) -> Callable[[], object]:
    """`optimize_parameters` of the other tool with its own defaults."""
    sys.path.insert(0, folder)
    from models.cycle_gan_model import CycleGANModel  # type: ignore[import-not-found]  # the other tool's

    options = types.SimpleNamespace(
        isTrain=True, device=device, gpu_ids=[0] if device.type == "cuda" else [], checkpoints_dir="unused",
        name="unused",
        preprocess="none", direction="AtoB", input_nc=3, output_nc=3, ngf=64, ndf=64, netG="resnet_9blocks",
        netD="basic",
        n_layers_D=3, norm="instance", no_dropout=True, init_type="normal", init_gain=0.02, lambda_identity=0.5,
        lambda_A=10.0, lambda_B=10.0, pool_size=50, gan_mode="lsgan", lr=2e-4, beta1=0.5,
    )  # fmt: skip
    torch.backends.cudnn.benchmark = True  # as its base model sets it
    model = CycleGANModel(options)
    for network in (model.netG_A, model.netG_B, model.netD_A, model.netD_B):
        network.to(device)
    batch = pictures(setting, device)
    model.set_input({"A": batch.real_a, "B": batch.real_b, "A_paths": [], "B_paths": []})
    step: Callable[[], object] = model.optimize_parameters
    return step


def serve(tool: Tool, setting: Setting, orders: Connection) -> None:
    """A child: takes so many steps as asked and says how long each took; at the end its peak memory."""
    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    device = choose_device(setting.device)
    make = other_step if tool.other is not None else None
    step = make(tool.other, setting, device) if make and tool.other else our_step(tool, setting, device)

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    while (num_steps := orders.recv()) is not None:
        seconds = []
        for _ in range(num_steps):
            wait()
            started = time.perf_counter()
            step()
            wait()
            seconds.append(time.perf_counter() - started)
        orders.send(seconds)
    orders.send(peak_memory(device))


def peak_memory(device: torch.device) -> float:
    """GiB: of the GPU what torch allocated at most, else the largest resident set of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:
        return used_memory(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def arithmetic(setting: Setting) -> float:
    """Floating-point operations of a step, counted at a quarter of the size and scaled: convolutions go by area."""
    small = replace(setting, size=max(32, setting.size // 4 // 4 * 4), batch=1, device="cpu")
    step = our_step(Tool("", "fp32"), small, torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() * (setting.size / small.size) ** 2 * setting.batch


def convolution_peak(precision: str, setting: Setting) -> float:
    """FLOP/s of a 3x3 convolution of 256 channels on 64 x 64, batch 4 (64 on a GPU); the best of many."""
    device = choose_device(setting.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    batch = 64 if device.type == "cuda" else 4
    x = torch.randn(batch, 256, 64, 64, device=device, dtype=dtype).to(memory_format=memory_format(device))
    weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype).to(memory_format=memory_format(device))
    best = float("inf")
    for _ in range(30):
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        torch.conv2d(x, weight, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * batch * 256 * 256 * 9 * 64 * 64 / best


def measure(tools: list[Tool], setting: Setting, rounds: int, each: int) -> dict[str, float]:
    """Fill in the tools' seconds; peak memory by tool."""
    context = multiprocessing.get_context("spawn")
    workers = []
    for tool in tools:
        here, there = context.Pipe()
        process = context.Process(target=serve, args=(tool, setting, there), daemon=True)
        process.start()
        there.close()
        here.send(NUM_WARM_UP if setting.device == "cuda" else 2)
        here.recv()  # one after another, so that none warms up beside another
        workers.append((tool, here, process))
    for done in range(rounds):
        for tool, pipe, _ in workers:
            pipe.send(each)
            tool.seconds += pipe.recv()
        print(f"\r{setting.size} px, batch {setting.batch}: round {done + 1} of {rounds}", end="", file=sys.stderr)
    print(file=sys.stderr)
    memory = {}
    for tool, pipe, process in workers:
        pipe.send(None)
        memory[tool.name] = pipe.recv()
        process.join()
    return memory


def report(tools: list[Tool], setting: Setting, memory: dict[str, float]) -> None:
    """Print the table; ratios are to the first row."""
    flops = arithmetic(setting)
    peaks = {precision: convolution_peak(precision, setting) for precision in {tool.precision for tool in tools}}
    shown = ", ".join(f"{name} {peak / 1e9:.0f} GFLOP/s" for name, peak in sorted(peaks.items()))
    print(f"\n{setting.size} px, batch {setting.batch}: {flops / 1e9:.0f} GFLOP a step; convolution peak {shown}")
    print(f"{'':44} {'s/step':>8} {'quartiles':>15} {'fastest':>8} {'ratio':>6} {'of fastest':>10} "
          f"{'images/s':>8} {'of peak':>7} {'GiB':>6}")  # fmt: skip
    first = tools[0]
    for tool in tools:
        middle, fastest = statistics.median(tool.seconds), min(tool.seconds)
        low, _, high = statistics.quantiles(tool.seconds, n=4)
        ratio = statistics.median(first.seconds) / middle
        print(f"{tool.name:44} {middle:8.4f} {low:7.4f}-{high:7.4f} {fastest:8.4f} {ratio:5.2f}x "
              f"{min(first.seconds) / fastest:9.2f}x {setting.batch / middle:8.2f} "
              f"{flops / fastest / peaks[tool.precision]:7.0%} {memory[tool.name]:6.2f}", flush=True)  # fmt: skip


def build_tools(args: argparse.Namespace) -> list[Tool]:
    """The rows: the other tool first, then ours in fp32, in bf16, in fp16 if asked, and with further settings."""
    device = choose_device(args.device)
    default = choose_precision("auto", device).name
    tools = [Tool("other fp32", "fp32", other=str(args.other.resolve()))] if args.other else []
    for precision in dict.fromkeys([*args.precision, default]):
        tools.append(Tool(f"ours {precision}" + (" (default)" if precision == default else ""), precision))
    tools += [Tool(f"ours {default}, {also}", default, tuple(also.split())) for also in args.also]
    return tools


def main() -> None:
    """Print a table for each size and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, metavar="FOLDER", help="checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--size", type=int, nargs="+", default=[128], help="pixels of the squares")
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="images of each domain in a step")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--also", action="append", default=[], metavar="'key=value ...'", help="one more row of ours")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of each tool, on the CPU")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--each", type=int, default=2, metavar="STEPS", help="steps of each tool in a round")
    args = parser.parse_args()
    if args.other is not None and not (args.other / "models" / "cycle_gan_model.py").is_file():
        parser.error(f"there is no models/cycle_gan_model.py in --other {args.other}")
    device = choose_device(args.device).type
    name = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {args.threads} threads"
    print(f"torch {torch.__version__}, {name}, {args.rounds} rounds of {args.each} steps")
    for size in args.size:
        for batch in args.batch:
            setting, tools = Setting(size, batch, device, args.threads), build_tools(args)
            report(tools, setting, measure(tools, setting, args.rounds, args.each))


if __name__ == "__main__":
    main()
