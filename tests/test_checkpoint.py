"""Files of weights: whole or absent, read without running code, refused in one line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cyclestyle.checkpoint import load_checkpoint, load_translator, save_checkpoint, save_translator
from cyclestyle.errors import CheckpointError

STATE = {"step": 3, "method": {"weight": torch.arange(4.0)}, "words": ["a", "b"], "nested": {"number": 1.5}}


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", STATE)
    found = load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(found["method"]["weight"], torch.arange(4.0))
    assert (found["step"], found["words"], found["nested"]) == (3, ["a", "b"], {"number": 1.5})


class Unwritable:
    """Fails when the file is half written."""

    def __reduce__(self) -> str:
        raise RuntimeError("full disk")


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    save_checkpoint(path, STATE)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be written \(full disk\)"):
        save_checkpoint(path, {"method": torch.rand(1000), "unwritable": Unwritable()})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_translator_round_trip_with_shared_and_strided_weights(tmp_path: Path) -> None:
    weights = {"w": torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last), "b": torch.rand(4)}
    save_translator(tmp_path / "t.safetensors", weights, {"source": "photo"})
    found, metadata = load_translator(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert metadata["source"] == "photo"


class Hostile:
    """Runs code where a pickle is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.mark,))  # type: ignore[return-value]


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    torch.save({"format": 1, "method": Hostile(mark)}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match=r"c\.pt cannot be read"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "raw.pt")
    assert not mark.exists()


def test_damaged_missing_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "good.pt", STATE)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:-100])
    (tmp_path / "empty.pt").touch()
    torch.save({"weights": 1}, tmp_path / "foreign.pt")
    torch.save({"format": 99, "method": {}}, tmp_path / "newer.pt")
    for name, words in {
        "cut.pt": "cannot be read",
        "empty.pt": "cannot be read",
        "absent.pt": "no file",
        "foreign.pt": "no checkpoint of cyclestyle",
        "newer.pt": "format 99",
    }.items():
        with pytest.raises(CheckpointError, match=words) as refusal:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(refusal.value)
        assert name in str(refusal.value)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "t.safetensors")
    with pytest.raises(CheckpointError, match="no translator of cyclestyle"):
        load_translator(tmp_path / "t.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_translator(tmp_path / "cut.safetensors")
