"""Masks: found by path, resized, soft inside and exact outside."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from cyclestyle.errors import DataError
from cyclestyle.inference.mask import find_mask, index_masks, read_mask, soften


def save(values: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def test_masks_are_found_by_their_path_with_any_suffix(tmp_path: Path) -> None:
    white = np.full((4, 4), 255, np.uint8)
    for name in ("a.png", "deep/a.jpg", "b.jpg", "b.png", "c.x.png"):
        save(white, tmp_path / name)
    masks = index_masks(tmp_path)
    expected = {
        "a.png": "a.png", "a.jpg": "a.png", "deep/a.tif": "deep/a.jpg", "b.png": "b.png", "b.webp": "b.jpg",
        "c.x.tif": "c.x.png", "c.tif": None, "deep/b.png": None,
    }  # fmt: skip
    for place, name in expected.items():
        assert find_mask(masks, PurePosixPath(place)) == (tmp_path / name if name else None), place
    with pytest.raises(DataError, match="--mask: no folder"):
        index_masks(tmp_path / "absent")


def test_edges_are_soft_inside_and_nothing_outside_is_touched() -> None:
    """A half plane of white: the weight climbs by 1 / feather a pixel; feather is 2, or 1% of the shorter side."""
    for height, feather in ((30, 2.0), (500, 5.0)):
        values = np.zeros((height, 600), np.float32)
        values[:, 100:] = 1.0
        expected = np.clip((np.arange(600) - 99) / feather, 0.0, 1.0)
        np.testing.assert_allclose(soften(values), np.broadcast_to(expected, values.shape), atol=1e-6)


def test_grey_is_a_weight_and_corners_are_measured_in_a_straight_line() -> None:
    values = np.full((500, 500), 0.5, np.float32)
    values[0, 0] = 0.0
    found = soften(values)
    assert found[3, 0] == pytest.approx(0.5 * 3 / 5)
    assert found[3, 3] == pytest.approx(0.5 * np.sqrt(18) / 5, rel=1e-5)
    assert found[499, 499] == 0.5
    assert soften(np.zeros((5, 6), np.float32)).max() == 0.0
    np.testing.assert_array_equal(soften(np.full((5, 6), 0.25, np.float32)), 0.25)


def test_files_of_8_and_16_bits_and_of_another_size(tmp_path: Path) -> None:
    eight = read_mask(save(np.full((6, 8), 51, np.uint8), tmp_path / "a.png"), 6, 8)
    deep = read_mask(save(np.full((6, 8), 13107, np.uint16), tmp_path / "b.png"), 6, 8)
    colour = read_mask(save(np.full((6, 8, 3), 51, np.uint8), tmp_path / "c.png"), 6, 8)
    for found in (eight, deep, colour):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, np.full((6, 8), 0.2), atol=1e-6)
    half = np.zeros((10, 20), np.uint8)
    half[:, 10:] = 255
    found = read_mask(save(half, tmp_path / "half.png"), 40, 80)
    assert found.shape == (40, 80)
    assert found[:, :38].max() == 0.0
    assert found[:, 44:].min() == 1.0
