"""`cyclestyle translate`: a trained run or file applied to a folder of images."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "Translate an image or a whole folder with a trained run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    from cyclestyle.config.keys import choices, options_of

    options = options_of()
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--run", type=Path, metavar="RUN", help="run folder; without it the newest one in runs/")
    source.add_argument(
        "--checkpoint", type=Path, metavar="FILE", help="a checkpoint (.pt) or translator (.safetensors)"
    )
    parser.add_argument("--to", metavar="DOMAIN", help="domain to translate to, by its name; without it the second one")
    parser.add_argument(
        "--input", type=Path, metavar="FILE_OR_FOLDER", help="what to translate; without it the run's test images"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where results go; the input's tree is kept")
    parser.add_argument(
        "--device",
        choices=choices(options["train.device"].type),
        default="auto",
        help="where to compute (default auto)",
    )
    parser.add_argument(
        "--precision",
        choices=choices(options["train.precision"].type),
        default="auto",
        help="arithmetic (default auto)",
    )


def run(args: argparse.Namespace) -> int:
    """Translate; 1 where some inputs failed."""
    from cyclestyle.inference.folder import translate_folder

    return translate_folder(
        run=args.run,
        checkpoint=args.checkpoint,
        to=args.to,
        input=args.input,
        output=args.output,
        device=args.device,
        precision=args.precision,
    )
