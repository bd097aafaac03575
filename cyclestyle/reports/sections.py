"""What a page's tables and lists hold, made from a run: facts, scores, alarms, settings, commands."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

from cyclestyle.config import keys
from cyclestyle.config.describe import field_texts
from cyclestyle.config.methods import METHODS
from cyclestyle.evaluation import metrics
from cyclestyle.reports import verdict
from cyclestyle.reports.curves import side_words
from cyclestyle.reports.gallery import Card
from cyclestyle.reports.gather import Alarm, EvaluationRow, Run
from cyclestyle.reports.rows import mapping, whole

_MOST_TIMES = 6  # that an alarm rang, told one by one
_MOST_BARS = 200
_BESIDE = {"kid_error", "kid_std"}  # stand beside KID, not in rows of their own
_TITLES = {
    "kid": "KID",
    "kid_untranslated": "KID, untranslated",
    "fid": "FID",
    "swd": "SWD",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "psnr_truth": "PSNR to the truth",
    "ssim_truth": "SSIM to the truth",
}


def facts(run: Run) -> dict[str, Any]:
    """The figures under the headline; empty where they are not known."""
    speed = run.series.get("images_per_second")
    length, best = run.summary.num_steps, run.summary.best_checkpoint
    return {
        "share": None if not length else min(100.0, 100.0 * run.step / length),
        "time": verdict.duration(run.seconds) if run.seconds else "",
        "speed": "" if speed is None else verdict.value(float(speed.values[-1])),
        "best_file": "" if best is None else best.name,
        "newest_checkpoint": run.checkpoints[-1] if run.checkpoints else None,
    }


# ---------------------------------------------------------------------------------------------------- scores


def tables(run: Run) -> list[dict[str, Any]]:
    """For each direction the scores of the newest, the best and the first evaluation."""
    columns = _columns(run)
    return [found for way in verdict.directions(run) if (found := _table(run, way, columns)) is not None]


def _table(run: Run, direction: str, columns: list[tuple[str, EvaluationRow]]) -> dict[str, Any] | None:
    """One direction's scores, a column an evaluation; None where there are none."""
    rows = [each for _, each in columns]
    split = (metrics.split(name) for each in rows for name in each.scores)
    names = {metric for metric, way in split if way == direction}
    if not names:
        return None
    sides = (mapping(each.directions.get(direction)) for each in rows)
    side = next((each for each in sides if each), {})
    counts = [whole(side.get(key)) for key in ("num_sources", "num_references")]
    return {
        "direction": side_words(direction, run.names),
        "num_sources": counts[0],
        "num_references": counts[1],
        "few": min((count for count in counts if count is not None), default=0) < metrics.FEW_PICTURES,
        "columns": [{"title": title, "step": each.step} for title, each in columns],
        "extractor": rows[0].extractor,
        "size": rows[0].size,
        "mixed": len({(each.extractor, each.size) for each in rows}) > 1,
        "rows": [_row(metric, direction, rows) for metric in sorted(names - _BESIDE, key=metrics.rank)],
    }


def _columns(run: Run) -> list[tuple[str, EvaluationRow]]:
    """Title and evaluation of each column; one that is two of them stands once."""
    if not run.evaluations:
        return []
    wanted = {
        "newest": run.evaluations[-1],
        "best": next((each for each in run.evaluations if each.step == run.best_step), None),
        "first": run.evaluations[0],
    }
    titles: dict[int, list[str]] = {}
    for title, each in wanted.items():
        if each is not None:
            titles.setdefault(each.step, []).append(title)
    by_step = {each.step: each for each in run.evaluations}
    return [(" and ".join(names), by_step[step]) for step, names in titles.items()]


def _row(metric: str, direction: str, evaluations: list[EvaluationRow]) -> dict[str, Any]:
    """One metric: its title, what it means, and a cell an evaluation."""
    is_level = metric.startswith("swd_")
    better = "lower" if is_level else metrics.METRICS[metric].better if metric in metrics.METRICS else None
    scores = [each.scores.get(f"{metric}_{direction}") for each in evaluations]
    errors = [each.scores.get(f"{metric}_error_{direction}") for each in evaluations]
    known = {score for score in scores if score is not None and math.isfinite(score)}
    winner = None if better is None or len(known) < 2 else (min if better == "lower" else max)(known)
    cells = [
        {
            "text": "none" if score is None else verdict.value(score),
            "error": "" if error is None else verdict.value(error, 2),
            "wins": score is not None and score == winner,
        }
        for score, error in zip(scores, errors, strict=True)
    ]
    title = f"SWD at {metric.removeprefix('swd_')} px" if is_level else _TITLES.get(metric, _words(metric))
    return {
        "title": title,
        "meaning": metrics.meaning(metric),
        "better": better or "",
        "cells": cells,
        "is_level": is_level,
    }


def _words(name: str) -> str:
    return name.replace("_", " ").capitalize()


def card_scores(card: Card) -> str:
    """The content scores of a picture, in short."""
    short = {"luminance_correlation": "light", "edge_correlation": "edges", "ssim": "SSIM"}
    return ", ".join(f"{short[name]} {verdict.value(score)}" for name, score in card.scores.items())


# ---------------------------------------------------------------------------------------------------- alarms


def alarms(run: Run) -> list[dict[str, Any]]:
    """A row for each alarm by name, those that ring first: when it rang, and what it said."""
    named: dict[str, list[Alarm]] = {}
    for alarm in run.alarms:
        named.setdefault(alarm.name, []).append(alarm)
    found = [
        {
            "title": verdict.alarm_title(name, run.names),
            "is_ringing": times[-1].end is None,
            "bars": [_bar(run, each) for each in times[-_MOST_BARS:]],
            "times": [
                {"start": each.start, "end": each.end, "line": segments(each.line)}
                for each in times[: -_MOST_TIMES - 1 : -1]
            ],
            "num_earlier": max(0, len(times) - _MOST_TIMES),
        }
        for name, times in named.items()
    ]
    return sorted(found, key=lambda row: not row["is_ringing"])


def _bar(run: Run, alarm: Alarm) -> dict[str, float]:
    """Where it rang, in percent of the run's length."""
    length = max(run.step, run.summary.num_steps or 0, 1)
    low, high = (100.0 * step / length for step in (alarm.start, run.step if alarm.end is None else alarm.end))
    return {"left": round(low, 2), "width": round(max(0.6, high - low), 2)}


def shaded(run: Run) -> list[tuple[int, int | None, str]]:
    """Where charts are shaded: (first step, last step or None, which alarms); what is next to each other is one."""
    gap = run.step / 250  # nearer than a screen can show
    spans: list[tuple[int, int | None, list[str]]] = []
    for alarm in sorted(run.alarms, key=lambda alarm: alarm.start):
        title = verdict.alarm_title(alarm.name, run.names)
        start, end, titles = spans[-1] if spans else (0, 0, [])
        if spans and (end is None or alarm.start <= end + gap):
            longest = None if end is None or alarm.end is None else max(end, alarm.end)
            spans[-1] = (start, longest, titles if title in titles else [*titles, title])
        else:
            spans.append((alarm.start, alarm.end, [title]))
    return [(start, end, "; ".join(titles)) for start, end, titles in spans]


_OPTION = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, keys.options_of())) + r")(=[\w.]*\w)?(?![\w])")


def segments(line: str) -> list[dict[str, Any]]:
    """A line in parts, the options of the config in it marked: [{"text", "is_option"}]."""
    parts, end = [], 0
    for match in _OPTION.finditer(line):
        parts += [{"text": line[end : match.start()], "is_option": False}, {"text": match[0], "is_option": True}]
        end = match.end()
    return [part for part in [*parts, {"text": line[end:], "is_option": False}] if part["text"]]


# ---------------------------------------------------------------------------------------------------- config


def settings(run: Run) -> dict[str, Any]:
    """The settings that differ from the defaults, with what each means, and the whole file."""
    method = run.summary.option("method.name")
    known = isinstance(method, str) and method in METHODS
    options = keys.options_of(method if known else keys.DEFAULT_METHOD)
    flat = _flat(run.summary.config, options)
    differences = [
        _difference(key, value, options.get(key))
        for key, value in flat.items()
        if key not in options or value != _plain(options[key].default)
    ]
    return {"differences": differences, "num_options": len(flat), "text": run.config_text.rstrip()}


def _difference(key: str, value: Any, option: keys.Option | None) -> dict[str, str]:
    if option is None:
        return {"key": key, "value": _bare(value), "default": "no option of this version", "meaning": ""}
    meaning = field_texts(option.owner).get(option.field, "").replace("`", "")
    return {"key": key, "value": _bare(value), "default": _bare(_plain(option.default)), "meaning": meaning}


def _flat(tree: Mapping[str, Any], options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key; mappings that are values themselves stay whole."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and key not in options:
            flat |= _flat(value, options, f"{key}.")
        else:
            flat[key] = value
    return flat


def _bare(value: Any) -> str:
    """A value as in YAML, text without its quotes."""
    return value if isinstance(value, str) and value else keys.shown(value)


def _plain(value: Any) -> Any:
    """A default as YAML gives it back."""
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def commands(run: Run) -> list[tuple[str, str]]:
    """What to type: (what it does, the line)."""
    target = run.names[1] if verdict.directions(run)[0] == "ab" else run.names[0]
    rest = f"--to {shlex.quote(target)} --input FOLDER --output translated"
    line = f"python test.py --run {shlex.quote(str(run.folder))}"
    newest = ("Translate a folder with the newest checkpoint", f"{line} {rest}")
    if run.best_step is None or run.best_step == run.step:
        return [newest]
    return [("Translate a folder with the best checkpoint", f"{line} --best {rest}"), newest]
