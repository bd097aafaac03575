"""The scene of a made-up landscape and its terrain, in perspective and lit; `landscapes.py` finishes the picture.

Owns what stands where, at which hour, and the ground with its hills, mountains, fields and forests. The terrain is a
height field seen in perspective: heights are computed on a polar grid (depth x column), hidden parts are removed per
column (the "voxel space" idea of NovaLogic's Comanche, 1992), lit by one sun and the sky. One unit of length is about
ten metres; colours are linear RGB.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from cyclestyle.data.scenery import (
    Array,
    Light,
    Textures,
    ridged,
    sample,
    smoothstep,
)

LAYOUTS = ("mountain_lake", "mountain_valley", "hills", "fields", "coast", "forest_lake", "plain")
_HOW_OFTEN = (0.20, 0.20, 0.14, 0.15, 0.09, 0.13, 0.09)
NUM_DEPTHS = 520
FARTHEST = 420.0

# sRGB at noon, green summer; seasons below replace them.
_SEASONS: dict[str, dict[str, tuple[float, float, float]]] = {
    "summer": {"grass": (0.42, 0.50, 0.20), "dry": (0.62, 0.58, 0.30), "forest": (0.20, 0.31, 0.14)},
    "spring": {"grass": (0.45, 0.58, 0.22), "dry": (0.56, 0.60, 0.28), "forest": (0.30, 0.42, 0.17)},
    "autumn": {"grass": (0.56, 0.49, 0.23), "dry": (0.70, 0.54, 0.26), "forest": (0.62, 0.34, 0.11)},
    "harvest": {"grass": (0.76, 0.63, 0.28), "dry": (0.83, 0.70, 0.36), "forest": (0.27, 0.34, 0.15)},
    "lavender": {"grass": (0.45, 0.39, 0.56), "dry": (0.56, 0.50, 0.36), "forest": (0.25, 0.34, 0.17)},
    "winter": {"grass": (0.84, 0.87, 0.92), "dry": (0.70, 0.70, 0.68), "forest": (0.27, 0.32, 0.27)},
}

# hour: zenith, horizon, sun, ambient (sRGB; the sun is scaled by its last entry), sun elevation in degrees, glow.
_Hour = tuple[
    tuple[float, float, float],
    tuple[float, float, float],
    tuple[float, float, float],
    float,
    tuple[float, float, float],
    tuple[float, float],
    float,
]
_HOURS: dict[str, _Hour] = {
    "noon": ((0.22, 0.43, 0.76), (0.72, 0.83, 0.93), (1.0, 0.97, 0.90), 1.15, (0.50, 0.60, 0.72), (32, 58), 0.15),
    "morning": ((0.30, 0.50, 0.78), (0.86, 0.87, 0.87), (1.0, 0.92, 0.78), 1.05, (0.48, 0.56, 0.67), (16, 30), 0.30),
    "golden": ((0.28, 0.46, 0.74), (0.98, 0.83, 0.62), (1.0, 0.80, 0.52), 1.45, (0.47, 0.52, 0.62), (7, 14), 0.55),
    "dawn": ((0.36, 0.50, 0.78), (0.97, 0.80, 0.74), (1.0, 0.78, 0.66), 1.0, (0.50, 0.52, 0.63), (4, 9), 0.45),
    "dusk": ((0.20, 0.26, 0.47), (0.93, 0.58, 0.42), (1.0, 0.60, 0.38), 0.65, (0.36, 0.40, 0.55), (2, 5), 0.60),
    "overcast": ((0.66, 0.70, 0.75), (0.82, 0.84, 0.86), (1.0, 0.98, 0.95), 0.25, (0.74, 0.77, 0.81), (40, 60), 0.05),
}


@dataclass(frozen=True)
class Scene:
    """What one picture shows. Lengths in world units, `horizon` and `sun_x` in picture heights and widths."""

    layout: str
    hour: str
    season: str
    horizon: float
    sun_x: float
    camera: float
    mountain: float
    mountain_from: float
    relief: float
    snow_line: float
    forest: float
    haze: float
    fog: float
    rows_of_crop: float
    road: float
    flowers: float
    num_trees: int
    tree_kind: str


def draw_scene(rng: np.random.Generator) -> Scene:
    """Choose a scene at random; every choice is made for every layout, so that streams stay aligned."""
    layout = str(rng.choice(LAYOUTS, p=_HOW_OFTEN))
    hour = str(rng.choice(list(_HOURS), p=[0.30, 0.18, 0.20, 0.10, 0.10, 0.12]))
    season = str(rng.choice(list(_SEASONS), p=[0.36, 0.18, 0.18, 0.14, 0.07, 0.07]))
    tall = layout in ("mountain_lake", "mountain_valley")
    wet = layout in ("mountain_lake", "forest_lake", "coast")
    wooded = layout in ("forest_lake", "mountain_valley")
    farmed = layout in ("fields", "plain") or season == "lavender"
    mountain = rng.uniform(36.0, 60.0) if tall else rng.choice([0.0, rng.uniform(8.0, 24.0)])
    return Scene(
        layout=layout,
        hour=hour,
        season=season,
        horizon=float(rng.uniform(0.40, 0.60) if not tall else rng.uniform(0.48, 0.64)),
        sun_x=float(rng.uniform(0.08, 0.92)),
        camera=float(rng.uniform(0.7, 1.6) * (2.2 if tall else 1.0)),
        mountain=float(mountain),
        mountain_from=float(rng.uniform(55.0, 110.0)),
        relief=float(
            rng.uniform(0.5, 1.4)
            * {"hills": 7.0, "forest_lake": 6.0, "coast": 5.0, "plain": 0.7, "fields": 2.2}.get(layout, 2.2)
        ),
        snow_line=float(rng.choice([rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.5), 9.0])),
        forest=float(rng.uniform(0.55, 0.95) if wooded else rng.uniform(0.15, 0.7)),
        haze=float(rng.uniform(0.0012, 0.0040)),
        fog=float(rng.choice([0.0, 0.0, 0.0, rng.uniform(0.3, 0.7)])),
        rows_of_crop=float(rng.choice([0.0, rng.uniform(8.0, 18.0)]) if farmed else 0.0),
        road=float(rng.choice([0.0, rng.uniform(0.14, 0.32)]) if not wet else 0.0),
        flowers=float(rng.choice([0.0, 0.0, rng.uniform(0.4, 1.0)]) if season in ("spring", "summer") else 0.0),
        num_trees=int(rng.integers(3, 34)),
        tree_kind=str(rng.choice(["conifer", "broadleaf", "cypress"], p=[0.45, 0.40, 0.15])),
    )


def linear(colour: tuple[float, float, float]) -> Array:
    """Convert an sRGB colour in [0, 1] to linear light (by the plain power 2.2)."""
    return np.asarray(colour, np.float32) ** np.float32(2.2)


def draw_light(scene: Scene, size: int, rng: np.random.Generator) -> Light:
    """Place the sun and choose the sky's colours for the scene's hour, with a little variation."""
    zenith, horizon, sun, strength, ambient, elevation, glow = _HOURS[scene.hour]
    vary = rng.normal(1.0, 0.05, 3).astype(np.float32)
    degrees = rng.uniform(*elevation)
    row = (scene.horizon - np.tan(np.radians(degrees)) * 0.75) * size
    # The sun stands to one side and a little behind the view: the lit side of things is seen, shadows fall sideways.
    side = (scene.sun_x - 0.5) * 2.0
    flat = np.array([np.sign(side) * (0.55 + 0.45 * abs(side)), 0.0, -0.45 if glow < 0.4 else -0.1])
    up = np.tan(np.radians(max(degrees, 13.0)))
    direction = np.array([flat[0], up, flat[2]]) / np.sqrt((flat**2).sum() + up * up)
    clouds = float(rng.choice([0.0, rng.uniform(0.25, 0.75), rng.uniform(0.4, 0.6)]))
    return Light(
        zenith=linear(zenith) * vary,
        horizon=linear(horizon) * vary[::-1],
        sun=linear(sun) * np.float32(strength),
        ambient=linear(ambient) * 0.85,
        sun_at=(scene.sun_x * size, float(row)),
        direction=direction.astype(np.float32),
        glow=glow,
        clouds=clouds if scene.hour != "overcast" else 0.95,
        cloud_kind=str(rng.choice(["cumulus", "cumulus", "cirrus"])) if scene.hour != "overcast" else "stratus",
    )


@dataclass(frozen=True)
class Ground:
    """The terrain on the polar grid: all D x W, depth by column; `colour` D x W x 3, lit, linear RGB."""

    depth: Array  # D, the distance of each grid row
    height: Array
    colour: Array
    water: Array


def terrain_heights(scene: Scene, x: Array, z: Array, textures: Textures, offset: Array) -> tuple[Array, Array, Array]:
    """Return (height, forest cover in [0, 1], mountain mask in [0, 1]) at world places x, z (D x W each)."""
    ox, oz = float(offset[0]), float(offset[1])
    roll = sample(textures.smooth, x * 3.2 + ox, z * 3.2 + oz)
    near = smoothstep(z, 2.0, 45.0)
    height = 0.06 * sample(textures.smooth, x * 26.0, z * 26.0) + scene.relief * near * (0.55 * roll + 0.35)
    mask = smoothstep(z, scene.mountain_from, scene.mountain_from * 2.4)
    if scene.mountain > 0.0:
        # One texture tile spans some 380 units, so that a view holds two or three peaks.
        peaks = ridged(textures.hills, x * 0.55 + ox, z * 0.55 + oz, 5)
        height = height + scene.mountain * mask * (1.15 * peaks - 0.10)
    height = _carve_water(scene, height, x, z, textures=textures, shift=ox)
    patch = sample(textures.cloud, x * 2.6 + oz, z * 2.6 + ox)
    cover = smoothstep(patch, 1.1 - 2.4 * scene.forest, 1.5 - 2.4 * scene.forest)
    cover = cover * smoothstep(z, 9.0, 16.0) * smoothstep(height, 0.12, 0.4)
    cover = cover * (1.0 - smoothstep(height, 0.30 * max(scene.mountain, 40.0), 0.42 * max(scene.mountain, 40.0)))
    canopy = np.abs(sample(textures.rough, x * 19.0, z * 13.0))
    height = height + cover * (0.75 + 0.55 * np.minimum(canopy, 2.0)) * np.minimum(1.0, z / 24.0)
    return height.astype(np.float32), cover, mask


def _carve_water(scene: Scene, height: Array, x: Array, z: Array, *, textures: Textures, shift: float) -> Array:
    """Sink the ground below 0 where a lake or the sea lies; land that is left keeps above it."""
    wobble = sample(textures.smooth, x * 9.0 + shift, z * 9.0)
    if scene.layout in ("mountain_lake", "forest_lake"):
        far = 30.0 if scene.layout == "forest_lake" else 50.0
        shore = z + 0.9 * sample(textures.smooth, x * 24.0, z * 24.0) + 2.5 * (scene.sun_x - 0.5) * x
        nearest = float(z.min())
        basin = smoothstep(shore, nearest * 1.15, nearest * 1.15 + 2.5)
        basin = basin * (1.0 - smoothstep(z + 6.0 * wobble, far * 0.7, far * 1.6))
        return np.asarray(np.maximum(height, 0.12 + 0.04 * wobble) * (1.0 - basin) - 0.8 * basin, np.float32)
    if scene.layout == "coast":
        side = 1.0 if scene.sun_x < 0.5 else -1.0
        edge = side * x - 0.16 * z + 0.5 + 0.05 * z * wobble
        land = smoothstep(edge, -0.6, 6.0 + 0.05 * float(z.max()))
        return np.asarray((np.abs(height) + 0.7) * land * 1.6 - 0.10, np.float32)
    return np.maximum(height, 0.02)


def build_ground(scene: Scene, light: Light, size: int, textures: Textures, rng: np.random.Generator) -> Ground:
    """Compute the terrain in front of the camera: heights, materials and light on the polar grid."""
    nearest = 0.55 * scene.camera / (1.0 - scene.horizon)
    depth = np.geomspace(nearest, FARTHEST, NUM_DEPTHS).astype(np.float32)
    slant = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    z = np.repeat(depth[:, None], size, axis=1)
    x = depth[:, None] * slant[None, :]
    offset = rng.uniform(0.0, 512.0, 2).astype(np.float32)
    height, cover, mask = terrain_heights(scene, x, z, textures, offset)
    water = (height < 0.0).astype(np.float32)
    bed = np.maximum(height, 0.0)
    # Slopes from differences along columns and rows; moving along a ray changes x too, hence the correction.
    step = np.gradient(depth)[:, None]
    along = np.gradient(bed, axis=0) / step
    across = np.gradient(bed, axis=1) / (depth[:, None] / size)
    slope_z = along - across * slant[None, :]
    lean = np.sqrt(1.0 + across * across + slope_z * slope_z)
    facing = (-across * light.direction[0] + light.direction[1] - slope_z * light.direction[2]) / lean
    colour = _materials(scene, x, z, height=bed, lean=lean, cover=cover, mask=mask, textures=textures)
    shade = _cast_shadows(bed, x, light)
    direct = np.clip(facing, 0.0, 1.0) * shade * 1.15
    indirect = 0.55 + 0.45 / lean
    lit = direct * light.sun.reshape(3, 1, 1) + indirect * light.ambient.reshape(3, 1, 1)
    picture = np.ascontiguousarray((colour * lit).transpose(1, 2, 0), dtype=np.float32)
    return Ground(depth, bed, picture, water)


def _cast_shadows(height: Array, x: Array, light: Light) -> Array:
    """Return 0 in shadow to 1 in sun, D x W: a running maximum along each row towards the sun."""
    rise = float(light.direction[1] / max(abs(light.direction[0]), 0.2))
    from_right = light.direction[0] > 0
    line = height - (x if from_right else -x) * rise
    ordered = line[:, ::-1] if from_right else line
    reach = np.maximum.accumulate(ordered, axis=1)
    reach = reach[:, ::-1] if from_right else reach
    shade = 1.0 - smoothstep(reach - line, 0.02, 0.5)
    return np.asarray(cv2.GaussianBlur(shade, (0, 0), 1.0), np.float32)


def _plane(colour: tuple[float, float, float]) -> Array:
    """Return an sRGB colour as linear light, 3 x 1 x 1."""
    return linear(colour).reshape(3, 1, 1)


def mix(base: Array, other: Array, amount: Array) -> Array:
    """Blend colours (3 x D x W or 3 x 1 x 1): `base` where `amount` (D x W) is 0, `other` where it is 1."""
    return np.asarray(base + (other - base) * amount, np.float32)


def _even_detail(texture: Array, x: Array, z: Array, height: Array) -> Array:
    """Return noise about as fine as a pixel at every distance: two octaves, chosen and blended by depth (as mip maps).

    Height moves the lookup too, or steep slopes would show vertical stripes.
    """
    level = np.log2(np.maximum(z[:, :1] / 4.0, 1.0))
    whole = np.floor(level)
    part = (level - whole).astype(np.float32)
    scale = (60.0 * 0.5**whole).astype(np.float32)
    across, along = x * scale, (0.75 * z + 1.1 * height) * scale
    return np.asarray(sample(texture, across, along) * (1.0 - part) + sample(texture, across * 0.5, along * 0.5) * part)


def _materials(
    scene: Scene, x: Array, z: Array, *, height: Array, lean: Array, cover: Array, mask: Array, textures: Textures
) -> Array:
    """Choose the surface colour everywhere (3 x D x W, linear): grass, crops, sand, rock, snow, forest.

    Colour planes come first here, because numpy blends whole planes several times faster than interleaved colours.
    """
    season = {name: _plane(rgb) for name, rgb in _SEASONS[scene.season].items()}
    patch = sample(textures.cloud, x * 11.0 + 30.0, z * 7.0)
    mottle = _even_detail(textures.rough, x, z, height)

    grass = mix(season["grass"], season["dry"], smoothstep(patch, -0.6, 1.6))
    if scene.rows_of_crop > 0.0:
        # Straight rows towards a vanishing point, fading where a row gets thinner than a pixel.
        bend = x + 0.06 * sample(textures.smooth, x * 4.0, z * 4.0) + 0.30 * z * (scene.sun_x - 0.5)
        rows = np.sin(bend * scene.rows_of_crop) * np.exp(-z * scene.rows_of_crop / 300.0)
        grass = mix(grass, _plane((0.40, 0.31, 0.18)), smoothstep(-rows, 0.05, 0.9) * 0.75)
    if scene.flowers > 0.0:
        # Poppies and buttercups, in patches, one colour a picture.
        bloom = smoothstep(sample(textures.rough, x * 95.0, z * 60.0) + 0.6 * patch, 1.5, 2.0) * np.exp(-z / 22.0)
        grass = mix(grass, _plane((0.86, 0.22, 0.13) if scene.flowers > 0.7 else (0.95, 0.83, 0.25)), bloom)
    if scene.road > 0.0:
        middle = (scene.sun_x - 0.5) * -3.0 + 0.12 * z * np.sin(z / 11.0 + 40.0 * scene.road)
        off_road = np.abs(x - middle) + 0.04 * mottle
        grass = mix(grass, _plane((0.70, 0.62, 0.50)), 1.0 - smoothstep(off_road, scene.road, scene.road * 1.25))
    far = smoothstep(z, 20.0, 60.0)
    fields = np.sign(sample(textures.smooth, x * 10.0, z * 4.0)) * 0.5 + 0.5
    grass = mix(grass, season["dry"] * 0.9, far * fields * 0.5)
    rock = mix(
        _plane((0.47, 0.44, 0.42)),
        _plane((0.62, 0.57, 0.52)),
        smoothstep(mottle + 0.8 * np.sin(height * 2.3 + patch), -1.2, 1.6),
    )
    colour = mix(
        grass,
        rock,
        np.maximum(
            smoothstep(lean, 1.12, 1.45) * smoothstep(z, 25.0, 60.0),
            mask * smoothstep(height, 0.20 * scene.mountain, 0.5 * scene.mountain + 1.0),
        ),
    )
    shore = smoothstep(-height, -0.22, -0.03) if scene.layout in ("coast", "mountain_lake", "forest_lake") else 0.0 * x
    sand = _plane((0.80, 0.72, 0.56)) if scene.layout == "coast" else _plane((0.50, 0.46, 0.38))
    colour = mix(colour, sand, shore)
    leaf = mix(
        season["forest"], _plane((0.20, 0.28, 0.16)), smoothstep(sample(textures.rough, x * 5.0, z * 5.0), -0.8, 1.0)
    )
    # Thin cover raises the ground already: it must be dark as well, or grass would grow in the shape of trees.
    colour = mix(colour, leaf * (0.85 + 0.25 * np.clip(mottle, -1.5, 1.5)), smoothstep(cover, 0.02, 0.18))
    line = scene.snow_line * scene.mountain + 3.0 * patch
    snow = mask * smoothstep(height - line, 0.0, 3.0) * (1.0 - smoothstep(lean, 2.0, 3.4) * 0.75)
    colour = mix(colour, _plane((0.93, 0.95, 0.98)), snow)
    return colour * (1.0 + 0.16 * np.clip(mottle, -2.0, 2.0) * (1.0 - snow))


@dataclass(frozen=True)
class View:
    """The terrain seen by the camera, H x W: distance (inf for sky), grid row (fractional), and column."""

    distance: Array
    grid_row: Array
    is_ground: npt.NDArray[np.bool_]


def project(ground: Ground, scene: Scene, size: int) -> View:
    """Find for every pixel the first piece of terrain on its column that rises to it."""
    rows = scene.horizon * size + (scene.camera - ground.height) / ground.depth[:, None] * size
    crest = np.minimum.accumulate(rows, axis=0)  # the highest row reached so far; smaller is higher
    first = np.clip(np.ceil(crest - 0.5), 0, size).astype(np.int64)
    # A pixel r sees grid row d when d is the first with crest[d] <= r: count the grid rows still below it.
    columns = np.arange(size)
    counts = np.bincount((first * size + columns).ravel(), minlength=(size + 1) * size).reshape(size + 1, size)
    below = NUM_DEPTHS - np.cumsum(counts, axis=0)[:size]
    is_ground = below < NUM_DEPTHS
    hit = np.minimum(below, NUM_DEPTHS - 1)
    before = np.maximum(hit - 1, 0)
    r = np.arange(size, dtype=np.float32)[:, None] + 0.5
    at, over = crest[before, columns], crest[hit, columns]
    part = np.clip((at - r) / np.maximum(at - over, 1e-4), 0.0, 1.0)
    grid_row = (before + part * (hit > 0)).astype(np.float32)
    ratio = float(np.log(ground.depth[-1] / ground.depth[0])) / (NUM_DEPTHS - 1)
    distance = ground.depth[0] * np.exp(grid_row * ratio)
    return View(np.where(is_ground, distance, np.inf).astype(np.float32), grid_row, is_ground)


def leaf_colour(scene: Scene, rng: np.random.Generator) -> Array:
    """Return one tree's leaf colour (3, linear RGB): the season's, a little different for each tree."""
    base = linear(_SEASONS[scene.season]["forest"])
    if scene.tree_kind != "broadleaf":
        base = 0.25 * base + 0.75 * linear((0.16, 0.27, 0.15))
    return np.asarray(base * rng.normal(1.0, 0.12, 3) * rng.uniform(0.8, 1.3), np.float32)
