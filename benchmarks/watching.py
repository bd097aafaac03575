"""What scoring and the doctor cost a run, as a share of all its processor time, which other work hardly disturbs.

    python benchmarks/watching.py [--config configs/quickstart.yaml] [--wall] [key=value ...]

Trains that run from its start, in a temporary folder unless output_dir is given, with a stopwatch around each part, and
prints a table. On a GPU, where processor time says little, --wall counts seconds by the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cyclestyle
from cyclestyle.config.loading import load_config
from cyclestyle.training import assembly
from cyclestyle.training.doctor import Doctor
from cyclestyle.training.trainer import Trainer
from cyclestyle.training.watch import Watch

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("quick look at training pictures", assembly, "_look_at_pictures"),
    ("reading test pictures", assembly, "build_evaluator"),
    ("evaluations", Watch, "evaluate"),
    ("doctor: looks", Watch, "look"),
    ("doctor: judging", Doctor, "log"),
    ("(sample grids)", Trainer, "_draw_samples"),
    ("(checkpoints)", Trainer, "save"),
)
"""What is timed; those in brackets are no part of watching, and stand there to compare."""


def main() -> None:
    """Train, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.yaml"))
    parser.add_argument("--wall", action="store_true", help="seconds by the clock")
    parser.add_argument("settings", nargs="*", metavar="key=value")
    args = parser.parse_args()
    clock = time.perf_counter if args.wall else time.process_time
    seconds: dict[str, list[float]] = defaultdict(list)
    for name, owner, attribute in PARTS:
        setattr(owner, attribute, timed(getattr(owner, attribute), seconds[name], clock))
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(args.config, [f"output_dir={folder}", *args.settings])
        started = clock()
        cyclestyle.train(config)
        total = clock() - started
    print(f"\n{total:.1f} s in all, {config.train.steps} steps")
    print(f"{'':34}{'times':>8}{'seconds':>10}{'each ms':>10}{'share':>8}")
    watching = 0.0
    for name, _, _ in PARTS:
        took = sum(seconds[name])
        watching += 0.0 if name.startswith("(") else took
        each = 1000 * took / max(len(seconds[name]), 1)
        print(f"{name:34}{len(seconds[name]):8d}{took:10.2f}{each:10.1f}{took / total:8.2%}")
    print(f"{'watching':34}{'':8}{watching:10.2f}{'':10}{watching / total:8.2%}")


def timed(function: Callable[..., Any], seconds: list[float], clock: Callable[[], float]) -> Callable[..., Any]:
    """The function with a stopwatch."""

    def run(*args: Any, **more: Any) -> Any:
        started = clock()
        try:
            return function(*args, **more)
        finally:
            seconds.append(clock() - started)

    return run


if __name__ == "__main__":
    main()
