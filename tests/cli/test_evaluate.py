"""`cyclestyle evaluate` as its user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclestyle.cli.main import main
from cyclestyle.config.loading import load_config
from cyclestyle.training.run import train


@pytest.fixture
def run(tiny: list[str]) -> Path:
    return train(
        load_config(None, [*tiny, "train.steps=4", "evaluate.every=2", "train.checkpoint_every=2", "doctor.every=0",
                           "evaluate.least_content=-1"])
    )  # fmt: skip


def test_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("step 4: 2 photo as painting against 2 of ")
    assert "extractor builtin-1, 20 px" in out
    assert "kid_untranslated" in out
    assert "fid is biased upwards for so few pictures (2)" in out


def test_all_checkpoints_the_best_and_one_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", "--run", str(run), "--checkpoint", "all", "--json"]) == 0
    assert [row["step"] for row in json.loads(capsys.readouterr().out)] == [2, 4]
    assert main(["evaluate", "--run", str(run), "--checkpoint", "all"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("      ")] == ["2", "4"] * 2
    best = json.loads((run / "checkpoints" / "index.json").read_text())["best_step"]
    for which, step in (("best", best), (str(run / "checkpoints" / "step_00000002.pt"), 2)):
        assert main(["evaluate", "--run", str(run), "--checkpoint", which, "--json"]) == 0
        assert [row["step"] for row in json.loads(capsys.readouterr().out)] == [step]


def test_folders_and_a_sheet(run: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["translate", "--run", str(run), "--to", "painting", "--output", str(tmp_path / "made")]) == 0
    capsys.readouterr()
    sheet = tmp_path / "new" / "sheet.png"
    words = ["evaluate", "--generated", str(tmp_path / "made"), "--reference", str(dataset / "testB"), "--source",
             str(dataset / "testA"), "--training", str(dataset / "trainB"), "--sheet", str(sheet)]  # fmt: skip
    assert main(words) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(sheet)
    with Image.open(sheet) as image:
        # three columns of 36 px, two rows with a label each, gaps of 8
        assert image.size == (8 + 3 * (36 + 8), 18 + 8 + 2 * (36 + 18 + 8))
        source = np.asarray(Image.open(next((dataset / "testA").glob("*_0*.png"))).convert("RGB"))[:, 2:38]
        cells = [np.asarray(image)[top : top + 36, 8:44] for top in (26, 88)]
        assert min(np.abs(cell.astype(int) - source).mean() for cell in cells) == 0


def test_a_file_left_out_is_exit_code_1(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--generated", str(dataset / "trainA"), "--reference", str(dataset / "testB")]
    assert main(words) == 0
    (dataset / "trainA" / "broken.png").write_bytes(b"")
    assert main(words) == 1
    assert "broken.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--generated", "a"], "--generated and --reference belong together"),
        (["--run", "a", "--generated", "a", "--reference", "b"], "--run and --generated were given"),
        (["--run", "nowhere"], "no run in nowhere"),
        (["--size", "64"], "--size was given without --generated"),
        (["--generated", "a", "--reference", "b", "--checkpoint", "best"], "--checkpoint best was given with --gen"),
        (["--weights", "w.pth"], "--weights was given without an Inception"),
        (["--num-images", "0"], "--num-images 0 was given"),
        (["--extractor", "vgg"], "'vgg'"),
        (["--generated", "a", "--reference", "b", "--extractor", "torchvision", "--weights", "no.pth"], "no.pth"),
    ],
)
def test_mistakes_are_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["evaluate", *words])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_sheet_must_be_a_png(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(dataset / "trainA")
    assert main(["evaluate", "--generated", folder, "--reference", folder, "--sheet", str(tmp_path / "a.jpg")]) == 2
    assert "needed is a file that ends in .png" in capsys.readouterr().err
