"""The extractor that is always there: closed forms of its statistics, the same everywhere, and a judge worth asking."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.evaluation import builtin
from cyclestyle.evaluation.builtin import Builtin
from cyclestyle.evaluation.features import build_extractor

FLOOR = 0.01


def wave(channels: int = 3, height: int = 48, width: int = 40) -> Tensor:
    """A picture by a formula, without random numbers."""
    row, column = torch.arange(height)[:, None] / 7, torch.arange(width)[None] / 5
    planes = [torch.sin(row * (1 + c / 4) + c) * torch.cos(column - c) * 0.8 for c in range(channels)]
    return torch.stack(planes).float()[None]


def textures(statistics: Tensor, num_planes: int = 1) -> tuple[Tensor, Tensor]:
    """Of `statistics`, mean amplitudes and their unevenness (rms / mean): levels x planes x 16 filters each."""
    table = statistics[-5 * 2 * num_planes * 16 :].reshape(5, 2, num_planes, 16).exp()
    return table[:, 0] - FLOOR, table[:, 1]


def test_features_never_change() -> None:
    """Pinned: whoever changes features gives the extractor a new name (builtin-2), since scores cannot be compared."""
    features = Builtin(3)(wave())[0]
    assert Builtin.name == "builtin-1"
    assert len(features) == 585
    places = [0, 4, 7, 9, 60, 104, 105, 200, 300, 400, 500, 584]
    expected = [0.062, 2.101, 0.086, -0.109, 0.137, 0.354, -0.128, -0.796, 0.744, 0.804, -0.81, -0.616]
    np.testing.assert_allclose(features[places].numpy(), expected, atol=2e-3)


def test_random_numbers_are_those_of_philox() -> None:
    # The raw stream is what numpy keeps the same (NEP 19); its distributions may change.
    assert builtin._numbers(1)(3).tolist() == pytest.approx(np.random.Generator(np.random.Philox(1)).random(3).tolist())
    sample = builtin._normal(builtin._numbers(3), 100_000)
    assert sample.mean() == pytest.approx(0, abs=0.01)
    assert sample.std() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
def test_colour_planes_are_luminance_and_orthogonal_contrasts(channels: int) -> None:
    basis = builtin._Filters(channels).basis.double()
    assert len(basis) == min(channels, 8)
    torch.testing.assert_close(
        basis @ basis.T, torch.eye(len(basis), dtype=torch.float64) / channels, atol=1e-7, rtol=0
    )
    torch.testing.assert_close(basis[0], torch.full((channels,), 1 / channels, dtype=torch.float64))


def test_filters_see_no_constant() -> None:
    bank = builtin._Filters(3).bank
    assert bank.shape == (16, 1, 5, 5)
    assert bank.sum((1, 2, 3)).abs().max() < 1e-6
    assert np.linalg.matrix_rank(bank.flatten(1).numpy()) == 16


def test_a_flat_picture_in_closed_form() -> None:
    statistics = builtin._Filters(1).statistics(torch.full((1, 32, 32), 0.25))
    mean, deviation = statistics[:2].tolist()
    assert mean == pytest.approx(0.25)
    assert deviation == pytest.approx(math.log(FLOOR))  # the floor alone
    amplitude, unevenness = textures(statistics)
    assert amplitude.abs().max() < 1e-6
    torch.testing.assert_close(unevenness, torch.ones(5, 1, 16))
    # The palette is the characteristic function of a single value.
    filters = builtin._Filters(1)
    expected = torch.cos(0.25 * filters.frequencies[:, 0] + filters.phases)
    torch.testing.assert_close(statistics[2:98], expected, atol=1e-5, rtol=0)


def test_a_checkerboard_in_closed_form() -> None:
    side, height = 128, 0.3
    board = height * (-1.0) ** (torch.arange(side)[:, None] + torch.arange(side)[None])
    amplitude, unevenness = textures(builtin._Filters(1).statistics(board[None]))
    # Lines [1 1 1] / 3, [1 0 -1] / 2, [1 -2 1] / 4 meet +1 -1 +1 with 1/3, 0 and 1; their products without mean x mean.
    line = (1 / 3, 0.0, 1.0)
    expected = [height * down * across for down in line for across in line][1:]
    torch.testing.assert_close(amplitude[0, 0, :8], torch.tensor(expected), atol=0.02, rtol=0)  # the border
    assert unevenness[0, 0, 7] == pytest.approx(1, abs=0.01)
    assert amplitude[1:].abs().max() < 1e-6  # half as large, nothing is left of it


def test_unevenness_tells_a_few_strong_edges_from_texture_everywhere() -> None:
    side = 128
    edge = torch.zeros(1, side, side)
    edge[..., side // 2 :] = 1.0
    amplitude, unevenness = textures(builtin._Filters(1).statistics(edge))
    # [1 0 -1] / 2 across, mean down: 1/2 at the two columns beside the edge, 0 elsewhere.
    mean, rms = 0.5 * 2 / side, math.sqrt(0.25 * 2 / side)
    assert amplitude[0, 0, 0] == pytest.approx(mean, rel=1e-4)
    assert unevenness[0, 0, 0] == pytest.approx((rms + FLOOR) / (mean + FLOOR), rel=1e-4)


def test_colour_statistics_in_closed_form() -> None:
    red, green = torch.rand(2, 64, 64) * 2 - 1
    image = torch.stack([red, green, 0.5 * red])
    # Luminance, red - blue, red - 2 green + blue, each with weights of length 1 / sqrt(3).
    planes = torch.stack([(1.5 * red + green) / 3, 0.5 * red / 6**0.5, (1.5 * red - 2 * green) / 18**0.5])
    statistics = builtin._Filters(3).statistics(image)
    covariance = np.cov(planes.flatten(1).numpy(), bias=True)
    deviation = np.sqrt(covariance.diagonal() + FLOOR**2)  # the floor keeps flat pictures finite
    correlation = (covariance / np.outer(deviation, deviation))[[0, 0, 1], [1, 2, 2]]
    expected = np.concatenate([planes.mean((1, 2)), np.log(deviation), correlation])
    np.testing.assert_allclose(statistics[:9], expected, atol=1e-4)


def test_bands_of_rows_add_up_to_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    image, filters = wave(height=61, width=37)[0], builtin._Filters(3)
    whole = filters.statistics(image)
    monkeypatch.setattr(builtin, "_AT_ONCE", 37 * 9)
    torch.testing.assert_close(filters.statistics(image), whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("size", [(16, 16), (17, 40), (100, 64)])
def test_any_channels_and_sizes(channels: int, size: tuple[int, int]) -> None:
    extractor = Builtin(channels)
    features = extractor(torch.rand(2, channels, *size) * 2 - 1)
    assert features.shape == (2, extractor.num_features)
    assert features.isfinite().all()
    assert features.abs().max() < 0.7 * 2 * 2.5 + 1e-6  # scale x bend x the greatest weight


def test_each_channel_of_many_is_seen() -> None:
    images = wave(13, 32, 32)
    extractor = Builtin(13)
    for channel in range(13):
        changed = images.clone()
        changed[:, channel] *= -1
        assert (extractor(changed) - extractor(images)).norm() > 1


def test_what_an_extractor_promises() -> None:
    extractor = build_extractor("builtin", None, torch.device("cpu"), 3)
    images = (torch.rand(5, 3, 40, 40) * 2 - 1).requires_grad_()
    before = torch.random.get_rng_state()
    features = Builtin(3)(images)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.cat([extractor(image) for image in images.split(1)]), features)  # to the last bit
    assert torch.equal(extractor(images.to(memory_format=torch.channels_last)), features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor(images), features)
    assert not features.requires_grad
    assert features.dtype == torch.float32
    assert extractor(images.double()).dtype == torch.float32
    assert extractor(images[:0]).shape == (0, extractor.num_features)


def test_the_fingerprint_tells_extractors_apart() -> None:
    fingerprints = [Builtin(channels).fingerprint for channels in (1, 2, 3, 12)]
    assert len(set(fingerprints)) == 4
    assert Builtin(3).fingerprint == fingerprints[2]
    assert all(fingerprint.startswith("builtin-1 ") for fingerprint in fingerprints)


def paintings(count: int, seed: int) -> Tensor:
    """Pictures of one kind: small coloured blocks, brightened and tinted at random about a warm colour."""
    random = np.random.default_rng(seed)
    blocks = (
        random.normal(0, 0.35, (count, 3, 16, 16))
        + random.normal([[0.3], [0.1], [-0.3]], 0.15, (count, 3, 1))[..., None]
    )
    fine = random.normal(0, 0.1, (count, 3, 64, 64))
    return (
        (F.interpolate(torch.from_numpy(blocks).float(), scale_factor=4) + torch.from_numpy(fine)).float().clamp(-1, 1)
    )


def kernel_distance(x: Tensor, y: Tensor) -> float:
    """Unbiased squared MMD with KID's kernel, term by term (Binkowski et al. 2018)."""
    kernel = [[(a.double() @ b.double().T / x.shape[1] + 1) ** 3 for b in (x, y)] for a in (x, y)]
    within = [(table.sum() - table.trace()) / (len(table) * (len(table) - 1)) for table in (kernel[0][0], kernel[1][1])]
    return float(within[0] + within[1] - 2 * kernel[0][1].mean())


def blurred(images: Tensor, width: int) -> Tensor:
    return F.avg_pool2d(F.pad(images, (width // 2,) * 4, mode="replicate"), width, stride=1)


def board(side: int) -> Tensor:
    return (-1.0) ** (torch.arange(side)[:, None] + torch.arange(side)[None])


WORSE = {
    "blur": [lambda images, width=width: blurred(images, width) for width in (3, 5, 9)],
    "noise": [lambda images, sigma=sigma: images + sigma * torch.randn_like(images) for sigma in (0.1, 0.2, 0.4)],
    "checkerboard": [lambda images, height=height: images + height * board(64) for height in (0.05, 0.1, 0.2)],
    "contrast": [lambda images, factor=factor: images * factor for factor in (0.8, 0.6, 0.3)],
    "greyness": [lambda images, t=t: torch.lerp(images, images.mean(1, keepdim=True), t) for t in (0.3, 0.6, 1.0)],
    "brightness": [lambda images, lift=lift: images + lift for lift in (0.15, 0.3, 0.6)],
    "a blue tint": [lambda images, t=t: images - t * torch.linspace(1, -1, 3)[:, None, None] for t in (0.1, 0.2, 0.4)],
}


@pytest.fixture(scope="module")
def judged() -> tuple[Tensor, Tensor, float, float]:
    """Features of two sets of one kind, and mean and deviation of the distance between such sets."""
    extractor = Builtin(3)
    features = extractor(paintings(96, 1)).split(24)
    null = torch.tensor([kernel_distance(features[i], features[j]) for i in range(4) for j in range(i)])
    return features[0], features[1], null.mean().item(), null.std().item()


def test_sets_of_one_kind_are_near(judged: tuple[Tensor, Tensor, float, float]) -> None:
    _, _, mean, deviation = judged
    assert abs(mean) < 3 * deviation
    photographs = Builtin(3)(wave(3, 64, 64) + 0.1 * torch.randn(24, 3, 1, 1))
    assert kernel_distance(photographs, judged[0]) > 100 * deviation


@pytest.mark.parametrize("family", WORSE.values(), ids=WORSE)
def test_the_worse_the_farther(family, judged: tuple[Tensor, Tensor, float, float]) -> None:  # type: ignore[no-untyped-def]
    reference, clean, _, deviation = judged
    images, extractor = paintings(96, 1)[24:48], Builtin(3)
    distances = [kernel_distance(clean, reference)]
    distances += [kernel_distance(extractor(worse(images).clamp(-1, 1)), reference) for worse in family]
    assert distances == sorted(distances)
    assert distances[-1] - distances[0] > 10 * deviation
