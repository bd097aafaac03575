"""What looks at a run while it trains: evaluations, the best checkpoint, the doctor. It says so, and writes it down.

Nothing here changes what is learned, and nothing that fails here ends a training.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import DoctorConfig, EvaluateConfig
from cyclestyle.distributed import is_first, world_size
from cyclestyle.errors import CyclestyleError
from cyclestyle.evaluation.evaluate import Evaluator, Translate
from cyclestyle.training.best import Best
from cyclestyle.training.doctor import Change, Doctor
from cyclestyle.training.tracker import Tracker

logger = logging.getLogger("cyclestyle")


_FAILURES = (CyclestyleError, RuntimeError, MemoryError, OSError)


class Watch:
    """The eyes on one run.

    Args:
        evaluate, doctor: the sections of the config.
        evaluator: scores translations; None: nothing is scored.
        detectors: raise alarms; None: no doctor.
        tracker: where scores and alarms are written.

    Attributes:
        scores: of the last evaluation, by flat name.
        scored_step: when that was.
        stop: why training should end now, in words; None: it should not.
    """

    def __init__(
        self,
        evaluate: EvaluateConfig,
        doctor: DoctorConfig,
        evaluator: Evaluator | None,
        detectors: Doctor | None,
        tracker: Tracker,
    ) -> None:
        self._evaluate = evaluate
        self._doctor = doctor
        self._evaluator = evaluator if evaluate.every else None
        self._detectors = detectors if doctor.every else None
        self._tracker = tracker
        self.best = None if self._evaluator is None else _best(evaluate, self._evaluator)
        self.scores: dict[str, float] = {}
        self.scored_step: int | None = None
        self.stop: str | None = None

    @property
    def alarms(self) -> dict[str, str]:
        """The alarms that ring now: name to line."""
        return {} if self._detectors is None else self._detectors.active

    def is_looking(self, step: int) -> bool:
        """Whether `look` wants the batch of this step."""
        return self._detectors is not None and self._detectors.is_due(step)

    def look(self, step: int, batch: UnpairedBatch, fakes: Mapping[str, Tensor]) -> None:
        """Show the doctor a batch and its translations by direction, detached."""
        if self._detectors is not None:
            self._detectors.look(step, batch, fakes)

    def write(self, step: int, row: Mapping[str, float]) -> None:
        """Write the row of a log point, with what the doctor says of it."""
        if self._detectors is None:
            self._tracker.write(step, dict(row))
            return
        measured, changes = self._detectors.log(step, row)
        self._announce(step, changes)
        self._tracker.write(step, {**row, **measured}, self.alarms)
        self._stop_on_alarm()

    def _stop_on_alarm(self) -> None:
        if self._doctor.on_alarm == "stop" and self.alarms:
            self.stop = "; ".join(self.alarms.values())

    def is_evaluating(self, step: int, last_step: int) -> bool:
        """Whether `evaluate` is due after this step: every so many, and once at the end."""
        if self._evaluator is None:
            return False
        return step % self._evaluate.every == 0 or step == last_step

    def evaluate(self, step: int, translate: Translate) -> bool:
        """Score the run as it stands; whether it is the best so far, as the first of several processes finds."""
        assert self._evaluator is not None, "is_evaluating says so"
        assert self.best is not None, "there is one beside each evaluator"
        started = time.perf_counter()
        try:
            translations = self._evaluator.translations(translate)
        except _FAILURES as error:
            if world_size() > 1:  # the others wait for this one's share
                raise
            return _failed(step, error)
        if not is_first():
            return False
        try:
            evaluation = self._evaluator.score(step, translations, started)
            verdict = self.best.judge(evaluation)
        except _FAILURES as error:
            return _failed(step, error)
        self.scores, self.scored_step = evaluation.scores, step
        self._tracker.evaluation({**evaluation.row, "best": self._evaluate.best})
        logger.info(verdict.line)
        if self._detectors is not None:
            self._announce(step, self._detectors.judged(step, evaluation.scores))
            self._stop_on_alarm()
        self.stop = self.stop or verdict.stop
        return verdict.is_best

    def scores_of(self, direction: str, step: int) -> dict[str, float]:
        """What a translator file of this step says of itself: the scores of its direction, if they were taken."""
        if step != self.scored_step:
            return {}
        suffix = f"_{direction}"
        return {
            name.removesuffix(suffix): value
            for name, value in self.scores.items()
            if name.endswith(suffix) and math.isfinite(value)
        }

    def _announce(self, step: int, changes: list[Change]) -> None:
        for change in changes:
            logger.warning("step %d: %s", step, change.line)
            self._tracker.alarm(step, change.name, change.line, change.started)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to judge as an uninterrupted one would."""
        return {
            "best": None if self.best is None else self.best.state_dict(),
            "doctor": None if self._detectors is None else self._detectors.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; parts that were off then begin anew."""
        if self.best is not None and state["best"] is not None:
            self.best.load_state_dict(state["best"])
        if self._detectors is not None and state["doctor"] is not None:
            self._detectors.load_state_dict(state["doctor"])


def _failed(step: int, error: Exception) -> bool:
    logger.warning("the evaluation at step %d failed (%s); training goes on without it", step, error)
    return False


def _best(config: EvaluateConfig, evaluator: Evaluator) -> Best:
    sides = {side.direction: side for side in evaluator.sides}
    pictures = ", ".join(f"{name} {len(side.sources)}/{len(side.references)}" for name, side in sides.items())
    key = f"{evaluator.extractor.fingerprint} {evaluator.size} px {pictures}"

    def references(direction: str) -> Tensor:
        return evaluator.features_of(sides[direction].references)

    return Best(config, list(sides), references, key)
