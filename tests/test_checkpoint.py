"""Files of weights: whole or absent, read without running code, refused in one line."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from cyclestyle.checkpoint import (
    is_safetensors,
    load_checkpoint,
    load_metadata,
    load_pickled,
    load_translator,
    save_checkpoint,
    save_translator,
)
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


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old layout"])
def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path, zipped: bool) -> None:
    mark = tmp_path / "mark"
    state = {"format": 1, "method": Hostile(mark)}
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"c\.pt wants to run code \(getattr\) and was not loaded") as refusal:
        load_checkpoint(tmp_path / "c.pt")
    assert "\n" not in str(refusal.value)
    assert not mark.exists()
    torch.load(tmp_path / "c.pt", weights_only=False)  # it is loaded guns that the test shoots with
    assert mark.exists()


def test_a_bare_pickle_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for protocol in range(6):
        (tmp_path / "raw.pt").write_bytes(pickle.dumps(Hostile(mark), protocol))
        with pytest.raises(CheckpointError, match=r"wants to run code|cannot be read"):
            load_checkpoint(tmp_path / "raw.pt")
    assert not mark.exists()


def test_a_pickled_network_is_no_state_dict(tmp_path: Path) -> None:
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "network.pth")
    with pytest.raises(CheckpointError, match=r"wants to run code .*needed are plain weights"):
        load_pickled(tmp_path / "network.pth")


def test_a_file_that_unpacks_to_more_than_itself_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1_000_000)}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as bomb:
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="unpack to more than the file"):
        load_pickled(tmp_path / "bomb.pth")


def test_both_layouts_of_torch_are_read(tmp_path: Path) -> None:
    for zipped in (True, False):
        torch.save({"w": torch.arange(5.0)}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(load_pickled(tmp_path / "w.pth")["w"], torch.arange(5.0))


def test_safetensors_are_told_by_their_header(tmp_path: Path) -> None:
    save_translator(tmp_path / "t.safetensors", {"w": torch.rand(3)}, {"source": "photo"})
    assert is_safetensors((tmp_path / "t.safetensors").rename(tmp_path / "t.bin"))
    assert load_metadata(tmp_path / "t.bin")["source"] == "photo"
    (tmp_path / "long").write_bytes(b"\xff\0\0\0\0\0\0\0{}")  # a header longer than the file
    (tmp_path / "short").write_bytes(b"{")
    save_checkpoint(tmp_path / "c.pt", STATE)
    assert not any(is_safetensors(tmp_path / name) for name in ("long", "short", "c.pt"))


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
