"""Landscape "photographs" made from a seed: terrain under a sky, with water, trees, haze and a camera's finish.

Owns the order in which a picture is put together. Inside, light is linear RGB float32; what leaves is 8-bit sRGB.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from cyclestyle.data.scenery import Array, Light, Textures, make_textures, sample, sky, smoothstep, tree_sprite
from cyclestyle.data.terrain import (
    Ground,
    Scene,
    View,
    build_ground,
    draw_light,
    draw_scene,
    leaf_colour,
    linear,
    project,
)

# Rendered larger and averaged down: crisp edges without stairs, at 1.6 times the cost of the bare size.
SUPERSAMPLE = 1.25


def render_landscape(seed: Sequence[int], size: int = 256) -> np.ndarray:
    """Render one landscape; returns size x size x 3 uint8 sRGB, the same bytes for the same seed and size."""
    rng = np.random.default_rng(list(seed))
    scene = draw_scene(rng)
    large = int(size * SUPERSAMPLE)
    light = draw_light(scene, large, rng)
    textures = make_textures(rng)
    rows, columns = np.mgrid[0:large, 0:large].astype(np.float32) + np.float32(0.5)
    above = sky(rows, columns, scene.horizon * large, light=light, textures=textures, rng=rng)
    ground = build_ground(scene, light, large, textures, rng)
    view = project(ground, scene, large)
    haze = _haze_colour(above, scene, large)

    picture = _ground_picture(ground, view, columns, scene=scene, textures=textures, haze=haze, above=above)
    stands = _place_trees(ground, scene, large, rng)
    _plant(picture, [s for s in stands if s[0] >= 16.0], view, scene=scene, light=light, haze=haze, rng=rng)
    picture = _water(picture, ground, view, rows, columns, scene=scene, light=light, textures=textures, haze=haze)
    _plant(picture, [s for s in stands if s[0] < 16.0], view, scene=scene, light=light, haze=haze, rng=rng)
    return _develop(picture, scene, size, rng)


def _haze_colour(above: Array, scene: Scene, size: int) -> Array:
    """Return the colour that far things fade to, W x 3: the sky just above the horizon, blurred along it."""
    row = int(scene.horizon * size)
    band = above[max(row - size // 12, 0) : row + 1].mean(axis=0)
    return np.asarray(cv2.GaussianBlur(band[None], (0, 0), size / 8.0)[0], np.float32)


def _veil(scene: Scene, distance: Array | float, height: Array | float = 0.0) -> Array:
    """Return how much of a thing's light haze and fog replace, in [0, 1]; fog lies low."""
    haze = 1.0 - np.exp(-np.minimum(distance, 1e4) * scene.haze)
    fog = scene.fog * (1.0 - np.exp(-np.minimum(distance, 1e4) / 30.0)) * np.exp(-np.maximum(height, 0.0) / 5.0)
    return np.asarray(1.0 - (1.0 - haze) * (1.0 - fog), np.float32)


def _ground_picture(
    ground: Ground, view: View, columns: Array, *, scene: Scene, textures: Textures, haze: Array, above: Array
) -> Array:
    """Put the terrain in front of the sky: lit colour, grass blades close by, haze far away; H x W x 3."""
    size = columns.shape[1]
    lit = cv2.remap(ground.colour, columns - 0.5, view.grid_row, cv2.INTER_LINEAR)
    height = cv2.remap(ground.height, columns - 0.5, view.grid_row, cv2.INTER_LINEAR)
    distance = np.minimum(view.distance, 1e4)
    # Blades: noise that is thin across and long upwards, tied to the ground by x and by log(distance).
    world_x = distance * (columns / size - 0.5)
    blades = sample(textures.fine, world_x * 130.0, np.log(distance) * 260.0)
    tufts = sample(textures.rough, world_x * 34.0, np.log(distance) * 210.0)
    near = np.exp(-distance / 16.0)
    detail = 1.0 + near * np.clip(0.20 * blades + 0.22 * tufts, -0.6, 0.9)
    detail = detail + (1.0 - near) * 0.05 * np.clip(blades, -2.0, 2.0)
    lit = lit * detail[..., None]
    veil = _veil(scene, distance, height)[..., None]
    ground_picture = lit + (haze[None] - lit) * veil
    return np.asarray(np.where(view.is_ground[..., None], ground_picture, above), np.float32)


def _water(
    picture: Array,
    ground: Ground,
    view: View,
    rows: Array,
    columns: Array,
    *,
    scene: Scene,
    light: Light,
    textures: Textures,
    haze: Array,
) -> Array:
    """Lay water where the ground is below 0: mirror image about the far shore, ripples, depth, glitter."""
    size = columns.shape[1]
    wet = cv2.remap(ground.water, columns - 0.5, view.grid_row, cv2.INTER_LINEAR) * view.is_ground
    wet = smoothstep(wet, 0.3, 0.7)
    if float(wet.max()) <= 0.0:
        return picture
    # Planar mirror: a thing on the far shore is mirrored about the row where its column's water begins.
    has = wet > 0.5
    top = np.where(has.any(axis=0), has.argmax(axis=0), scene.horizon * size).astype(np.float32)
    top = np.asarray(cv2.GaussianBlur(top[None], (0, 0), 2.0), np.float32)
    distance = np.minimum(view.distance, 1e4)
    world_x = distance * (columns / size - 0.5)
    swell = sample(textures.rough, world_x * 16.0, distance * 30.0)
    ripple = sample(textures.cloud, world_x * 30.0 + 80.0, np.log(distance) * 300.0)
    calm = 0.35 if scene.layout != "coast" else 1.0
    push = (0.6 * swell + 0.8 * ripple) * calm * (0.004 + 0.05 * np.clip((rows - top) / size, 0.0, 0.5)) * size
    # Sky above the picture's edge is not known: what lies below the edge is mirrored into it.
    mirror_row = np.abs(2.0 * top - rows + push - 0.01 * size * calm)
    mirror_row = np.minimum(mirror_row, size - 1.0).astype(np.float32)
    mirror_column = np.clip(columns - 0.5 + 0.35 * push, 0.0, size - 1.0).astype(np.float32)
    smeared = cv2.GaussianBlur(picture, (0, 0), sigmaX=0.6, sigmaY=1.0 + 2.0 * calm)
    mirror = cv2.remap(smeared, mirror_column, mirror_row, cv2.INTER_LINEAR)
    # Schlick's Fresnel with waves: even steep views keep some reflection.
    graze = np.clip(1.0 - scene.camera / np.maximum(distance, scene.camera), 0.0, 1.0)
    fresnel = np.clip(0.12 + 0.88 * graze**4 - 0.10 * np.maximum(ripple, 0.0) * (1.0 - graze), 0.05, 0.92)[..., None]
    deep = linear((0.13, 0.30, 0.36)) * (light.ambient * 0.9 + light.sun * 0.35)
    water = deep + (mirror - deep) * fresnel
    lane = np.exp(-(((columns - light.sun_at[0]) / size) ** 2) / 0.012) * light.glow
    sparkle = sample(textures.fine, world_x * 45.0, np.log(distance) * 500.0)
    water = water + (lane * smoothstep(sparkle + 0.5 * ripple + 0.3 * swell, 0.8, 2.2) * 1.2)[..., None] * light.sun
    if scene.layout == "coast":
        # Foam: a band along the beach, broken up by noise.
        edge = cv2.GaussianBlur(wet, (0, 0), size / 60.0)
        foam = smoothstep(1.0 - edge, 0.04, 0.12) * smoothstep(1.0 - edge + 0.10 * ripple, 0.12, 0.34)
        water = water + (np.clip(foam, 0.0, 0.9) * wet)[..., None] * (light.ambient + 0.5 * light.sun - water)
    veil = _veil(scene, distance)[..., None]
    water = water + (haze[None] - water) * veil * 0.8
    return np.asarray(picture + (water - picture) * wet[..., None], np.float32)


_Stand = tuple[float, float, float, float]  # distance, column (px), height of the ground, height of the tree


def _place_trees(ground: Ground, scene: Scene, size: int, rng: np.random.Generator) -> list[_Stand]:
    """Choose where single trees stand: in loose clumps on dry, low ground; sorted far to near."""
    stands: list[_Stand] = []
    for _ in range(max(1, scene.num_trees // 5)):
        middle, away = rng.uniform(0.0, size), float(np.exp(rng.uniform(np.log(3.8), np.log(50.0))))
        for _ in range(min(5, scene.num_trees)):
            z = away * float(np.exp(rng.normal(0.0, 0.10)))
            column = middle + rng.normal(0.0, 1.6) / z * size
            tall = float(rng.uniform(0.8, 1.7))
            if not (0.0 <= column < size and ground.depth[0] < z):
                continue
            d = int(np.searchsorted(ground.depth, z))
            base = float(ground.height[d, int(column)])
            if ground.water[d, int(column)] < 0.5 and base < 9.0:
                stands.append((z, column, base, tall))
    return sorted(stands, reverse=True)


def _plant(
    picture: Array,
    stands: list[_Stand],
    view: View,
    *,
    scene: Scene,
    light: Light,
    haze: Array,
    rng: np.random.Generator,
) -> None:
    """Draw trees into `picture` in place, each behind the terrain that is nearer than it."""
    if not stands:
        return
    size = picture.shape[1]
    side = float(np.sign(light.direction[0]))
    sprites = [tree_sprite(scene.tree_kind, side, rng) for _ in range(4)]
    _shade_under(picture, stands, scene, light, view)
    for z, column, base, tall in stands:
        leaf, wood, alpha = sprites[int(rng.integers(len(sprites)))]
        tint = leaf_colour(scene, rng)
        high = int(tall / z * size) + 1
        wide = max(1, round(high * leaf.shape[1] / leaf.shape[0]))
        bottom = int((scene.horizon + (scene.camera - base) / z) * size + 0.03 * high)
        top, left = bottom - high, int(column - wide / 2)
        y0, y1, x0, x1 = max(top, 0), min(bottom, size), max(left, 0), min(left + wide, size)
        if y0 >= y1 or x0 >= x1 or high < 3:
            continue
        how = cv2.INTER_AREA if high < leaf.shape[0] else cv2.INTER_LINEAR
        parts = cv2.resize(np.dstack([leaf * alpha, wood, alpha]), (wide, high), interpolation=how)
        parts = parts[y0 - top : y1 - top, x0 - left : x1 - left]
        cover = parts[..., 2] * (view.distance[y0:y1, x0:x1] > z * 0.97)
        shine = parts[..., 0:1] / np.maximum(parts[..., 2:3], 1e-3)
        colour = tint * (light.sun * (1.9 * shine**1.5) + light.ambient * (0.35 + 0.65 * shine))
        bark = linear((0.30, 0.23, 0.17)) * (0.5 * light.sun + light.ambient)
        colour = colour + (bark - colour) * np.clip(parts[..., 1:2], 0.0, 1.0)
        colour = colour + (haze[x0:x1][None] - colour) * float(_veil(scene, z))
        picture[y0:y1, x0:x1] += (colour - picture[y0:y1, x0:x1]) * cover[..., None]


def _shade_under(picture: Array, stands: list[_Stand], scene: Scene, light: Light, view: View) -> None:
    """Darken the ground beside the trees, away from the sun, in place."""
    size = picture.shape[1]
    stretch = min(2.0, abs(float(light.direction[0])) / max(float(light.direction[1]), 0.15))
    strength = 0.5 if scene.hour != "overcast" else 0.25
    for z, column, base, tall in stands:
        high = tall / z * size
        row = (scene.horizon + (scene.camera - base) / z) * size
        foot = view.distance[min(max(int(row), 0), size - 1), int(column)]
        if z > 30.0 or abs(float(foot) - z) > 0.2 * z:  # too far to be seen, or behind a hill
            continue
        middle = column - float(np.sign(light.direction[0])) * high * 0.35 * stretch
        wide, flat = high * (0.25 + 0.35 * stretch) + 1.0, high * 0.07 + 1.0
        y0, y1 = max(int(row - 2 * flat), 0), min(int(row + 2 * flat) + 1, size)
        x0, x1 = max(int(middle - wide), 0), min(int(middle + wide) + 1, size)
        if y0 >= y1 or x0 >= x1:
            continue
        y = np.arange(y0, y1, dtype=np.float32)[:, None]
        x = np.arange(x0, x1, dtype=np.float32)[None, :]
        spot = np.exp(-1.5 * ((y - row) / flat) ** 2) * np.clip(1.2 - 1.2 * ((x - middle) / wide) ** 2, 0.0, 1.0)
        # Only ground at the tree's own distance takes its shadow, not a hill in front of it.
        spot = spot * (np.abs(view.distance[y0:y1, x0:x1] - z) < 0.35 * z)
        picture[y0:y1, x0:x1] *= (1.0 - strength * spot)[..., None]


def _develop(picture: Array, scene: Scene, size: int, rng: np.random.Generator) -> np.ndarray:
    """Turn linear light into a photograph: exposure, film curve, lens fall-off, grain; H x W x 3 uint8."""
    small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA)
    target = {"dusk": 0.15, "dawn": 0.24, "golden": 0.22, "overcast": 0.26}.get(scene.hour, 0.25)
    small = small * np.float32(target / max(float(small.mean()), 1e-3)) ** np.float32(0.7)
    # Narkowicz's fit of the ACES film curve, with the exposure chosen so that middle grey stays in place.
    lit = np.maximum(small, 0.0) * 0.85
    film = np.clip(lit * (2.51 * lit + 0.03) / (lit * (2.43 * lit + 0.59) + 0.14), 0.0, 1.0)
    shown = film ** np.float32(1.0 / 2.2)
    y, x = np.mgrid[-1.0 : 1.0 : size * 1j, -1.0 : 1.0 : size * 1j].astype(np.float32)
    shown = shown * (1.0 - 0.07 * (x * x + y * y))[..., None]
    # A little more contrast and richer colour, as cameras do.
    shown = shown + 0.35 * (shown * shown * (3.0 - 2.0 * shown) - shown)
    grey = shown.mean(axis=2, keepdims=True)
    shown = grey + (shown - grey) * 1.12
    grain = 0.007 * rng.standard_normal((size, size, 1), np.float32)
    grain = grain + 0.004 * rng.standard_normal((size, size, 3), np.float32)
    return np.asarray(np.clip((shown + grain) * 255.0 + 0.5, 0.0, 255.0), np.uint8)
