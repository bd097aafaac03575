"""Writes the page of a run: one HTML file that opens from disk. The only file that imports jinja2.

What the page says is gathered elsewhere (`gather`, `curves`, `verdict`, `sections`, `pictures`, `gallery`); here it
meets `page.html`. All that comes from files is escaped by jinja2, also inside the script's JSON.
"""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from cyclestyle import __version__
from cyclestyle.checkpoint import replacing
from cyclestyle.errors import CheckpointError
from cyclestyle.reports import sections, verdict
from cyclestyle.reports.curves import chart_groups
from cyclestyle.reports.gallery import galleries
from cyclestyle.reports.gather import Run, gather
from cyclestyle.reports.pictures import Film, films


def write_report(run: Path, output: Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: run folder; a training may be writing to it.
        output: the file to write, replaced as a whole; None: report.html in the run folder.

    Returns:
        The file.

    Raises:
        CheckpointError: no run there, or the file cannot be written.
    """
    page = render(gather(run))
    path = run / "report.html" if output is None else output
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give a file, such as -o {path / 'report.html'}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(page.encode("utf-8", "replace"))  # names of files may hold what is no Unicode
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}): name another file with -o") from error
    return path


def render(run: Run, now: float | None = None) -> str:
    """The page as text; `now` is in seconds since 1970."""
    now = time.time() if now is None else now
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    environment.filters |= {"number": verdict.number, "value": verdict.value}
    shown, groups = films(run), chart_groups(run.series, run.names)
    return environment.from_string(_part("page.html")).render(
        css=_part("page.css"),
        script=_part("page.js"),
        run=run,
        judged=verdict.judge(run),
        facts=sections.facts(run),
        films=shown,
        tables=sections.tables(run),
        alarms=sections.alarms(run),
        ringing=[sections.segments(alarm.line) for alarm in run.ringing],
        galleries=galleries(run),
        card_scores=sections.card_scores,
        config=sections.settings(run),
        commands=sections.commands(run),
        version=__version__,
        written=time.strftime("%d %B %Y, %H:%M", time.localtime(now)).lstrip("0"),
        groups=groups,
        page={
            "films": [_film_data(run, film) for film in shown],
            "charts": [chart for group in groups for chart in group["charts"]],
            "alarms": sections.shaded(run),
            "best": run.best_step,
        },
    )


def _part(name: str) -> str:
    return resources.files("cyclestyle.reports").joinpath(name).read_text(encoding="utf-8")


def _film_data(run: Run, film: Film) -> dict[str, Any]:
    scored = {each.step: each for each in run.evaluations}
    notes = []
    for step in film.steps:
        metric = verdict.metric_of(run, scored[step]) if step in scored else ""
        score = scored[step].scores.get(f"{metric}_{film.direction}") if metric else None
        notes.append("" if score is None else f"{metric.upper()} {verdict.value(score)}")
    return {
        "direction": film.direction,
        "source": film.source,
        "target": film.target,
        "steps": film.steps,
        "notes": notes,
        "best": film.best,
        "frames": film.frames,
        "captions": film.captions,
        "labels": film.labels,
        "large": {str(index): pictures for index, pictures in film.large.items()},
        "largeSources": film.large_sources,
    }
