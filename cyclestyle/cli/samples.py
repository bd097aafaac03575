"""`cyclestyle samples`: makes the sample set that the quickstart trains on."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from cyclestyle.config.schema import SAMPLE_ROOT

SUMMARY = "Make a small set of landscapes and painted landscapes to try training on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(SAMPLE_ROOT), metavar="FOLDER", help=f"default {SAMPLE_ROOT}"
    )
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, metavar="N", help="another seed, other images (default 0)"
    )
    parser.add_argument(
        "--size", type=_at_least(32), default=256, metavar="N", help="width and height in pixels (default 256)"
    )


def run(args: argparse.Namespace) -> int:
    """Make the images and print their folder."""
    from cyclestyle.data.synthetic import make_samples

    print(make_samples(args.folder, seed=args.seed, size=args.size))
    return 0


def _at_least(low: int) -> Callable[[str], int]:
    """What argparse reads a whole number with; its complaint becomes one line."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < low:
            raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at least {low}")
        return int(text)

    return read
