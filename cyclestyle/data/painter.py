"""A painter made of strokes: turns a landscape photograph into a picture in the manner of van Gogh.

Owns the palette, the flow that strokes follow, and the strokes with their relief. The method is Hertzmann's, "Painterly
Rendering with Curved Brush Strokes of Multiple Sizes" (SIGGRAPH 1998): layers from coarse to fine, each with strokes
where the canvas still differs most from the reference, traced along the picture's flow. Added to it are a palette
(so that colour changes as a function of colour), bristles, and a height map of the paint, lit from one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cyclestyle.data.scenery import TEXTURE_SIZE, Array, make_textures, sample

# Pigments near those of the Arles and Saint-Remy pictures (sRGB): no greys, so that haze turns blue, lilac or cream.
_PIGMENTS = (
    (18, 24, 48),
    (24, 42, 92),
    (30, 62, 146),
    (46, 96, 184),
    (86, 148, 206),
    (150, 192, 216),
    (70, 160, 164),
    (30, 104, 88),
    (66, 108, 42),
    (122, 136, 46),
    (172, 184, 66),
    (244, 198, 44),
    (250, 228, 112),
    (206, 150, 48),
    (230, 124, 36),
    (150, 78, 36),
    (176, 58, 40),
    (68, 46, 36),
    (96, 80, 152),
    (166, 152, 200),
    (246, 238, 200),
    (122, 148, 122),
)


@dataclass(frozen=True)
class Layer:
    """One pass of the brush. Lengths are pixels of a 256-pixel picture; bristles 0 paints plain strokes."""

    width: float
    bristles: int
    grid: float
    steps: int
    threshold: float
    jitter: float


LAYERS = (
    Layer(width=11.0, bristles=0, grid=8.0, steps=8, threshold=-1.0, jitter=5.0),
    Layer(width=5.6, bristles=5, grid=5.4, steps=10, threshold=-1.0, jitter=7.5),
    Layer(width=3.0, bristles=2, grid=4.0, steps=8, threshold=11.0, jitter=5.0),
)
_FIXED_POINT = 4  # bits of sub-pixel position given to cv2


def to_palette(photo: Array) -> Array:
    """Pull the colours of `photo` (H x W x 3 sRGB in [0, 1]) towards the pigments; returns CIE Lab, H x W x 3.

    A function of the colour alone: richer chroma, then a soft nearest pigment, keeping most of the lightness.
    """
    lab = np.asarray(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB), np.float32)
    lab[..., 0] = np.clip(50.0 + (lab[..., 0] - 50.0) * 1.15 + 1.0, 3.0, 97.0)
    lab[..., 1:] *= 1.6
    pigments = np.asarray(_PIGMENTS, np.float32)[None] / np.float32(255.0)
    pigments = cv2.cvtColor(pigments, cv2.COLOR_RGB2LAB)[0]
    squared = np.stack([_difference(lab, pigment) for pigment in pigments])
    weight = np.exp((squared.min(axis=0) - squared) / np.float32(2.0 * 11.0**2))
    weight /= weight.sum(axis=0)
    nearest = np.zeros_like(lab)
    for share, pigment in zip(weight, pigments, strict=True):
        nearest += share[..., None] * pigment
    return np.asarray(lab + (nearest - lab) * np.array([0.40, 0.68, 0.68], np.float32), np.float32)


def _difference(lab: Array, pigment: Array) -> Array:
    """Return the squared difference of each colour to one pigment, lightness counting a little less."""
    d = lab - pigment
    return np.asarray(0.56 * d[..., 0] ** 2 + d[..., 1] ** 2 + d[..., 2] ** 2, np.float32)


@cache
def _palette_table() -> Array:
    """Return `to_palette` of every colour on a 64 x 64 x 64 grid: one look-up a pixel instead of 22 pigments."""
    levels = (np.arange(64, dtype=np.float32) + np.float32(0.5)) / np.float32(64.0)
    red, green, blue = np.meshgrid(levels, levels, levels, indexing="ij")
    grid = np.stack([red, green, blue], axis=3).reshape(64 * 64, 64, 3)
    return to_palette(grid).reshape(64, 64, 64, 3)


@dataclass(frozen=True)
class Flow:
    """Where strokes run: unit vectors `dx`, `dy` (H x W, defined up to sign), the `swell` of the swirls in [-1, 1],
    and the strength of the picture's own edges (`edge`, Lab lightness per pixel)."""

    dx: Array
    dy: Array
    swell: Array
    edge: Array


def stroke_flow(lab: Array, rng: np.random.Generator) -> Flow:
    """Follow edges where there are any (smoothed structure tensor), and swirling noise where the picture is flat."""
    size = lab.shape[0]
    smooth = cv2.GaussianBlur(lab[..., 0] + 0.5 * lab[..., 2], (0, 0), size / 110.0)
    gx, gy = _gradient(smooth)
    # Angles doubled, so that opposite gradients agree; the minus turns a gradient into the direction along the edge.
    cos2 = cv2.GaussianBlur(-(gx * gx - gy * gy), (0, 0), size / 64.0)
    sin2 = cv2.GaussianBlur(-(2.0 * gx * gy), (0, 0), size / 64.0)
    strength = np.sqrt(cos2 * cos2 + sin2 * sin2) + 1e-6
    potential = _swirls(size, rng)
    px, py = np.gradient(potential, axis=1), np.gradient(potential, axis=0)
    slope = px * px + py * py + 1e-12
    trust = strength / (strength + 0.25)
    cos2 = trust * cos2 / strength - (1.0 - trust) * (px * px - py * py) / slope
    sin2 = trust * sin2 / strength - (1.0 - trust) * (2.0 * px * py) / slope
    angle = 0.5 * np.arctan2(sin2, cos2)
    # Contours are drawn along what is large: the blur takes leaves and grass out.
    broad = cv2.GaussianBlur(lab[..., 0], (0, 0), size / 70.0)
    edge = np.hypot(*_gradient(broad))
    swell = np.sin(potential * 11.0) * (1.0 - trust)
    return Flow(np.cos(angle), np.sin(angle), swell.astype(np.float32), edge)


def _gradient(plane: Array) -> tuple[Array, Array]:
    """Return the slope of `plane` (H x W) per pixel in x and in y."""
    gx, gy = cv2.Scharr(plane, cv2.CV_32F, 1, 0), cv2.Scharr(plane, cv2.CV_32F, 0, 1)
    return np.asarray(gx, np.float32) / 32.0, np.asarray(gy, np.float32) / 32.0


def _swirls(size: int, rng: np.random.Generator) -> Array:
    """Return a potential whose contour lines are streams with a few whirls, mostly in the upper half; H x W."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / np.float32(size)
    textures = make_textures(rng)
    u0, v0 = rng.uniform(0.0, TEXTURE_SIZE, 2).tolist()
    potential = 1.6 * y + 0.16 * sample(textures.hills, x * 130.0 + u0, y * 150.0 + v0)
    for _ in range(int(rng.integers(2, 5))):
        cx, cy = rng.uniform(0.05, 0.95), rng.uniform(0.02, 0.48)
        radius, turn = rng.uniform(0.07, 0.16), rng.choice([-1.0, 1.0])
        squared = (x - cx) ** 2 + (y - cy) ** 2
        potential = potential + turn * 0.55 * np.exp(-squared / (2.0 * radius * radius))
    return np.asarray(potential, np.float32)


def paint(photo: npt.NDArray[np.uint8], seed: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Paint `photo` (H x H x 3 uint8 sRGB) with strokes; returns the painting, same shape and type.

    The same bytes for the same photo and seed.
    """
    rng = np.random.default_rng(list(seed))
    size = photo.shape[0]
    unit = size / 256.0
    coarse = photo >> 2
    lab = _palette_table()[coarse[..., 0], coarse[..., 1], coarse[..., 2]]
    # Painters overstate what little contrast there is: far mountains would otherwise drown among the strokes.
    lab = lab + np.array([0.55, 0.3, 0.3], np.float32) * (lab - cv2.GaussianBlur(lab, (0, 0), size / 14.0))
    lab[..., 0] = np.clip(lab[..., 0], 9.0, 98.0)
    flow = stroke_flow(lab, rng)
    lab[..., 0] += 6.5 * flow.swell
    lab[..., 2] += 5.0 * flow.swell
    # The fourth channel is the height of the paint: cv2 draws it with the same call as the colour.
    canvas = np.zeros((size, size, 4), np.uint8)
    canvas[..., :3] = (70, 52, 38)[::-1]
    for layer in LAYERS:
        reference = np.asarray(cv2.GaussianBlur(lab, (0, 0), max(0.25 * layer.width * unit, 0.4)), np.float32)
        _paint_layer(canvas, reference, flow, layer, rng)
    _draw_contours(canvas, lab, flow, rng)
    return _light_relief(canvas, unit)


def _paint_layer(
    canvas: npt.NDArray[np.uint8], reference: Array, flow: Flow, layer: Layer, rng: np.random.Generator
) -> None:
    """Choose, trace and draw the strokes of one layer onto `canvas` (H x W x 4) in place."""
    unit = canvas.shape[0] / 256.0
    painted = cv2.cvtColor(canvas[..., :3].astype(np.float32) / np.float32(255.0), cv2.COLOR_RGB2LAB)
    error = np.sqrt(((painted - reference) ** 2).sum(axis=2))
    starts = _worst_places(error, max(layer.grid * unit, 2.0), layer.threshold, rng)
    if len(starts) == 0:
        return
    colour = reference[starts[:, 1], starts[:, 0]]
    lines, lengths = _trace(starts, colour, reference, flow, layer)
    colour = colour + rng.normal(0.0, 1.0, colour.shape) * np.array([0.8, 1.0, 1.15]) * layer.jitter
    _draw(canvas, lines, lengths, colour.astype(np.float32), width=layer.width * unit, bristles=layer.bristles, rng=rng)


def _worst_places(error: Array, cell: float, threshold: float, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return where strokes start, N x 2 (x, y), shuffled: the worst pixel of each cell whose mean error is too high."""
    size = error.shape[0]
    count = max(int(size / cell), 1)
    side = size // count
    used = error[: count * side, : count * side].reshape(count, side, count, side).transpose(0, 2, 1, 3)
    cells = used.reshape(count * count, side * side)
    # Noise on the error breaks ties at random: flat sky would otherwise be painted on a visible grid.
    place = (cells + rng.uniform(0.0, 6.0, cells.shape).astype(np.float32)).argmax(axis=1)
    keep = np.flatnonzero(cells.mean(axis=1) > threshold)
    keep = rng.permutation(keep)
    row, column = keep // count * side + place[keep] // side, keep % count * side + place[keep] % side
    return np.stack([column, row], axis=1)


def _trace(
    starts: npt.NDArray[np.int64], colour: Array, reference: Array, flow: Flow, layer: Layer
) -> tuple[Array, npt.NDArray[np.int64]]:
    """Follow the flow from all starts at once; returns points N x K x 2 (x, y) and the number of points used, N.

    A stroke ends where the reference no longer has its colour (Hertzmann, section 2.2, without his curvature filter:
    the flow is smooth already).
    """
    size, steps = reference.shape[0], layer.steps
    stride = np.float32(max(0.75 * layer.width, 3.0) * size / 256.0)
    position = starts.astype(np.float32)
    points = np.empty((len(starts), steps, 2), np.float32)
    lengths = np.full(len(starts), steps)
    heading = np.zeros_like(position)
    for k in range(steps):
        points[:, k] = position
        ix = np.clip(position[:, 0], 0, size - 1).astype(np.int64)
        iy = np.clip(position[:, 1], 0, size - 1).astype(np.int64)
        off = np.abs(reference[iy, ix] - colour).sum(axis=1)
        ended = (off > 24.0) & (k >= 3)
        lengths = np.where(ended & (lengths == steps), k, lengths)
        step = np.stack([flow.dx[iy, ix], flow.dy[iy, ix]], axis=1)
        step *= np.where((step * heading).sum(axis=1, keepdims=True) < 0.0, -1.0, 1.0).astype(np.float32)
        heading = step
        position = position + stride * step
    return points, lengths


def _draw(
    canvas: npt.NDArray[np.uint8],
    lines: Array,
    lengths: npt.NDArray[np.int64],
    lab: Array,
    *,
    width: float,
    bristles: int,
    rng: np.random.Generator,
) -> None:
    """Draw strokes (N x K x 2 points, N x 3 Lab colours) in order: each a bundle of bristles side by side."""
    num = max(bristles, 1)
    tangent = np.gradient(lines, axis=1)
    tangent /= np.sqrt((tangent**2).sum(axis=2, keepdims=True)) + np.float32(1e-6)
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=2)
    across = (np.arange(num) + 0.5) / num - 0.5
    offsets = (across[None] * width + rng.normal(0.0, 0.25, (len(lines), num))).astype(np.float32)
    paths = lines[:, None] + offsets[:, :, None, None] * normal[:, None]
    fixed = np.round(paths * (1 << _FIXED_POINT)).astype(np.int32)
    tone = lab[:, None] + rng.normal(0.0, 1.0, (len(lines), num, 1)) * np.array([3.4, 0.8, 1.6]) * (num > 1)
    rgb = cv2.cvtColor(tone.astype(np.float32), cv2.COLOR_LAB2RGB) * 255.0
    # Paint lies thickest in the middle of the brush and differs from bristle to bristle.
    height = 120.0 + 60.0 * (1.0 - (2.0 * across[None]) ** 2) + rng.normal(0.0, 34.0, (len(lines), num))
    shades = np.clip(np.concatenate([rgb, height[..., None]], axis=2), 0.0, 255.0).tolist()
    thick = max(1, round(width / num + 0.2))
    for stroke, (used, colours) in enumerate(zip(lengths.tolist(), shades, strict=True)):
        for bristle in range(num):
            cv2.polylines(
                canvas, [fixed[stroke, bristle, :used]], False, colours[bristle], thick, cv2.LINE_AA, _FIXED_POINT
            )


def _draw_contours(canvas: npt.NDArray[np.uint8], lab: Array, flow: Flow, rng: np.random.Generator) -> None:
    """Go along the strongest edges with thin dark blue strokes, as van Gogh drew hills and trees."""
    unit = canvas.shape[0] / 256.0
    starts = _worst_places(flow.edge, max(5.0 * unit, 2.0), 2.0, rng)
    if len(starts) == 0:
        return
    layer = Layer(width=1.8, bristles=0, grid=5.0, steps=6, threshold=0.0, jitter=0.0)
    colour = lab[starts[:, 1], starts[:, 0]]
    lines, lengths = _trace(starts, colour, lab, flow, layer)
    ink = colour * np.array([0.50, 0.7, 0.7], np.float32) + np.array([2.0, 2.0, -9.0], np.float32)
    _draw(canvas, lines, lengths, ink, width=layer.width * unit, bristles=0, rng=rng)


def _light_relief(canvas: npt.NDArray[np.uint8], unit: float) -> npt.NDArray[np.uint8]:
    """Light the height map from the upper left and shade the colours with it (impasto); H x W x 3 uint8."""
    height = cv2.GaussianBlur(canvas[..., 3].astype(np.float32), (0, 0), max(0.6 * unit, 0.3))
    slope = 0.8 * cv2.Sobel(height, cv2.CV_32F, 1, 0) + 1.0 * cv2.Sobel(height, cv2.CV_32F, 0, 1)
    shade = np.clip(slope / 1000.0, -0.22, 0.28)[..., None]
    colour = canvas[..., :3].astype(np.float32) / np.float32(255.0)
    lit = np.where(shade > 0.0, colour + (1.0 - colour) * shade, colour * (1.0 + shade))
    return np.asarray(np.clip(lit * 255.0 + 0.5, 0.0, 255.0), np.uint8)
