"""`cyclestyle runs`: a folder of runs as a table for a terminal, a line a run, or as JSON. Also tables as text."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cyclestyle.reports.summary import RunSummary, score_of

_GAP = "  "
# What is left out first where a terminal is too narrow; the rest always stays.
_LEAST_NEEDED = ("method", "size", "domains", "latest score", "active")
# Names and alarms are cut to this on a terminal, and to those where even then a line does not fit.
_SHORT, _SHORTEST_NAME, _SHORTEST_ALARMS = 24, 16, 12


def runs_table(runs: Sequence[RunSummary], now: float, width: int | None = None) -> tuple[str, list[str]]:
    """The runs as lines of text, aligned.

    Args:
        now: seconds since 1970, that ages are counted to.
        width: of the terminal in characters; None: as wide as it takes.

    Returns:
        The table, and the titles of columns that were left out because the terminal is too narrow.
    """
    lines = [_cells(run, now) for run in runs]
    titles = list(lines[0]) if lines else []
    if width is not None:
        for title in ("name", "domains"):
            for line in lines:
                line[title] = shortened(line[title], _SHORT)
    left_out: list[str] = []
    # The last column is cut rather than counted with: alarms are long, and their first words say most.
    while width is not None and _needed_width(lines, titles) > width:
        unneeded = next((title for title in _LEAST_NEEDED if title in titles), None)
        if unneeded is None:
            break
        titles.remove(unneeded)
        left_out.append(unneeded)
    if width is not None and _needed_width(lines, titles) > width:
        for line in lines:
            line["name"] = shortened(line["name"], _SHORTEST_NAME)
    table = text_table([titles, *([line[title] for title in titles] for line in lines)])
    if width is not None:
        most = max(width, _needed_width(lines, titles, _SHORTEST_ALARMS))
        table = [shortened(line, most) for line in table]
    return "\n".join(table), left_out


def _needed_width(lines: Sequence[dict[str, str]], titles: Sequence[str], last: int = _SHORT) -> int:
    """Columns of a terminal that the lines take with the last cell cut to `last`."""
    widths = [max(display_width(text) for text in (title, *(line[title] for line in lines))) for title in titles]
    return sum(widths[:-1]) + min(widths[-1], last) + len(_GAP) * (len(titles) - 1)


def _cells(run: RunSummary, now: float) -> dict[str, str]:
    """A line of the table, by the titles of its columns."""
    a, b = run.domains
    method = run.option("method.name")
    best = None if run.best is None else score_of(run.best, run.judged_direction)
    newest = None if run.newest is None else score_of(run.newest, run.judged_direction)
    cells = {
        "name": run.name,
        "method": method if isinstance(method, str) else "-",
        "domains": f"{a} -> {b}" if run.config else "-",
        "steps": progress(run),
        "best score": "-" if best is None or run.best is None else f"{best[0]} {best[1]:.4g} at {run.best.step}",
        "latest score": "-" if newest is None or run.newest is None else f"{newest[1]:.4g} at {run.newest.step}",
        "size": human_bytes(run.num_bytes),
        "active": human_age(now - run.active),
        "alarms": ", ".join(run.alarms) or "-",
    }
    if run.problems:
        found = "; ".join(run.problems)
        cells["alarms"] = f"damaged: {found}" + (f"; {cells['alarms']}" if run.alarms else "")
    return {title: printable(text) for title, text in cells.items()}


def progress(run: RunSummary) -> str:
    """ "1400 / 2000 in progress"; a length in epochs where that in steps is unknown."""
    epochs = run.option("train.epochs")
    length = str(run.num_steps) if run.num_steps else f"{epochs:g} epochs" if _is_positive(epochs) else "?"
    return f"{run.step or 0} / {length} {run.state}"


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def incomparable_bests(runs: Iterable[RunSummary]) -> bool:
    """Whether best scores of one name, between the same domains, were measured in different ways."""
    ways: dict[tuple[Any, ...], set[tuple[Any, ...]]] = {}
    for run in runs:
        if run.best is not None:
            what = (run.best.metric, run.judged_direction, run.domains)
            ways.setdefault(what, set()).add((run.best.extractor, run.best.size))
    return any(len(found) > 1 for found in ways.values())


def as_json(run: RunSummary) -> dict[str, Any]:
    """A run as plain values for `json.dumps`; numbers that JSON does not know (nan) become null."""
    entry = {
        "name": run.name,
        "path": str(run.path),
        "method": run.option("method.name"),
        "domains": list(run.domains),
        "step": run.step,
        "num_steps": run.num_steps,
        "state": run.state,
        "best": _evaluation_as_json(run, "best"),
        "latest": _evaluation_as_json(run, "newest"),
        "best_checkpoint": None if run.best_checkpoint is None else str(run.best_checkpoint),
        "best_reason": run.best_reason,
        "alarms": run.alarms,
        "bytes": run.num_bytes,
        "active": run.active,
        "problems": list(run.problems),
    }
    return plain(entry)


def _evaluation_as_json(run: RunSummary, which: str) -> dict[str, Any] | None:
    evaluation = run.best if which == "best" else run.newest
    if evaluation is None:
        return None
    score = score_of(evaluation, run.judged_direction)
    entry = asdict(evaluation)
    for direction in entry["directions"].values():
        del direction["files"]
    return {**entry, "score_name": score and score[0], "score": score and score[1]}


def plain(value: Any) -> Any:
    """The same with text that can be printed and with null for nan and infinity."""
    if isinstance(value, dict):
        return {printable(str(key)): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else printable(str(value))


# ---------------------------------------------------------------------------------------------------- text


def text_table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell.

    Args:
        right: indices of columns that are aligned to the right.
    """
    widths = [max(map(display_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for index, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - display_width(text))
            cells.append(space + text if index in right else text + space)
        lines.append(_GAP.join(cells).rstrip())
    return lines


def display_width(text: str) -> int:
    """Columns of a terminal that a text takes: two for the wide letters of Asian scripts, none for marks on letters."""
    return sum(_letter_width(letter) for letter in text)


def _letter_width(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def shortened(text: str, width: int) -> str:
    """The text, cut with "..." where it takes more than `width` columns of a terminal."""
    if display_width(text) <= width:
        return text
    kept, room = "", width - 3
    for letter in text:
        room -= _letter_width(letter)
        if room < 0:
            break
        kept += letter
    return kept + "..."


def printable(text: str) -> str:
    """The text with a question mark for what no terminal can show: broken bytes of file names, line breaks, escapes."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def human_bytes(number: int) -> str:
    """870 kB, 196 MB, 1.2 GB: of 1000 each, as disks are sold."""
    size, units = float(number), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.1f} {units[0]}" if size < 9.95 and units[0] != "bytes" else f"{size:.0f} {units[0]}"


def human_age(seconds: float) -> str:
    """just now, 3 min ago, 2 h ago, 5 days ago."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{seconds / 60:.0f} min ago"
    return f"{seconds / 3600:.0f} h ago" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days ago"
