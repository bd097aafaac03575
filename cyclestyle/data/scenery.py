"""Noise, skies and trees: the parts that `landscapes.py` puts together into one picture.

Owns the tileable noise textures, everything above the horizon, and the tree sprites. All colours here are linear
light, RGB, float32, about [0, 1] (the sun may exceed 1); all randomness comes from the generator handed in.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # float32 throughout; left open because numpy's own stubs widen it at every step

TEXTURE_SIZE = 512
NUM_TEXTURES = 6


def smoothstep(x: Array, low: float, high: float) -> Array:
    """Return 0 below `low`, 1 above `high`, and a cubic ease between; the shape of `x`."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return np.asarray(t * t * (3.0 - 2.0 * t), dtype=np.float32)


def fractal_texture(rng: np.random.Generator, exponent: float, lowest: float = 2.0) -> Array:
    """Return a tileable TEXTURE_SIZE x TEXTURE_SIZE noise with amplitude spectrum f^-exponent (spectral synthesis).

    Mean 0 and standard deviation 1; frequencies below `lowest` cycles a tile are left out.
    """
    fy = np.fft.fftfreq(TEXTURE_SIZE)[:, None] * TEXTURE_SIZE
    fx = np.fft.rfftfreq(TEXTURE_SIZE)[None, :] * TEXTURE_SIZE
    frequency = np.sqrt(fx * fx + fy * fy)
    amplitude = np.where(frequency < lowest, 0.0, np.maximum(frequency, 1.0) ** -exponent)
    white = np.fft.rfft2(rng.standard_normal((TEXTURE_SIZE, TEXTURE_SIZE), dtype=np.float32))
    noise = np.fft.irfft2(white * amplitude, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return np.asarray(noise / noise.std(), dtype=np.float32)


def sample(texture: Array, u: Array, v: Array) -> Array:
    """Read a tileable texture at real coordinates (texels, any range), bilinearly; the shape of `u`."""
    # cv2.remap keeps coordinates in 16-bit fixed point: wrap them first (np.mod does the same, ten times slower).
    tile = np.float32(TEXTURE_SIZE)
    wrapped_u = np.asarray(u - np.floor(u / tile) * tile, dtype=np.float32)
    wrapped_v = np.asarray(v - np.floor(v / tile) * tile, dtype=np.float32)
    out = cv2.remap(texture, wrapped_u, wrapped_v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(out, dtype=np.float32)


@dataclass(frozen=True)
class Textures:
    """The noise of one picture, TEXTURE_SIZE x TEXTURE_SIZE each, from the smoothest to the finest.

    `hills` has hardly more than one scale (for ridges), `smooth` shapes the land, `cloud` clouds, `rough` ground and
    waves, `fine` blades of grass.
    """

    hills: Array
    smooth: Array
    cloud: Array
    rough: Array
    fine: Array


@cache
def _texture_bank(index: int) -> Textures:
    """Make one of the NUM_TEXTURES sets of noise; kept, because spectral synthesis would cost half a picture."""
    rng = np.random.default_rng([8128, index])
    return Textures(
        hills=fractal_texture(rng, 3.2, lowest=3.0),
        smooth=fractal_texture(rng, 2.2),
        cloud=fractal_texture(rng, 1.65, lowest=3.0),
        rough=fractal_texture(rng, 1.15, lowest=4.0),
        fine=fractal_texture(rng, 0.35, lowest=24.0),
    )


def make_textures(rng: np.random.Generator) -> Textures:
    """Draw the noise of one picture: a set out of the bank, each texture moved and mirrored at random."""
    bank = _texture_bank(int(rng.integers(NUM_TEXTURES)))

    def place(texture: Array) -> Array:
        shift_y, shift_x, flip = rng.integers(0, TEXTURE_SIZE, 3)
        moved = np.roll(texture, (int(shift_y), int(shift_x)), axis=(0, 1))
        return np.ascontiguousarray(moved[:, ::-1] if flip % 2 else moved)

    return Textures(place(bank.hills), place(bank.smooth), place(bank.cloud), place(bank.rough), place(bank.fine))


def ridged(texture: Array, u: Array, v: Array, octaves: int) -> Array:
    """Return ridged multifractal noise in about [0, 1] (Musgrave, "Texturing and Modeling", chapter 16).

    Sharp crests where the noise crosses zero; each octave is weighted by the one before, so that valleys stay smooth.
    """
    total = np.zeros(u.shape, np.float32)
    weight = np.ones(u.shape, np.float32)
    amplitude, scale, norm = 1.0, 1.0, 0.0
    for octave in range(octaves):
        crest = 1.0 - np.minimum(np.abs(sample(texture, u * scale + 71.0 * octave, v * scale + 37.0 * octave)), 1.0)
        crest *= crest
        total += amplitude * weight * crest
        weight = np.clip(crest * 1.6, 0.0, 1.0)
        norm += amplitude
        amplitude, scale = amplitude * 0.48, scale * 2.07
    return total / np.float32(norm)


@dataclass(frozen=True)
class Light:
    """What the sky gives: linear RGB colours, the sun's place on the screen (pixels) and its direction in the world."""

    zenith: Array
    horizon: Array
    sun: Array
    ambient: Array
    sun_at: tuple[float, float]
    direction: Array
    glow: float
    clouds: float
    cloud_kind: str


def sky(
    rows: Array, columns: Array, horizon_row: float, *, light: Light, textures: Textures, rng: np.random.Generator
) -> Array:
    """Render the sky for pixel coordinates `rows`, `columns` (H x W each); returns H x W x 3, linear RGB.

    Below the horizon it repeats the colour at the horizon, which is what haze there needs.
    """
    size = float(rows.shape[1])
    up = np.maximum((horizon_row - rows) / size, 0.0)  # elevation above the horizon, in picture widths
    blend = (1.0 - np.exp(-up * 4.6))[..., None]
    picture = light.horizon * (1.0 - blend) + light.zenith * blend
    dx, dy = (columns - light.sun_at[0]) / size, (rows - light.sun_at[1]) / size
    distance = np.sqrt(dx * dx + dy * dy)
    halo = 0.50 * np.exp(-distance * 5.5) + 0.7 * np.exp(-distance * 16.0)
    picture = picture + (light.glow * halo * np.exp(-up * 2.2))[..., None] * light.sun
    if light.glow > 0.35:
        disc = smoothstep(-distance, -0.017, -0.012)
        picture = picture + disc[..., None] * (light.sun * 2.5)
    if light.clouds <= 0.0:
        return np.asarray(picture, np.float32)
    offset = rng.uniform(0.0, TEXTURE_SIZE, 2)
    density, behind = _cloud_density(up, columns / size, light, textures, offset)
    # `clouds` 0..1 is the share of sky covered: the threshold slides through the noise's range.
    threshold = 1.5 - 2.6 * light.clouds
    soft = 0.55 if light.cloud_kind == "cumulus" else 1.3
    cover = smoothstep(density, threshold, threshold + soft) * (0.93 if light.cloud_kind != "cirrus" else 0.6)
    thick = smoothstep(density, threshold, threshold + 2.4)
    lit = np.clip(0.62 + 0.34 * (density - behind) - 0.46 * thick, 0.06, 1.0)
    silver = np.exp(-distance * 3.2) * light.glow
    white = light.sun * 0.80 + light.ambient * 0.55
    shadow = light.ambient * 0.95 + light.horizon * 0.12
    colour = shadow + (white - shadow) * lit[..., None] + (silver * (1.0 - thick) * 0.8)[..., None] * light.sun
    # Far clouds fade into the haze of the horizon.
    cover = cover * (0.25 + 0.75 * smoothstep(up, 0.0, 0.12))
    return np.asarray(picture + (colour - picture) * cover[..., None], dtype=np.float32)


def _cloud_density(up: Array, x: Array, light: Light, textures: Textures, offset: Array) -> tuple[Array, Array]:
    """Return the cloud's density (mean about 0), here and a little towards the sun: a plane of noise in perspective."""
    depth = 1.0 / (up + 0.10)
    stretch, scale = (0.55, 26.0) if light.cloud_kind == "cumulus" else (1.0, 15.0)
    u0, v0 = float(offset[0]), float(offset[1])
    u = (x - 0.5) * depth * scale * (0.35 if light.cloud_kind == "cirrus" else 1.0) + u0
    v = depth * scale * stretch + v0
    # Warping the lookup by coarser noise turns even fog into curls and towers.
    warp = sample(textures.smooth, u * 1.3 + 90.0, v * 1.3)
    u, v = u + 5.0 * warp, v + 3.0 * warp
    density = sample(textures.cloud, u, v) + 0.35 * sample(textures.rough, u * 2.7, v * 2.7)
    to_sun = 6.0 if light.sun_at[0] > 0.5 * x.shape[1] else -6.0
    return density, sample(textures.cloud, u + to_sun, v + 5.0)


def tree_sprite(kind: str, sun_side: float, rng: np.random.Generator, height: int = 160) -> tuple[Array, Array, Array]:
    """Grow one tree; returns (leaf light, wood mask, alpha), each height x width float32 in [0, 1].

    kind: "conifer", "broadleaf" or "cypress". Leaves are splatted as small dots around the ends of boughs, far ones
    first, each lit by where it sits in its tuft and in the crown; `sun_side` is -1 (left) to 1 (right).
    """
    width = {"conifer": 0.50, "broadleaf": 0.95, "cypress": 0.30}[kind]
    columns = int(height * width)
    middle = columns / 2.0
    num_tufts, num_leaves = (90, 46) if kind != "cypress" else (150, 26)
    t = rng.uniform(0.0, 1.0, num_tufts) ** (0.7 if kind == "conifer" else 1.0)  # 0 at the tip, 1 at the foot
    angle = rng.uniform(0.0, 2.0 * np.pi, num_tufts)
    if kind == "conifer":
        t = np.round(t * 11.0) / 11.0 + rng.normal(0.0, 0.022, num_tufts)  # boughs grow in whorls
        top, foot, tuft = 0.03, 0.90, 0.027 * height
        reach = np.clip(t, 0.03, 1.0) * 0.40 * columns
    elif kind == "cypress":
        top, foot, tuft = 0.06, 0.93, 0.020 * height
        reach = np.sin(np.pi * np.clip(t, 0.02, 0.97) ** 0.7) * 0.34 * columns
    else:
        top, foot, tuft = 0.12, 0.68, 0.05 * height
        reach = np.sqrt(np.clip(1.0 - (2.0 * t - 1.0) ** 2, 0.0, 1.0)) * 0.36 * columns
    reach = reach * rng.uniform(0.55, 1.1, num_tufts)
    cx, depth = middle + np.cos(angle) * reach, np.sin(angle)
    cy = (top + (foot - top) * t) * height + (np.abs(np.cos(angle)) * reach * 0.28 if kind == "conifer" else 0.0)
    lx = rng.standard_normal((num_tufts, num_leaves))
    ly = rng.standard_normal((num_tufts, num_leaves)) * (0.55 if kind == "conifer" else 0.9)
    px = cx[:, None] + lx * tuft * (1.5 if kind == "conifer" else 1.0)
    py = cy[:, None] + ly * tuft
    side = (px - middle) / (0.5 * columns)
    light = 0.42 + 0.20 * side * sun_side - 0.11 * ly + 0.10 * lx * sun_side
    light = light + 0.16 * depth[:, None] - 0.12 * (t[:, None] - 0.5)
    light = np.clip(light + rng.normal(0.0, 0.10, light.shape), 0.03, 1.0)
    order = np.argsort(np.repeat(depth, num_leaves), kind="stable")
    ix = np.clip(px.reshape(-1)[order].astype(int), 0, columns - 3)
    iy = np.clip(py.reshape(-1)[order].astype(int), 0, height - 3)
    return _splat(ix, iy, light.reshape(-1)[order].astype(np.float32), height, columns)


def _splat(ix: Array, iy: Array, value: Array, height: int, columns: int) -> tuple[Array, Array, Array]:
    """Draw a trunk and, over it, leaves of five pixels at (ix, iy), later ones on top; returns as `tree_sprite`."""
    leaf, alpha, wood = (np.zeros((height, columns), np.float32) for _ in range(3))
    middle = columns // 2
    cv2.line(wood, (middle, int(0.35 * height)), (middle, int(0.97 * height)), 1.0, max(2, height // 45))
    alpha[wood > 0] = 1.0
    for oy, ox in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 1)):
        leaf[iy + oy, ix + ox] = value
        alpha[iy + oy, ix + ox] = 1.0
        wood[iy + oy, ix + ox] = 0.0
    return leaf, wood, alpha
