"""Times a large picture in tiles and whole, with the peak memory of each process and the largest difference.

    python benchmarks/tiling.py [--width 1536 --height 1024] [--tile 512] [--precision fp32 bf16] [--rounds 3]
    python benchmarks/tiling.py --width 12000 --height 8000 --precision bf16 --no-whole [--memory-limit 4]

Each translation is a child process with a ResNet of random weights and a smooth random picture; tiled and whole take
turns. Seconds are the fastest pass of two in each child (one with `--no-whole`), then the median over rounds; the ratio
is taken in each round. Memory is what the operating system counted as the child's largest resident set.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cyclestyle.config.schema import GeneratorConfig  # noqa: E402
from cyclestyle.devices import choose_device, choose_precision  # noqa: E402
from cyclestyle.images import to_pixels  # noqa: E402
from cyclestyle.inference.files import TranslatorSpec  # noqa: E402
from cyclestyle.inference.look import resized  # noqa: E402
from cyclestyle.inference.translator import Translator  # noqa: E402
from cyclestyle.networks.build import build_generator  # noqa: E402


def translate(args: argparse.Namespace) -> None:
    """The child: translates once or twice, writes the result if wanted, prints seconds and peak bytes as JSON."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = GeneratorConfig(filters=args.filters, blocks=args.blocks)
    spec = TranslatorSpec(
        source="photo", target="random", direction="ab", generator=asdict(config), channels=3,
        resize="none", load_size=256, crop_size=256,
    )  # fmt: skip
    device = choose_device("cpu")
    translator = Translator(
        spec,
        build_generator(config, 3),
        device,
        choose_precision(args.precision[0], device),
        tile=args.tile or None,
        memory_limit=None if args.memory_limit is None else int(args.memory_limit * 2**30),
    )
    coarse = resized(torch.rand(1, 3, 16, 24) * 2 - 1, 256, 256 * args.width // args.height)
    pixels = to_pixels(resized(coarse, args.height, args.width)[0])
    seconds = []
    for _ in range(2 if args.whole else 1):
        started = time.perf_counter()
        translated = translator.pixels(pixels)
        seconds.append(time.perf_counter() - started)
    if args.result is not None:
        np.save(args.result, translated)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps({"seconds": min(seconds), "peak": peak}))


def run_child(args: argparse.Namespace, precision: str, tile: int, result: Path | None) -> dict[str, float]:
    """Seconds and peak bytes of one child."""
    words = {"width": args.width, "height": args.height, "filters": args.filters, "blocks": args.blocks}
    words |= {"threads": args.threads, "precision": precision, "tile": tile}
    command = [sys.executable, __file__, "--child", *(f"--{key}={value}" for key, value in words.items())]
    command += [] if args.memory_limit is None or not tile else [f"--memory-limit={args.memory_limit}"]
    command += [] if args.whole else ["--no-whole"]
    command += [] if result is None else [f"--result={result}"]
    measured: dict[str, float] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return measured


def compare(args: argparse.Namespace, precision: str, folder: Path) -> None:
    """One row of the table."""
    tiled, whole = [], []
    for _ in range(args.rounds):
        tiled.append(run_child(args, precision, args.tile, folder / "tiled.npy"))
        if args.whole:
            whole.append(run_child(args, precision, 0, folder / "whole.npy"))
    cells = [f"{statistics.median(each['seconds'] for each in tiled):.1f}", f"{peak_of(tiled):.2f}"]
    if args.whole:
        ratio = statistics.median(t["seconds"] / w["seconds"] for t, w in zip(tiled, whole, strict=True))
        one, other = (np.load(folder / f"{name}.npy").astype(int) for name in ("tiled", "whole"))
        difference = np.abs(one - other)
        cells += [f"{statistics.median(each['seconds'] for each in whole):.1f}", f"{peak_of(whole):.2f}"]
        cells += [f"{ratio:.2f}", str(difference.max()), f"{(difference > 0).mean():.1e}"]
    print(f"{precision:>6}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def peak_of(rounds: list[dict[str, float]]) -> float:
    """GiB, the largest over rounds."""
    return max(each["peak"] for each in rounds) / 2**30


def main() -> None:
    """Print the table, or be a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--filters", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory-limit", type=float, help="GiB, for the tiled one")
    parser.add_argument(
        "--no-whole", dest="whole", action="store_false", help="tiled alone, for what fits no other way"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        translate(args)
        return
    print(f"torch {torch.__version__}, {args.threads} threads; {args.width}x{args.height}, tile {args.tile}")
    columns = ("tiled s", "GiB", *(("whole s", "GiB", "ratio", "most apart", "differing") if args.whole else ()))
    print(" " * 6 + "".join(f"{name:>12}" for name in columns))
    with tempfile.TemporaryDirectory() as folder:
        for precision in args.precision:
            compare(args, precision, Path(folder))


if __name__ == "__main__":
    main()
