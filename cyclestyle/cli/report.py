"""`cyclestyle report`: one page that shows how a run goes."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "Write one page (HTML, opens from disk) with a run's pictures, curves, scores and alarms"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, such as runs/quickstart; also while it trains"
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to write (default RUN/report.html)")


def run(args: argparse.Namespace) -> int:
    """Write the page; prints its path."""
    from cyclestyle.reports.report import write_report

    print(write_report(args.run, args.output))
    return 0
