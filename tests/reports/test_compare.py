"""Runs beside each other: score tables, warnings where numbers do not compare, settings that differ, the sheet."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle import train
from cyclestyle.checkpoint import save_checkpoint, save_translator
from cyclestyle.config.loading import load_config
from cyclestyle.config.schema import DataConfig, GeneratorConfig
from cyclestyle.data.fixed import load_fixed
from cyclestyle.errors import CheckpointError, DataError
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.inference.translator import Translator
from cyclestyle.networks.build import build_generator
from cyclestyle.reports import comparison_sheet
from cyclestyle.reports.compare import (
    ABSENT,
    Column,
    config_differences,
    config_table,
    evaluations,
    not_comparable,
    open_runs,
    score_table,
    within_noise,
)
from cyclestyle.reports.comparison_sheet import write_sheet

from ..conftest import write_pictures
from .run_folders import evaluation, make_run

SIDE = 160


def opened(*paths: Path, to: str | None = None) -> list[Column]:
    columns, skipped = open_runs(paths, to)
    assert skipped == []
    return columns


def scored(path: Path, *rows: dict[str, Any], best: int | None = None, **told: Any) -> Path:
    return make_run(path, evaluations=rows, checkpoints=[] if best is None else [best], best=best, **told)


# ------------------------------------------------------------------------------------------------ which runs


def test_too_few_runs(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first")
    with pytest.raises(CheckpointError, match="one run was given"):
        open_runs([first], None)
    with pytest.raises(CheckpointError, match=r"no run in .*nowhere"):
        open_runs([first, tmp_path / "nowhere"], None)


def test_direction_follows_the_name_of_the_domain(tmp_path: Path) -> None:
    """One run has photos as its domain A, another as its B: --to painting is ab for the one, ba for the other."""
    first = make_run(tmp_path / "first")
    swapped = make_run(tmp_path / "swapped", settings={"data.a.name": "painting", "data.b.name": "sketch"})
    columns = opened(first, swapped, to="painting")
    assert [(column.direction, column.source, column.target) for column in columns] == [
        ("ab", "photo", "painting"), ("ba", "sketch", "painting"),
    ]  # fmt: skip
    assert [column.target for column in opened(first, swapped)] == ["painting", "sketch"]


def test_runs_without_the_domain_are_left_out_by_name(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name) for name in ("first", "second")]
    other = make_run(tmp_path / "other", settings={"data.b.name": "vangogh"})
    columns, skipped = open_runs([*paths, other], "painting")
    assert [column.label for column in columns] == ["first", "second"]
    assert skipped == ["other is left out: it has no domain painting, but photo and vangogh"]
    with pytest.raises(CheckpointError, match=r"other is left out: .*choose another --to"):
        open_runs([paths[0], other], "painting")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / folder / "run") for folder in ("one", "two")]
    assert [column.label for column in opened(*paths)] == [str(path) for path in paths]


def test_damage_is_passed_on(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / name) for name in ("first", "second")]
    (paths[1] / "metrics.jsonl").write_text("nothing", encoding="utf-8")
    assert open_runs(paths, None)[1] == ["second: metrics.jsonl holds no readable row"]


# ------------------------------------------------------------------------------------------------ scores


def table_of(columns: list[Column], which: str) -> dict[str, list[str]]:
    lines = score_table(columns, which, evaluations(columns)[which])
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]
    return {line[0]: line[1:] for line in cells}


def test_scores_stand_side_by_side(tmp_path: Path) -> None:
    first = scored(tmp_path / "first", evaluation(10, 0.25), evaluation(20, 0.5), best=10)
    other = evaluation(30, 0.125)
    other["scores"]["fid_ab"] = 12.34567
    columns = opened(first, scored(tmp_path / "second", other, best=30))
    assert table_of(columns, "best") == {
        "best evaluation": ["first", "second"],
        "step": ["10", "30"],
        "translated pictures (n)": ["3", "3"],
        "real pictures of the target (n)": ["4", "4"],
        "extractor": ["builtin-1", "builtin-1"],
        "size of the squares, px": ["160", "160"],
        "kid (lower is better)": ["0.25", "0.125"],
        "kid_error": ["0.001", "0.001"],
        "fid (lower is better)": ["-", "12.35"],
        "swd_16 (lower is better)": ["2", "2"],
    }
    assert table_of(columns, "newest")["step"] == ["20", "30"]
    assert table_of(columns, "newest")["kid (lower is better)"] == ["0.5", "0.125"]


def test_scores_of_the_direction_that_is_asked_for(tmp_path: Path) -> None:
    paths = [scored(tmp_path / name, evaluation(10, 0.25)) for name in ("first", "second")]
    table = table_of(opened(*paths, to="photo"), "newest")
    assert table["kid (lower is better)"] == ["0.75", "0.75"]  # kid_ba is three times kid_ab in these files
    assert table["translated pictures (n)"] == ["4", "4"]


def test_what_says_nothing_new_is_not_repeated(tmp_path: Path) -> None:
    same = [scored(tmp_path / name, evaluation(10), best=10) for name in ("a", "b")]
    assert list(evaluations(opened(*same))) == ["best"]
    unscored = [make_run(tmp_path / name) for name in ("c", "d")]
    assert evaluations(opened(*unscored)) == {}
    assert list(evaluations(opened(same[0], scored(tmp_path / "e", evaluation(10))))) == ["best", "newest"]
    assert table_of(opened(same[0], unscored[0]), "best")["kid (lower is better)"] == ["0.1", "-"]


def changed(**told: Any) -> dict[str, Any]:
    """An evaluation whose direction ab differs in some keys."""
    row = evaluation(10)
    row["directions"] = {**row["directions"], "ab": {**row["directions"]["ab"], **told}}
    return row


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "extractor": (evaluation(10, extractor="inception"), "extractors differ (first: builtin-1, second: inception)"),
    "size": (evaluation(10, size=96), "sizes differ (first: 160, second: 96)"),
    "n": (changed(num_sources=24), "numbers of translated pictures differ (first: 3, second: 24)"),
    "references": (changed(num_references=24), "numbers of real pictures differ (first: 4, second: 24)"),
    "pictures": (changed(pictures=[{"file": f"pictures/testA/{n}.png"} for n in "015"]), "test pictures differ"),
    "folder": (
        changed(pictures=[{"file": f"elsewhere/{n}.png"} for n in "012"]), "pictures of one name in different folders",
    ),
    "reference folder": (changed(reference_folder="elsewhere"), "pictures of one name in different folders"),
}  # fmt: skip


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_line_where_numbers_do_not_compare(what: str, tmp_path: Path) -> None:
    row, line = DIFFERENT[what]
    columns = opened(scored(tmp_path / "first", evaluation(10)), scored(tmp_path / "second", row))
    found = not_comparable(columns, "newest", evaluations(columns)["newest"])
    assert len(found) == 1
    assert found[0].startswith(f"newest evaluations: {line}")
    assert "comparable" in found[0]


def test_no_line_where_they_do(tmp_path: Path) -> None:
    # The same pictures in another order, spelled otherwise; a third run was never scored; ba differs, ab is compared.
    same = changed(pictures=[{"file": f"pictures/other/../testA/{n}.png"} for n in "210"])
    same["directions"]["ba"] = {**same["directions"]["ba"], "num_sources": 99}
    paths = [
        scored(tmp_path / "first", evaluation(10)),
        scored(tmp_path / "second", same),
        make_run(tmp_path / "third"),
    ]
    columns = opened(*paths)
    assert not_comparable(columns, "newest", evaluations(columns)["newest"]) == []
    columns = opened(*paths, to="photo")
    assert len(not_comparable(columns, "newest", evaluations(columns)["newest"])) == 1


def test_other_domains_do_not_compare(tmp_path: Path) -> None:
    other = scored(tmp_path / "second", evaluation(10), settings={"data.b.name": "vangogh"})
    columns = opened(scored(tmp_path / "first", evaluation(10)), other)
    line = not_comparable(columns, "newest", evaluations(columns)["newest"])[0]
    assert "domains differ (first: photo -> painting, second: photo -> vangogh)" in line


def test_differences_within_noise_are_called_so(tmp_path: Path) -> None:
    """Errors of 0.001 each: the difference has one of 0.001 sqrt 2 = 0.00141, and 0.0028 is twice that."""
    paths = [
        scored(tmp_path / f"{kid}", evaluation(10, kid)) for kid in (0.1, 0.1027, 0.1030)
    ]  # apart by 0.0027 (noise), 0.0003 (noise), 0.0030 (none)
    columns = opened(*paths)
    lines = within_noise(columns, "newest", evaluations(columns)["newest"])
    assert [line.split(" differ")[0] for line in lines] == [
        "newest evaluations: kid of 0.1 and 0.1027", "newest evaluations: kid of 0.1027 and 0.103",
    ]  # fmt: skip
    assert "0.0027, within noise (twice their errors: 0.0028)" in lines[0]


# ------------------------------------------------------------------------------------------------ settings


def test_settings_that_differ(tmp_path: Path) -> None:
    first = make_run(
        tmp_path / "first", settings={"name": "one", "output_dir": "x", "data.augment": [{"name": "Blur"}], "old": None}
    )
    second = make_run(tmp_path / "second", settings={"name": "two", "train.steps": 2000, "data.augment": []})
    columns = opened(first, second)
    differences = config_differences(columns)
    assert differences == {
        "data.augment": [[{"name": "Blur"}], []], "old": [None, ABSENT], "train.steps": [1000, 2000],
    }  # fmt: skip
    assert config_table(columns, differences, None) == [
        'setting       first               second',
        'data.augment  [{"name": "Blur"}]  []',
        'old           null                -',
        'train.steps   1000                2000',
    ]  # fmt: skip
    narrow = config_table(columns, differences, 38)
    assert narrow[:3] == ["data.augment", '  first   [{"name": "Blur"}]', "  second  []"]


def test_true_is_not_one_and_one_is_not_text(tmp_path: Path) -> None:
    paths = [make_run(tmp_path / str(i), settings={"x": x, "same": 1.5}) for i, x in enumerate((1, True))]
    assert config_differences(opened(*paths)) == {"x": [1, True]}


# ------------------------------------------------------------------------------------------------ contact sheet


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_pictures(tmp_path / "pictures/testA", 5, size=(200, 180), seed=1)
    write_pictures(tmp_path / "pictures/testB", 5, size=(200, 180), seed=2)
    return tmp_path / "pictures"


def drawable(path: Path, root: Path, *, seed: int = 0, channels: int = 3, best: int | None = None, **told: Any) -> Path:
    """A run with untrained translators of both directions; its best checkpoint holds other weights."""
    settings = {"data.root": str(root), **told.pop("settings", {})}
    told.setdefault("evaluations", [])
    make_run(path, settings=settings, checkpoints=[] if best is None else [best], best=best, **told)
    config = GeneratorConfig(filters=4, blocks=1, init_gain=0.2)
    spec = TranslatorSpec(
        source="photo", target="painting", direction="ab", generator=asdict(config), channels=channels,
        resize="shorter", load_size=SIDE, crop_size=32, step=20,
    )  # fmt: skip
    back = replace(spec, source="painting", target="photo", direction="ba")

    def weights(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return build_generator(config, channels).state_dict()

    for number, each in enumerate((spec, back)):
        file = path / f"translators/{each.source}_to_{each.target}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_translator(file, weights(10 * seed + number), asdict(each))
    if best is not None:
        state = {
            "step": best, "method": {}, "translators": {"gen_ab": asdict(spec), "gen_ba": asdict(back)},
            "averages": {"gen_ab": weights(10 * seed + 5), "gen_ba": weights(10 * seed + 6)},
        }  # fmt: skip
        save_checkpoint(path / f"checkpoints/step_{best:08d}.pt", state)
    return path


def cell(sheet: Path, row: int, column: int, side: int = SIDE) -> np.ndarray:
    """A picture of the sheet: below three lines of 17 px, 8 px between columns, 18 px for names below each."""
    left, top = 8 + column * (side + 8), 8 + 3 * 17 + row * (side + 18)
    with Image.open(sheet) as image:
        return np.asarray(image.crop((left, top, left + side, top + side)))


def sources(folder: Path, count: int, size: int = SIDE) -> list[np.ndarray]:
    files = sorted(folder.iterdir())
    return [fixed.pixels for fixed in load_fixed(files, DataConfig(load_size=SIDE), count, size)]


def test_the_sheet_holds_what_each_run_makes_of_each_picture(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / f"runs/{name}", pictures, seed=seed) for seed, name in enumerate(("first", "second"))]
    path, skipped = write_sheet(opened(*runs), num_images=3)
    assert skipped == []
    assert path == (tmp_path / "runs/compare_first_second_to_painting.png").resolve()
    with Image.open(path) as image:
        assert image.size == (8 + 3 * (SIDE + 8), 8 + 51 + 3 * (SIDE + 18))
    expected = sources(pictures / "testA", 3)
    for row, pixels in enumerate(expected):
        assert np.array_equal(cell(path, row, 0), pixels)
        for column, run in enumerate(runs, start=1):
            assert np.array_equal(cell(path, row, column), Translator.load(run, "painting").pixels(pixels))
    assert not np.array_equal(cell(path, 0, 1), cell(path, 0, 2))


def test_the_best_checkpoint_is_what_is_shown(pictures: Path, tmp_path: Path) -> None:
    runs = [
        drawable(tmp_path / "first", pictures, seed=1, best=10),
        drawable(tmp_path / "second", pictures, seed=2),
    ]
    path, _ = write_sheet(opened(*runs), num_images=1)
    (pixels,) = sources(pictures / "testA", 1)
    best = Translator.load(runs[0] / "checkpoints/step_00000010.pt", "painting").pixels(pixels)
    assert np.array_equal(cell(path, 0, 1), best)
    assert not np.array_equal(best, Translator.load(runs[0], "painting").pixels(pixels))


def test_the_other_direction_takes_the_other_test_folder(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / name, pictures) for name in ("first", "second")]
    path, _ = write_sheet(opened(*runs, to="photo"), num_images=2)
    assert path.name == "compare_first_second_to_photo.png"
    for row, pixels in enumerate(sources(pictures / "testB", 2)):
        assert np.array_equal(cell(path, row, 0), pixels)
        assert np.array_equal(cell(path, row, 1), Translator.load(runs[0], "photo").pixels(pixels))


def test_data_a_test_and_input_come_before_the_root(pictures: Path, tmp_path: Path) -> None:
    own = write_pictures(tmp_path / "own", 1, size=(180, 180), seed=7)
    given = write_pictures(tmp_path / "given", 1, size=(180, 180), seed=8)
    runs = [drawable(tmp_path / "first", pictures, settings={"data.a.test": str(own)}),
            drawable(tmp_path / "second", pictures)]  # fmt: skip
    path, _ = write_sheet(opened(*runs))
    assert np.array_equal(cell(path, 0, 0), sources(own, 1)[0])
    path, _ = write_sheet(opened(*runs), input=given, output=tmp_path / "new/folder")
    assert path.parent == tmp_path / "new/folder"
    assert np.array_equal(cell(path, 0, 0), sources(given, 1)[0])


def test_titles_name_run_step_and_score(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    drawn: list[list[str]] = []
    monkeypatch.setattr(
        comparison_sheet,
        "_draw",
        lambda strips, files: drawn.extend(s.titles for s in strips) or Image.new("L", (1, 1)),
    )
    runs = [
        drawable(tmp_path / "first", pictures, best=10, evaluations=[evaluation(10, 0.0625), evaluation(20, 0.5)]),
        drawable(tmp_path / "second", pictures, evaluations=[evaluation(10, 0.5)]),  # of another step than its weights
        drawable(tmp_path / "third", pictures, evaluations=[evaluation(20, 0.25)]),
    ]
    write_sheet(opened(*runs), num_images=1)
    assert drawn == [
        ["photo", "", ""],
        ["first", "as painting, step 10", "kid 0.0625"],
        ["second", "as painting, step 20", "not scored"],
        ["third", "as painting, step 20", "kid 0.25"],
    ]


def test_runs_that_cannot_be_drawn_are_named(pictures: Path, tmp_path: Path) -> None:
    grey = drawable(tmp_path / "grey", pictures, channels=1)
    empty = make_run(tmp_path / "empty")
    runs = [drawable(tmp_path / name, pictures) for name in ("first", "second")]
    path, skipped = write_sheet(opened(empty, runs[0], grey, runs[1]), num_images=1)
    assert [line.split(":")[0] for line in skipped] == ["empty is not on the sheet", "grey is not on the sheet"]
    assert skipped[1].endswith("it takes 1 channels, not 3")
    with Image.open(path) as image:
        assert image.width == 8 + 3 * (SIDE + 8)
    with pytest.raises(CheckpointError, match="no run can be drawn; empty is not on the sheet: "):
        write_sheet(opened(empty, make_run(tmp_path / "void")))


def test_grey_runs_are_drawn_grey(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / name, pictures, channels=1) for name in ("first", "second")]
    path, skipped = write_sheet(opened(*runs), num_images=1)
    assert skipped == []
    shown = cell(path, 0, 1)
    assert np.array_equal(shown[..., 0], shown[..., 1])
    assert shown.std() > 0


def test_many_runs_make_smaller_pictures(pictures: Path, tmp_path: Path) -> None:
    run = drawable(tmp_path / "run", pictures)
    column = opened(run, make_run(tmp_path / "other"))[0]
    path, _ = write_sheet([column] * 15, num_images=1)  # 16 columns of 168 px would be 2696 px
    with Image.open(path) as image:
        assert 2300 < image.width <= 2400


def test_another_scale_is_named(pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [drawable(tmp_path / "first", pictures), drawable(tmp_path / "second", pictures)]
    file = next((runs[1] / "translators").glob("photo_to_*"))
    spec = replace(Translator.load(file).spec, load_size=286)
    save_translator(file, Translator.load(file)._generator.state_dict(), asdict(spec))
    write_sheet(opened(*runs), num_images=1)
    assert "second was trained on pictures of 286 px, and is shown ones of 160" in caplog.text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.root": "nowhere"}, "no folder nowhere/testA, where first has its test pictures: give --input"),
        ({"data.root": None}, "first has no test folder (data.a.test): give --input"),
    ],
)
def test_no_pictures(settings: dict[str, Any], message: str, pictures: Path, tmp_path: Path) -> None:
    runs = [
        drawable(tmp_path / "first", pictures, settings=settings),
        drawable(tmp_path / "second", pictures),
    ]
    with pytest.raises(DataError) as caught:
        write_sheet(opened(*runs))
    assert str(caught.value) == message


def test_broken_pictures_are_passed_over(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / name, pictures) for name in ("first", "second")]
    for file in (pictures / "testA").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the pictures in .*give another --input"):
        write_sheet(opened(*runs))


def test_a_folder_that_cannot_be_written(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / name, pictures) for name in ("first", "second")]
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written .*give another --output"):
        write_sheet(opened(*runs), output=tmp_path / "file", num_images=1)


def test_long_and_odd_names_make_a_file(pictures: Path, tmp_path: Path) -> None:
    runs = [drawable(tmp_path / name, pictures) for name in ("ein Läufer: 1/2".replace("/", "-"), "x" * 120)]
    path, _ = write_sheet(opened(*runs), num_images=1)
    assert path.is_file()
    assert path.name.startswith("compare_ein-Läufer-1-2_xxx")
    assert len(path.name) < 160


def test_real_runs(tiny: list[str], tmp_path: Path) -> None:
    """From the training to the sheet; 20 px pictures are shown at 160."""
    paths = [Path(train(load_config(None, [*tiny, "train.steps=2", "evaluate.every=0"]))), tmp_path / "runs/copy"]
    shutil.copytree(*paths)
    columns = opened(*paths)
    assert config_differences(columns) == {}
    assert [column.run.state for column in columns] == ["finished", "finished"]
    path, skipped = write_sheet(columns)
    assert skipped == []
    with Image.open(path) as image:
        assert image.size == (8 + 3 * (SIDE + 8), 8 + 51 + 2 * (SIDE + 18))  # testA holds two pictures
    translated = Translator.load(paths[1]).pixels(
        load_fixed(sorted((tmp_path / "data/testA").iterdir()), DataConfig(load_size=20, crop_size=16), 2, 20)[1].pixels
    )
    expected = np.asarray(Image.fromarray(translated).resize((SIDE, SIDE), Image.Resampling.LANCZOS))
    assert np.array_equal(cell(path, 1, 2), expected)
    assert json.dumps(columns[0].run.config)  # plain values
