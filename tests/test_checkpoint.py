"""Files of weights: whole or absent, read without running code, refused in one line."""

from __future__ import annotations

import errno
import io
import json
import pickle
import random
import resource
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from cyclestyle import checkpoint
from cyclestyle.checkpoint import (
    DamagedError,
    is_safetensors,
    load_checkpoint,
    load_metadata,
    load_pickled,
    load_translator,
    save_checkpoint,
    save_translator,
    verify_checkpoint,
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


# ------------------------------------------------------------------------------------------ checksums

RICH = {
    "step": 7,
    "method": {"w": torch.arange(60.0), "none": torch.zeros(0), "number": torch.tensor(5)},
    "words": ["a", "b"],
    "nested": {"x": 1.5, "y": None, "z": True},
}
DESCRIPTION = {"source": "photo", "target": "oil", "load_size": 286, "scores": {"kid_ab": 0.123, "tiny": 1e-5}}
WEIGHTS = {"w": torch.arange(60.0), "half": torch.ones(3, dtype=torch.bfloat16), "number": torch.tensor(3)}


def same(found: Any, expected: Any) -> bool:
    """Whether all that is expected was found, in every bit; a description may say more."""
    if isinstance(expected, dict):
        return all(key in found and same(found[key], value) for key, value in expected.items())
    if isinstance(expected, list | tuple):
        return len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return type(found) is type(expected) and found == expected


@pytest.mark.parametrize("kind", ["checkpoint", "translator"])
def test_a_flipped_byte_is_found_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    path, chance = tmp_path / ("c.pt" if kind == "checkpoint" else "t.safetensors"), random.Random(0)
    if kind == "checkpoint":
        save_checkpoint(path, RICH)
        load, expected = load_checkpoint, RICH
    else:
        save_translator(path, WEIGHTS, DESCRIPTION)
        load, expected = load_translator, (WEIGHTS, DESCRIPTION)
    whole = path.read_bytes()
    refused = 0
    # All of a zip's directory, where the bytes are that fool torch, and others by chance.
    places = [*range(len(whole) - 900, len(whole)), *(chance.randrange(len(whole)) for _ in range(300))]
    for place in places if kind == "checkpoint" else range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= chance.choice([1, 0x80, 0xFF, chance.randrange(1, 256)])
        path.write_bytes(damaged)
        try:
            assert same(load(path), expected), f"byte {place} became {damaged[place]}"
        except CheckpointError as error:
            refused += isinstance(error, DamagedError) or "this version reads up to" in str(error)
    assert refused > 0.95 * len(places if kind == "checkpoint" else whole)


def test_what_torch_itself_does_not_see(tmp_path: Path) -> None:
    """Why there is a checksum of the whole file: no CRC-32 is wrong here, and torch gives memory that nobody wrote."""
    save_checkpoint(tmp_path / "c.pt", RICH)
    data = bytearray((tmp_path / "c.pt").read_bytes())
    entry = data.rindex(b"PK\x01\x02", 0, data.rindex(b"archive/data/0"))  # of the zip's directory
    data[entry + 38] ^= 0xFF  # attributes: it claims to be a folder
    (tmp_path / "c.pt").write_bytes(data)
    assert zipfile.ZipFile(tmp_path / "c.pt").testzip() is None
    torch.load(tmp_path / "c.pt", weights_only=True)
    with pytest.raises(DamagedError, match=r"c\.pt cannot be read \(it does not match its checksum\)"):
        load_checkpoint(tmp_path / "c.pt")
    with pytest.raises(DamagedError, match="does not match its checksum"):
        verify_checkpoint(tmp_path / "c.pt")


def test_the_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    """By the standard library alone: sha256 of all bytes before the comment."""
    save_checkpoint(tmp_path / "c.pt", RICH)
    data = (tmp_path / "c.pt").read_bytes()
    comment = zipfile.ZipFile(tmp_path / "c.pt").comment
    assert comment == b"sha256:" + checkpoint.hashlib.sha256(data[: -len(comment)]).hexdigest().encode()
    assert same(torch.load(tmp_path / "c.pt", weights_only=True), RICH)  # it is a file like any other of torch
    verify_checkpoint(tmp_path / "c.pt")
    save_checkpoint(tmp_path / "d.pt", RICH)
    assert (tmp_path / "d.pt").read_bytes() == data  # neither name nor process in it


def test_files_of_before_and_of_others_are_read_by_their_crc(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    torch.save({"format": 1, **RICH}, path)
    assert same(load_checkpoint(path), RICH)
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(60.0).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["method"]["w"][1] != 1  # torch does not mind
    with pytest.raises(DamagedError, match=r"cannot be read \(its part data/0 does not match its checksum\)"):
        load_checkpoint(path)

    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream) as archive:  # one that was written without any, as torch can
        for entry in archive.infolist():
            for mark, offset in ((b"PK\x01\x02", 16), (b"PK\x07\x08", 4)):
                name = data.rindex(entry.filename.encode())
                where = data.rindex(mark, 0, name) if mark == b"PK\x01\x02" else data.find(mark, entry.header_offset)
                if where >= 0:
                    data[where + offset : where + offset + 4] = bytes(4)
    path.write_bytes(data)
    assert load_checkpoint(path)["step"] == 7


def test_translators_without_a_checksum_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_translator(path, WEIGHTS, DESCRIPTION)
    metadata = load_metadata(path)
    assert metadata == {"format": 1, **DESCRIPTION}
    with safetensors.safe_open(path, framework="pt") as file:
        assert len(json.loads(file.metadata()["cyclestyle"])["sha256"]) == 64
    safetensors.torch.save_file(WEIGHTS, path, metadata={"cyclestyle": json.dumps(metadata)})
    assert same(load_translator(path), (WEIGHTS, DESCRIPTION))


def test_a_translator_with_other_weights_or_another_description_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    save_translator(path, WEIGHTS, DESCRIPTION)
    whole = path.read_bytes()
    weights = bytearray(whole)
    weights[-1] ^= 1
    for damaged in (bytes(weights), whole.replace(b"286", b"256")):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError, match="weights or their description do not match their checksum"):
            load_translator(path)


# ------------------------------------------------------------------------------------------ disks


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Inside, the system takes no more than so many bytes into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


SAVES: dict[str, Callable[[Path], None]] = {
    "c.pt": lambda path: save_checkpoint(path, {"method": {"w": torch.ones(40, 500)}}),
    "t.safetensors": lambda path: save_translator(path, {"w": torch.ones(40, 500)}, {"source": "photo"}),
}


@pytest.mark.parametrize("name", SAVES)
def test_a_disk_that_fills_up_at_any_byte_costs_nothing(tmp_path: Path, name: str) -> None:
    save = SAVES[name]
    save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for room in (0, 1, 100, *range(4096, len(whole), 5000), len(whole) - 30, len(whole) - 1):
        with largest_file(room), pytest.raises(CheckpointError, match=rf"{name} cannot be written \(File too large\)"):
            save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == whole
        assert [path.name for path in tmp_path.iterdir()] == [name]
    with largest_file(len(whole)):
        save(tmp_path / name)


@pytest.mark.parametrize("name", SAVES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_whatever_the_system_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int, call: str
) -> None:
    SAVES[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(code, checkpoint.os.strerror(code))

    monkeypatch.setattr(checkpoint.os, call, refuse)
    with pytest.raises(CheckpointError, match=f"cannot be written .{checkpoint.os.strerror(code)}.: free some space"):
        SAVES[name](tmp_path / name)
    monkeypatch.undo()
    assert (tmp_path / name).read_bytes() == whole
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_cannot_be_read_now_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "c.pt", RICH)
    denied = OSError(errno.EACCES, "Permission denied")
    for error in (MemoryError("no room"), denied, RuntimeError("can't allocate memory: you tried")):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(torch, "load", fail)
        with pytest.raises(CheckpointError, match="may be whole") as refusal:
            load_checkpoint(tmp_path / "c.pt")
        assert not isinstance(refusal.value, DamagedError)
