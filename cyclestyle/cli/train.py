"""`cyclestyle train`: starts a run, or goes on with one."""

from __future__ import annotations

import argparse
from pathlib import Path

from cyclestyle.cli.settings import add_config_file, add_settings, load_settings, settings_of

SUMMARY = "Train on two folders of images; the same command again goes on where the run stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    source = parser.add_mutually_exclusive_group()
    add_config_file(source)
    source.add_argument(
        "--resume", type=Path, metavar="RUN", help="go on with this run folder, such as runs/quickstart"
    )
    parser.add_argument(
        "--init-from",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="start the generators of a new run from this run folder, checkpoint, translator or old .pth; repeatable, "
        "once for each direction",
    )
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Train; the run itself prints where its results are."""
    more = {"init_from": args.init_from} if args.init_from else {}
    if args.resume is not None:
        settings = settings_of(args)
        from cyclestyle.training.run import resume

        resume(args.resume, settings, **more)
        return 0
    config = load_settings(args)  # before torch is imported: a slip in the config shows at once
    from cyclestyle.training.run import train

    train(config, **more)
    return 0
