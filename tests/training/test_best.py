"""Which checkpoint is named the best, in which words, and when patience is at an end."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclestyle.config.schema import EvaluateConfig
from cyclestyle.evaluation.evaluate import Evaluation
from cyclestyle.evaluation.kernel import kernel_difference_error, kernel_distance
from cyclestyle.training.best import Best, stopped_early


def features(seed: int, shift: float = 0.0, count: int = 20) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed)) + shift


REFERENCES = features(99, count=24)


def evaluation(step: int, content: float = 0.9, shift: float = 0.0, **scores: float) -> Evaluation:
    found = features(7, shift)
    measured = {"kid_ab": kernel_distance(found, REFERENCES), "luminance_correlation_ab": content}
    row: dict[str, Any] = {"step": step, "scores": {**measured, **scores}}
    return Evaluation(row, {"ab": found}, {})


def best(directions: tuple[str, ...] = ("ab",), key: str = "k", **section: Any) -> Best:
    return Best(EvaluateConfig(**section), directions, lambda direction: REFERENCES, key)


def test_the_lowest_score_is_the_best_and_says_why() -> None:
    judge = best()
    first = judge.judge(evaluation(200, shift=1.0))
    assert first.is_best
    assert first.line.endswith("best so far; content kept (luminance correlation 0.90)")
    second = judge.judge(evaluation(400, shift=0.5))
    assert second.is_best
    assert "step 400: kid_ab " in second.line
    assert " at step 200: a difference of " in second.line
    assert "within noise" not in second.line
    third = judge.judge(evaluation(600, shift=0.8))
    assert not third.is_best
    assert "best stays step 400 (" in third.line
    assert (judge.step, judge.reason) == (400, second.line)
    assert third.stop is None


def test_the_error_of_a_difference_is_that_of_the_paired_jackknife() -> None:
    judge = best()
    before, after = evaluation(1, shift=0.6), evaluation(2, shift=0.5)
    judge.judge(before)
    error = kernel_difference_error(after.features["ab"], before.features["ab"], REFERENCES)
    difference = before.scores["kid_ab"] - after.scores["kid_ab"]
    assert f"a difference of {difference:.2g} +- {error:.1g}" in judge.judge(after).line


def test_a_difference_within_noise_is_said_to_be() -> None:
    judge = best()
    judge.judge(evaluation(1, shift=0.5))
    # The same sources a little nearer: small, but the same way for all of them.
    assert "within noise" not in judge.judge(evaluation(2, shift=0.499)).line
    other = evaluation(3, shift=0.5)
    other.features["ab"] = features(8, 0.499)
    other.row["scores"]["kid_ab"] = kernel_distance(other.features["ab"], REFERENCES)
    assert ", within noise)" in judge.judge(other).line


def test_who_loses_the_content_is_no_candidate() -> None:
    judge = best(least_content=0.5)
    verdict = judge.judge(evaluation(200, content=0.2))
    assert not verdict.is_best
    assert verdict.line.endswith("luminance correlation 0.20 is below evaluate.least_content=0.5")
    assert judge.step is None
    assert judge.judge(evaluation(400, content=0.6, shift=3.0)).is_best
    assert not judge.judge(evaluation(600, content=float("nan"))).is_best


def test_patience_and_least_steps() -> None:
    judge = best(patience=2, least_steps=900)
    stops = [judge.judge(evaluation(step, shift=0.1 * step)).stop for step in (100, 200, 300, 400)]
    assert stops == [None] * 4  # before least_steps
    stop = judge.judge(evaluation(900, shift=99)).stop
    assert stop == "no better kid_ab in 4 evaluations (evaluate.patience), the best is step 100"
    assert judge.judge(evaluation(1000, shift=-0.0)).stop is None  # a better one: patience begins anew
    assert best(patience=0).judge(evaluation(1)).stop is None
    lost = best(patience=1).judge(evaluation(5, content=0.0))
    assert lost.stop is not None
    assert "none kept the content" in lost.stop


def test_the_mean_of_both_directions() -> None:
    judge = best(("ab", "ba"), best="fid", direction="both")
    for step, ab, ba in ((1, 4.0, 8.0), (2, 5.0, 6.0), (3, 1.0, 11.0)):
        each = evaluation(step, fid_ab=ab, fid_ba=ba, luminance_correlation_ba=0.8)
        each.features["ba"] = features(3)
        judge.judge(each)
    assert judge.step == 2
    assert "fid_both 5.5" in judge.reason
    assert "+-" not in judge.reason  # nobody knows the error of an FID
    only_ab = evaluation(4, fid_ab=0.0, fid_ba=0.0, luminance_correlation_ba=0.1)
    only_ab.features["ba"] = features(3)
    assert not judge.judge(only_ab).is_best  # the guard holds for both


def test_a_resumed_judge_judges_alike() -> None:
    steps = [evaluation(step, shift=shift) for step, shift in ((1, 0.9), (2, 0.5), (3, 0.7), (4, 0.4))]
    whole = best(patience=3)
    expected = [whole.judge(each) for each in steps]
    part = best(patience=3)
    for each in steps[:2]:
        part.judge(each)
    resumed = best(patience=3)
    resumed.load_state_dict(part.state_dict())
    assert [resumed.judge(each) for each in steps[2:]] == expected[2:]


def test_a_best_of_another_measure_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    judge = best()
    judge.judge(evaluation(200))
    other = best(key="another extractor")
    with caplog.at_level(logging.WARNING, "cyclestyle"):
        other.load_state_dict(judge.state_dict())
    assert "step 200, was found by another measure" in caplog.text
    assert other.step is None


def test_a_run_that_patience_ended_is_known_by_its_checkpoint() -> None:
    judge = best(patience=1)
    judge.judge(evaluation(100))
    judge.judge(evaluation(200, shift=9))
    state = {"step": 200, "watch": {"best": judge.state_dict()}}
    assert stopped_early(state, EvaluateConfig(patience=1))
    assert not stopped_early(state, EvaluateConfig(patience=2))
    assert not stopped_early(state, EvaluateConfig(patience=0))
    assert not stopped_early(state, EvaluateConfig(patience=1, least_steps=300))
    assert not stopped_early(state, EvaluateConfig(patience=1, every=0))
    assert not stopped_early({"step": 200, "watch": {"best": None}}, EvaluateConfig(patience=1))
    assert not stopped_early({"step": 200}, EvaluateConfig(patience=1))  # a checkpoint of version 0.1
