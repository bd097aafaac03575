"""Manifests that come with an output folder, and lists of inputs: damaged or made up, they lead nowhere else."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cyclestyle.errors import CyclestyleError
from cyclestyle.inference.contact_sheet import write_contact_sheets
from cyclestyle.inference.inputs import list_inputs
from cyclestyle.inference.manifest import STATUSES, Manifest, read_manifest, sweep
from cyclestyle.inference.placing import check_output, output_places

from .fuzzing import anything, damaged, fuzzed, limits

ROW = {"input": "/in/x.png", "output": "x.png", "status": "translated", "input_size": [8, 8], "output_size": [8, 8],
       "seconds": 0.1, "error": None, "warnings": ["a"], "job": "0123", "bytes": 5, "mtime": 1.5}  # fmt: skip
LINES = "".join(
    json.dumps({**ROW, "input": f"/in/{name}", "output": name}) + "\n" for name in ("x.png", "y.png")
).encode()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder with one picture, beside one that nothing may touch."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("out", "outside"):
        (root / name).mkdir()
        Image.new("RGB", (8, 8)).save(root / name / "x.png")
    return root


def _state(folder: Path) -> list[tuple[str, int]]:
    return sorted((entry.name, entry.stat().st_mtime_ns) for entry in os.scandir(folder))


def _use(folder: Path) -> None:
    output = folder / "out"
    before = _state(folder / "outside"), sorted(os.listdir(folder))
    with limits(10.0, 256):
        assert sweep(output) == 0
        manifest = Manifest(output, {"/in/x.png": 0})
        known = manifest.known("x.png")
        assert known is None or known["output"] == "x.png"
        manifest.record({**ROW, "seconds": 0.2})
        manifest.close()
        rows = read_manifest(output)
        assert rows["/in/x.png"] == {**ROW, "seconds": 0.2}
        for row in rows.values():
            assert row["status"] in STATUSES
            place = os.path.normpath(output / row["output"])
            assert place.startswith(str(output) + os.sep)
        write_contact_sheets([row for row in rows.values() if row["output"] == "x.png"], output)
    assert (_state(folder / "outside"), sorted(os.listdir(folder))) == before
    assert {entry.name for entry in output.iterdir()} <= {"x.png", "manifest.jsonl", "contact_sheet_001.png"}


@given(damaged([LINES, LINES * 2, b"{}\n" * 3]), st.sampled_from(["manifest.jsonl", ".manifest.0123456789ab.jsonl"]))
@fuzzed(80)
def test_damaged_manifests(folder: Path, data: bytes, name: str) -> None:
    (folder / "out" / name).write_bytes(data)
    _use(folder)


ODD = anything(st.sampled_from(["../outside/x.png", "/etc/passwd", "out/../../outside", ".", "a\nb", "x.png/"]))
KEYS = st.sampled_from([*ROW, "written"])


@given(
    st.lists(st.dictionaries(KEYS, ODD, max_size=3), max_size=3),
    st.sampled_from(["manifest.jsonl", ".manifest.0123456789ab.jsonl"]),
)
@fuzzed(80)
def test_rows_made_up(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    lines = [json.dumps({**ROW, "input": f"/in/{index}", **row}) for index, row in enumerate(rows)]
    (folder / "out" / name).write_text("\n".join(lines) + "\n")
    _use(folder)


WORDS = st.sampled_from(
    ["..", ".", "a", "x.png", "\0", "\n", "\x1b[2J", "\ud800", "\udcff", "x" * 300, "*", "[", "~", "#", " "]
)


@given(st.lists(st.lists(WORDS, max_size=4).map("/".join), max_size=6), st.sampled_from(["png", "keep", "jpg"]))
@fuzzed(200)
def test_lists_of_inputs(folder: Path, lines: list[str], format: str) -> None:
    (folder / "list.txt").write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    output = folder / "out"
    with limits(10.0, 256), suppress(CyclestyleError):
        listing = list_inputs(folder / "list.txt")
        places = output_places([entry.place for entry in listing.entries], format)
        check_output(listing, output, [output / place for place in places])
        assert len(set(places)) == len(places)
        for place in places:
            assert not place.is_absolute()
            assert ".." not in place.parts
    (folder / "list.txt").unlink()


@given(st.lists(WORDS, min_size=1, max_size=4).map("/".join))
@fuzzed(100)
def test_inputs_of_a_command_line(folder: Path, text: str) -> None:
    with limits(20.0, 256), suppress(CyclestyleError):
        for entry in list_inputs(f"{folder}/out/{text}").entries:
            assert ".." not in entry.place.parts
