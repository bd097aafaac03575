"""Methods beside each other on the same pictures, networks and clock: what each costs, and what it gives.

    python benchmarks/methods.py cost [--data FOLDER] [--only cut dclgan] [--safeguards | --configs] [key=value ...]
    python benchmarks/methods.py train [--data FOLDER] [--minutes 10] [--only cut dclgan] [key=value ...]
    python benchmarks/methods.py train [--data FOLDER] --steps cut=1800,dclgan=1400 [key=value ...]

`cost` takes steps of each method in a process of its own, in turns, and prints seconds and memory. `train` does the
same first, gives each method as many steps as it takes in so many minutes, prints the command of each row, trains one
after another (a command that was stopped goes on), and prints their last scores. With --safeguards rows are CycleGAN
and one safeguard or term each, with --configs the shipped configs as they are. Without --data: the sample set.
OMP_NUM_THREADS=1 keeps other work on the machine from slowing steps down several-fold.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cyclestyle.config.loading import load_config
from cyclestyle.config.methods import VGG_CONVOLUTIONS
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.training.probing import Probe, Task, probe

SAMPLES = "datasets/landscapes"

COMMON = (
    "data.a.name=photo", "data.b.name=painting", "data.load_size=160", "data.crop_size=64",
    "generator.name=resnet", "generator.filters=32", "generator.blocks=4", "generator.norm=none",
    "generator.upsample=resize", "generator.init=xavier", "generator.init_gain=1",
    "discriminator.filters=32", "discriminator.norm=none", "discriminator.spectral_norm=true",
    "method.weights.gradient_penalty=0.1", "optimizer.generator_lr=0.0003",
)  # fmt: skip
"""The quickstart's networks and safeguards, for every method."""

HDCE = ("method.name=cut", "method.contrast.loss=hdce", "method.contrast.hardness=10", "method.weights.src_ab=10")

ROWS: dict[str, tuple[str, ...]] = {
    "cyclegan": tuple(f"method.weights.{kind}_{side}={weight}" for kind, weight in (("cycle", 6), ("identity", 3))
                      for side in "ab"),
    "cut": ("method.name=cut",),
    "fastcut": ("method.name=cut", "method.flip_equivariance=true", "method.weights.nce_ab=10",
                "method.weights.nce_identity_b=0", "optimizer.decay_start=0.75"),
    "hdce": HDCE,
    "dclgan": ("method.name=dclgan",),
}  # fmt: skip
"""Each method with its paper's weights; CycleGAN with those of configs/quickstart.yaml."""

SAFEGUARDS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "spectral norm": ("discriminator.spectral_norm=true",),
    "penalty": ("method.weights.gradient_penalty=0.1",),
    "r1": ("method.weights.r1=1",),
    "augment": ("discriminator.augment=[color,translation,cutout]",),
    "noise": ("discriminator.noise=0.1",),
    "antialias D": ("discriminator.antialias=true",),
    "antialias G": ("generator.antialias=true",),
    "attention": ("generator.attention=true",),
    "multiscale": ("discriminator.name=multiscale",),
    "consistency": tuple(f"method.weights.consistency_{way}=1" for way in ("ab", "ba")),
    "variation": tuple(f"method.weights.total_variation_{way}=0.1" for way in ("ab", "ba")),
    "VGG content": tuple(f"method.weights.content_{way}=1" for way in ("ab", "ba")),
    "VGG style": tuple(f"method.weights.style_{way}=1" for way in ("ab", "ba")),
}
"""On top of CycleGAN without any of them."""

CONFIGS: dict[str, tuple[str, ...]] = {
    name: ("--config", f"configs/{name}.yaml") for name in ("photo2vangogh", "cut", "fastcut", "dclgan")
}
"""The papers' networks at 256 px, without what is common to the other rows."""

SCORES = ("kid", "luminance_correlation", "edge_correlation", "ssim", "change", "diversity", "memorisation")


def main() -> None:
    """Measure, and perhaps train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "train"))
    parser.add_argument("--data", type=Path, help="folder with trainA, trainB, testA, testB")
    parser.add_argument("--only", nargs="+", choices=[*ROWS, *SAFEGUARDS, *CONFIGS], default=[], metavar="ROW")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--safeguards", action="store_true", help="CycleGAN with one of them each")
    kind.add_argument("--configs", action="store_true", help="the papers' networks at 256 px")
    parser.add_argument("--rounds", type=int, default=3, help="how often each takes its turn at being measured")
    parser.add_argument("--minutes", type=float, default=10.0, help="of training, each")
    parser.add_argument("--steps", metavar="ROW=STEPS,...", help="of training; nothing is measured")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="for all rows")
    args = parser.parse_intermixed_args()
    if args.data is None and not samples_complete(Path(SAMPLES)):
        make_samples(Path(SAMPLES))
    data = SAMPLES if args.data is None else str(args.data)
    rows = with_safeguards() if args.safeguards else CONFIGS if args.configs else with_common(ROWS)
    commands = {
        name: [*row, f"data.root={data}", *args.settings]
        for name, row in rows.items()
        if not args.only or name in args.only
    }
    with tempfile.TemporaryDirectory() as folder:
        if args.safeguards:
            for name, settings in commands.items():
                if name.startswith("VGG"):
                    settings.append(f"method.perceptual.file={random_vgg19(Path(folder))}")
        if args.steps:
            steps = {name: int(count) for name, count in (pair.split("=") for pair in args.steps.split(","))}
        else:
            measured = measure(commands, args.rounds)
            print_cost(measured)
            steps = {name: round(1.2 * args.minutes / fastest(each)) * 50 for name, each in measured.items()}
    if args.what == "train":
        train({name: commands[name] for name in steps}, steps)


def with_common(rows: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Rows after the settings that they share."""
    return {name: (*COMMON, *row) for name, row in rows.items()}


def with_safeguards() -> dict[str, tuple[str, ...]]:
    """CycleGAN with none of the common safeguards, and with one option each."""
    off = ("discriminator.spectral_norm=false", "method.weights.gradient_penalty=0")
    return with_common({name: (*ROWS["cyclegan"], *off, *settings) for name, settings in SAFEGUARDS.items()})


def random_vgg19(folder: Path) -> Path:
    """A file of VGG19's form: its terms cost the same whatever its weights are."""
    file = folder / "vgg19.pth"
    if not file.exists():
        sizes, before, state, place = (64, 128, 256, 512, 512), 3, {}, 0
        for size, count in zip(sizes, VGG_CONVOLUTIONS, strict=True):
            for _ in range(count):
                state[f"features.{place}.weight"] = torch.randn(size, before, 3, 3) * (2 / (9 * before)) ** 0.5
                state[f"features.{place}.bias"] = torch.zeros(size)
                before, place = size, place + 2
            place += 1  # a pooling
        torch.save(state, file)
    return file


def measure(commands: dict[str, list[str]], rounds: int) -> dict[str, list[Probe]]:
    """Steps of each row in turns: other work on the machine falls on all of them alike."""
    found: dict[str, list[Probe]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, words in commands.items():
            file, settings = (Path(words[1]), words[2:]) if words[0] == "--config" else (None, words)
            config = load_config(file, [*settings, "train.steps=1"])
            taken = probe(config, Task(micro_batch=config.train.batch_size, seconds=8.0))
            assert taken is not None, f"{name} ran out of memory"
            found[name].append(taken)
    return found


def fastest(probes: list[Probe]) -> float:
    """Seconds of the fastest step: what other work on the machine touched least."""
    return min(each.fastest for each in probes)


def print_cost(measured: dict[str, list[Probe]]) -> None:
    """Seconds and bytes of a row, and both as a ratio to the first."""
    print(f"{'':14}{'s/step':>9}{'fastest':>9}{'ratio':>8}{'GiB':>8}{'ratio':>8}")
    first = next(iter(measured.values()))
    for name, probes in measured.items():
        seconds = statistics.median(each.seconds for each in probes)
        memory = [statistics.median(each.peak_bytes for each in row) / 2**30 for row in (probes, first)]
        ratio = fastest(probes) / fastest(first)
        print(f"{name:14}{seconds:9.3f}{fastest(probes):9.3f}{ratio:8.2f}{memory[0]:8.2f}{memory[0] / memory[1]:8.2f}")
    print(flush=True)


def train(commands: dict[str, list[str]], num_steps: dict[str, int]) -> None:
    """Train each row for its number of steps, and print what it came to."""
    print(f"{'':14}{'steps':>7}{'minutes':>9}" + "".join(f"{name[:12]:>14}" for name in SCORES), flush=True)
    for name, settings in commands.items():
        steps = num_steps[name]
        every = [f"evaluate.every={steps // 5}", f"train.checkpoint_every={steps // 5}", "log.samples_every=200"]
        words = ["train", f"name={name}", *settings, f"train.steps={steps}", *every]
        print("cyclestyle " + " ".join(map(shlex.quote, words)), file=sys.stderr, flush=True)
        program = "import sys; from cyclestyle.cli.main import main; sys.exit(main(sys.argv[1:]))"
        done = subprocess.run([sys.executable, "-c", program, *words], check=False, capture_output=True, text=True)
        if done.returncode:
            sys.exit(done.stderr.strip().rpartition("\n")[2])  # its error is one line
        run = Path(done.stdout.splitlines()[-1].removeprefix("run: "))
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        per_step = statistics.median(row["seconds_per_step"] for row in rows if "seconds_per_step" in row)
        scores = rows[-1]
        print(
            f"{name:14}{steps:7}{steps * per_step / 60:9.1f}"
            + "".join(f"{scores.get(f'{each}_ab', float('nan')):14.3f}" for each in SCORES),
            flush=True,
        )


if __name__ == "__main__":
    main()
