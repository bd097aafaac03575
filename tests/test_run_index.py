"""The index of checkpoints: written, read back, and damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cyclestyle.errors import CheckpointError
from cyclestyle.run_index import RunIndex, best_checkpoint, index_file, index_text, read_index


def write(run: Path, text: str) -> None:
    index_file(run).parent.mkdir(exist_ok=True)
    index_file(run).write_text(text, encoding="utf-8")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for index in (
        RunIndex(folder / "step_00000004.pt"),
        RunIndex(folder / "step_00000004.pt", folder / "step_00000002.pt", 2, "kid_ab 0.1 \N{EM DASH} the lowest"),
    ):
        write(tmp_path, index_text(index))
        assert read_index(tmp_path) == index


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"latest": 3, "best": null}', '{"latest": "x"}', "null"])
def test_a_damaged_index_is_none(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    assert read_index(tmp_path) is None


def test_the_best_checkpoint_or_why_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"index\.json is missing or damaged"):
        best_checkpoint(tmp_path)
    write(tmp_path, index_text(RunIndex(tmp_path / "checkpoints" / "step_00000004.pt")))
    with pytest.raises(CheckpointError, match=r"no evaluation was good enough \(evaluate\.every, evaluate\.least"):
        best_checkpoint(tmp_path)
    best = tmp_path / "checkpoints" / "step_00000002.pt"
    write(tmp_path, index_text(RunIndex(tmp_path / "checkpoints" / "step_00000004.pt", best, 2, "why")))
    with pytest.raises(CheckpointError, match=r"step_00000002\.pt, is gone"):
        best_checkpoint(tmp_path)
    best.touch()
    assert best_checkpoint(tmp_path) == best


def test_it_needs_no_torch() -> None:
    code = "import sys, cyclestyle.run_index; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    ["../../x.pt", "/etc/passwd", "a/b.pt", "", ".", "..", ".hidden", "a\0b", "x" * 300, "a\nb", 5, ["x"]],
    ids=repr,
)
def test_an_index_names_checkpoints_beside_it_alone(tmp_path: Path, name: object) -> None:
    for words in ({"latest": name, "best": None}, {"latest": "step_1.pt", "best": name or "/x"}):
        write(tmp_path, json.dumps(words))
        assert read_index(tmp_path) is None


def test_an_index_that_is_nested_without_end_is_none(tmp_path: Path) -> None:
    write(tmp_path, "[" * 100_000)
    assert read_index(tmp_path) is None
    write(tmp_path, '{"latest": "step_1.pt", "best": "step_1.pt", "best_step": [1]}')
    index = read_index(tmp_path)
    assert index is not None
    assert index.best_step is None
