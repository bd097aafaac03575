"""How a run goes, in a sentence or two: what a person asks first, from what was logged and scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cyclestyle.config.methods import METHODS, term_names
from cyclestyle.reports.curves import side_words
from cyclestyle.reports.gather import EvaluationRow, Run

Tone = Literal["good", "watch", "bad", "plain"]

_SURE = 2.0  # standard errors: a difference below may be chance
_PATIENCE = 3  # evaluations without a better score before that means something

_KEEP = tuple(
    dict.fromkeys(
        name
        for entry in METHODS.values()
        for name in term_names(entry.options().weights)
        if name.startswith(("cycle_", "identity_", "nce_", "src_"))
    )
)
"""Terms of any method that tie a translation to its source."""


@dataclass(frozen=True)
class Verdict:
    """What to think of a run.

    Attributes:
        tone: of the mark beside it.
        sentence: one, plain.
        advice: what it rests on, and what to do.
    """

    tone: Tone
    sentence: str
    advice: str


def judge(run: Run) -> Verdict:
    """The health of a run."""
    if run.step == 0 and not run.series:
        return Verdict("plain", "Nothing is logged yet.", "The first row comes after log.scalars_every steps.")
    broken = _not_finite(run)
    if broken is not None:
        return Verdict(
            "bad",
            f"The losses are no longer finite since step {number(broken)}.",
            "Take a checkpoint from before, and lower optimizer.generator_lr or set optimizer.clip_norm=1.",
        )
    if run.ringing:
        titles = " and ".join(dict.fromkeys(alarm_title(alarm.name, run.names).lower() for alarm in run.ringing))
        return Verdict("bad", f"Something is wrong: {titles}.", "; ".join(alarm.line for alarm in run.ringing))
    scored = [(each, score) for each in run.evaluations if (score := main_score(run, each)) is not None]
    if not scored:
        how = "No evaluation was made (evaluate.every)" if not run.evaluations else "Its evaluations have no score"
        advice = f"{how}; look at the pictures below."
        return Verdict("plain", "No alarms, but no scores either: trust your eyes.", advice)
    return _poor(run, scored) or _trend(run, scored)


def _not_finite(run: Run) -> int | None:
    """The step since when losses were not finite, where the newest row has such."""
    newest = run.series["seconds_per_step"].steps[-1] if "seconds_per_step" in run.series else None
    steps = []
    for curve in run.series.values():
        if len(curve.steps) == 0 or curve.steps[-1] != newest or math.isfinite(curve.values[-1]):
            continue
        finite = [index for index, value in enumerate(curve.values.tolist()) if math.isfinite(value)]
        steps.append(int(curve.steps[finite[-1] + 1 if finite else 0]))
    return min(steps, default=None)


def _poor(run: Run, scored: list[tuple[EvaluationRow, float]]) -> Verdict | None:
    """What is to be said of the newest scores whatever the trend; None: nothing."""
    newest, score = scored[-1]
    least = run.summary.option("evaluate.least_content")
    least = least if isinstance(least, int | float) else 0.5
    content = _content(run, newest)
    if content is not None and content < least:
        return Verdict(
            "watch",
            "The translations keep too little of their sources.",
            f"Luminance correlation is {value(content)}, wanted {least:g}; raise {_content_weights(run)}.",
        )
    doing_nothing = _untranslated(run, newest)
    if doing_nothing is not None and score >= doing_nothing and not _was_nearer(run, scored, doing_nothing):
        return Verdict(
            "watch",
            "The translations are no nearer to their target than the sources themselves.",
            f"{score_name(run, newest)} is {value(score)} at step {number(newest.step)}; doing nothing would score "
            f"{value(doing_nothing)}. Early in a run that is usual; late, lower {_content_weights(run)}.",
        )
    return None


def _was_nearer(run: Run, scored: list[tuple[EvaluationRow, float]], doing_nothing: float) -> bool:
    """Whether an earlier evaluation was surely nearer than the sources are: then the trend has more to say."""
    return any(doing_nothing - score > _SURE * (_error(run, each) or 0.0) for each, score in scored)


def _content_weights(run: Run) -> str:
    """Those weights of the run's method that keep the content, in words: those in use, or where none is, all."""
    weights = run.summary.option("method.weights")
    known = [name for name in _KEEP if name in weights] if isinstance(weights, Mapping) else []
    known = [name for name in known if weights[name]] or known
    return f"method.weights.{' or '.join(known)}" if known else "the weights of what keeps the content"


def _trend(run: Run, scored: list[tuple[EvaluationRow, float]]) -> Verdict:
    """Whether it still gets better, from all scores; the lower the better."""
    (first, first_score), (newest, newest_score) = scored[0], scored[-1]
    named = next((pair for pair in scored if pair[0].step == run.best_step), None)
    best, best_score = named or min(scored, key=lambda pair: pair[1])
    name = score_name(run, newest)
    if len(scored) == 1:
        advice = f"{name} is {value(newest_score)} at step {number(newest.step)}, the lower the better."
        return Verdict("plain", "No alarms; one evaluation so far, so there is no trend yet.", advice)
    if best.step == newest.step:
        way = f"{name} went from {value(first_score)} at step {number(first.step)} to {value(newest_score)} now"
        if run.summary.state == "in progress":
            return Verdict(
                "good", "It works, and is still getting better.", f"{way}, the lower the better: let it go on."
            )
        return Verdict(
            "good",
            "It works, and was still getting better at the end.",
            f"{way}, the lower the better: a longer run (train.steps) may bring more.",
        )
    return _since_best(run, scored, (best, best_score))


def _since_best(run: Run, scored: list[tuple[EvaluationRow, float]], best: tuple[EvaluationRow, float]) -> Verdict:
    """Of a run whose best evaluation is not its newest."""
    newest, score = scored[-1]
    since = sum(each.step > best[0].step for each, _ in scored)
    times = "one evaluation" if since == 1 else f"{since} evaluations"
    then = f"{score_name(run, newest)} was {value(best[1])} at step {number(best[0].step)} and is {value(score)} now"
    error = _error(run, newest)
    is_noise = error is not None and abs(score - best[1]) <= _SURE * error
    noise = f"a difference within noise (±\N{NO-BREAK SPACE}{value(error or 0, 2)})"
    if score < best[1]:
        return Verdict("good", "It works.", f"{then}; the best checkpoint was chosen with content kept as a guard.")
    if run.summary.state == "in progress" and since < _PATIENCE:
        why = noise if is_noise else "the lower the better"
        return Verdict("good", "It works; whether it still gets better is open.", f"{then}, {why}: let it go on.")
    if is_noise:
        advice = f"{then}, {noise} after {times}: more of the same will change little."
        return Verdict("good", "It works, and has settled.", advice)
    return Verdict(
        "watch",
        f"It was at its best at step {number(best[0].step)}.",
        f"{then}, {times} later, the lower the better: take the best, and do not wait for more of the same.",
    )


# ---------------------------------------------------------------------------------------------------- scores


def main_score(run: Run, evaluation: EvaluationRow) -> float | None:
    """The score that names the best checkpoint (`evaluate.best`, `evaluate.direction`); None: absent or not finite."""
    found = [evaluation.scores.get(f"{metric_of(run, evaluation)}_{way}") for way in _directions(run)]
    values = [score for score in found if score is not None and math.isfinite(score)]
    return math.fsum(values) / len(values) if values else None


def score_name(run: Run, evaluation: EvaluationRow) -> str:
    """What `main_score` is, for people: "KID (photo → painting)"."""
    counted = _directions(run)
    which = side_words(counted[0], run.names) if len(counted) == 1 else "mean of both directions"
    return f"{metric_of(run, evaluation).upper()} ({which})"


def metric_of(run: Run, evaluation: EvaluationRow) -> str:
    """The metric that names the best checkpoint: kid, fid or swd."""
    return evaluation.metric or str(run.summary.option("evaluate.best") or "kid")


def directions(run: Run) -> tuple[str, str]:
    """Both, the one whose score counts first."""
    return ("ba", "ab") if run.summary.option("evaluate.direction") == "ba" else ("ab", "ba")


def _directions(run: Run) -> tuple[str, ...]:
    direction = run.summary.option("evaluate.direction")
    return ("ab", "ba") if direction == "both" else (direction if direction in ("ab", "ba") else "ab",)


def _content(run: Run, evaluation: EvaluationRow) -> float | None:
    found = [evaluation.scores.get(f"luminance_correlation_{way}") for way in _directions(run)]
    return min((score for score in found if score is not None), default=None)


def _untranslated(run: Run, evaluation: EvaluationRow) -> float | None:
    """What the sources themselves score, where the evaluation tells it."""
    found = [evaluation.scores.get(f"{metric_of(run, evaluation)}_untranslated_{way}") for way in _directions(run)]
    known = [score for score in found if score is not None and math.isfinite(score)]
    return math.fsum(known) / len(known) if known else None


def _error(run: Run, evaluation: EvaluationRow) -> float | None:
    """Standard error of `main_score`, where the evaluation tells it."""
    found = [evaluation.scores.get(f"{metric_of(run, evaluation)}_error_{way}") for way in _directions(run)]
    errors = [error for error in found if error is not None and math.isfinite(error)]
    return math.hypot(*errors) / len(errors) if errors else None


# ---------------------------------------------------------------------------------------------------- words


def alarm_title(name: str, names: tuple[str, str]) -> str:
    """An alarm's name for people: color_inversion_ab -> "Color inversion, photo → painting"."""
    stem, _, side = name.rpartition("_")
    where = side_words(side, names) if stem else ""
    words = (stem if where else name).replace("_", " ").strip().capitalize()
    return f"{words}, {where}" if where else words


def number(count: int) -> str:
    """A count, from 10 000 on in groups of three."""
    return str(count) if count < 10_000 else f"{count:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def value(score: float, digits: int = 3) -> str:
    """A measured number in so many digits; no exponent for what people meet."""
    if not math.isfinite(score):
        return "not finite"
    if score != 0 and not 1e-4 <= abs(score) < 1e6:
        return f"{score:.{digits - 1}e}"
    places = digits - 1 - (0 if score == 0 else math.floor(math.log10(abs(score))))
    return f"{score:.{max(0, places)}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float) -> str:
    """Seconds in the two largest units that say something: "3 h 20 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    first = next(index for index, (_, size) in enumerate(units) if whole >= size)
    (name, size), (finer, part) = units[first], units[first + 1]
    rest = whole % size // part
    return f"{whole // size} {name}" + (f" {rest} {finer}" if rest else "")
