"""Checkpoints made by hand, to harm: each refused in one line, before it takes more memory than it has bytes."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclestyle.checkpoint import CheckpointError, load_checkpoint, load_pickled, write_text

from .fuzz.fuzzing import limits

PLAIN = {"format": 1, "method": {"w": torch.arange(6.0)}}


def refusal(path: Path) -> str:
    with limits(megabytes=512), pytest.raises(CheckpointError) as caught:
        load_pickled(path)
    line = str(caught.value)
    assert "\n" not in line
    assert "memory" not in line
    return line


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def with_pickle(path: Path, stream: bytes, *, is_zip: bool) -> Path:
    """A file of `torch.save` whose state is unpickled from `stream`, in the new or the old layout."""
    torch.save(PLAIN, path, _use_new_zipfile_serialization=is_zip)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, stream if name.endswith("data.pkl") else data)
        return path
    start = b"".join(pickle.dumps(each, 2) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}))
    path.write_bytes(start + stream + pickle.dumps([], 2))
    return path


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old layout"])
def test_a_thousand_bytes_do_not_become_gigabytes(tmp_path: Path, is_zip: bool) -> None:
    doubled = b"c_codecs\nencode\n" + text("a" * 64) + text("latin1") + b"\x86R"
    for _ in range(30):  # each writes two digits for a byte: 64 GB
        doubled = b"c_codecs\nencode\n" + doubled + text("hex") + b"\x86R"
    path = with_pickle(tmp_path / "c.pt", b"\x80\x02" + doubled + b".", is_zip=is_zip)
    assert path.stat().st_size < 3000
    assert "_codecs.encode" in refusal(path)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old layout"])
def test_lists_that_name_each_other_do_not_become_a_tensor(tmp_path: Path, is_zip: bool) -> None:
    stream = b"\x80\x02](K\x00K\x00K\x00K\x00K\x00K\x00K\x00K\x00K\x00K\x00eq\x00"
    for level in range(11):  # 10 ** 12 numbers
        stream += b"](" + (b"h" + bytes([level])) * 10 + b"eq" + bytes([level + 1])
    stream += b"ctorch\nTensor\nh\x0b\x85R."
    assert "torch.Tensor" in refusal(with_pickle(tmp_path / "c.pt", stream, is_zip=is_zip))


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "old layout"])
@pytest.mark.parametrize(
    "state",
    [
        {"w": torch.zeros(1).expand(10**6, 10**6)},
        {"w": torch.zeros(4).as_strided((10**5, 10**5, 2), (0, 0, 1))},
        [torch.zeros(2).expand(5000, 2) for _ in range(100)],
        {"deep": [({"w": torch.zeros(1).expand(10**7)},)]},
    ],
    ids=["repeated", "strided", "many", "deep"],
)
def test_tensors_that_repeat_what_is_stored(tmp_path: Path, state: Any, is_zip: bool) -> None:
    torch.save(state, tmp_path / "c.pt", _use_new_zipfile_serialization=is_zip)
    assert "fewer numbers than its tensors would have" in refusal(tmp_path / "c.pt")


def test_a_number_may_have_two_names(tmp_path: Path) -> None:
    weight = torch.rand(10_000)
    torch.save({"network": {"w": weight}, "average": {"w": weight.view(100, 100)}}, tmp_path / "c.pt")
    found = load_pickled(tmp_path / "c.pt")
    assert torch.equal(found["network"]["w"], found["average"]["w"].view(-1))


def test_a_storage_cannot_be_larger_than_its_record(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(4.0)}, tmp_path / "c.pt")
    with zipfile.ZipFile(tmp_path / "c.pt") as archive:
        stream = archive.read("c/data.pkl")
    for count in (5, 2**20, 2**31 - 1):
        with_pickle(tmp_path / "c.pt", stream.replace(b"K\x04", b"J" + struct.pack("<I", count)), is_zip=True)
        assert "cannot be read" in refusal(tmp_path / "c.pt")


class _Attributed:
    """Pickled as an `OrderedDict` whose own attributes hide its methods."""

    def __reduce__(self) -> tuple[Any, ...]:
        hiding = {"items": 1, "get": 2, "keys": 3, "values": 4, "_metadata": 5}
        return OrderedDict, ([("a", torch.zeros(2))],), hiding


def test_attributes_that_hide_methods_are_dropped(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    torch.save({"format": 1, "method": _Attributed(), "p": parameter}, tmp_path / "c.pt")
    state = load_checkpoint(tmp_path / "c.pt")
    assert [name for name, _ in state["method"].items()] == ["a"]
    assert not vars(state["method"])
    assert not vars(state["p"])


def test_a_state_that_contains_itself_is_read(tmp_path: Path) -> None:
    state: dict[str, Any] = dict(PLAIN)
    state["self"] = [state]
    torch.save(state, tmp_path / "c.pt")
    assert isinstance(load_pickled(tmp_path / "c.pt")["self"][0]["method"]["w"], Tensor)


def test_python_and_torch_read_the_same_list_of_contents(tmp_path: Path) -> None:
    """Two zips in one file: the second stands where Python looks, the end of it points torch to the first."""
    parts = []
    for name, value in (("the first", torch.zeros(3)), ("second", torch.ones(3))):
        torch.save({name: value}, tmp_path / "c.pt")
        with zipfile.ZipFile(tmp_path / "c.pt") as archive, zipfile.ZipFile(stream := io.BytesIO(), "w") as plain:
            for entry in archive.infolist():
                plain.writestr(entry.filename, archive.read(entry))
        parts.append(stream.getvalue())
    (first_end, second_end) = (part.rindex(b"PK\x05\x06") for part in parts)
    (first_at,) = struct.unpack_from("<I", parts[0], first_end + 16)
    (size, _) = struct.unpack_from("<II", parts[1], second_end + 12)
    data = bytearray(parts[0][:first_end] + parts[1])
    end = first_end + second_end
    struct.pack_into("<I", data, end + 16, first_at)
    shift, where = end - size - first_at, end - size
    while where < end:
        lengths = struct.unpack_from("<HHH", data, where + 28)
        (offset,) = struct.unpack_from("<I", data, where + 42)
        struct.pack_into("<I", data, where + 42, (offset + first_end - shift) % 2**32)
        where += 46 + sum(lengths)
    path = tmp_path / "c.pt"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        assert b"second" in archive.read("c/data.pkl")
    assert list(torch.load(path, weights_only=True)) == ["the first"]
    assert "its list of contents is not where it says" in refusal(path)


@pytest.mark.parametrize(
    "found", [10**500, -1, "x" * 10**6, [1], None, torch.ones(2)], ids=lambda value: str(type(value))
)
def test_formats_of_any_kind_are_refused_in_one_line(tmp_path: Path, found: object) -> None:
    torch.save({**PLAIN, "format": found}, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="has format") as caught:
        load_checkpoint(tmp_path / "c.pt")
    assert len(str(caught.value)) < 300


def test_a_link_in_the_place_of_the_temporary_file_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getpid", lambda: 77)
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".index.77.partial.json").symlink_to(tmp_path / "victim")
    write_text(tmp_path / "index.json", "new")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "index.json").read_text() == "new"
    assert not (tmp_path / "index.json").is_symlink()


@pytest.mark.parametrize(
    "changes",
    [
        {"step": -1}, {"step": 10**30}, {"step": "5"}, {"step": True}, {"step": torch.ones(1)}, {"step": None},
        {"translators": {"gen_ab": {"source": "../../other/a", "target": "b"}}},
        {"translators": {"gen_ab": {"source": "a", "target": "/etc/b"}}},
        {"translators": {"gen_ab": {"source": "a", "target": "b\n"}}},
        {"translators": {"gen_ab": {"source": ["a"], "target": "b"}}},
        {"translators": {"gen_ab": 5}},
    ],
    ids=str,
)  # fmt: skip
def test_what_files_are_named_by_cannot_lead_elsewhere(tmp_path: Path, changes: dict[str, Any]) -> None:
    """Going on with a run writes `translators/<source>_to_<target>.safetensors` and `step_<step>.pt`."""
    torch.save(PLAIN | changes, tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="the file is made wrongly"):
        load_checkpoint(tmp_path / "c.pt")
    torch.save(PLAIN | {"step": 3, "translators": {"gen_ab": {"source": "a-1", "target": "B_2"}}}, tmp_path / "c.pt")
    assert load_checkpoint(tmp_path / "c.pt")["step"] == 3
