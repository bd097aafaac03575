"""The painter: a function of photograph and seed, in a measurably different style, with the content kept."""

import cv2
import numpy as np
import pytest

from cyclestyle.data.landscapes import render_landscape
from cyclestyle.data.painter import paint, to_palette

NUM_PICTURES = 6


@pytest.fixture(scope="module")
def pairs() -> list[tuple[np.ndarray, np.ndarray]]:
    photos = [render_landscape((7, 1, k), 128) for k in range(NUM_PICTURES)]
    return [(photo, paint(photo, (7, 1, k))) for k, photo in enumerate(photos)]


def saturation(picture: np.ndarray) -> float:
    lab = cv2.cvtColor(picture.astype(np.float32) / 255.0, cv2.COLOR_RGB2LAB)
    return float(np.hypot(lab[..., 1], lab[..., 2]).mean())


def stroke_energy(picture: np.ndarray) -> float:
    """Mean strength of what is 2 to 6 pixels wide, which is how wide strokes are at this size."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.abs(cv2.GaussianBlur(grey, (0, 0), 0.8) - cv2.GaussianBlur(grey, (0, 0), 2.5)).mean())


def test_same_bytes_for_same_photo_and_seed(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    photo, painting = pairs[0]
    assert painting.shape == photo.shape
    assert painting.dtype == np.uint8
    assert np.array_equal(paint(photo, (7, 1, 0)), painting)
    assert not np.array_equal(paint(photo, (7, 1, 99)), painting)


def test_paintings_differ_in_style(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Every picture gets richer colour; on average the strokes are twice as strong as a photograph's detail."""
    assert all(saturation(painting) > saturation(photo) for photo, painting in pairs)
    assert sum(stroke_energy(p) for _, p in pairs) > 2.0 * sum(stroke_energy(p) for p, _ in pairs)


def test_paintings_keep_the_content(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Blurred beyond the strokes, a painting's lightness goes with its own photograph's more than with another's."""

    def layout(picture: np.ndarray) -> np.ndarray:
        small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (12, 12), interpolation=cv2.INTER_AREA)
        return small.astype(float).ravel()

    own = [np.corrcoef(layout(photo), layout(painting))[0, 1] for photo, painting in pairs]
    other = [np.corrcoef(layout(pairs[i][0]), layout(pairs[i - 1][1]))[0, 1] for i in range(NUM_PICTURES)]
    assert min(own) > 0.7
    assert np.mean(own) > np.mean(other) + 0.2


def test_palette_is_a_function_of_colour_alone() -> None:
    rng = np.random.default_rng(0)
    picture = rng.random((8, 8, 3), dtype=np.float32)
    order = rng.permutation(64)
    shuffled = picture.reshape(64, 3)[order].reshape(8, 8, 3)
    assert np.allclose(to_palette(picture).reshape(64, 3)[order], to_palette(shuffled).reshape(64, 3), atol=1e-3)


def test_palette_enriches_a_hazy_blue() -> None:
    """The colour of far hills, which photographs are full of, gets at least 1.3 times its chroma."""
    haze = np.full((1, 1, 3), (0.45, 0.55, 0.70), np.float32)
    painted, plain = to_palette(haze)[0, 0], cv2.cvtColor(haze, cv2.COLOR_RGB2LAB)[0, 0]
    assert np.hypot(*painted[1:]) > 1.3 * np.hypot(*plain[1:])
