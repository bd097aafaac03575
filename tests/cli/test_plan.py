"""`cyclestyle plan` as people meet it: the table, --json, one line for what cannot be; the steps are a stand-in."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cyclestyle.cli.main import main
from cyclestyle.config.schema import Config
from cyclestyle.training import forecast
from cyclestyle.training.probing import Between, Probe, Task
from cyclestyle.training.speed import parameters_in_words

GIB = 2**30


def steps(config: Config, task: Task) -> Probe:
    """1 GiB and an eighth for each image, a tenth of a second each."""
    batch = task.micro_batch
    found = Probe(
        micro_batch=batch, num_measured=3, seconds=0.1 * batch, fastest=0.09 * batch, slowest=0.11 * batch,
        processor_seconds=0.2 * batch, idle_bytes=GIB, peak_bytes=GIB + batch * GIB // 8, host_bytes=GIB,
        free_bytes=0, precision="bf16 (as configured)",
    )  # fmt: skip
    between = Between(
        look_seconds=0, grid_seconds=0.5, evaluation_seconds=8.0, evaluation_bytes=GIB, num_scored=8, num_directions=2,
        checkpoint_bytes=200 * 2**20, translators_bytes=40 * 2**20,
        parameters={"generators": 22_760_000, "discriminators": 5_530_000},
    )  # fmt: skip
    return replace(found, between=between) if task.is_watched else found


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """10 GiB free, and steps that take no time to try."""
    monkeypatch.setattr(forecast, "free_memory", lambda: 10 * GIB)
    monkeypatch.setattr(forecast, "used_memory", lambda _: 0)
    monkeypatch.setitem(forecast.forecast.__kwdefaults__, "prober", steps)
    yield
    logging.getLogger("cyclestyle").handlers.clear()


def test_small_networks_are_not_nothing() -> None:
    numbers = {"generators": 1_234_567, "discriminators": 4_321}
    assert parameters_in_words(numbers) == "1.23 M in generators, 4,321 in discriminators"


def test_the_table(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *tiny, "train.steps=36000", "train.checkpoint_every=1000", "log.samples_every=500"]) == 0
    printed = capsys.readouterr()
    table = {line[:15].strip(): line[15:].strip() for line in printed.out.splitlines()}
    assert table["run"] == str(tmp_path / "runs" / "tiny")
    assert table["images"] == "5 photo, 3 painting"
    assert table["length"] == "36000 steps of batch 1, 7.2e+03 epochs"
    assert table["parameters"] == "22.76 M in generators, 5.53 M in discriminators"
    assert table["device"] == "cpu, bf16 (as configured)"
    assert table["memory"] == (
        "1.13 GiB at the peak of 10 GiB free: steps 1.13 GiB, evaluations 1 GiB, pictures kept in memory 10.5 KiB"
    )
    assert table["speed"] == "0.1 s a step (median of 3 steps, 0.09 to 0.11), 10 images/s"
    assert table["time"] == (
        "63.2 min: 60.0 min steps, 72.0 s 36 evaluations, 72.0 s 72 sample grids, 45.3 s 36 checkpoints"
    )
    assert table["disk"].startswith(
        "842 MiB: 4 checkpoints of 200 MiB, translators 40 MiB, sample grids about 1.58 MiB"
    )
    assert table["largest batch"] == "train.batch_size=63 (by the memory of 1, 2, 16)"
    assert [line for line in printed.err.splitlines() if not line.startswith("trying train.batch_size=")] == []


def test_json(tiny: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--seconds", "40", *tiny, "train.epochs=2", "train.batch_size=2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"]["num_train"] == [5, 3]
    assert (found["num_steps"], found["batch_size"], found["seconds_per_step"]) == (5, 2, 0.2)
    assert found["memory"]["peak"] == pytest.approx(1.25 * GIB, rel=1e-3)
    assert found["seconds"]["total"] > found["seconds"]["steps"] == 1.0
    assert found["disk"]["total"] > found["disk"]["checkpoint"] == 200 * 2**20
    assert (found["largest_batch"], found["is_largest_sure"], found["tried"]) == (63, False, [1, 2, 16])


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["train.steps=5", "train.batch_size=100"], ["train.batch_size=100", "13.5 GiB", "9.0 GiB", "=63 or less"]),
        (["train.steps=5", "generator.filter=4"], ["unknown key generator.filter", "generator.filters"]),
        ([], ["how long to train is not given"]),
        (["train.steps=5", "data.root=nowhere"], ["data.root", "nowhere"]),
        (["train.steps=5", "data.augment=[{name: Blurr}]"], ["Blurr"]),
        (["train.steps=5", "stray"], ["stray argument 'stray'"]),
    ],
)
def test_what_cannot_be_is_one_line(
    tiny: list[str], words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *tiny, *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith("trying")]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert all(fragment in lines[0] for fragment in fragments), lines[0]


@pytest.mark.parametrize("text", ["0", "-3", "long", "inf", "nan"])
def test_seconds_are_a_number_above_0(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", f"--seconds={text}"])
    assert stop.value.code == 2
    assert f"got '{text}', needs a number of seconds above 0" in capsys.readouterr().err


def test_what_should_be_known_is_said(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs" / "tiny" / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(forecast.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 100 * 2**20}))
    assert main(["plan", *tiny, "train.steps=5", "train.batch_size=60", "--seconds", "1"]) == 0
    printed = capsys.readouterr()
    assert "1 steps of 60" not in printed.out
    warnings = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert any("train.batch_size=60 were not timed" in line for line in warnings)
    assert any("100 MiB free" in line or "0.1 GiB free" in line for line in warnings)
    assert any("has checkpoints already" in line for line in warnings)


def test_nothing_is_written(tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(tmp_path.rglob("*"))
    assert main(["plan", *tiny, "train.steps=5"]) == 0
    assert set(tmp_path.rglob("*")) == before
    assert f"run            {tmp_path / 'runs' / 'tiny'}" in capsys.readouterr().out
