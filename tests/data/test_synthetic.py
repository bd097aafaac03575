"""The sample set: whole or absent, the same bytes every time, true pairs, and two domains that differ in style."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cyclestyle.data import synthetic
from cyclestyle.data.landscapes import render_landscape
from cyclestyle.data.painter import paint
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.errors import DataError

SMALL = {"num_train": 2, "num_test": 1, "size": 64, "progress": False}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_samples(tmp_path_factory.mktemp("samples") / "landscapes", workers=1, **SMALL)


def test_folders_names_and_sizes(small_set: Path) -> None:
    names = set(contents(small_set))
    assert names == {
        "about.json",
        "trainA/photo_0000.jpg",
        "trainA/photo_0001.jpg",
        "trainB/painting_0000.jpg",
        "trainB/painting_0001.jpg",
        "testA/photo_0000.jpg",
        "testB/painting_0000.jpg",
        "testA_truth/photo_0000.jpg",
    }
    assert samples_complete(small_set)
    for path in small_set.rglob("*.jpg"):
        assert cv2.imread(str(path)).shape == (64, 64, 3)
    about = json.loads((small_set / "about.json").read_text())
    assert (about["seed"], about["size"], about["num_train"], about["num_test"]) == (0, 64, 2, 1)
    assert about["version"] == synthetic.GENERATOR_VERSION


def test_same_bytes_with_other_processes(small_set: Path, tmp_path: Path) -> None:
    again = make_samples(tmp_path / "again", workers=2, **SMALL)
    assert contents(again) == contents(small_set)


def test_picture_depends_on_its_number_and_seed_only(small_set: Path, tmp_path: Path) -> None:
    longer = contents(make_samples(tmp_path / "longer", workers=1, **{**SMALL, "num_train": 3}))
    for name, data in contents(small_set).items():
        if name != "about.json":
            assert longer[name] == data
    other = contents(make_samples(tmp_path / "other", workers=1, seed=1, **SMALL))
    assert all(other[name] != data for name, data in contents(small_set).items())


def test_truth_is_the_painting_of_the_test_photograph(small_set: Path) -> None:
    stems = [sorted(path.stem for path in (small_set / name).iterdir()) for name in ("testA", "testA_truth")]
    assert stems[0] == stems[1]
    seed = (0, 3, 0)  # the stream of testA
    photo, other = render_landscape(seed, 64), render_landscape((0, 3, 1), 64)
    for name, expected, wrong in (("testA", photo, other), ("testA_truth", paint(photo, seed), paint(other, seed))):
        stored = cv2.imread(str(small_set / name / "photo_0000.jpg"))[..., ::-1].astype(float)
        # JPEG at quality 95 moves pixels by a few levels; another picture would differ by tens.
        assert np.abs(stored - expected).mean() < 6.0, name
        assert np.abs(stored - wrong).mean() > 15.0, name


def test_complete_set_returns_at_once(small_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "make_pictures", lambda task: pytest.fail("a complete set was made again"))
    before = contents(small_set)
    assert make_samples(small_set, workers=1, **SMALL) == small_set
    assert contents(small_set) == before


def test_interrupted_run_leaves_nothing_and_is_redone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_set: Path
) -> None:
    folder = tmp_path / "landscapes"
    original, calls = synthetic.make_pictures, []

    def interrupted(task: synthetic._Task) -> int:
        calls.append(task)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(task)

    monkeypatch.setattr(synthetic, "make_pictures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_samples(folder, workers=1, **SMALL)
    assert len(calls) == 3
    assert os.listdir(tmp_path) == []
    monkeypatch.setattr(synthetic, "make_pictures", original)
    assert contents(make_samples(folder, workers=1, **SMALL)) == contents(small_set)


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path, small_set: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    prefix = synthetic._partial_prefix(tmp_path / "landscapes")
    dead, alive = tmp_path / f"{prefix}{int(killed.stdout)}", tmp_path / f"{prefix}{os.getppid()}"
    for folder in (dead, alive, tmp_path / f"{prefix}notes"):
        (folder / "trainA").mkdir(parents=True)
    assert contents(make_samples(tmp_path / "landscapes", workers=1, **SMALL)) == contents(small_set)
    assert not dead.exists()
    assert alive.exists()  # another run, still at work
    assert (tmp_path / f"{prefix}notes").exists()  # not ours


def test_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "holiday.jpg").write_bytes(b"my picture")
    with pytest.raises(DataError, match="holds no complete sample set") as caught:
        make_samples(tmp_path / "mine", workers=1, **SMALL)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "mine") == {"holiday.jpg": b"my picture"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert samples_complete(make_samples(tmp_path / "empty", workers=1, **SMALL))


def test_set_with_a_lost_picture_is_not_complete(tmp_path: Path) -> None:
    folder = make_samples(tmp_path / "set", workers=1, **SMALL)
    (folder / "trainB" / "painting_0001.jpg").unlink()
    assert not samples_complete(folder)
    with pytest.raises(DataError):
        make_samples(folder, workers=1, **SMALL)
    assert not samples_complete(tmp_path / "absent")


def test_another_set_is_refused(small_set: Path) -> None:
    with pytest.raises(DataError, match=r"seed=0 \(asked: 5\)"):
        make_samples(small_set, workers=1, seed=5, **SMALL)


@pytest.mark.parametrize("bad", [{"num_train": 0}, {"num_test": 0}, {"size": 8}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(bad))}={next(iter(bad.values()))}"):
        make_samples(tmp_path / "bad", workers=1, **{**SMALL, **bad})
    assert os.listdir(tmp_path) == []
