"""`cyclestyle compare`: runs beside each other, in numbers, settings and pictures."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclestyle.cli.runs import terminal_width

if TYPE_CHECKING:
    from cyclestyle.reports.compare import Column
    from cyclestyle.reports.summary import Evaluation

SUMMARY = "Compare runs: their scores, the settings that differ, and the same pictures through each"

logger = logging.getLogger("cyclestyle")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, two or more")
    parser.add_argument("--to", metavar="DOMAIN", help="domain to translate to; without it each run's second one")
    parser.add_argument(
        "-i", "--input", type=Path, metavar="FOLDER", help="pictures to show (default: the first run's test folder)"
    )
    parser.add_argument(
        "--num-images", type=_count, default=6, metavar="N", help="pictures on the contact sheet (default 6)"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER",
        help="where the contact sheet goes (default: the folder that holds the first run)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of tables")


def run(args: argparse.Namespace) -> int:
    """Print scores and settings, then write the contact sheet; its path is the last line.

    Returns:
        1 where a run had to be left out; it is named on stderr.
    """
    from cyclestyle.reports import compare

    columns, skipped = compare.open_runs(args.runs, args.to)
    found = compare.evaluations(columns)
    differences = compare.config_differences(columns)
    if not args.json:
        _print_tables(columns, found, differences)
    warnings: list[str] = []
    notes: list[str] = []
    for which, rows in found.items():
        differently = compare.not_comparable(columns, which, rows)
        warnings += differently
        notes += [] if differently else compare.within_noise(columns, which, rows)
    for line in (*skipped, *warnings):
        logger.warning("%s", line)
    for line in notes:
        logger.info("%s", line)
    from cyclestyle.reports.comparison_sheet import write_sheet  # torch: after the tables, which need none

    sheet, missing = write_sheet(columns, output=args.output, input=args.input, num_images=args.num_images)
    for line in missing:
        logger.warning("%s", line)
    if args.json:
        _print(json.dumps(_as_json(columns, differences, [*skipped, *missing, *warnings, *notes], sheet), indent=2))
    else:
        _print(str(sheet))
    return 1 if missing or len(columns) < len(args.runs) else 0


def _print_tables(
    columns: Sequence[Column], found: dict[str, list[Evaluation | None]], differences: dict[str, list[Any]]
) -> None:
    from cyclestyle.reports import compare

    lines = []
    for which, rows in found.items():
        lines += [*compare.score_table(columns, which, rows), ""]
    if not found:
        lines += ["none of these runs was scored while it trained (evaluate.every)", ""]
    lines += compare.config_table(columns, differences, terminal_width()) if differences else ["no setting differs"]
    _print("\n".join([*lines, ""]))
    sys.stdout.flush()  # translating takes a while


def _as_json(
    columns: Sequence[Column], differences: dict[str, list[Any]], warnings: list[str], sheet: Path
) -> dict[str, Any]:
    from cyclestyle.reports.compare import ABSENT
    from cyclestyle.reports.runs import as_json, plain

    labels = [column.label for column in columns]
    return {
        "runs": {
            column.label: {"source": column.source, "target": column.target, **as_json(column.run)}
            for column in columns
        },
        # A key that a run does not have is absent here too; null is a value.
        "config": plain({
            key: {label: value for label, value in zip(labels, values, strict=True) if value is not ABSENT}
            for key, values in differences.items()
        }),
        "warnings": plain(warnings),
        "sheet": str(sheet),
    }  # fmt: skip


def _print(text: str) -> None:
    """On stdout; a terminal of another encoding shows question marks rather than nothing."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding))


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a whole number of at least 1")
    return int(text)
