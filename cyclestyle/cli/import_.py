"""`cyclestyle import`: a generator of pytorch-CycleGAN-and-pix2pix as a translator file."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "Turn a generator of pytorch-CycleGAN-and-pix2pix (.pth) into a translator file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("old", type=Path, metavar="OLD.pth", help="the generator, such as latest_net_G_A.pth")
    parser.add_argument("--to", metavar="DOMAIN", required=True, help="what it translates to, such as vangogh")
    parser.add_argument(
        "--from", dest="source", metavar="DOMAIN", help="what it translates from, such as photo (default original)"
    )
    parser.add_argument("--load-size", type=size, metavar="PIXELS", help="--load_size of its training (default 286)")
    parser.add_argument("--crop-size", type=size, metavar="PIXELS", help="--crop_size of its training (default 256)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE.safetensors", required=True, help="the translator to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def size(text: str) -> int:
    """A number of pixels from the command line."""
    if not text.isdecimal() or not 1 <= int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at least 1")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Write the translator; prints what was recognised, then the file."""
    from cyclestyle.inference.convert import import_generator

    recognised = import_generator(
        args.old,
        args.output,
        to=args.to,
        source=args.source,
        load_size=args.load_size,
        crop_size=args.crop_size,
        overwrite=args.overwrite,
    )
    print(recognised)
    print(args.output)
    return 0
