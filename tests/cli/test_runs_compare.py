"""`cyclestyle runs` and `cyclestyle compare` as people use them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cyclestyle.cli import compare, main, runs

from ..conftest import write_pictures
from ..reports.run_folders import evaluation, make_run, row
from ..reports.test_compare import drawable

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.VERBS, "runs", runs)
    monkeypatch.setitem(main.VERBS, "compare", compare)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs that can be drawn, and their pictures."""
    write_pictures(tmp_path / "pictures/testA", 3, size=(180, 180))
    for seed, name in enumerate(("first", "second")):
        drawable(
            tmp_path / "runs" / name, tmp_path / "pictures", seed=seed, rows=[row(20)],
            evaluations=[evaluation(20, 0.25 + seed, size=160 - 64 * seed)], settings={"seed": seed},
        )  # fmt: skip
    return tmp_path / "runs"


# ------------------------------------------------------------------------------------------------ runs


def test_a_line_a_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["runs", str(folder)]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert [line.split()[0] for line in lines[:1]] == ["name"]
    assert sorted(line.split()[0] for line in lines[1:]) == ["first", "second"]
    assert "0.25 at 20" in printed.out
    assert printed.err == ""


def test_the_folder_is_runs_by_default(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder.parent)
    assert main.main(["runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["runs", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {run["name"]: run["latest"]["score"] for run in found} == {"first": 0.25, "second": 1.25}


def test_no_runs_is_no_mistake_but_no_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["runs", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"no runs in {tmp_path} (a run is a folder with a config.yaml in it)\n"
    assert main.main(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main.main(["runs", str(tmp_path / "nowhere")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        f"error: no folder {tmp_path / 'nowhere'}: needed is the folder that holds runs, by default runs\n"
    )


def test_scores_that_do_not_compare_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (96, 160):
        make_run(tmp_path / f"at_{size}", evaluations=[evaluation(10, size=size)], checkpoints=[10], best=10)
    assert main.main(["runs", str(tmp_path)]) == 0
    assert "different extractors or sizes" in capsys.readouterr().err


def test_a_narrow_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(runs, "terminal_width", lambda: 80)
    assert main.main(["runs", str(folder)]) == 0
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines())) <= 80
    assert printed.err.startswith("left out, the terminal is narrow: method")


def test_a_terminal_that_knows_no_umlauts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "läufe 絵")
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding="ascii"))
    assert main.main(["runs", str(tmp_path)]) == 0
    assert b"l?ufe ?" in out.getvalue()


def test_listing_runs_loads_no_torch(folder: Path) -> None:
    code = (
        "import sys; from cyclestyle.cli import runs; import argparse; p = argparse.ArgumentParser(); "
        f"runs.add_arguments(p); runs.run(p.parse_args([{str(folder)!r}])); "
        "sys.exit(sorted({'torch', 'numpy', 'PIL', 'cv2', 'omegaconf'} & set(sys.modules)) or 0)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------ compare


def test_tables_then_the_path_of_the_sheet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["compare", str(folder / "first"), str(folder / "second"), "--num-images", "2"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[-1] == str(folder.resolve() / "compare_first_second_to_painting.png")
    assert Path(lines[-1]).is_file()
    cells = [line.split() for line in lines]
    assert ["newest", "evaluation", "first", "second"] in cells
    assert ["kid", "(lower", "is", "better)", "0.25", "1.25"] in cells
    assert ["seed", "0", "1"] in cells
    assert "warning: newest evaluations: sizes differ (first: 160, second: 96), so the scores are not" in printed.err


def test_compare_as_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(folder / "first"), str(folder / "second"), "--output", str(tmp_path / "out"), "--json"]
    assert main.main(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["config"] == {"seed": {"first": 0, "second": 1}}
    assert found["runs"]["second"]["latest"]["scores"]["kid_ab"] == 1.25
    assert (found["runs"]["first"]["source"], found["runs"]["first"]["target"]) == ("photo", "painting")
    assert ["sizes differ" in line for line in found["warnings"]] == [True]
    assert Path(found["sheet"]).parent == tmp_path / "out"


@pytest.mark.parametrize("size", [160, 96])
def test_noise_is_spoken_of_only_where_scores_compare(
    size: int, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [
        drawable(tmp_path / name, tmp_path / "pictures", evaluations=[evaluation(20, kid, size=each)])
        for name, kid, each in (("a", 0.1, 160), ("b", 0.1001, size))
    ]
    assert main.main(["compare", *map(str, paths)]) == 0
    printed = capsys.readouterr().err
    assert ("within noise" in printed, "not comparable" in printed) == (size == 160, size == 96)


def test_a_run_that_is_left_out_changes_the_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(folder / "first"), str(folder / "second")
    other = str(make_run(folder / "other", settings={"data.b.name": "vangogh"}))
    assert main.main(["compare", first, second, other, "--to", "painting"]) == 1
    printed = capsys.readouterr()
    assert "warning: other is left out: it has no domain painting" in printed.err
    assert "other" not in printed.out
    # Without --to it is compared, but has no translators to draw with.
    assert main.main(["compare", first, second, other]) == 1
    printed = capsys.readouterr()
    assert "warning: other is not on the sheet: no translators in" in printed.err
    assert printed.out.splitlines()[-1].endswith("compare_first_second_other.png")


def test_unscored_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        (folder / name / "evaluations.jsonl").unlink()
    assert main.main(["compare", str(folder / "first"), str(folder / "second")]) == 0
    assert capsys.readouterr().out.startswith("none of these runs was scored while it trained")


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (["first"], "one run was given"),
        (["first", "nowhere"], "no run in "),
        (["first", "second", "--to", "vangogh"], "choose another --to"),
        (["first", "second", "--input", "nowhere"], "--input: no folder nowhere"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], fragment: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(folder / word) if word in ("first", "second") else word for word in words]
    assert main.main(["compare", *paths]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert fragment in last


@pytest.mark.parametrize("count", ["0", "-1", "many"])
def test_the_number_of_pictures_is_checked(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main.main(["compare", "a", "b", f"--num-images={count}"])
    assert stopped.value.code == 2
    assert "needs a whole number of at least 1" in capsys.readouterr().err
