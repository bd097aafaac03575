"""Rendered landscapes: deterministic, varied, and with the geometry that their parts promise."""

import numpy as np
import pytest

from cyclestyle.data.landscapes import render_landscape
from cyclestyle.data.scenery import TEXTURE_SIZE, fractal_texture, sample, smoothstep, tree_sprite
from cyclestyle.data.terrain import LAYOUTS, NUM_DEPTHS, Ground, draw_scene, project


def test_same_bytes_for_a_seed_and_others_for_another() -> None:
    first = render_landscape((3, 1, 0), 64)
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, render_landscape((3, 1, 0), 64))
    # Another picture differs by far more than grain, which is about 2 levels.
    assert np.abs(first.astype(int) - render_landscape((3, 1, 1), 64)).mean() > 10


def test_odd_sizes_are_kept() -> None:
    assert render_landscape((0, 1, 0), 77).shape == (77, 77, 3)


def test_scenes_vary() -> None:
    scenes = [draw_scene(np.random.default_rng([0, k])) for k in range(200)]
    assert {scene.layout for scene in scenes} == set(LAYOUTS)
    assert len({scene.hour for scene in scenes}) == 6
    assert len({scene.season for scene in scenes}) == 6


def test_textures_tile_and_interpolate() -> None:
    texture = fractal_texture(np.random.default_rng(0), 1.5)
    assert texture.mean() == pytest.approx(0.0, abs=1e-3)
    assert texture.std() == pytest.approx(1.0, abs=1e-3)
    u, v = np.array([[3.0, 10.5]], np.float32), np.array([[7.0, 20.0]], np.float32)
    expected = [texture[7, 3], (texture[20, 10] + texture[20, 11]) / 2]
    assert sample(texture, u, v)[0] == pytest.approx(expected, abs=1e-5)
    far = sample(texture, u - 5 * TEXTURE_SIZE, v + 90 * TEXTURE_SIZE)  # beyond what cv2.remap takes by itself
    assert far[0] == pytest.approx(expected, abs=1e-3)


def test_smoothstep_by_hand() -> None:
    # 3/4 of the way: t^2 (3 - 2t) = 0.5625 * 1.5
    assert smoothstep(np.array([0.0, 1.0, 2.0, 2.5, 9.0]), 1.0, 3.0) == pytest.approx([0.0, 0.0, 0.5, 0.84375, 1.0])


def test_projection_of_a_wall_on_a_plain() -> None:
    """A wall of height h at distance d stands from row horizon + camera/d to horizon + (camera - h)/d (in sizes)."""
    size, scene = 100, draw_scene(np.random.default_rng(0))
    depth = np.geomspace(1.0, 420.0, NUM_DEPTHS).astype(np.float32)
    height = np.zeros((NUM_DEPTHS, size), np.float32)
    wall = int(np.searchsorted(depth, 20.0))
    rise = 4.0 + scene.camera  # reaches 4 units above the eye
    height[wall : wall + 2] = rise
    black = np.zeros((NUM_DEPTHS, size, 3), np.float32)
    view = project(Ground(depth, height, black, np.zeros_like(height)), scene, size)
    top, foot = (size * (scene.horizon + (scene.camera - h) / 20.0) for h in (rise, 0.0))
    column = view.distance[:, 50]
    assert not np.isfinite(column[: int(top) - 1]).any()
    assert column[int(top) + 2 : int(foot) - 1] == pytest.approx(20.0, rel=0.03)
    # On the plain in front of it, row r is seen at distance camera / (r / size - horizon).
    rows = np.arange(int(foot) + 3, size)
    expected = scene.camera / ((rows + 0.5) / size - scene.horizon)
    assert column[rows] == pytest.approx(np.maximum(expected, 1.0), rel=0.02)


@pytest.mark.parametrize("kind", ["conifer", "broadleaf", "cypress"])
def test_tree_stands_on_its_foot_and_is_lit_from_the_side(kind: str) -> None:
    leaf, _, alpha = tree_sprite(kind, 1.0, np.random.default_rng(1))
    assert 0.15 < alpha.mean() < 0.75
    assert alpha[-2:].max() == 0.0 or alpha[-2:].mean() < 0.3
    middle = leaf.shape[1] // 2
    left, right = leaf[:, :middle][alpha[:, :middle] > 0], leaf[:, middle:][alpha[:, middle:] > 0]
    assert right[right > 0].mean() > left[left > 0].mean()
