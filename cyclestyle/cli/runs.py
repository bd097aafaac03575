"""`cyclestyle runs`: which runs there are, how far and how good each is, and what is wrong with it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from pathlib import Path

SUMMARY = "List the runs in a folder with their steps, best scores, alarms and sizes"

logger = logging.getLogger("cyclestyle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path("runs"), metavar="FOLDER", help="folder of runs (default runs)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Print a line a run, newest activity first; a folder without runs is no error, one that is not there is."""
    from cyclestyle.reports.runs import as_json, incomparable_bests, printable, runs_table
    from cyclestyle.reports.summary import list_runs

    runs = list_runs(args.folder)
    if args.json:
        print(json.dumps([as_json(run) for run in runs], indent=2))
        return 0
    if not runs:
        print(f"no runs in {printable(str(args.folder))} (a run is a folder with a config.yaml in it)")
        return 0
    table, left_out = runs_table(runs, time.time(), terminal_width())
    # A terminal of another encoding shows question marks rather than nothing.
    encoding = sys.stdout.encoding or "utf-8"
    print(table.encode(encoding, "replace").decode(encoding))
    if left_out:
        logger.info("left out, the terminal is narrow: %s (--json has everything)", ", ".join(left_out))
    if incomparable_bests(runs):
        logger.warning("some best scores were measured with different extractors or sizes: they are not comparable")
    return 0


def terminal_width() -> int | None:
    """Columns of the terminal that stdout is; None where it goes to a file or another program."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns if sys.stdout.isatty() else None
    except (OSError, ValueError):
        return None
