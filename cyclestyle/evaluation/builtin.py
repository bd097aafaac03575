"""Features that need no download: fixed filters on a pyramid, what they answer pooled over the picture.

For judging style and colour (photograph or painting, texture, strokes, palette), not what a picture shows. Texture is
described by statistics of filter responses at several scales (Heeger and Bergen 1995, "Pyramid-based texture
analysis/synthesis"); filters need not be learned for that (Ustyuzhaninov et al. 2016, "Texture synthesis using shallow
convolutional networks with random filters"). The design was chosen by measurement, see docs/results.md.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NAME = "builtin-1"
"""Goes up with every change of the features: scores of two versions cannot be compared."""

_LEVELS = 5  # each half the size of the one above
_SIDE = 5  # of a filter
_STROKES = 8  # random filters, beside the 8 derivatives
_AT_ONCE = 8192  # pixels whose responses are held at a time: they stay in the processor's cache
_PALETTE = 96
_FLOOR = 0.01  # of [-1, 1]: responses below about one grey level of 255 count as none
_MAX_CONTRASTS = 7
_BEND = 2.0  # standard deviations at which features begin to level off
_COLOUR_WEIGHT, _PALETTE_WEIGHT = 2.5, 1.5  # texture has 1 a feature, but many more of them
_SCALE = 0.7

Draw = Callable[..., np.ndarray]


class Builtin:
    """Fixed-seed features of pictures with `channels` channels, on the processor whatever the device of the images.

    At each of 5 scales, luminance and each colour contrast meet 16 filters: products of small derivatives, which see
    edges, grids and grain, and random zero-mean 5 x 5 filters, which see strokes. Pooled are the mean amplitude of each
    response and how unevenly it is spread; beside them mean, spread and correlations of colours, and samples of their
    characteristic function (the palette). All are standardised on synthetic pictures, and bent so that no outlier
    rules: x.y / D stays about 1, where KID's cubic kernel sees means, spreads and outliers alike.
    """

    name = NAME

    def __init__(self, channels: int) -> None:
        self._filters = _Filters(channels)
        self._centre, self._spread = _standard(channels)
        self._weights = _SCALE * self._filters.weights()
        self.num_features = len(self._centre)
        self.fingerprint = f"{self.name} {channels} {self._filters.digest()}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """N x C x H x W in [-1, 1] => N x D float32 on the CPU."""
        assert images.shape[1] == self._filters.basis.shape[1], f"made for other channels than {images.shape[1]}"
        images = images.detach().to("cpu", torch.float32)
        rows = [torch.zeros(0, self.num_features)]
        with torch.autocast("cpu", enabled=False):
            # One by one: rows are the same to the last bit in whatever batch, memory is that of one picture, and
            # batches are no faster on processors.
            for image in images:
                standard = (self._filters.statistics(image) - self._centre) / self._spread
                rows.append((self._weights * _BEND * torch.tanh(standard / _BEND))[None])
        return torch.cat(rows)


class _Filters:
    """The fixed filters for pictures of `channels` channels."""

    def __init__(self, channels: int) -> None:
        draw = _numbers(1)
        self.basis = torch.from_numpy(_colour_basis(channels, draw))
        derivatives = _derivatives()
        rim = (_SIDE - derivatives.shape[1]) // 2
        strokes = _normal(draw, _STROKES, _SIDE**2)
        strokes = _orthonormal(strokes - strokes.mean(axis=1, keepdims=True)).reshape(-1, _SIDE, _SIDE) / 2
        bank = np.concatenate([np.pad(derivatives, ((0, 0), (rim, rim), (rim, rim))), strokes])
        self.bank = torch.from_numpy(bank[:, None].astype(np.float32))  # F x 1 x 5 x 5
        # Frequencies of the palette's samples: coarse, middle and fine distinctions of colour.
        coarseness = np.repeat([1.0, 2.5, 5.0], _PALETTE // 3)[:, None] * np.sqrt(min(channels, 3))
        frequencies = _normal(draw, _PALETTE, len(self.basis)) * coarseness
        self.frequencies = torch.from_numpy(frequencies.astype(np.float32))
        self.phases = torch.from_numpy((2 * np.pi * draw(_PALETTE)).astype(np.float32))

    def digest(self) -> str:
        """A hash of all filters."""
        tables = (self.basis, self.bank, self.frequencies, self.phases)
        return hashlib.sha256(b"".join(table.numpy().tobytes() for table in tables)).hexdigest()

    def statistics(self, image: Tensor) -> Tensor:
        """One picture, C x H x W => D numbers, not yet standardised: colours, palette, then texture."""
        planes = (self.basis @ image.flatten(1)).reshape(-1, 1, *image.shape[-2:])  # K x 1 x H x W
        half = F.avg_pool2d(planes, 2, ceil_mode=True)
        parts = [*_colours(planes), self._palette(half[..., ::2, ::2])]
        for level in range(_LEVELS):
            if level:
                planes = half if level == 1 else F.avg_pool2d(planes, 2, ceil_mode=True)
            padded = F.pad(planes, (_SIDE // 2,) * 4, mode="replicate")
            parts += _amplitudes(padded, self.bank)
        return torch.cat([part.flatten() for part in parts])

    def weights(self) -> Tensor:
        """How much each of `statistics` counts, D."""
        num_planes = len(self.basis)
        num_colours = 2 * num_planes + num_planes * (num_planes - 1) // 2
        num_textures = 2 * _LEVELS * num_planes * len(self.bank)
        counts = torch.tensor([num_colours, _PALETTE, num_textures])
        return torch.tensor([_COLOUR_WEIGHT, _PALETTE_WEIGHT, 1.0]).repeat_interleave(counts)

    def _palette(self, planes: Tensor) -> Tensor:
        """Samples of the characteristic function of the colours: equal for equal palettes, wherever colours lie."""
        return torch.addmm(self.phases[:, None], self.frequencies, planes.flatten(1)).cos_().mean(1)


def _amplitudes(padded: Tensor, filters: Tensor) -> list[Tensor]:
    """Logarithms of the mean amplitude of each filter's responses, and of how uneven it is (rms over mean).

    Args:
        padded: K x 1 x (H + 4) x (W + 4).
        filters: F x 1 x 5 x 5.

    Returns:
        Two tables, K x F each; bands of rows give the sums, so that memory does not grow with the picture.
    """
    height, width = (length - _SIDE + 1 for length in padded.shape[-2:])
    total = torch.zeros(len(padded), len(filters))
    squares = torch.zeros(len(padded), len(filters))
    rows = max(8, _AT_ONCE // width)
    for top in range(0, height, rows):
        responses = F.conv2d(padded[:, :, top : top + rows + _SIDE - 1], filters).flatten(2)
        squares += torch.linalg.vector_norm(responses, dim=2).square()
        total += responses.abs_().sum(2)
    mean, rms = total / (height * width), (squares / (height * width)).sqrt()
    return [torch.log(mean + _FLOOR), torch.log((rms + _FLOOR) / (mean + _FLOOR))]


def _colours(planes: Tensor) -> list[Tensor]:
    """K x 1 x H x W => means, logarithms of standard deviations, and correlations of the planes."""
    flat = planes.flatten(1)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    covariance = centred @ centred.T / flat.shape[1]
    deviation = (covariance.diagonal() + _FLOOR**2).sqrt()
    correlation = covariance / torch.outer(deviation, deviation)
    upper = torch.triu_indices(len(flat), len(flat), 1)
    return [mean, torch.log(deviation), correlation[upper[0], upper[1]]]


def _colour_basis(channels: int, draw: Draw) -> np.ndarray:
    """K x C: luminance (the mean of all channels), then orthogonal contrasts, C - 1 or at most `_MAX_CONTRASTS`.

    For three channels red - blue and red - 2 green + blue; for other numbers, mixtures of all channels.
    """
    rows = np.ones((1, channels))
    if channels == 3:
        rows = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]])
    elif channels > 1:
        rows = np.concatenate([rows, draw(min(channels - 1, _MAX_CONTRASTS), channels) - 0.5])
    return (_orthonormal(rows) / np.sqrt(channels)).astype(np.float32)


def _derivatives() -> np.ndarray:
    """8 x 3 x 3: products of mean, first and second difference in both directions, without mean x mean."""
    lines = [np.array(line) / np.abs(line).sum() for line in ([1.0, 1, 1], [1.0, 0, -1], [1.0, -2, 1])]
    return np.stack([np.outer(down, across) for down in lines for across in lines])[1:]


def _orthonormal(rows: np.ndarray) -> np.ndarray:
    """Gram and Schmidt's; numpy's own decompositions differ between machines."""
    rows = rows.astype(np.float64).copy()
    for index in range(len(rows)):
        for earlier in rows[:index]:
            rows[index] -= (rows[index] @ earlier) * earlier
        rows[index] /= np.sqrt(rows[index] @ rows[index])
    return rows


def _numbers(seed: int) -> Draw:
    """A source of uniform numbers in [0, 1): Philox's raw bits, which numpy keeps the same for ever (NEP 19)."""
    bits = np.random.Philox(seed)

    def draw(*shape: int) -> np.ndarray:
        raw = bits.random_raw(int(np.prod(shape)))
        return (np.asarray(raw, dtype=np.uint64) >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    return draw


def _normal(draw: Draw, *shape: int) -> np.ndarray:
    """About normal: the sum of four uniform numbers, of mean 0 and variance 1."""
    return np.asarray((draw(4, *shape).sum(axis=0) - 2.0) * np.sqrt(3.0))


_PICTURES, _PICTURE_SIDE = 40, 96


@functools.cache
def _standard(channels: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the statistics over synthetic pictures, D each."""
    filters, draw = _Filters(channels), _numbers(2)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        table = torch.stack([filters.statistics(_leaves(channels, draw)) for _ in range(_PICTURES)])
    return table.mean(0), table.std(0).clamp_min(1e-3)


def _leaves(channels: int, draw: Draw) -> Tensor:
    """A picture of dead leaves, C x H x W: ellipses that hide each other have the statistics of natural pictures.

    After Lee, Mumford and Huang 2001, "Occlusion models for natural images"; with colours about a common one, sizes
    that change from top to bottom, some cloudy texture and noise.
    """
    side = _PICTURE_SIDE
    brightness, spread, chroma, least, elongation, turn, wobble, density, clouds, grain = draw(10)
    centre = 0.25 * _normal(draw, 1) + 0.12 * _normal(draw, channels)
    count = int(30 + 150 * density)
    colours = centre + (0.1 + 0.3 * spread) * (_normal(draw, count, 1) + chroma * _normal(draw, count, channels))
    x, y = side * draw(count), side * draw(count)
    # Areas fall off as 1 / radius^3, which makes leaves look alike at every scale; those above are larger.
    radii = np.minimum((1.5 + 4 * least) * (2.0 - y / side) / np.sqrt(1.0 - draw(count)), side / 2)
    angles = np.pi * (turn + wobble * (draw(count) - 0.5))
    picture = np.broadcast_to(centre[:, None, None], (channels, side, side)).copy()
    rows, columns = np.mgrid[:side, :side].astype(np.float64)
    for leaf in range(count):
        reach = int(radii[leaf] * np.sqrt(1 + 3 * elongation)) + 1
        down, across = (slice(max(0, int(at) - reach), int(at) + reach + 1) for at in (y[leaf], x[leaf]))
        dy, dx = rows[down, across] - y[leaf], columns[down, across] - x[leaf]
        along = dx * np.cos(angles[leaf]) + dy * np.sin(angles[leaf])
        aside = dy * np.cos(angles[leaf]) - dx * np.sin(angles[leaf])
        inside = along**2 / (1 + 3 * elongation) + aside**2 * (1 + 3 * elongation) < radii[leaf] ** 2
        picture[:, down, across][:, inside] = colours[leaf][:, None]
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0
    falloff = frequency ** -(0.8 + 0.8 * brightness)
    falloff[0, 0] = 0.0
    cloud = np.fft.irfft2(falloff * np.fft.rfft2(_normal(draw, side, side)), s=(side, side))
    picture += 0.2 * clouds * cloud / cloud.std() + 0.03 * grain * _normal(draw, channels, side, side)
    return torch.from_numpy(np.clip(picture, -1.0, 1.0).astype(np.float32))
