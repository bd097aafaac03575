"""Folders and manifests made to harm: nothing is written, made or removed outside of the output, and nothing hangs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.devices import Precision
from cyclestyle.errors import DataError
from cyclestyle.inference.contact_sheet import write_contact_sheets
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.inference.folder import Options, Result, iterate_folder
from cyclestyle.inference.inputs import list_inputs
from cyclestyle.inference.manifest import read_manifest, sweep
from cyclestyle.inference.translator import Translator
from cyclestyle.networks.build import build_generator

from ..fuzz.fuzzing import limits


@pytest.fixture(scope="module")
def translator() -> Translator:
    torch.manual_seed(0)
    config = GeneratorConfig(filters=2, blocks=0)
    spec = TranslatorSpec(
        source="a", target="b", direction="ab", generator=vars(config), channels=3, resize="shorter", load_size=20,
        crop_size=16,
    )  # fmt: skip
    precision = Precision("fp32", "as configured")
    return Translator(spec, build_generator(config, 3), torch.device("cpu"), precision)


def picture(path: Path, size: tuple[int, int] = (20, 18)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 200, 30)).save(path, "PNG")
    return path


def translated(translator: Translator, input: Path, output: Path, **options: Any) -> list[Result]:
    with limits(20.0):
        return list(iterate_folder(translator, input, output, Options(**options)))


def everything(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "mine.png").write_bytes(b"mine")
    (folder / "mine.jsonl").write_text("{}\n")
    return folder


def test_a_folder_that_is_a_link_out_of_the_output_is_not_written_through(
    tmp_path: Path, outside: Path, translator: Translator
) -> None:
    for name in ("in/a/x.png", "in/a/deep/y.png", "in/b/z.png"):
        picture(tmp_path / name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").symlink_to(outside)
    before = everything(outside)
    results = translated(translator, tmp_path / "in", tmp_path / "out")
    assert [result.status for result in results] == ["failed", "failed", "translated"]
    assert "would be written outside of the output folder" in str(results[0].error)
    assert everything(outside) == before
    assert (tmp_path / "out" / "b" / "z.png").is_file()


def test_links_within_the_output_and_to_the_output_are_fine(tmp_path: Path, translator: Translator) -> None:
    picture(tmp_path / "in" / "a" / "x.png")
    (tmp_path / "real" / "elsewhere").mkdir(parents=True)
    (tmp_path / "real" / "a").symlink_to("elsewhere")
    (tmp_path / "out").symlink_to("real")
    assert [result.status for result in translated(translator, tmp_path / "in", tmp_path / "out")] == ["translated"]
    assert (tmp_path / "real" / "elsewhere" / "x.png").is_file()


def test_a_link_in_the_place_of_an_output_is_replaced(tmp_path: Path, outside: Path, translator: Translator) -> None:
    picture(tmp_path / "in" / "x.png")
    picture(tmp_path / "in" / "y.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x.png").symlink_to(outside / "mine.png")
    (tmp_path / "out" / "y.png").symlink_to(outside / "absent.png")
    before = everything(outside)
    results = translated(translator, tmp_path / "in", tmp_path / "out", overwrite=True)
    assert [result.status for result in results] == ["translated", "translated"]
    assert everything(outside) == before
    assert not (tmp_path / "out" / "x.png").is_symlink()


@pytest.mark.parametrize(
    "name", [".manifest.lock", "manifest.jsonl", ".manifest.0123456789ab.jsonl", "contact_sheet_001.png"]
)
@pytest.mark.parametrize("target", ["mine.jsonl", "absent"])
def test_links_in_the_place_of_what_is_kept_beside_outputs(
    tmp_path: Path, outside: Path, translator: Translator, name: str, target: str
) -> None:
    picture(tmp_path / "in" / "x.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(outside / target)
    before = everything(outside)
    if name == ".manifest.lock":
        with pytest.raises(DataError, match="output folder"):
            translated(translator, tmp_path / "in", tmp_path / "out")
    else:
        assert translated(translator, tmp_path / "in", tmp_path / "out", contact_sheet=True)[0].status == "translated"
        assert len(read_manifest(tmp_path / "out")) == 1
    assert everything(outside) == before


@pytest.mark.parametrize("name", ["manifest.jsonl", ".manifest.0123456789ab.jsonl"])
def test_pipes_are_not_waited_for(tmp_path: Path, translator: Translator, name: str) -> None:
    picture(tmp_path / "in" / "x.png")
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / name)
    assert translated(translator, tmp_path / "in", tmp_path / "out")[0].status == "translated"


ODD_ROWS: list[object] = [
    {"output": "../../x"}, {"output": "/etc/passwd"}, {"output": "a/../../b"}, {"output": ""}, {"output": "a\0b"},
    {"output": "\ud800"}, {"output": None}, {"output": ["x.png"]}, {"output": 5}, {"warnings": 5}, {"warnings": [5]},
    {"status": ["failed"]}, {"status": "done"}, {"input": 5}, {"job": {"a": 1}}, {"written": [1, 2], "output": "../x"},
]  # fmt: skip


@pytest.mark.parametrize("odd", ODD_ROWS, ids=str)
@pytest.mark.parametrize("name", ["manifest.jsonl", ".manifest.0123456789ab.jsonl"])
def test_rows_that_were_made_up_are_passed_over(
    tmp_path: Path, outside: Path, translator: Translator, odd: dict[str, object], name: str
) -> None:
    source = picture(tmp_path / "in" / "x.png")
    picture(tmp_path / "out" / "x.png")
    row = {"input": str(source), "output": "x.png", "status": "translated", "job": "0", "bytes": 1, "mtime": 1.0}
    (tmp_path / "out" / name).write_text(json.dumps({**row, **odd}) + "\n" + "[" * 5000 + "\n" + "1" * 5000 + "\n")
    before = everything(outside)
    results = translated(translator, tmp_path / "in", tmp_path / "out", contact_sheet=True)
    assert [result.status for result in results] == ["skipped"]
    assert everything(outside) == before
    found = read_manifest(tmp_path / "out")
    assert [row["output"] for row in found.values()] == ["x.png"]


def test_only_the_half_written_of_the_output_itself_are_removed(tmp_path: Path, outside: Path) -> None:
    (outside / ".x.0123456789ab.1.partial.png").write_bytes(b"mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(outside)
    (tmp_path / "out" / ".y.0123456789ab.1.partial.png").write_bytes(b"left")
    before = everything(outside)
    sweep(tmp_path / "out")
    assert everything(outside) == before
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["link"]


def test_lines_of_a_list_may_hold_anything(tmp_path: Path, translator: Translator) -> None:
    whole = picture(tmp_path / "in" / "x.png")
    lines = [
        b"",
        b"/",
        b"\0/a",
        b"\0",
        b"a\0b.png",
        b"\xff\xfe.png",
        b"..",
        b"../" * 50 + b"x.png",
        b"x" * 5000,
        b"\x1b[2J.png",
        os.fsencode(whole),
    ]
    (tmp_path / "list.txt").write_bytes(b"\n".join(lines))
    results = translated(translator, tmp_path / "list.txt", tmp_path / "out")
    assert [result.status for result in results].count("translated") == 1
    for result in results:
        assert result.status == "translated" or str(result.error).isprintable()
    made = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path).parts[0] for path in made} == {"in", "list.txt", "out"}


def test_names_cannot_write_lines_into_the_manifest_or_commands_to_a_terminal(
    tmp_path: Path, translator: Translator
) -> None:
    evil = 'a"\n{"input": "x", "output": "y", "status": "failed"}\n\x1b[2J.png'
    picture(tmp_path / "in" / evil.replace("/", "_"))
    (tmp_path / "in" / f"broken {evil}").write_bytes(b"no picture")
    results = translated(translator, tmp_path / "in", tmp_path / "out")
    assert sorted(result.status for result in results) == ["failed", "translated"]
    assert all(result.error is None or result.error.isprintable() for result in results)
    assert len((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()) == 2
    assert len(read_manifest(tmp_path / "out")) == 2


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A picture in a folder 1100 deep; taken away again step by step, since pytest's own way is too short for that."""
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1100):
            os.mkdir("d")
            os.chdir("d")
        Image.new("RGB", (8, 8)).save("x.png")
        os.chdir(here)
        yield tmp_path
    finally:
        os.chdir(tmp_path)
        while os.path.isdir("d"):
            os.chdir("d")
        Path("x.png").unlink(missing_ok=True)
        while not os.path.samefile(".", tmp_path):
            os.chdir("..")
            os.rmdir("d")
        os.chdir(here)


def test_folders_a_thousand_deep(deep: Path) -> None:
    with limits(10.0):
        assert len(list_inputs(deep).entries) == 1
    with limits(10.0), pytest.raises(DataError, match="nested too deeply"):
        list_inputs(f"{deep}/**/*.png")


def test_a_picture_so_narrow_that_padding_makes_it_enormous(tmp_path: Path) -> None:
    config = GeneratorConfig(name="unet", depth=8, filters=1)
    spec = TranslatorSpec(
        source="a", target="b", direction="ab", generator=vars(config), channels=3, resize="shorter", load_size=256,
        crop_size=256,
    )  # fmt: skip
    precision = Precision("fp32", "as configured")
    unet = Translator(spec, build_generator(config, 3), torch.device("cpu"), precision)
    Image.fromarray(np.zeros((1, 2_000_000), np.uint8)).save(tmp_path / "x.png")
    (result,) = translated(unet, tmp_path / "x.png", tmp_path / "out")
    assert "so long and narrow that the generator would work on 2000128 x 256" in str(result.error)


def test_contact_sheets_of_files_that_became_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    for name, size in (("x.png", (300, 300)), ("warned.jpg", (180, 160))):
        Image.new("RGB", size).save(tmp_path / name)
    rows = [{"input": str(tmp_path / name), "output": name, "status": "translated"} for name in ("x.png", "warned.jpg")]
    assert len(write_contact_sheets(rows, tmp_path)) == 1


def test_names_that_no_file_can_have() -> None:
    for name in ("x" * 5000, "x" * 5000 + "*", "x/" * 4000, "a\0b", "a\0/*"):
        with pytest.raises(DataError, match="--input"):
            list_inputs(name)
