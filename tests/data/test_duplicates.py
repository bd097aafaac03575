"""Flat and doubled training pictures are found; alike ones are not taken for the same."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from cyclestyle.data.duplicates import quick_look


def scene(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture with shapes of all sizes: power that falls with frequency, as in photographs; H x W x 3 uint8."""
    random = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (2, 4, 8, 16, 32, 64):
        grey, colour = random.normal(size=(cells, cells, 1)), random.normal(size=(cells, cells, 3))
        layer = (grey + 0.4 * colour) * (2 / cells) ** 0.8
        total += cv2.resize(layer, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 60 * total, 0, 255).astype(np.uint8)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    """As it comes back from a JPEG file."""
    return cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


def look(a: Sequence[np.ndarray | None], b: Sequence[np.ndarray | None] = (), *, most: int = 2000) -> list[str]:
    sides = (a, b)
    files = [
        [Path(f"{letter}{index}.png") for index in range(len(side))] for letter, side in zip("ab", sides, strict=True)
    ]
    return quick_look(*files, lambda side, index: sides[side][index], most=most, names=("photo", "painting"))


def scenes(count: int, first: int = 0) -> list[np.ndarray]:
    return [scene(first + seed) for seed in range(count)]


def test_different_pictures_are_not_mentioned() -> None:
    assert look(scenes(40), scenes(40, first=1000)) == []


def test_nothing_to_look_at() -> None:
    assert look([], []) == []
    assert look([None, None], [None]) == []
    assert look([scene(0)], []) == []


# ---------------------------------------------------------------------------------------------- flat


def test_flat_pictures_are_named() -> None:
    black, faint = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 200, np.uint8)
    faint[::2] += 2
    (line,) = look([scene(0), black, scene(1), faint], [scene(2)])
    assert line.startswith("photo: 2 of 4 training pictures are of a single colour")
    assert "a1.png, a3.png;" in line


def test_no_more_than_five_are_named() -> None:
    (line,) = look([], [scene(0), *[np.full((64, 64, 3), grey, np.uint8) for grey in range(9)]])
    assert line.startswith("painting: 9 of 10")
    assert "b1.png, b2.png, b3.png, b4.png, b5.png and 4 more;" in line


def test_dark_or_pale_pictures_and_drawings_are_not_flat() -> None:
    night = np.zeros((96, 96, 3), np.uint8)
    night[20:24, 30:34] = 255  # a window
    pale = (230 + scene(1) / 12).astype(np.uint8)
    drawing = np.full((96, 96, 3), 255, np.uint8)
    drawing[40:42, 10:60] = 0
    assert look([night, pale, drawing]) == []


def test_one_coloured_channel_is_enough() -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[:, :, 0] = np.arange(64)
    assert look([red]) == []


# ---------------------------------------------------------------------------------------------- doubled


def test_the_same_pixels_twice() -> None:
    (line,) = look([*scenes(10), scene(3), scene(3)])
    assert line.startswith("photo: 2 of 12 training pictures are there already: a3.png = a10.png, a3.png = a11.png;")


@pytest.mark.parametrize("quality", [95, 60, 25])
def test_saved_again_as_jpeg(quality: int) -> None:
    (line,) = look([], [*scenes(10), jpeg(scene(3), quality)])
    assert "b3.png = b10.png" in line


@pytest.mark.parametrize("size", [(64, 48), (256, 192), (150, 111)])
def test_at_another_size(size: tuple[int, int]) -> None:
    (line,) = look([*scenes(10), cv2.resize(scene(3), size, interpolation=cv2.INTER_AREA)])
    assert "a3.png = a10.png" in line


def test_a_little_lighter_is_the_same_much_lighter_is_not() -> None:
    assert len(look([*scenes(5), np.clip(scene(3).astype(int) + 2, 0, 255).astype(np.uint8)])) == 1
    assert look([*scenes(5), np.clip(scene(3).astype(int) + 25, 0, 255).astype(np.uint8)]) == []


def test_mirrored_copies_do_not_count() -> None:
    assert look([*scenes(5), scene(3)[:, ::-1]]) == []


def test_in_both_domains() -> None:
    (line,) = look(scenes(6), [*scenes(3, first=100), jpeg(scene(4), 80)])
    assert line.startswith("1 training pictures are in both domains, photo and painting: a4.png = b3.png")


def test_doubled_and_in_both_domains() -> None:
    lines = look([scene(0), scene(1), scene(1)], [scene(1), scene(2)])
    assert [line.split(":")[0] for line in lines] == [
        "photo", "1 training pictures are in both domains, photo and painting",
    ]  # fmt: skip


def test_the_same_folder_twice() -> None:
    (line,) = look(scenes(10), scenes(10))
    assert line.startswith("10 training pictures are in both domains")
    assert "and 5 more" in line


# ---------------------------------------------------------------------------------------------- alike, not the same


def test_night_pictures_are_not_the_same() -> None:
    """Dark all over, a lit window here and there: the thumbnails differ by little, but not in the windows."""
    random = np.random.default_rng(0)
    nights = []
    for _ in range(40):
        night = random.integers(0, 12, (96, 96, 3)).astype(np.uint8)
        y, x = random.integers(0, 86, 2)
        night[y : y + 8, x : x + 8] = 220
        nights.append(night)
    assert look(nights) == []


def test_skies_are_not_the_same() -> None:
    """The same blue fading to the same white, each with the noise of its own film, some with a bird."""
    skies = []
    fade = np.linspace(0, 1, 96)[:, None, None]
    for seed in range(30):
        random = np.random.default_rng(seed)
        sky = (1 - fade) * np.array([90, 140, 230]) + fade * np.array([235, 240, 250])
        sky = sky + np.zeros((96, 128, 1)) + random.normal(0, 2, (96, 128, 1)) + random.normal(0, 1, 3)
        if seed % 3 == 0:
            y, x = random.integers(10, 80, 2)
            sky[y : y + 3, x : x + 6] = 30
        skies.append(np.clip(sky, 0, 255).astype(np.uint8))
    assert look(skies) == []


def fade(seed: int) -> np.ndarray:
    """A clear sky without any grain: nothing but an even fade, of nearly the same colours each time."""
    share = np.linspace(0, 1, 96)[:, None, None]
    tint = np.random.default_rng(seed).normal(0, 1, 3)
    return np.broadcast_to((1 - share) * [90, 140, 230] + share * [235, 240, 250] + tint, (96, 128, 3)).astype(np.uint8)


def test_clear_skies_are_the_same_only_to_the_pixel() -> None:
    assert look([fade(seed) for seed in range(10)]) == []
    (line,) = look([*(fade(seed) for seed in range(10)), fade(4)])
    assert "1 of 11" in line
    assert "a4.png = a10.png" in line


def test_a_tripod_is_not_the_same() -> None:
    """One view in changing light with another crowd before it."""
    views = []
    for seed in range(12):
        view = np.clip(scene(0) * (0.8 + 0.03 * seed), 0, 255).astype(np.uint8)
        random = np.random.default_rng(seed)
        for _ in range(6):
            y, x = random.integers(30, 80), random.integers(0, 115)
            view[y : y + 14, x : x + 8] = random.integers(0, 255, 3)
        views.append(view)
    assert look(views) == []


# ---------------------------------------------------------------------------------------------- what it takes


def test_other_formats() -> None:
    grey = [each[:, :, :1] for each in scenes(5)]
    deep = [each.astype(np.uint16) * 257 for each in scenes(5)]
    many = [np.concatenate([each, each[:, :, :2]], axis=2) for each in scenes(5)]
    for pictures in (grey, deep, many):
        assert look(pictures) == []
        (line,) = look([*pictures, pictures[2].copy()])
        assert "a2.png = a5.png" in line
    assert len(look(scenes(5), deep)) == 1  # the depth does not matter


def test_broken_files_are_left_out() -> None:
    (line,) = look([scene(0), None, scene(1), scene(0), None])
    assert line.startswith("photo: 1 of 3")
    assert "a0.png = a3.png" in line


def test_large_sets_are_sampled_evenly_and_it_says_so() -> None:
    seen: list[tuple[int, int]] = []
    lock = threading.Lock()

    def read(side: int, index: int) -> np.ndarray:
        with lock:
            seen.append((side, index))
        return scene(1000 * side + index)

    (line,) = quick_look([Path(f"{i}.png") for i in range(100)], [Path("x.png")], read, most=10)
    assert "10 of each domain" in line
    assert sorted(seen) == [*((0, index) for index in range(0, 100, 10)), (1, 0)]


def test_long_panoramas_are_looked_at_in_steps() -> None:
    wide = cv2.resize(scene(0), (6000, 300), interpolation=cv2.INTER_CUBIC)
    (line,) = look([wide, *scenes(3, first=5), wide.copy()])
    assert "a0.png = a4.png" in line


def test_pixels_are_not_written_to() -> None:
    pictures = scenes(3)
    before = [each.copy() for each in pictures]
    look(pictures, pictures)
    assert all(np.array_equal(x, y) for x, y in zip(pictures, before, strict=True))
