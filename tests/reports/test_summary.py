"""Run folders read to a summary: what it says of whole ones, of unfinished ones and of damaged ones."""

from __future__ import annotations

import json
import math
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cyclestyle.errors import CheckpointError
from cyclestyle.reports.summary import list_runs, read_run, score_of

from .run_folders import DAY, NOW, evaluation, make_run, row, set_age


def test_a_whole_run(tmp_path: Path) -> None:
    path = make_run(
        tmp_path / "first",
        rows=[row(10, alarms={"collapse_ab": "an old one"}), row(1000, alarms={"checkerboard_ab": "peaks: knob"})],
        evaluations=[evaluation(400, 0.3), evaluation(800, 0.1), evaluation(1000, 0.2)],
        checkpoints=[800, 1000],
        best=800,
    )
    run = read_run(path, now=NOW)
    assert (run.name, run.domains, run.option("method.name")) == ("first", ("photo", "painting"), "cyclegan")
    assert (run.step, run.num_steps, run.state) == (1000, 1000, "finished")
    assert run.best is not None
    assert run.newest is not None
    assert (run.best.step, run.newest.step) == (800, 1000)
    assert score_of(run.best, "ab") == ("kid_ab", 0.1)
    assert run.best_checkpoint == path / "checkpoints/step_00000800.pt"
    assert run.best_reason == "lowest kid_ab"
    assert run.alarms == {"checkerboard_ab": "peaks: knob"}
    assert run.active == NOW - DAY
    assert run.num_bytes == sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert run.problems == ()
    judged = run.newest.directions["ba"]
    assert (judged.source, judged.target, judged.num_sources, judged.num_references) == ("painting", "photo", 4, 3)
    assert judged.files == tuple(f"pictures/testA/{index}.png" for index in range(3))


def test_scores_of_both_directions_are_their_mean(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", evaluations=[evaluation(10, 0.1)]))
    assert run.newest is not None
    assert score_of(run.newest, "ba") == ("kid_ba", pytest.approx(0.3))
    assert score_of(run.newest, "both") == ("kid_both", pytest.approx(0.2))  # (0.1 + 0.3) / 2
    swd = read_run(make_run(tmp_path / "other", evaluations=[evaluation(10, best="swd")]))
    assert swd.newest is not None
    assert score_of(swd.newest, "ab") is None  # there is a swd_16_ab, no swd_ab


def test_of_a_step_that_was_judged_again_the_last_row_counts(tmp_path: Path) -> None:
    rows = [evaluation(10, 0.3), evaluation(20, 0.2), evaluation(10, 0.1)]
    run = read_run(make_run(tmp_path / "run", evaluations=rows, checkpoints=[10], best=10))
    assert run.best is not None
    assert score_of(run.best, "ab") == ("kid_ab", 0.1)


def test_alarms_are_those_of_the_newest_row_of_the_training(tmp_path: Path) -> None:
    """Evaluations write rows of their own, which know nothing of alarms; an alarm that has ended is not active."""
    ringing = row(20, alarms={"starving": "line"})
    scores = {"step": 20, "kid_ab": 0.1}
    assert read_run(make_run(tmp_path / "1", rows=[row(10), ringing, scores])).alarms == {"starving": "line"}
    assert read_run(make_run(tmp_path / "2", rows=[ringing, row(30)])).alarms == {}
    later = read_run(make_run(tmp_path / "3", rows=[ringing, {"step": 25, "kid_ab": 0.1}]))
    assert (later.step, later.alarms) == (25, {"starving": "line"})


STATES: dict[str, tuple[str, dict[str, Any]]] = {
    "no step": ("not started", {}),
    "begun now": ("in progress", {"age": 100.0}),
    "last step logged": ("finished", {"rows": [row(1000)]}),
    "last step saved, logged before": ("finished", {"rows": [row(990)], "checkpoints": [1000]}),
    "writes": ("in progress", {"rows": [row(500)], "age": 119.0}),
    "silent": ("stopped", {"rows": [row(500)], "age": 121.0}),
    # Three rows of 10 steps of 10 s take 300 s, the evaluation between them 2 s.
    "writes slowly": ("in progress", {"rows": [row(500, seconds_per_step=10.0)], "age": 299.0}),
    "writes slowly, evaluates": (
        "in progress",
        {"rows": [row(500, seconds_per_step=10.0)], "evaluations": [evaluation(500)], "age": 301.0},
    ),
    "slow and silent": ("stopped", {"rows": [row(500, seconds_per_step=10.0)], "age": 301.0}),
    "no better twice": (
        "stopped early",
        {
            "settings": {"evaluate.patience": 2},
            "checkpoints": [100, 300],
            "best": 100,
            "evaluations": [evaluation(100), evaluation(200), evaluation(300)],
        },
    ),
    "no better once": (
        "stopped",
        {
            "settings": {"evaluate.patience": 2},
            "checkpoints": [200, 300],
            "best": 200,
            "evaluations": [evaluation(100), evaluation(200), evaluation(300)],
        },
    ),
    "never any good": (
        "stopped early",
        {"settings": {"evaluate.patience": 2}, "evaluations": [evaluation(100), evaluation(200)]},
    ),
    "too early to stop": (
        "stopped",
        {
            "settings": {"evaluate.patience": 2, "evaluate.least_steps": 201},
            "rows": [row(200)],
            "evaluations": [evaluation(100), evaluation(200)],
        },
    ),
    "alarm ends it": (
        "stopped by alarm",
        {"settings": {"doctor.on_alarm": "stop"}, "rows": [row(50, alarms={"exploding": "x"})], "age": 5.0},
    ),
    "alarm only warns": ("in progress", {"rows": [row(50, alarms={"exploding": "x"})], "age": 5.0}),
}


@pytest.mark.parametrize("case", STATES)
def test_states(case: str, tmp_path: Path) -> None:
    state, told = STATES[case]
    assert read_run(make_run(tmp_path / "run", **told), now=NOW).state == state


def test_the_length_of_a_run_by_epochs_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    settings = {"train.steps": None, "train.epochs": 2}
    path = make_run(tmp_path / "run", settings=settings, checkpoints=[70], rows=[row(60)])
    assert read_run(path, now=NOW).num_steps is None  # an empty file
    state = {"format": 1, "step": 70, "num_steps": 700, "position": 70, "weights": torch.ones(3)}
    torch.save(state, path / "checkpoints/step_00000070.pt")
    assert read_run(path, now=NOW).num_steps == 700
    torch.save({**state, "num_steps": 70}, path / "checkpoints/step_00000070.pt")
    set_age(path, DAY)
    assert read_run(path, now=NOW).state == "finished"


def test_only_the_last_whole_row_counts(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rows=[row(10), row(20)])
    with open(path / "metrics.jsonl", "ab") as file:
        file.write(b'\xff\xfe\n[1]\n{"step": true}\n{"step": -5}\n{"step": 1e99}\n{"loss": 3}\n{"step": 30, "cycle_a"')
    run = read_run(path)
    assert (run.step, run.problems) == (20, ())


def test_a_row_longer_than_a_block_is_put_together(tmp_path: Path) -> None:
    """Rows are read backwards in blocks of 65536 bytes; one of 200000 spans four of them."""
    long = row(20, alarms={"starving": "x" * 200_000})
    run = read_run(make_run(tmp_path / "run", rows=[row(10), long, {"step": 20, "kid_ab": 1.0}]))
    assert run.step == 20
    assert len(run.alarms["starving"]) == 200_000


def test_many_long_files_take_no_time(tmp_path: Path) -> None:
    """The work is that of the end of the files: 50 runs of 100000 rows each take less than reading two whole."""
    line = json.dumps(row(7, **{f"score_{index}": 0.123456789 for index in range(5)})) + "\n"
    big = tmp_path / "metrics.jsonl"
    big.write_text(line * 100_000, encoding="utf-8")
    folder = tmp_path / "runs"
    for index in range(50):
        path = make_run(folder / f"run_{index:02d}", evaluations=[evaluation(5)], checkpoints=[5], best=5)
        os.link(big, path / "metrics.jsonl")
    tracemalloc.start()
    list_runs(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < big.stat().st_size / 4
    started = time.perf_counter()
    runs = list_runs(folder)
    listed = time.perf_counter() - started
    assert [run.step for run in runs] == [7] * 50
    started = time.perf_counter()
    for _ in range(2):
        with open(big, encoding="utf-8") as file:
            for each in file:
                json.loads(each)
    assert listed < time.perf_counter() - started


def test_order_and_what_counts_as_a_run(tmp_path: Path) -> None:
    for name, age in (("old", 3 * DAY), ("new", DAY), ("ältere Läufe", 2 * DAY)):
        make_run(tmp_path / name, age=age)
    (tmp_path / "not a run").mkdir()
    (tmp_path / "group" / "inner").mkdir(parents=True)
    make_run(tmp_path / "group" / "nested")
    (tmp_path / "config.yaml.txt").touch()
    assert [run.name for run in list_runs(tmp_path)] == ["new", "ältere Läufe", "old"]
    assert [run.name for run in list_runs(tmp_path / "old")] == ["old"]


def test_translating_with_a_run_does_not_make_it_active(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", rows=[row(10)])
    (path / "translated").mkdir()
    (path / "translated/picture.png").write_bytes(b"1234")
    run = read_run(path, now=NOW)
    assert (run.active, run.state) == (NOW - DAY, "stopped")


def test_links_inside_are_neither_followed_nor_counted(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run")
    before = read_run(path).num_bytes
    (tmp_path / "large").write_bytes(bytes(10_000))
    (path / "link").symlink_to(tmp_path / "large")
    (path / "loop").symlink_to(path)
    assert read_run(path).num_bytes < before + 1000


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no folder .*nowhere"):
        list_runs(tmp_path / "nowhere")
    assert list_runs(tmp_path) == []


# ------------------------------------------------------------------------------------------------ damaged folders


def broken(tmp_path: Path, file: str, content: bytes | None) -> tuple[str, ...]:
    """The problems of a whole run after one of its files was replaced, or removed."""
    path = make_run(
        tmp_path / "run", rows=[row(10)], evaluations=[evaluation(10)], checkpoints=[5, 10], best=10
    )  # fmt: skip
    assert read_run(path).problems == ()
    (path / file).unlink() if content is None else (path / file).write_bytes(content)
    return read_run(path).problems


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("config.yaml", b"a: [1\nb", "config.yaml, line 2: no valid YAML"),
        ("config.yaml", b"- 1\n", "config.yaml: holds a list"),
        ("config.yaml", b"\xff\xfe\x00", "not a text file"),
        ("metrics.jsonl", b"nothing\n", "metrics.jsonl holds no readable row"),
        ("evaluations.jsonl", b"{\n", "evaluations.jsonl holds no readable row"),
        ("checkpoints/index.json", b"{", "checkpoints/index.json is damaged"),
        ("checkpoints/index.json", b"[]", "checkpoints/index.json is damaged"),
        ("checkpoints/index.json", b"[" * 100_000, "checkpoints/index.json is damaged"),
        ("checkpoints/index.json", None, "checkpoints/index.json is missing"),
        ("checkpoints/index.json", b'{"latest": "../../x"}', "latest is no file name"),
        ("checkpoints/index.json", b'{"latest": 3}', "latest is no file name"),
        ("checkpoints/step_00000010.pt", None, "step_00000010.pt (latest) is missing"),
    ],
)
def test_damage_is_named(file: str, content: bytes | None, problem: str, tmp_path: Path) -> None:
    problems = broken(tmp_path, file, content)
    assert any(problem in each for each in problems), problems
    assert all("\n" not in each and str(tmp_path) not in each for each in problems)


def test_a_config_of_another_version_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", settings={"method.name": "diffusion", "new.section": {"x": [1]}, "x": 3}))
    assert (run.problems, run.option("method.name"), run.option("new.section.x")) == ((), "diffusion", [1])
    assert (run.option("new.absent.key"), run.option("method.name.deeper")) == (None, None)


def test_values_of_the_wrong_kind_are_passed_over(tmp_path: Path) -> None:
    odd = evaluation(
        20, size="large", seconds=None, extractor=3, best=[], directions={"ab": 3, "ba": {"pictures": [1, {"file": 2}]}}
    )
    odd["scores"] = {"kid_ab": "low", "kid_ba": True, "fid_ab": math.nan, "swd_ab": 10**400}
    path = make_run(
        tmp_path / "run", settings={"train": 3, "data": [], "evaluate": {"patience": "x", "direction": 5}},
        rows=[row(10, alarms=[1], seconds_per_step="fast")], evaluations=[odd],
    )  # fmt: skip
    run = read_run(path, now=NOW)
    assert (run.alarms, run.num_steps, run.domains, run.judged_direction) == ({}, None, ("a", "b"), "ab")
    assert run.newest is not None
    assert (run.newest.size, run.newest.extractor, run.newest.metric) == (None, "", "kid")
    assert list(run.newest.scores) == ["fid_ab"]


def test_nothing_that_a_file_may_hold_ends_the_listing(tmp_path: Path) -> None:
    """Bytes of every file are replaced, cut out or repeated at random, 200 times."""
    path = make_run(
        tmp_path / "run", settings={"train.steps": None, "train.epochs": 3},
        evaluations=[evaluation(10), evaluation(20)],
        rows=[row(10), row(20, alarms={"starving": "line"})], checkpoints=[10, 20], best=10,
    )  # fmt: skip
    torch.save({"format": 1, "step": 20, "num_steps": 40}, path / "checkpoints/step_00000020.pt")
    random = np.random.default_rng(0)
    files = [file for file in path.rglob("*") if file.is_file() and file.stat().st_size]
    whole = {file: file.read_bytes() for file in files}
    assert len(whole) == 5
    told = set()
    for trial in range(200):
        file = files[trial % len(files)]
        data = bytearray(whole[file])
        for _ in range(random.integers(1, 6)):
            place, end = sorted(random.integers(0, len(data), 2).tolist())
            if random.random() < 0.5:
                data[place] = random.integers(256)
            else:
                data[place:end] = data[place:end] * int(random.integers(0, 3))
            data = data or bytearray(b"{")
        file.write_bytes(data)
        told.update(read_run(path).problems)
        file.write_bytes(whole[file])
    assert len(told) > 5
    assert read_run(path, now=NOW + 10 * DAY).problems == ()


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run", checkpoints=[10])
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        (path / name).mkdir()  # reading a folder fails for everyone, root too
    assert [problem.split(" (")[0] for problem in read_run(path).problems] == [
        "metrics.jsonl cannot be read", "evaluations.jsonl cannot be read",
    ]  # fmt: skip
