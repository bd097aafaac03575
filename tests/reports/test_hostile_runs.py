"""Run folders with files made to break what reads them: the rest is shown."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cyclestyle.reports.gather import gather
from cyclestyle.reports.runs import runs_table
from cyclestyle.reports.summary import read_run

from ..fuzz.fuzzing import limits
from .report_folder import write_grid
from .run_folders import NOW, make_run, row


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "1" * 5000, '{"step": ' + "[" * 5000, "null", "7"], ids=lambda t: t[:12]
)
def test_a_grid_whose_text_never_ends_is_left_out(tmp_path: Path, text: str) -> None:
    run = make_run(tmp_path / "run", rows=[row(10)])
    write_grid(run, 10, "photo", "painting")
    info = PngInfo()
    info.add_text("cyclestyle", text, zip=True)
    Image.new("RGB", (9, 9)).save(run / "samples" / "step_00000020_photo_to_painting.png", pnginfo=info)
    with limits():
        found = gather(run, NOW)
    assert [grid.step for grid in found.grids] == [10]
    assert found.num_odd_grids == 1


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_checkpoint_damaged_at_any_byte_is_passed_over(tmp_path: Path, compression: int) -> None:
    run = make_run(tmp_path / "run", settings={"train.steps": None}, checkpoints=[20])
    path = run / "checkpoints" / "step_00000020.pt"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("c/data.pkl", b"\x80\x02}q\0X\x09\0\0\0num_stepsq\x01K(s." + bytes(range(200)))
    whole = path.read_bytes()
    assert read_run(run, now=NOW).num_steps == 40
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        assert read_run(run, now=NOW).step == 20


def test_configs_that_never_end_or_stand_for_billions_are_named(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    for text in (
        bomb,
        "x: " + "[" * 400,
        "train: {epochs: 1" + "0" * 400 + "}",
        "name: !!python/object/apply:os.getcwd []",
    ):
        run = make_run(tmp_path / str(len(text)), rows=[row(10)])
        (run / "config.yaml").write_text(text)
        with limits():
            summary = read_run(run, now=NOW)
            runs_table([summary], NOW)
        assert "config.yaml" in summary.problems[0]
        assert summary.step == 10
