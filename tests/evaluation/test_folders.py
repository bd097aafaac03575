"""Folders of pictures: which belong together, what is left out and named, at which size."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cyclestyle.errors import DataError
from cyclestyle.evaluation.folders import Folders, evaluate_folders


class Means:
    """Mean and deviation of each channel."""

    name = "means"
    fingerprint = "means"
    num_features = 6

    def __call__(self, images: Tensor) -> Tensor:
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1)


def fill(folder: Path, names: list[str], seed: int = 0, size: tuple[int, int] = (40, 32)) -> Path:
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_pairs_are_by_relative_name_and_the_rest_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["x/1.png", "x/2.png", "y/1.png", "alone.png"]
    made = fill(tmp_path / "made", names)
    source = tmp_path / "source"
    for name in names[:3]:  # inverted, and as another kind of file
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(made / name))).save((source / name).with_suffix(".bmp"))
    (made / "contact_sheet_001.png").write_bytes((made / "alone.png").read_bytes())
    real = fill(tmp_path / "real", ["1.png", "2.png"], seed=1)
    found = evaluate_folders(Folders(generated=made, reference=real, source=source), Means())
    about = found.row["directions"][""]
    assert [Path(each["output"]).relative_to(made).as_posix() for each in about["pictures"]] == names[:3]
    assert found.row["scores"]["luminance_correlation"] == pytest.approx(-1, abs=1e-3)
    assert found.num_left_out == 1
    assert "left out, --source has none of its name" in caplog.text
    assert "alone.png" in caplog.text
    assert (about["num_sources"], about["num_references"], found.row["size"]) == (3, 2, 32)
    assert {"kid", "fid", "swd", "swd_32", "ssim", "diversity", "kid_untranslated"} <= set(found.row["scores"])


def test_without_sources_only_nearness_is_scored(tmp_path: Path) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png", "3.png"])
    found = evaluate_folders(Folders(generated=made, reference=made), Means())
    assert found.row["scores"]["fid"] == pytest.approx(0, abs=1e-6)
    assert found.row["scores"]["swd"] == pytest.approx(0, abs=1e-4)
    assert not {"ssim", "diversity", "memorisation"} & set(found.row["scores"])


def test_truths_and_training_pictures(tmp_path: Path) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png", "3.png"])
    real = fill(tmp_path / "real", ["1.png", "2.png"], seed=1)
    found = evaluate_folders(Folders(generated=made, reference=real, source=real, truth=made, training=made), Means())
    # Only 1 and 2 have a source; their truths are they themselves.
    assert found.row["directions"][""]["num_sources"] == 2
    assert found.row["scores"]["ssim_truth"] == pytest.approx(1)
    assert found.row["scores"]["memorisation"] == pytest.approx(0, abs=1e-4)
    first, _ = found.row["directions"][""]["pictures"]
    assert first["nearest"] == first["output"]


def test_broken_files_are_named_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png", "3.png"])
    real = fill(tmp_path / "real", ["1.png", "2.png", "3.png"], seed=1)
    (made / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with caplog.at_level(logging.WARNING, "cyclestyle"):
        found = evaluate_folders(Folders(generated=made, reference=real), Means())
    assert found.num_left_out == 1
    assert "2.png" in caplog.text
    assert len(found.outputs) == 2
    (real / "1.png").write_bytes(b"")
    assert evaluate_folders(Folders(generated=made, reference=real), Means()).num_left_out == 2


def test_what_says_nothing_is_said_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png", "3.png"])
    evaluate_folders(Folders(generated=made, reference=made), Means(), size=64)
    assert "3 pictures are in --generated and in --reference" in caplog.text
    assert "6 of 6 pictures are smaller than the squares of 64 px and are enlarged" in caplog.text
    with pytest.raises(DataError, match=r"none of 3 pictures can be used; the first: .*1\.png"):
        evaluate_folders(Folders(generated=made, reference=made), Means(), channels=2)


def test_the_size_is_that_of_the_smaller_pictures_and_differences_are_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png"], size=(100, 90))
    real = fill(tmp_path / "real", ["1.png", "2.png"], size=(50, 48))
    assert evaluate_folders(Folders(generated=made, reference=real), Means()).row["size"] == 48
    assert "48 px on the shorter side, the other's 90: all are compared at 48 px" in caplog.text
    assert evaluate_folders(Folders(generated=made, reference=real), Means(), size=20).row["size"] == 20
    large = fill(tmp_path / "large", ["1.png", "2.png"], size=(400, 300))
    assert evaluate_folders(Folders(generated=large, reference=large), Means()).row["size"] == 256


def test_so_many_pictures_evenly_chosen(tmp_path: Path) -> None:
    made = fill(tmp_path / "made", [f"{number}.png" for number in range(9)])
    found = evaluate_folders(Folders(generated=made, reference=made, source=made), Means(), num_images=3)
    assert [Path(each["output"]).name for each in found.row["directions"][""]["pictures"]] == [
        "0.png",
        "3.png",
        "6.png",
    ]
    assert found.row["directions"][""]["num_references"] == 3


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["1.png"], {}, "--generated: 1 pictures can be used, needed are 2"),
        (["1.png", "2.png"], {"source": "elsewhere"}, "none of the 2 pictures in .* has the name of one in"),
        (["1.png", "2.png"], {"source": "missing"}, "--source: no folder"),
    ],
)
def test_too_little_is_one_line(tmp_path: Path, names: list[str], more: dict[str, str], message: str) -> None:
    made = fill(tmp_path / "made", names)
    real = fill(tmp_path / "real", ["1.png", "2.png"])
    fill(tmp_path / "elsewhere", ["7.png"])
    folders = {key: tmp_path / name for key, name in more.items()}
    with pytest.raises(DataError, match=message):
        evaluate_folders(Folders(generated=made, reference=real, **folders), Means())


def test_tiny_squares_are_refused(tmp_path: Path) -> None:
    made = fill(tmp_path / "made", ["1.png", "2.png"], size=(12, 12))
    with pytest.raises(DataError, match=r"squares of 12 px .* needed are 16 to 1024 \(--size\)"):
        evaluate_folders(Folders(generated=made, reference=made), Means())


def test_grey_sixteen_bits(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "grey").mkdir()
    for name in "12":
        np.save(tmp_path / "grey" / f"{name}.npy", random.integers(0, 65536, (32, 32, 1), dtype=np.uint16))
    found = evaluate_folders(
        Folders(generated=tmp_path / "grey", reference=tmp_path / "grey", source=tmp_path / "grey"), Grey(), channels=1
    )
    assert found.row["scores"]["ssim"] == pytest.approx(1)


class Grey(Means):
    num_features = 2
