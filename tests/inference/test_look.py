"""How a translation is laid over its source: closed forms, and what must stay to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import cyclestyle
from cyclestyle.errors import ConfigError
from cyclestyle.inference.look import lay_over, resized, with_colors_of, work_shape
from cyclestyle.inference.options import Look


def pair(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    source, translated = torch.rand(2, 2, channels, 5, 7) * 2 - 1
    return source, translated


def test_it_is_found_at_the_top() -> None:
    assert cyclestyle.Look is Look


def test_strength_is_linear_and_exact_at_both_ends() -> None:
    source, translated = pair()
    assert torch.equal(lay_over(source, translated, Look(strength=0.0)), source)
    assert torch.equal(lay_over(source, translated, Look()), translated)
    torch.testing.assert_close(lay_over(source, translated, Look(strength=0.25)), 0.75 * source + 0.25 * translated)


def test_a_mask_leaves_the_source_to_the_bit_where_it_is_zero() -> None:
    source, translated = pair()
    weight = torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0]).expand(5, 7)
    found = lay_over(source, translated, Look(), weight)
    assert torch.equal(found[..., :3], source[..., :3])
    torch.testing.assert_close(found[..., 3], (source[..., 3] + translated[..., 3]) / 2)
    torch.testing.assert_close(found[..., 4:], translated[..., 4:])
    half = lay_over(source, translated, Look(strength=0.5), weight)
    torch.testing.assert_close(half[..., 4:], (source[..., 4:] + translated[..., 4:]) / 2)


def test_values_outside_are_clipped_before_they_are_mixed() -> None:
    found = lay_over(torch.zeros(1, 1, 1, 1), torch.full((1, 1, 1, 1), 3.0), Look(strength=0.5))
    assert found.item() == 0.5


def test_kept_colours_have_the_translations_luminance_and_the_sources_differences() -> None:
    source, translated = (part * 0.3 for part in pair())  # small, so that nothing is clipped
    found = with_colors_of(source, translated)
    matrix = torch.tensor(  # JFIF: Y, Cb, Cr of R, G, B
        [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
    )

    def ycc(images: torch.Tensor) -> torch.Tensor:
        return torch.einsum("kc,nchw->nkhw", matrix, images)

    torch.testing.assert_close(ycc(found)[:, 0], ycc(translated)[:, 0], rtol=0, atol=1e-6)
    torch.testing.assert_close(ycc(found)[:, 1:], ycc(source)[:, 1:], rtol=0, atol=1e-6)


def test_kept_colours_stay_in_range() -> None:
    found = with_colors_of(torch.ones(1, 3, 1, 1), torch.ones(1, 3, 1, 1) * 1.0)
    assert found.max() <= 1.0
    assert with_colors_of(*pair()).abs().max() <= 1.0


def test_grey_has_no_colours_to_keep() -> None:
    with pytest.raises(ConfigError, match=r"--keep-colors was given, but this translator has 1 channels"):
        lay_over(*pair(1), Look(keep_colors=True))


@pytest.mark.parametrize(
    ("size", "work_size", "expected"),
    [
        ((100, 200), None, (100, 200)),
        ((100, 200), 50, (50, 100)),
        ((200, 100), 50, (100, 50)),
        ((333, 100), 50, (166, 50)),  # 166.5 to even
        ((10, 20), 40, (40, 80)),
        ((1, 1000), 4, (4, 4000)),
        ((1000, 3), 1, (333, 1)),
    ],
)
def test_the_shorter_side_becomes_the_work_size(
    size: tuple[int, int], work_size: int | None, expected: tuple[int, int]
) -> None:
    assert work_shape(*size, work_size) == expected


def test_resizing_keeps_what_is_smooth() -> None:
    ramp = torch.linspace(-0.9, 0.9, 64).expand(1, 3, 48, 64)
    there = resized(ramp, 24, 32)
    assert there.shape == (1, 3, 24, 32)
    back = resized(there, 48, 64)
    np.testing.assert_allclose(back[..., 4:-4].numpy(), ramp[..., 4:-4].numpy(), atol=0.01)
    assert resized(ramp, 48, 64) is ramp


def test_shrinking_is_antialiased() -> None:
    stripes = torch.tensor([-1.0, 1.0]).repeat(32).expand(1, 1, 16, 64)
    assert resized(stripes, 4, 16)[..., 2:-2].abs().max() < 0.05


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": 1.5}, "--strength 1.5"),
        ({"strength": -0.1}, "--strength -0.1"),
        ({"strength": float("nan")}, "--strength nan"),
        ({"work_size": 0}, "--work-size 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Look(**options)  # type: ignore[arg-type]
