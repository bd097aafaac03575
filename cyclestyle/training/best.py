"""Which checkpoint is the best, in words, and when more training stopped helping."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cyclestyle.config.schema import EvaluateConfig
from cyclestyle.evaluation.evaluate import Evaluation
from cyclestyle.evaluation.kernel import kernel_difference_error

logger = logging.getLogger("cyclestyle")

# A difference below so many standard errors may be chance: 5% of the time where nothing changed.
_SURE = 2.0
# Luminance correlation from which on content is said to be kept, whatever least_content allows.
_KEPT = 0.5


@dataclass(frozen=True)
class Verdict:
    """What an evaluation means.

    Attributes:
        is_best: its checkpoint is the best so far.
        line: that in words, with the reason.
        stop: why training should end now; None: it should not.
    """

    is_best: bool
    line: str
    stop: str | None


class Best:
    """Remembers the best evaluation so far: the lowest `evaluate.best` of those that keep the content.

    Args:
        config: the `evaluate` section.
        directions: of the scores that exist; `evaluate.direction` chooses among them.
        references: direction -> M x D features that KID compares with, asked for when a difference is weighed.
        key: what makes scores comparable (extractor, size, pictures); a best of another key is forgotten.
    """

    def __init__(
        self, config: EvaluateConfig, directions: Sequence[str], references: Callable[[str], Tensor], key: str
    ) -> None:
        self._config = config
        self._directions = [each for each in directions if config.direction in (each, "both")]
        self._references = references
        self._key = f"{config.best} {config.direction} {key}"
        self.step: int | None = None
        self.reason = ""
        self._value = math.inf
        self._since = 0
        self._features: dict[str, Tensor] = {}

    def judge(self, evaluation: Evaluation) -> Verdict:
        """Compare an evaluation with the best so far, and take it in."""
        step, scores = evaluation.row["step"], evaluation.scores
        value = self._mean(scores, self._config.best)
        content = min((scores[f"luminance_correlation_{each}"] for each in self._directions), default=math.nan)
        found = f"step {step}: {self._name} {value:.4g}"
        kept = f"content {'kept' if content >= _KEPT else 'lost'} (luminance correlation {content:.2f})"
        if not content >= self._config.least_content:
            self._since += 1
            line = (
                f"{found}, no candidate for the best: luminance correlation {content:.2f} is below "
                f"evaluate.least_content={self._config.least_content:g}"
            )
            return Verdict(False, line, self._stop(step))
        if not value < self._value:
            self._since += 1
            against = self._against(evaluation, value)
            return Verdict(False, f"{found}; best stays step {self.step}{against}", self._stop(step))
        line = f"{found}, best so far{self._against(evaluation, value)}; {kept}"
        self.step, self.reason, self._value, self._since = step, line, value, 0
        self._features = {each: evaluation.features[each] for each in self._directions}
        return Verdict(True, line, None)

    @property
    def _name(self) -> str:
        return f"{self._config.best}_{self._config.direction}"

    def _mean(self, scores: Mapping[str, float], metric: str) -> float:
        values = [scores[f"{metric}_{each}"] for each in self._directions]
        return math.fsum(values) / len(values)

    def _against(self, evaluation: Evaluation, value: float) -> str:
        """The difference from the best before, and whether it may be chance; empty for the first."""
        if self.step is None:
            return ""
        difference = abs(value - self._value)
        before = f" ({self._value:.4g} at step {self.step}: "
        error = self._error(evaluation)
        if error is None:
            return f"{before}a difference of {difference:.2g})"
        if math.isnan(error):
            return f"{before}a difference of {difference:.2g}, too few pictures to tell whether by chance)"
        sure = "" if difference > _SURE * error else ", within noise"
        return f"{before}a difference of {difference:.2g} +- {error:.1g}{sure})"

    def _error(self, evaluation: Evaluation) -> float | None:
        """Standard error of the difference from the best before; None for scores whose error is not known."""
        if self._config.best != "kid":
            return None
        errors = [
            kernel_difference_error(evaluation.features[each], self._features[each], self._references(each))
            for each in self._directions
        ]
        return math.hypot(*errors) / len(errors)

    def _stop(self, step: int) -> str | None:
        if not self.is_exhausted or step < self._config.least_steps:
            return None
        best = "none kept the content" if self.step is None else f"the best is step {self.step}"
        return f"no better {self._name} in {self._since} evaluations (evaluate.patience), {best}"

    @property
    def is_exhausted(self) -> bool:
        """Whether `evaluate.patience` evaluations in a row brought nothing better."""
        return 0 < self._config.patience <= self._since

    def forget(self) -> None:
        """Begin anew, as if there had been no evaluation."""
        self.step, self.reason, self._value, self._since, self._features = None, "", math.inf, 0, {}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on judging."""
        return {
            "key": self._key,
            "step": self.step,
            "reason": self.reason,
            "value": self._value,
            "since": self._since,
            "features": dict(self._features),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`; a best that was found by another measure is forgotten, and said so."""
        if state["key"] != self._key:
            if state["step"] is not None:
                logger.warning(
                    "the best checkpoint, step %d, was found by another measure (%s); the next evaluation begins anew",
                    state["step"], state["key"],
                )  # fmt: skip
            return
        self.step, self.reason, self._value = state["step"], state["reason"], state["value"]
        self._since, self._features = state["since"], dict(state["features"])


def stopped_early(state: Mapping[str, Any], config: EvaluateConfig) -> bool:
    """Whether the checkpoint `state` of a run ended by `evaluate.patience`, and would again."""
    best = state.get("watch", {}).get("best")
    return (
        best is not None
        and config.every > 0
        and 0 < config.patience <= best["since"]
        and (state["step"] >= config.least_steps)
    )
