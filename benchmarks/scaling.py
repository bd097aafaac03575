"""Times learning steps of several processes on this machine, and what of them is communication.

    python benchmarks/scaling.py --processes 1 2                       # gloo, a thread each
    python benchmarks/scaling.py --device cuda --processes 1 2 4 8     # NCCL, a GPU each

Each process takes `--images` images of each domain a step (weak scaling): ResNet-9/64 and PatchGAN/64, identity on, as
`cyclestyle train` puts them together. Processes are started by torchrun's environment; numbers of them take turns.
"efficiency" is images/s against as many times those of one process; where processes share memory and caches of one
machine it is lost there as well. "sums" is the share of a step in which gradients are summed, waiting for the others
included; "MB" is what each process sums a step.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

STEPS = """
import json, sys, time
import torch
from cyclestyle import distributed
from cyclestyle.config.loading import config_from_mapping
from cyclestyle.devices import choose_device, choose_precision
from cyclestyle.training import learner, optimization, probing

options = json.loads(sys.argv[1])
torch.set_num_threads(options["threads"])
config = config_from_mapping({
    "data": {"root": "unused", "crop_size": options["size"], "load_size": options["size"]},
    "generator": {"filters": options["filters"]}, "discriminator": {"filters": options["filters"]},
    "train": {"steps": 1000, "precision": options["precision"], "device": options["device"],
              "batch_size": options["images"] * distributed.launched_processes()},
})
device = choose_device(options["device"])
if device.type == "cuda":
    torch.cuda.set_device(distributed.local_rank())
summing, num_bytes, plain = 0.0, 0, optimization.sum_in_place

def wait():
    if device.type == "cuda":
        torch.cuda.synchronize()

def timed(tensors):
    global summing, num_bytes
    wait()
    started = time.perf_counter()
    plain(tensors)
    wait()
    summing += time.perf_counter() - started
    num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)

optimization.sum_in_place = timed
with distributed.joined(gpus=device.type == "cuda"):
    ours = learner.build_learner(config, device, choose_precision(config.train.precision, device), num_steps=1000)
    steps = probing.take_steps(config, ours, device, options["images"])
    for _ in range(2):
        next(steps)
    wait()
    distributed.meet()
    seconds, summing, num_bytes = [], 0.0, 0
    for _ in range(options["steps"]):
        started = time.perf_counter()
        next(steps)
        wait()
        seconds.append(time.perf_counter() - started)
if distributed.rank() == 0:
    print(json.dumps({"seconds": seconds, "summing": summing, "bytes": num_bytes / options["steps"]}))
"""


def measure(num_processes: int, options: dict[str, object]) -> dict[str, object]:
    """What the first of so many processes says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    children = []
    for rank in range(num_processes):
        places = {
            "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes,
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": options["threads"], "PYTHONPATH": ROOT,
        }  # fmt: skip
        environment = {**os.environ, **{name: str(value) for name, value in places.items()}}
        words = [sys.executable, "-c", STEPS, json.dumps(options)]
        children.append(subprocess.Popen(words, env=environment, text=True, stdout=subprocess.PIPE))
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(f"{num_processes} processes: one of them failed")
    found: dict[str, object] = json.loads(said[0].splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", type=int, nargs="+", default=[64, 128], help="pixels of the squares")
    parser.add_argument("--images", type=int, default=1, help="of each domain, a process and step")
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of each process, on the CPU")
    parser.add_argument("--steps", type=int, default=4, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(f"{args.precision}, {args.device}, {args.threads} threads a process, {args.images} images a process")
    print(
        f"{'px':>4}{'processes':>10}{'s/step':>9}{'fastest':>9}{'images/s':>10}{'efficiency':>11}{'sums':>7}{'MB':>7}"
    )
    for size in args.size:
        options = {"size": size, **{name: getattr(args, name) for name in
                   ("images", "filters", "precision", "device", "threads", "steps")}}  # fmt: skip
        seconds: dict[int, list[float]] = {number: [] for number in args.processes}
        summing: dict[int, list[float]] = {number: [] for number in args.processes}
        num_bytes = 0.0
        for _ in range(args.rounds):
            for number in args.processes:
                found = measure(number, options)
                taken: list[float] = found["seconds"]  # type: ignore[assignment]
                seconds[number] += taken
                summing[number].append(float(found["summing"]) / sum(taken))  # type: ignore[arg-type]
                num_bytes = float(found["bytes"])  # type: ignore[arg-type]
        first = statistics.median(seconds[args.processes[0]])
        for number in args.processes:
            median = statistics.median(seconds[number])
            print(
                f"{size:>4}{number:>10}{median:>9.3f}{min(seconds[number]):>9.3f}{number * args.images / median:>10.2f}"
                f"{first / median:>11.0%}{statistics.median(summing[number]):>7.1%}{num_bytes / 1e6:>7.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
