"""`cyclestyle export`: one generator of a run or checkpoint as a file of its own, also for the other tool."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "Write one trained generator as a file: a translator, or a .pth for pytorch-CycleGAN-and-pix2pix"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--run", type=Path, metavar="RUN", help="run folder, such as runs/quickstart")
    source.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a checkpoint (.pt) or translator (.safetensors)"
    )
    parser.add_argument("--to", metavar="DOMAIN", help="domain to translate to, by its name; without it the second one")
    parser.add_argument(
        "--format",
        choices=("pth", "safetensors"),
        required=True,
        help="pth: the weights as pytorch-CycleGAN-and-pix2pix loads them; safetensors: a translator of cyclestyle",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(args: argparse.Namespace) -> int:
    """Write the file; prints what it is good for, then its name."""
    from cyclestyle.inference.convert import export_generator

    source = args.checkpoint if args.run is None else args.run
    print(export_generator(source, args.output, to=args.to, format=args.format, overwrite=args.overwrite))
    print(args.output)
    return 0
