"""`cyclestyle translate`: a trained run or file applied to a file, a folder, a glob or a list of images."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import Literal

from cyclestyle.inference.options import FORMATS, SMALLEST_TILE, Options

SUMMARY = "Translate an image or a whole folder with a trained run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    from cyclestyle.config.keys import choices, options_of

    options = options_of()
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", type=_path, metavar="RUN", help="run folder; without it the newest one in runs/")
    source.add_argument(
        "--checkpoint",
        type=_path,
        metavar="FILE",
        help="a checkpoint (.pt), a translator (.safetensors) or a generator of pytorch-CycleGAN-and-pix2pix (.pth)",
    )
    parser.add_argument(
        "--best", action="store_true", help="use the run's best checkpoint (evaluate.best) in place of its newest"
    )
    parser.add_argument("--to", metavar="DOMAIN", help="domain to translate to, by its name; without it the second one")
    parser.add_argument(
        "--input",
        type=_path,
        metavar="X",
        help="a file, a folder with its sub-folders, a quoted pattern such as 'photos/**/*.jpg', a .txt with a path a "
        "line, or - for such lines on standard input; without it the run's test images",
    )
    parser.add_argument(
        "--output",
        type=_path,
        metavar="FOLDER",
        help="where results and their manifest.jsonl go; the input's tree is kept. The same command again skips what "
        "is there",
    )
    _add_compute(parser, choices(options["train.device"].type), choices(options["train.precision"].type))
    _add_looks(parser)
    _add_files(parser)


def _add_compute(parser: argparse.ArgumentParser, devices: tuple[str, ...], precisions: tuple[str, ...]) -> None:
    parser.add_argument("--device", choices=devices, default="auto", help="where to compute (default auto)")
    parser.add_argument("--precision", choices=precisions, default="auto", help="arithmetic (default auto)")
    parser.add_argument(
        "--tile",
        type=_tile,
        default="auto",
        metavar="auto|N|off",
        help="compute large pictures in tiles of N pixels, where they need it (auto) or never; "
        "the result is the same (default auto)",
    )
    parser.add_argument(
        "--memory-limit", type=_gibibytes, metavar="GIB", help="what the process may take up; without it what is free"
    )


def _add_looks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--work-size", type=int, metavar="N", help="translate at this shorter side; sizes are kept")
    parser.add_argument(
        "--strength", type=float, default=1.0, metavar="S", help="0: the source, 1: the translation (default 1)"
    )
    parser.add_argument(
        "--keep-colors", action="store_true", help="luminance from the translation, colour from the source"
    )
    parser.add_argument(
        "--mask",
        type=_path,
        metavar="FOLDER",
        help="translate only where a picture of the same path in this folder is white; grey is a weight",
    )


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=list(FORMATS), default="keep", help="of the results (default keep)")
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="of JPEG and WebP, 1 to 100 (default 95)")
    parser.add_argument("--side-by-side", action="store_true", help="write source and translation beside each other")
    parser.add_argument("--contact-sheet", action="store_true", help="at the end, pages of before and after")
    parser.add_argument("--overwrite", action="store_true", help="also translate what is in the output folder already")
    parser.add_argument(
        "--max-megapixels", type=float, metavar="N", help="larger pictures fail, so that none fills the memory"
    )


def run(args: argparse.Namespace) -> int:
    """Translate; 1 where some inputs failed."""
    options = Options(**{field.name: getattr(args, field.name) for field in fields(Options)})
    from cyclestyle.inference.folder import translate_folder

    return translate_folder(
        run=args.run,
        checkpoint=args.checkpoint,
        best=args.best,
        to=args.to,
        input=args.input,
        output=args.output,
        device=args.device,
        precision=args.precision,
        tile=args.tile,
        memory_limit=args.memory_limit,
        options=options,
    )


def _path(text: str) -> Path:
    """A path; an empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path was given; for the current folder say .")
    return Path(text)


def _tile(text: str) -> int | Literal["auto"] | None:
    """What argparse reads `--tile` with; None is off."""
    if text == "auto":
        return "auto"
    if text == "off":
        return None
    if not text.isdecimal() or int(text) < SMALLEST_TILE:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs auto, off or a side of at least {SMALLEST_TILE} pixels")
    return int(text)


def _gibibytes(text: str) -> int:
    """GiB to bytes."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:  # also false for nan
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a number of GiB above 0, such as 6.5")
    return round(size * 2**30)
