"""Runs that are scored and looked at while they train: what they leave, when they stop, how they go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclestyle.checkpoint import load_checkpoint, load_metadata
from cyclestyle.config.loading import load_config
from cyclestyle.config.schema import DoctorConfig, EvaluateConfig
from cyclestyle.errors import ConfigError, DataError
from cyclestyle.inference.translator import Translator
from cyclestyle.run_index import read_index
from cyclestyle.training.best import Best, Verdict
from cyclestyle.training.doctor import Change, Doctor
from cyclestyle.training.run import train
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.watch import Watch


def start(settings: list[str], *more: str) -> Path:
    return train(load_config(None, [*settings, "evaluate.least_content=-1", *more]))


def evaluations(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def judge_as(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Rig the scores: the evaluations of a run find these, one after another."""
    left = list(values)
    honest = Best.judge

    def judge(self: Best, evaluation: Any) -> Verdict:
        evaluation.scores["kid_ab"] = left.pop(0)
        return honest(self, evaluation)

    monkeypatch.setattr(Best, "judge", judge)


def test_evaluations_come_when_due_and_at_the_end(tiny: list[str]) -> None:
    run = start(tiny, "train.steps=5", "evaluate.every=2")
    rows = evaluations(run)
    assert [row["step"] for row in rows] == [2, 4, 5]
    about = rows[0]["directions"]
    assert (about["ab"]["source"], about["ab"]["target"], about["ba"]["target"]) == ("photo", "painting", "photo")
    assert (rows[0]["extractor"], rows[0]["size"], rows[0]["best"]) == ("builtin-1", 20, "kid")
    places = {direction: Path(about[direction]["pictures"][0]["nearest"]).parent.name for direction in about}
    assert places == {"ab": "trainB", "ba": "trainA"}
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    (scored,) = [row for row in metrics if row["step"] == 2 and "kid_ab" in row]
    assert scored["fid_ba"] == rows[0]["scores"]["fid_ba"]
    spec = load_metadata(run / "translators" / "photo_to_painting.safetensors")
    assert spec["scores"]["kid"] == rows[2]["scores"]["kid_ab"]


def test_a_translator_says_no_scores_of_another_step(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 0)
    watch = Watch(EvaluateConfig(), DoctorConfig(), None, None, tracker)
    watch.scores, watch.scored_step = {"kid_ab": 0.1, "kid_ba": 0.2, "psnr_truth_ab": float("inf")}, 4
    assert watch.scores_of("ab", 4) == {"kid": 0.1}
    assert watch.scores_of("ab", 6) == {}
    tracker.close()


def test_scores_are_those_of_the_translator_that_is_left(tiny: list[str]) -> None:
    """What training says of a step is what `cyclestyle evaluate` says of its files."""
    from cyclestyle.cli.main import main

    run = start(tiny, "train.steps=2")
    (trained,) = evaluations(run)
    import io
    from contextlib import redirect_stdout

    out = io.StringIO()
    with redirect_stdout(out):
        assert main(["evaluate", "--run", str(run), "--json", "--precision", "fp32"]) == 0
    (row,) = json.loads(out.getvalue())
    assert row["step"] == 2
    for name, value in trained["scores"].items():
        found = row["scores"][name]
        assert found == value if value is None else found == pytest.approx(value, rel=1e-3, abs=1e-5), name


def test_the_best_checkpoint_stays_and_is_named(tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    judge_as(monkeypatch, 0.5, 0.2, 0.3, 0.4, 0.6)
    run = start(tiny, "train.steps=10", "evaluate.every=2", "train.checkpoint_every=100", "train.keep_checkpoints=1")
    # 2 and 4 were the best when they came, 4 still is; 10 is the newest.
    assert sorted(path.name for path in (run / "checkpoints").glob("*.pt")) == ["step_00000004.pt", "step_00000010.pt"]
    index = read_index(run)
    assert index is not None
    assert (index.best_step, index.best) == (4, run / "checkpoints" / "step_00000004.pt")
    assert index.best_reason.startswith("step 4: kid_ab 0.2, best so far (0.5 at step 2: a difference of 0.3")
    assert f"best checkpoint: {index.best_reason}" in capsys.readouterr().out
    newest, best = Translator.load(run, precision="fp32"), Translator.load(run, best=True, precision="fp32")
    assert (newest.spec.step, best.spec.step) == (10, 4)
    assert best.spec.scores["kid"] == 0.2


def test_a_best_checkpoint_that_is_gone_is_forgotten(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    judge_as(monkeypatch, 0.2, 0.5, 0.4)
    run = start(tiny, "train.steps=4", "evaluate.every=2")
    (run / "checkpoints" / "step_00000002.pt").unlink()
    start(tiny, "train.steps=6", "evaluate.every=2")
    assert "the best checkpoint, step_00000002.pt, is gone: the next evaluation begins anew" in caplog.text
    index = read_index(run)
    assert index is not None
    assert index.best_step == 6


def test_patience_ends_a_run_for_good(tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    judge_as(monkeypatch, 0.2, 0.3, 0.4, 0.1, 0.1, 0.1)
    early = ["train.steps=20", "evaluate.every=1", "evaluate.patience=2"]
    run = start(tiny, *early)
    out = capsys.readouterr().out
    assert out.startswith("trained: 3 steps, stopped early: no better kid_ab in 2 evaluations (evaluate.patience)")
    assert "the best is step 1" in out
    start(tiny, *early)
    assert capsys.readouterr().out.startswith(
        "already stopped early at step 3: no better score in 2 evaluations; to train on, set evaluate.patience=0"
    )
    start(tiny, "train.steps=5", "evaluate.every=1", "evaluate.patience=0")
    assert load_checkpoint(run / "checkpoints" / "step_00000005.pt")["step"] == 5
    assert [row["step"] for row in evaluations(run)] == [1, 2, 3, 4, 5]


def test_a_resumed_run_judges_as_if_it_had_never_stopped(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["evaluate.every=3", "doctor.every=1", "train.checkpoint_every=4"]
    whole = start(tiny, "train.steps=12", *settings)
    parts = [*tiny, f"output_dir={tmp_path / 'parts'}"]

    class PowerCut(BaseException):
        pass

    run = tmp_path / "parts" / "tiny"
    honest = Doctor.look
    for fatal in (7, 10):  # between an evaluation and the next checkpoint: rows are there that must go

        def look(self: Doctor, step: int, *rest: Any, fatal: int = fatal) -> None:
            if step == fatal:
                raise PowerCut
            honest(self, step, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(Doctor, "look", look)
            with pytest.raises(PowerCut):
                start(parts, "train.steps=12", *settings)
    start(parts, "train.steps=12", *settings)
    states = [load_checkpoint(each / "checkpoints" / "step_00000012.pt")["watch"] for each in (whole, run)]
    for part in states[0]["doctor"]:
        assert repr_of(states[0]["doctor"][part]) == repr_of(states[1]["doctor"][part])
    assert repr_of(states[0]["best"]) == repr_of(states[1]["best"])
    for row, other in zip(evaluations(whole), evaluations(run), strict=True):
        assert row["scores"] == other["scores"]


def repr_of(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: repr_of(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [repr_of(each) for each in value]
    return value.tolist() if isinstance(value, torch.Tensor) else repr(value)


def test_the_doctor_stops_a_run_if_told_to(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    line = "photo turns dark where it was light; raise method.weights.identity_b"

    def log(self: Doctor, step: int, row: Any) -> tuple[dict[str, float], list[Change]]:
        if step < 4:
            return {"doctor_luminance_correlation_ab": 0.5}, []
        self._lines["color_inversion_ab"] = line
        return {"doctor_luminance_correlation_ab": -0.5}, [Change("color_inversion_ab", True, line)]

    monkeypatch.setattr(Doctor, "log", log)
    with pytest.raises(ConfigError, match=r"doctor\.on_alarm=stop at step 4, saved: photo turns dark.*on_alarm=warn"):
        start(tiny, "train.steps=8", "doctor.on_alarm=stop")
    run = Path(next(s for s in tiny if s.startswith("output_dir=")).partition("=")[2]) / "tiny"
    assert load_checkpoint(run / "checkpoints" / "step_00000004.pt")["step"] == 4
    rows = [json.loads(each) for each in (run / "metrics.jsonl").read_text().splitlines()]
    assert "alarms" not in rows[0]
    assert rows[1]["alarms"] == {"color_inversion_ab": line}
    assert rows[1]["doctor_luminance_correlation_ab"] == -0.5
    assert f"step 4: {line}" in caplog.text
    start(tiny, "train.steps=8", "doctor.on_alarm=warn")
    assert load_checkpoint(run / "checkpoints" / "step_00000008.pt")["step"] == 8


def test_watching_changes_nothing_that_is_learned(tiny: list[str], tmp_path: Path) -> None:
    runs = [
        start([*tiny, f"output_dir={tmp_path / name}"], "train.steps=6", *settings)
        for name, settings in (
            ("watched", ("evaluate.every=1", "doctor.every=1")),
            ("alone", ("evaluate.every=0", "doctor.every=0")),
        )
    ]
    states = [load_checkpoint(run / "checkpoints" / "step_00000006.pt") for run in runs]
    for part in ("method", "averages", "optimization", "random"):
        assert repr_of(states[0][part]) == repr_of(states[1][part])
    assert not (runs[1] / "evaluations.jsonl").exists()


def test_a_failing_evaluation_ends_no_training(
    tiny: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError("out of memory, say")

    monkeypatch.setattr("cyclestyle.evaluation.evaluate.sliced_wasserstein", fail)
    run = start(tiny, "train.steps=3", "evaluate.every=2")
    assert "the evaluation at step 2 failed (out of memory, say); training goes on without it" in caplog.text
    assert load_checkpoint(run / "checkpoints" / "step_00000003.pt")["step"] == 3
    assert json.loads((run / "checkpoints" / "index.json").read_text())["best"] is None


def test_too_few_test_pictures_are_said_and_no_hindrance(
    tiny: list[str], dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    next((dataset / "testB").iterdir()).unlink()
    run = start(tiny, "train.steps=1")
    assert "photo to painting is not scored: it takes 2 test pictures of each" in caplog.text
    assert not (run / "evaluations.jsonl").exists()


def test_without_test_folders_training_pictures_are_scored_and_that_is_said(
    tiny: list[str], dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in ("testA", "testB"):
        for path in (dataset / folder).iterdir():
            path.unlink()
        (dataset / folder).rmdir()
    run = start(tiny, "train.steps=1")
    assert "painting has no test pictures: photo to painting is scored on training pictures" in caplog.text
    (row,) = evaluations(run)
    assert row["directions"]["ab"]["num_sources"] == 5
    assert "memorisation_ab" not in row["scores"]  # nothing unseen to measure it by


def test_a_missing_weight_file_shows_before_the_first_step(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"evaluate\.weights"):
        start(tiny, "train.steps=1", "evaluate.extractor=torchvision", f"evaluate.weights={tmp_path / 'no.pth'}")
    assert not (tmp_path / "runs").exists()


def test_an_empty_test_folder_is_refused_as_before(tiny: list[str], dataset: Path) -> None:
    for path in (dataset / "testB").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="testB holds no images"):
        start(tiny, "train.steps=1")


@pytest.mark.parametrize("setting", ["evaluate.direction=ba", "evaluate.direction=both"])
def test_the_direction_that_counts(tiny: list[str], setting: str) -> None:
    run = start(tiny, "train.steps=1", setting)
    index = read_index(run)
    assert index is not None
    assert index.best_reason.startswith(f"step 1: kid_{setting.partition('=')[2]} ")


def test_doubled_training_pictures_are_named_at_the_start(
    tiny: list[str], dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, *_ = sorted((dataset / "trainA").iterdir())
    (dataset / "trainA" / "again.png").write_bytes(first.read_bytes())
    with caplog.at_level(logging.WARNING, "cyclestyle"):
        start(tiny, "train.steps=1")
    assert "photo: 1 of 6 training pictures are there already" in caplog.text
