"""Sample grids: cells cut back from the PNG by what it says of itself, captions against closed forms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFont
from torch import Tensor, nn

from cyclestyle.training.previews import Previews, _fitting
from cyclestyle.training.tracker import Tracker

CPU = torch.device("cpu")
SIZE = 48


class Invert(nn.Module):
    """A negative."""

    def forward(self, images: Tensor) -> Tensor:
        return -images


class Black(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.full_like(images, -1.0)


def picture(seed: int, channels: int = 3, dtype: type = np.uint8, size: int = SIZE) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, (size, size, channels))
    return values.astype(dtype)


def cell(pixels: np.ndarray, info: dict[str, Any], row: int, column: int) -> np.ndarray:
    """By the words of `Preview`, which readers of sample grids rely on."""
    x = info["left"] + column * (info["width"] + info["gap"])
    y = info["top"] + row * (info["height"] + info["label_height"] + info["gap"])
    shown, scale = pixels[y : y + info["height"], x : x + info["width"]], info["scale"]
    found = shown[::scale, ::scale]
    assert np.array_equal(shown, found.repeat(scale, 0).repeat(scale, 1))
    return found


def label_area(pixels: np.ndarray, info: dict[str, Any], row: int, column: int) -> np.ndarray:
    x = info["left"] + column * (info["width"] + info["gap"])
    y = info["top"] + row * (info["height"] + info["label_height"] + info["gap"]) + info["height"]
    return pixels[y : y + info["label_height"] + info["gap"], x : x + info["width"]]


def test_cells_cut_from_the_file_are_the_images(tmp_path: Path) -> None:
    fixed_a = [("one.jpg", picture(1)), ("two.jpg", picture(2))]
    fixed_b = [("three.jpg", picture(3))]
    generators: dict[str, nn.Module] = {"gen_ab": Invert(), "gen_ba": Black()}
    forth, back = Previews(fixed_a, fixed_b, ("photo", "painting")).draw(generators, CPU, step=200)
    assert (forth.direction, back.direction) == ("photo_to_painting", "painting_to_photo")

    tracker = Tracker(tmp_path, 0)
    tracker.picture(tmp_path / "grid.png", forth.pixels, forth.info)
    tracker.close()
    with Image.open(tmp_path / "grid.png") as image:
        pixels, info = np.asarray(image), json.loads(image.text["cyclestyle"])
    assert {key: info[key] for key in ("step", "source", "target", "titles", "rows", "width", "height", "scale")} == {
        "step": 200,
        "source": "photo",
        "target": "painting",
        "titles": ["photo", "as painting", "back to photo", "photo left as is"],
        "rows": 2,
        "width": 2 * SIZE,  # whole pixels, enough for the words
        "height": 2 * SIZE,
        "scale": 2,
    }
    black = np.zeros((SIZE, SIZE, 3), np.uint8)
    for row, (_, real) in enumerate(fixed_a):
        for column, expected in enumerate((real, 255 - real, black, black)):
            assert np.array_equal(cell(pixels, info, row, column), expected), (row, column)
    real = fixed_b[0][1]
    for column, expected in enumerate((real, black, np.full_like(black, 255), 255 - real)):
        assert np.array_equal(cell(back.pixels, back.info, 0, column), expected), column
    assert back.info["rows"] == 1


@pytest.mark.parametrize(("size", "scale"), [(16, 6), (36, 3), (95, 2), (96, 1), (97, 1), (160, 1)])
def test_small_pictures_are_enlarged_until_words_can_be_read(size: int, scale: int) -> None:
    real = picture(1, size=size)
    (grid,) = Previews([("x.jpg", real)], [], ("photo", "painting")).draw({"gen_ab": Invert()}, CPU)
    assert grid.info["scale"] == scale
    assert np.array_equal(cell(grid.pixels, grid.info, 0, 1), 255 - real)
    font = ImageFont.load_default(10)
    assert all(font.getlength(words) <= grid.info["width"] for words in ("as painting", "back to photo", "corr. -0.99"))


def test_captions_are_the_scores_against_the_source() -> None:
    fixed = [("one.jpg", picture(1)), ("two.jpg", picture(2))]
    (forth,) = Previews(fixed, [], ("photo", "painting")).draw({"gen_ab": Invert(), "gen_ba": Black()}, CPU)
    for said, (label, real) in zip(forth.info["pictures"], fixed, strict=True):
        assert said["label"] == label
        assert said["luminance_correlation"] == pytest.approx(-1.0, abs=1e-5)
        # A negative moves each value v to 255 - v, by |255 - 2 v| of a range of 255.
        assert said["change"] == pytest.approx(np.abs(255.0 - 2.0 * real).mean() / 255.0, abs=1e-6)
    (same,) = Previews(fixed, [], ("photo", "painting")).draw({"gen_ab": nn.Identity(), "gen_ba": Black()}, CPU)
    assert same.info["pictures"][0]["luminance_correlation"] == pytest.approx(1.0, abs=1e-5)
    assert same.info["pictures"][0]["change"] == 0.0


def test_words_stand_under_the_source_and_its_translation_and_nowhere_else() -> None:
    fixed = [
        ("a very long name of a photograph taken somewhere in the mountains.jpg", picture(1)),
        ("b.jpg", picture(2)),
    ]
    names = ("a long name of a domain of photographs", "paintings of the same")
    (grid,) = Previews(fixed, [], names).draw({"gen_ab": Invert(), "gen_ba": Black()}, CPU, 5)
    pixels, info = grid.pixels, grid.info
    for row in range(2):
        has_ink = [bool((label_area(pixels, info, row, column) < 200).any()) for column in range(4)]
        assert has_ink == [True, True, False, False]
    # Below the header nothing is written between the columns: each word is cut to its own.
    below = info["top"] - info["gap"]
    for column in range(5):
        x = info["left"] + column * (info["width"] + info["gap"]) - info["gap"]
        assert (pixels[below:, x : x + info["gap"]] == 255).all(), column
    assert pixels.shape[1] == info["left"] + 4 * (info["width"] + info["gap"])


def test_captions_and_header_say_different_things_of_different_pictures() -> None:
    previews = Previews([("one.jpg", picture(1)), ("two.jpg", picture(2))], [], ("photo", "painting"))
    generators: dict[str, nn.Module] = {"gen_ab": Invert(), "gen_ba": Black()}
    (first,), (later,) = previews.draw(generators, CPU, 100), previews.draw(generators, CPU, 2000)
    names = [label_area(first.pixels, first.info, row, 0) for row in range(2)]
    assert not np.array_equal(*names)
    top = first.info["top"]
    assert not np.array_equal(first.pixels[:top], later.pixels[:top])
    assert np.array_equal(first.pixels[top:], later.pixels[top:])


def test_of_one_generator_there_are_two_columns() -> None:
    previews = Previews([("one.jpg", picture(1))], [("two.jpg", picture(2))], ("photo", "painting"))
    (grid,) = previews.draw({"gen_ba": Invert()}, CPU)
    assert grid.direction == "painting_to_photo"
    assert grid.info["titles"] == ["painting", "as photo"]
    assert np.array_equal(cell(grid.pixels, grid.info, 0, 1), 255 - picture(2))


@pytest.mark.parametrize(("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (5, [0, 1, 2])])
def test_other_numbers_of_channels_are_shown_as_rgb(channels: int, shown: list[int]) -> None:
    real = picture(1, channels)
    (grid,) = Previews([("x.npy", real)], [], ("a", "b")).draw({"gen_ab": nn.Identity()}, CPU)
    assert np.array_equal(cell(grid.pixels, grid.info, 0, 0), real[..., shown])


def test_sixteen_bits_are_shown_as_eight() -> None:
    real = picture(1, 3, np.uint16)
    (grid,) = Previews([("x.tif", real)], [], ("a", "b")).draw({"gen_ab": nn.Identity()}, CPU)
    assert np.abs(cell(grid.pixels, grid.info, 0, 1) - real / 257.0).max() <= 0.5


def test_a_translation_that_is_not_finite_is_drawn_too() -> None:
    class Broken(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images * torch.nan

    (grid,) = Previews([("x.jpg", picture(1))], [], ("a", "b")).draw({"gen_ab": Broken()}, CPU)
    assert np.array_equal(cell(grid.pixels, grid.info, 0, 0), picture(1))
    assert np.abs(cell(grid.pixels, grid.info, 0, 1) - 127.5).max() <= 0.5


def test_words_are_shortened_to_their_column() -> None:
    font = ImageFont.load_default(12)
    name = "IMG_20240131_174455_mountains.jpeg"
    for width in range(30, 300, 10):
        shown = _fitting([name], font, width)
        assert font.getlength(shown) <= width
        if shown != name:  # head and tail stay: numbers and endings tell files apart
            head, _, tail = shown.partition("...")
            assert name.startswith(head)
            assert name.endswith(tail)
    assert _fitting([name], font, 300) == name
    wordings = ["luminance correlation 0.92", "corr. 0.92"]
    assert _fitting(wordings, font, 300) == wordings[0]
    assert _fitting(wordings, font, int(font.getlength(wordings[0])) - 1) == wordings[1]
