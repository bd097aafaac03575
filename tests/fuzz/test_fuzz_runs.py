"""Run folders from anywhere, as `runs`, `report` and `compare` read them: what is whole is shown, nothing fails."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cyclestyle.errors import CyclestyleError
from cyclestyle.reports import compare
from cyclestyle.reports.gather import gather
from cyclestyle.reports.report import render
from cyclestyle.reports.runs import as_json, runs_table
from cyclestyle.reports.summary import read_run
from cyclestyle.run_index import best_checkpoint, read_index

from ..reports.report_folder import training_row, write_grid
from ..reports.run_folders import NOW, evaluation, make_run
from .fuzzing import anything, damaged, fuzzed, limits

TEXTS = ("config.yaml", "metrics.jsonl", "evaluations.jsonl", "checkpoints/index.json")
CHECKPOINT, GRID = "checkpoints/step_00000020.pt", "samples/step_00000020_photo_to_painting.png"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is as it should be."""
    run = make_run(
        tmp_path_factory.mktemp("runs") / "whole",
        rows=[training_row(10), training_row(20, alarms={"mode_collapse": "mode_collapse: a line"})],
        evaluations=[evaluation(10), evaluation(20, 0.2)],
        checkpoints=[10, 20],
        best=20,
    )
    torch.save({"format": 1, "step": 20, "num_steps": 40, "method": {}}, run / CHECKPOINT)
    write_grid(run, 10, "photo", "painting")
    write_grid(run, 20, "photo", "painting")
    return run


def _look_at(run: Path, other: Path, *, draws: bool) -> None:
    """All that the commands do with a run but translate with it."""
    with limits(20.0, 512):
        summary = read_run(run, now=NOW)
        table, _ = runs_table([summary, read_run(other, now=NOW)], NOW, 80)
        assert "\x1b" not in table
        assert "\0" not in table
        json.loads(json.dumps(as_json(summary), allow_nan=False))
        index = read_index(run)
        if index is not None:
            for each in (index.latest, index.best):
                assert each is None or each.parent == run / "checkpoints"
        for attempt in (lambda: best_checkpoint(run), lambda: _compared(run, other)):
            with suppress(CyclestyleError):
                attempt()
        if (run / "config.yaml").is_file():
            gathered = gather(run, NOW)
            if draws:
                assert "<script>alert" not in render(gathered, NOW)


def _compared(run: Path, other: Path) -> None:
    columns, _ = compare.open_runs([run, other], None)
    for which, rows in compare.evaluations(columns).items():
        compare.score_table(columns, which, rows)
        compare.not_comparable(columns, which, rows)
        compare.within_noise(columns, which, rows)
    compare.config_table(columns, compare.config_differences(columns), 80)


def _copy(whole: Path) -> Path:
    run = whole.parent / "damaged"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(whole, run)
    return run


@given(st.data(), st.sampled_from([*TEXTS, CHECKPOINT, GRID]))
@fuzzed(26)
def test_damaged_files(whole: Path, data: st.DataObject, name: str) -> None:
    run = _copy(whole)
    (run / name).write_bytes(data.draw(damaged([(whole / name).read_bytes()])))
    _look_at(run, whole, draws=name in (*TEXTS, GRID))


EVIL = st.sampled_from(
    ["</script><script>alert(1)</script>", "../../../x", "a\nb\x1b[2J", "\ud800", {"name": "x"}, 10**400]
)
ODD = anything(EVIL)
ROW_KEYS = st.sampled_from(
    ["step", "seconds_per_step", "alarms", "cycle_a", "lr_generator", "score_kid_ab", "scores", "directions", "best",
     "size", "extractor", "seconds", "x"]
)  # fmt: skip


@given(
    st.lists(st.dictionaries(ROW_KEYS, ODD, max_size=4), max_size=3),
    st.sampled_from(["metrics.jsonl", "evaluations.jsonl"]),
)
@fuzzed(24)
def test_rows_made_up(whole: Path, rows: list[dict[str, Any]], name: str) -> None:
    run = _copy(whole)
    with (run / name).open("a", encoding="utf-8") as file:
        for row in rows:
            whole_row = training_row(30) if name == "metrics.jsonl" else evaluation(30)
            file.write(json.dumps({**whole_row, **row}) + "\n")
    _look_at(run, whole, draws=True)


DIRECTION_KEYS = st.sampled_from(["source", "target", "num_sources", "num_references", "reference_folder", "pictures"])


@given(
    st.dictionaries(
        st.sampled_from(["ab", "ba", "x"]), st.dictionaries(DIRECTION_KEYS, ODD, max_size=4) | ODD, max_size=3
    )
)
@fuzzed(14)
def test_directions_made_up(whole: Path, directions: dict[str, Any]) -> None:
    run = _copy(whole)
    with (run / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(evaluation(30, directions=directions)) + "\n")
    _look_at(run, whole, draws=True)


@given(ODD | st.dictionaries(st.sampled_from(["latest", "best", "best_step", "best_reason"]), ODD, max_size=4))
@fuzzed(25)
def test_an_index_made_up(whole: Path, index: Any) -> None:
    run = _copy(whole)
    (run / "checkpoints" / "index.json").write_text(json.dumps(index), encoding="utf-8")
    _look_at(run, whole, draws=False)


@given(
    st.dictionaries(
        st.sampled_from(["data", "method", "train", "evaluate", "doctor", "log", "name", "x"]), ODD, max_size=4
    )
)
@fuzzed(14)
def test_configs_made_up(whole: Path, changes: dict[str, Any]) -> None:
    run = _copy(whole)
    (run / "config.yaml").write_text(json.dumps(changes), encoding="utf-8")
    _look_at(run, whole, draws=True)


GRID_KEYS = st.sampled_from(
    ["step", "source", "target", "left", "top", "gap", "width", "height", "rows", "label_height", "pictures", "titles"]
)


@given(st.dictionaries(GRID_KEYS, ODD | st.sampled_from([1, 10, 24, 100, 10**9, 2**52]), max_size=4))
@fuzzed(14)
def test_grids_made_up(whole: Path, changes: dict[str, Any]) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    run = _copy(whole)
    with Image.open(whole / GRID) as image:
        facts = {**json.loads(image.text["cyclestyle"]), **changes}  # type: ignore[attr-defined]
        info = PngInfo()
        info.add_text("cyclestyle", json.dumps(facts))
        image.save(run / GRID, pnginfo=info)
    _look_at(run, whole, draws=True)
