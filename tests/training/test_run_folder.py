"""run_folder.py: the newest whole checkpoint, and no good file lost, whatever lies there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclestyle import checkpoint
from cyclestyle.checkpoint import load_checkpoint, load_translator
from cyclestyle.errors import CheckpointError
from cyclestyle.run_index import read_index
from cyclestyle.training.run_folder import RunFolder


def state_of(step: int, best: int | None = None) -> dict[str, Any]:
    return {
        "step": step,
        "method": {"weight": torch.full((50,), float(step))},
        "watch": {"best": {"step": best}, "doctor": None},
        "translators": {"gen_ab": {"source": "photo", "target": "oil"}},
        "averages": {"gen_ab": {"w": torch.full((3,), float(step))}},
    }


def folder_of(run: Path, *steps: int, keep: int = 9, best: int | None = None) -> RunFolder:
    """A run that has saved at each of these steps."""
    folder = RunFolder(run)
    folder.create()
    for step in steps:
        folder.save(state_of(step, best), keep, None if best is None else (best, f"step {best}: kid 0.1"))
    return folder


def steps_in(folder: RunFolder) -> list[int]:
    return [int(path.stem[5:]) for path in folder.checkpoint_files()]


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def zero_a_block(path: Path) -> None:
    """As a file system may leave it that had only the size on the disk when the power went."""
    data = bytearray(path.read_bytes())
    data[512:1024] = bytes(512)
    path.write_bytes(data)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    place = data.index(torch.full((50,), float(int(path.stem[5:]))).numpy().tobytes())
    data[place] ^= 4
    path.write_bytes(data)


def replace_by_foreign(path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, path)


DAMAGES = [zero_bytes, truncate, zero_a_block, flip_a_bit, replace_by_foreign]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_whole_one_is_taken_and_what_was_lost_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    folder = folder_of(tmp_path / "run", 10, 20)
    damage(folder.checkpoint_file(20))
    state = RunFolder(tmp_path / "run").load_latest()
    assert state is not None
    assert state["step"] == 10
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{folder.checkpoint_file(20)} ")
    assert line.endswith("; going on from step_00000010.pt: 10 steps are lost")
    assert "\n" not in line


def test_several_damaged_ones_are_named_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, 19, 20, 30)
    zero_bytes(folder.checkpoint_file(30))
    truncate(folder.checkpoint_file(20))
    assert (folder.load_latest() or {})["step"] == 19
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.index("step_00000030.pt cannot be read") < line.index("step_00000020.pt cannot be read")
    assert line.endswith("going on from step_00000019.pt: 11 steps are lost")


def test_whole_ones_need_no_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (folder_of(tmp_path, 10, 20).load_latest() or {})["step"] == 20
    assert RunFolder(tmp_path / "elsewhere").load_latest() is None
    assert caplog.records == []


def test_when_none_is_whole(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10, 20)
    for path in folder.checkpoint_files():
        truncate(path)
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints in .* can be read \(the newest: .*00020\.pt"):
        folder.load_latest()
    assert steps_in(folder) == [10, 20]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "5", "null", '{"latest": 3, "best": 7}', '{"latest": "x", "best": "y"}']
)
def test_the_index_may_be_anything(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """What a power loss between a checkpoint's rename and the index leaves, too: an index that names another file."""
    folder = folder_of(tmp_path, 10, 20)
    (folder.checkpoints / "index.json").write_text(text)
    assert (folder.load_latest() or {})["step"] == 20
    folder.save(state_of(30), 9)
    index = read_index(tmp_path)
    assert index is not None
    assert index.latest == folder.checkpoint_file(30)
    assert caplog.records == []


def test_files_that_cannot_be_read_now_stop_the_run_instead_of_being_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the run would go on from an older one, and write over those."""
    folder = folder_of(tmp_path, 10, 20)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(torch, "load", denied)
    with pytest.raises(CheckpointError, match=r"00020\.pt cannot be read \(.*Permission denied.*may be whole"):
        folder.load_latest()
    monkeypatch.undo()
    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(CheckpointError, match="checkpoints cannot be read"):
        folder.load_latest()
    monkeypatch.undo()
    torch.save({**state_of(30), "format": 99}, folder.checkpoint_file(30))  # of a newer version
    with pytest.raises(CheckpointError, match=r"00030\.pt has format 99, this version reads up to 1: update"):
        folder.load_latest()


# ------------------------------------------------------------------------------------------ which are kept


def test_the_newest_are_kept(tmp_path: Path) -> None:
    assert steps_in(folder_of(tmp_path / "two", 10, 20, 30, 40, keep=2)) == [30, 40]
    assert steps_in(folder_of(tmp_path / "best", 10, 20, 30, 40, keep=1, best=20)) == [20, 40]
    assert steps_in(folder_of(tmp_path / "long", 99_999_998, 99_999_999, 100_000_000, keep=2)) == [
        99_999_999,
        100_000_000,
    ]


def test_damaged_ones_are_none_of_those_that_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, 10, 20, 30, 40)
    truncate(folder.checkpoint_file(40))
    zero_bytes(folder.checkpoint_file(30))
    folder = RunFolder(tmp_path)
    assert (folder.load_latest() or {})["step"] == 20
    folder.save(state_of(25), 2)
    assert steps_in(folder) == [
        20,
        25,
        30,
        40,
    ]  # 30 and 40 have no good one's place, and lie there till they are passed
    folder.save(state_of(30), 2)
    assert steps_in(folder) == [25, 30, 40]
    assert load_checkpoint(folder.checkpoint_file(30))["step"] == 30
    folder.save(state_of(45), 2)
    assert steps_in(folder) == [30, 45]
    assert len(caplog.records) == 1


def test_nothing_is_removed_before_the_new_one_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path, 10)
    before = {path: path.read_bytes() for path in folder.checkpoints.iterdir()}
    for call in ("fsync", "replace"):

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(checkpoint.os, call, full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            folder.save(state_of(20), 1)
        monkeypatch.undo()
        assert {path: path.read_bytes() for path in folder.checkpoints.iterdir()} == before

    order: list[str] = []
    replace, unlink = os.replace, Path.unlink
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append(f"write {Path(b).name}"), replace(a, b))[1])
    monkeypatch.setattr(
        Path,
        "unlink",
        lambda path, **more: (path.exists() and order.append(f"remove {path.name}"), unlink(path, **more))[1],
    )
    folder.save(state_of(20), 1)
    assert order == ["write step_00000020.pt", "write index.json", "remove step_00000010.pt"]


def test_a_disk_that_does_not_let_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path, 10)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == "step_00000010.pt":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    folder.save(state_of(20), 1)
    assert steps_in(folder) == [10, 20]
    assert "step_00000010.pt cannot be removed (Operation not permitted)" in caplog.text


def test_a_damaged_best_one_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, 10, 20, 30, best=10)
    truncate(folder.checkpoint_file(10))
    assert (folder.load_latest() or {})["step"] == 30
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"the best checkpoint is lost: {folder.checkpoint_file(10)} cannot be read (")
    assert line.endswith("it is now step_00000010.pt.damaged")
    assert not folder.checkpoint_file(10).exists()  # so it is gone, and who watches the run looks for another
    folder.save(state_of(40), 9, (10, "step 10: kid 0.1"))
    index = read_index(tmp_path)
    assert index is not None
    assert index.best is None
    caplog.clear()
    folder_of(tmp_path / "whole", 10, 20, best=10).load_latest()
    assert caplog.records == []


# ------------------------------------------------------------------------------------------ folders


def test_half_written_files_are_no_checkpoints_and_are_removed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 10)
    whole = folder.checkpoint_file(10).read_bytes()
    partials = [
        folder.checkpoints / ".step_00000020.4711.partial.pt",
        folder.translators / ".photo_to_oil.4711.partial.safetensors",
        folder.samples / ".step_00000020_ab.4711.partial.png",
        tmp_path / ".config.4711.partial.yaml",
        tmp_path / ".metrics.4711.partial.jsonl",
    ]
    for path in partials:
        path.write_bytes(whole)
    others = tmp_path / ".report.4712.partial.html"  # another command may be at it just now
    others.touch()
    folder = RunFolder(tmp_path)
    assert (folder.load_latest() or {})["step"] == 10
    folder.create()
    assert not any(path.exists() for path in partials)
    assert others.exists()
    assert steps_in(folder) == [10]


@pytest.mark.parametrize("gone", ["", "checkpoints", "translators"])
def test_folders_that_are_removed_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, gone: str) -> None:
    folder = folder_of(tmp_path / "run")
    folder.config_file.write_text("name: run\n")
    folder.save(state_of(10), 9)
    shutil.rmtree(folder.path / gone)
    folder.save(state_of(20), 9)
    assert load_checkpoint(folder.checkpoint_file(20))["step"] == 20
    assert folder.config_file.read_text() == "name: run\n"
    assert folder.translators.is_dir()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{folder.path / gone} was removed during training, and made again")


def test_a_disk_that_was_taken_away_is_not_made_again(tmp_path: Path) -> None:
    """The folder of all runs is missing: to make it would fill the disk below."""
    folder = folder_of(tmp_path / "runs" / "run", 10)
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(CheckpointError, match=r"cannot be written \(No such file or directory\)"):
        folder.save(state_of(20), 9)
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------ translators


def test_translators_of_another_step_or_damaged_are_written_again(tmp_path: Path) -> None:
    """A run that is killed between its last checkpoint and its translators has those of the one before."""
    folder = folder_of(tmp_path, 20)
    path = folder.translator_file("photo", "oil")
    folder.restore_translators(state_of(20))
    whole = path.read_bytes()
    assert torch.equal(load_translator(path)[0]["w"], torch.full((3,), 20.0))
    folder.restore_translators(state_of(10))
    assert load_translator(path)[1]["step"] == 10
    folder.restore_translators(state_of(20))
    assert path.read_bytes() == whole
    truncate(path)
    folder.restore_translators(state_of(20))
    assert path.read_bytes() == whole
    written = path.stat().st_mtime_ns
    folder.restore_translators(state_of(20))
    assert path.stat().st_mtime_ns == written
    assert json.loads(json.dumps(load_translator(path)[1]))["source"] == "photo"
