"""Measures against closed forms, and against the networks whose marks they look for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.networks.build import build_generator
from cyclestyle.training import detectors
from cyclestyle.training.signals import RunningMean


def pictures(count: int, size: int = 64, seed: int = 0, channels: int = 3) -> Tensor:
    """Random pictures whose power falls with frequency, as that of photographs does; N x C x H x W in [-1, 1]."""
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    frequency = torch.fft.fftfreq(size).square()
    distance = (frequency[:, None] + frequency[None]).sqrt().clamp_min(0.5 / size)
    smooth = torch.fft.ifft2(torch.fft.fft2(noise) / distance).real
    return (0.35 * smooth / smooth.std((1, 2, 3), keepdim=True)).clamp(-1, 1)


def mean_of(looks: list[tuple[Tensor, Tensor, Tensor]]) -> dict[str, Tensor]:
    """Statistics of (real_a, real_b, fake_b) looks, averaged as the doctor does."""
    mean = RunningMean()
    for step, (real_a, real_b, fake_b) in enumerate(looks):
        mean.add(10 * step, detectors.statistics({"a": real_a, "b": real_b}, {"ab": fake_b}))
    return mean.read()[0]


def looks(translate: object, count: int = 20, size: int = 64) -> dict[str, Tensor]:
    """Statistics over pictures one by one, translated by a function."""
    assert callable(translate)
    real_a, real_b = pictures(count, size, seed=1), pictures(count, size, seed=2)
    return mean_of([(a[None], b[None], translate(a[None])) for a, b in zip(real_a, real_b, strict=True)])


# ---------------------------------------------------------------------------------------------- light and dark, change


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1.0), (0.3, 1.0), (-1.0, -1.0), (-0.5, -1.0)])
def test_correlation_of_a_scaled_picture_is_the_sign(factor: float, expected: float) -> None:
    statistics = looks(lambda a: factor * a + 0.1)
    assert detectors.luminance_correlation(statistics["light_ab"]) == pytest.approx(expected, abs=1e-5)


def test_correlation_of_unrelated_pictures_is_near_zero() -> None:
    real, other = pictures(20, seed=1), pictures(20, seed=3)
    statistics = mean_of([(a[None], a[None], b[None]) for a, b in zip(real, other, strict=True)])
    found = detectors.luminance_correlation(statistics["light_ab"])
    assert found is not None
    assert abs(found) < 0.3


def test_a_flat_crop_hardly_counts() -> None:
    """Half of the crops are sky, whose faint noise has nothing to do with that of the translation."""
    sharp, sky, noise = pictures(10, seed=1), 0.01 * pictures(10, seed=2), 0.01 * pictures(10, seed=3)
    statistics = mean_of(
        [pair for a, s, n in zip(sharp[:, None], sky[:, None], noise[:, None], strict=True)
         for pair in ((a, a, a), (s, s, n))]
    )  # fmt: skip
    assert detectors.luminance_correlation(statistics["light_ab"]) == pytest.approx(1, abs=0.01)


def test_correlation_says_nothing_of_flat_translations() -> None:
    assert detectors.luminance_correlation(looks(torch.zeros_like)["light_ab"]) is None


def test_change_is_a_share_of_the_full_range() -> None:
    assert looks(lambda a: a + 0.1)["change_ab"].item() == pytest.approx(0.05, rel=1e-4)


# ---------------------------------------------------------------------------------------------- variation


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 1.0), (0.5, 0.5), (0.0, 0.0)])
def test_variation_is_the_ratio_of_standard_deviations(factor: float, expected: float) -> None:
    """Against pictures of the target with the same spread as the sources: then the ratio is the factor."""
    real = pictures(20, seed=1)
    statistics = mean_of([(a[None], a[None], factor * a[None] + 0.2) for a in real])
    assert detectors.variation(statistics, "ab") == pytest.approx(expected, abs=1e-3)


def test_alike_targets_allow_alike_translations() -> None:
    sources, night = pictures(20, seed=1), 0.1 * pictures(20, seed=2)
    statistics = mean_of([(a[None], b[None], 0.1 * a[None]) for a, b in zip(sources, night, strict=True)])
    found = detectors.variation(statistics, "ab")
    assert found == pytest.approx(1, abs=0.3)


def test_variation_says_nothing_where_all_real_pictures_are_alike() -> None:
    same = pictures(1)
    assert detectors.variation(mean_of([(same, same, same)] * 20), "ab") is None


# ---------------------------------------------------------------------------------------------- checkerboard


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("size", [64, 200])
def test_power_of_a_sinusoid_is_its_variance(place: int, size: int) -> None:
    """A Hann window spreads a frequency over exactly 3 x 3 bins, so that all of the variance is around the point."""
    vertical, horizontal = (quarter / 4 for quarter in detectors.GRID_POINTS[place])
    y, x = torch.arange(size)[:, None], torch.arange(size)[None]
    wave = 0.1 * torch.cos(2 * math.pi * (vertical * y + horizontal * x) + 0.3)
    (powers,) = detectors.grid_powers(wave[None, None])
    twice = detectors._TWICE[place].item()  # where the other half lies at the mirrored frequency
    assert (powers[place, 0] * 9 * twice).item() == pytest.approx(wave[:64, :64].var(correction=0).item(), rel=2e-3)
    assert powers[place, 1:].max() < 1e-8
    others = [other for other in range(9) if other != place]
    assert powers[others].max() < 1e-8


def grid(amplitude: float, size: int = 64) -> Tensor:
    """What a transposed convolution leaves on grey: every other row and column is lighter."""
    line = amplitude * (-1.0) ** torch.arange(size)
    return (line[:, None] + line[None] + line[:, None] * line[None])[None, None]


def test_a_grid_stands_out() -> None:
    found = detectors.checkerboard(looks(lambda a: a + grid(0.05)), "ab")
    assert found is not None
    assert found > 12


def test_no_grid_in_pictures_smooth_or_noisy() -> None:
    noise = torch.Generator().manual_seed(5)
    for translate in (
        lambda a: a,
        lambda a: F.avg_pool2d(F.pad(a, (1, 1, 1, 1), "reflect"), 3, 1),
        lambda a: a + 0.2 * torch.randn(a.shape, generator=noise),
    ):
        found = detectors.checkerboard(looks(translate), "ab")
        assert found is not None
        assert found < 3


def test_strokes_of_one_direction_are_no_grid() -> None:
    """A hatching with a period of 4 px, as in the quickstart's paintings: as strong as a grid, but at one point."""
    y = torch.arange(64)[:, None].expand(64, 64)
    strokes = detectors.checkerboard(looks(lambda a: a + 0.03 * torch.cos(math.pi / 2 * y)), "ab")
    crossed = detectors.checkerboard(looks(lambda a: a + grid(0.03)), "ab")
    assert strokes is not None
    assert crossed is not None
    assert strokes < 4
    assert crossed > 6


def test_a_grid_that_real_pictures_have_too_is_none() -> None:
    real_a, real_b = pictures(20, seed=1), pictures(20, seed=2) + grid(0.03)
    statistics = mean_of([(a[None], b[None], a[None] + grid(0.03)) for a, b in zip(real_a, real_b, strict=True)])
    found = detectors.checkerboard(statistics, "ab")
    assert found is not None
    assert found < 3


def test_a_grid_that_nobody_sees_is_none() -> None:
    """On a smooth picture a tenth of a grey level stands out in the spectrum, but not to the eye."""
    grey = torch.zeros(1, 3, 64, 64)
    assert detectors.checkerboard(mean_of([(grey, pictures(1), grey + grid(0.1 / 127.5))] * 20), "ab") == 0


def test_small_images_tell_nothing_of_grids() -> None:
    assert detectors.checkerboard(looks(lambda a: a, size=24), "ab") is None


@pytest.mark.parametrize(("upsample", "has_grid"), [("transpose", True), ("resize", False)])
def test_fresh_generators_by_their_upsampling(upsample: str, has_grid: bool) -> None:
    """Odena et al. 2016: uneven overlap leaves a grid before anything is learned; resize-convolutions leave none."""
    torch.manual_seed(0)
    config = GeneratorConfig(filters=8, blocks=1, upsample=upsample, init="xavier", init_gain=1.0)  # type: ignore[arg-type]
    generator: nn.Module = build_generator(config, 3).eval()
    with torch.no_grad():
        found = detectors.checkerboard(looks(generator), "ab")
    assert found is not None
    assert (found > 6) == has_grid, found


# ---------------------------------------------------------------------------------------------- on the whole


def test_a_look_takes_any_number_of_images_and_channels() -> None:
    for channels, count in ((1, 1), (3, 6), (5, 2)):
        real = pictures(count, 40, channels=channels)
        found = detectors.statistics({"a": real, "b": real}, {"ba": -real})
        assert set(found) == {f"{kind}_{side}" for kind in ("thumbnail", "thumbnail_square", "grid")
                              for side in ("a", "b", "ba")} | {"light_ba", "change_ba"}  # fmt: skip
        assert all(each.ndim == 1 and each.dtype == torch.float32 for each in found.values())


def test_a_look_leaves_gradients_and_random_states_alone() -> None:
    before = torch.get_rng_state()
    real = pictures(1).requires_grad_()
    found = detectors.statistics({"a": real, "b": real}, {"ab": real})
    assert not any(each.requires_grad for each in found.values())
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_images_are_measured_in_full() -> None:
    real = pictures(1)
    found = detectors.statistics({"a": real, "b": real}, {"ab": -real.bfloat16()})
    assert detectors.luminance_correlation(found["light_ab"]) == pytest.approx(-1, abs=1e-3)
