"""The sliced Wasserstein distance: by hand, scipy's filters and 1-D distance as references, what raises which level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.errors import DataError
from cyclestyle.evaluation.sliced import _enlarge, _patches, _wasserstein, laplacian_pyramid, sliced_wasserstein


def textures(num: int, size: int = 64, *, seed: int, width: int | None = None) -> Tensor:
    """Pictures with structure at all scales: noise at 4, 8, .. px laid over each other."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(num, 3, size, width or size)
    cells = 4
    while cells <= size:
        noise = torch.randn(num, 3, cells, cells, generator=random)
        total += torch.nn.functional.interpolate(noise, total.shape[2:], mode="bilinear") * (2.0 / cells) ** 0.5
        cells *= 2
    return (0.4 * total).clamp(-1, 1)


def pyramid_by_scipy(image: np.ndarray, num_levels: int) -> list[np.ndarray]:
    """As in Karras's code: one 5 x 5 filter, mirrored borders; zeros between samples on the way up."""
    ndimage = pytest.importorskip("scipy.ndimage", reason="scipy's filters are the reference")
    taps = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(taps, taps)
    levels = [image]
    for _ in range(num_levels - 1):
        smaller = ndimage.convolve(levels[-1], kernel, mode="mirror")[::2, ::2]
        spread = np.zeros_like(levels[-1])
        spread[::2, ::2] = smaller
        levels[-1] = levels[-1] - ndimage.convolve(spread, 4 * kernel, mode="mirror")
        levels.append(smaller)
    return levels


@pytest.mark.parametrize("size", [(32, 32), (37, 50), (16, 23)])
def test_pyramid_equals_scipys_filters(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64) * 2 - 1
    pyramid = laplacian_pyramid(images, 4)
    assert all(level.dtype == torch.float32 for level in pyramid)
    for index in np.ndindex(2, 3):
        expected = pyramid_by_scipy(images[index].numpy(), 4)
        for level, plain in zip(pyramid, expected, strict=True):
            assert level[index].shape == plain.shape
            assert np.abs(level[index].numpy() - plain).max() < 1e-6


def test_pyramid_gives_the_pictures_back_and_nothing_for_flat_ones() -> None:
    images = torch.rand(2, 3, 45, 38) * 2 - 1
    pyramid = laplacian_pyramid(images, 4)
    current = pyramid[-1]
    for level in reversed(pyramid[:-1]):
        current = level + _enlarge(current, *level.shape[2:])
    assert torch.allclose(current, images, atol=1e-6)
    *details, rest = laplacian_pyramid(torch.full((1, 1, 45, 38), 0.3), 4)
    assert all(level.abs().max() < 1e-6 for level in details)
    assert torch.allclose(rest, torch.tensor(0.3))
    assert torch.equal(laplacian_pyramid(images, 1)[0], images)


def test_one_dimension_by_hand() -> None:
    """Pictures of one value each, patches of one pixel: projections are the values themselves, or their negatives."""
    x = torch.tensor([-0.5, 0.5])
    y = torch.tensor([0.0, 0.0, 0.6])
    # Normalised: x is -1, 1; y has mean 0.2 and standard deviation sqrt(0.08): -0.7071, -0.7071, 1.4142.
    # In sixths: x -1 -1 -1 1 1 1 against y -.7071 -.7071 -.7071 -.7071 1.4142 1.4142.
    root = 2**0.5
    expected = (3 * (1 - root / 2) + (1 + root / 2) + 2 * (root - 1)) / 6
    one_value = [v[:, None, None, None].expand(-1, 1, 16, 16) for v in (x, y)]
    for first, second in (one_value, one_value[::-1]):
        distances = sliced_wasserstein(first, second, patch_size=1, num_patches=4, num_projections=3)
        assert distances == {16: pytest.approx(1000 * expected, rel=1e-5)}


def test_projections_of_whole_pictures() -> None:
    """One patch that is the whole picture: the mean over many directions, computed plainly with other directions."""
    x, y = textures(6, 16, seed=1), textures(6, 16, seed=2).square()
    flat = []
    for images in (x, y):
        values = images.double().numpy()
        values = (values - values.mean((0, 2, 3), keepdims=True)) / values.std((0, 2, 3), keepdims=True)
        flat.append(values.reshape(6, -1))
    directions = np.random.default_rng(0).normal(size=(flat[0].shape[1], 4000))
    directions /= np.sqrt((directions**2).sum(0))
    expected = np.abs(np.sort(flat[0] @ directions, axis=0) - np.sort(flat[1] @ directions, axis=0)).mean()
    ours = sliced_wasserstein(x, y, patch_size=16, num_patches=1, num_projections=4000)
    assert ours == {16: pytest.approx(1000 * expected, rel=0.05)}


@pytest.mark.parametrize("sizes", [(12, 12), (12, 36), (40, 8), (9, 14), (200, 301)])
def test_quantiles_of_unequal_numbers(sizes: tuple[int, int]) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy's distance is the reference")
    random = np.random.default_rng(1)
    x, y = random.normal(size=(3, sizes[0])), random.normal(1.0, 2.0, size=(3, sizes[1]))
    for ours, row_x, row_y in zip(_wasserstein(x.copy(), y.copy()), x, y, strict=True):
        assert ours == pytest.approx(stats.wasserstein_distance(row_x, row_y), rel=1e-9)


def test_patches_are_squares_of_neighbours() -> None:
    """Pictures that hold their own coordinates: each patch is a 7 x 7 grid of one picture, all places are reached."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(19.0), indexing="ij")
    images = torch.stack([torch.stack([rows, columns, torch.full_like(rows, number)]) for number in range(5)])
    places = torch.rand(2, 5, 2000, generator=torch.Generator().manual_seed(2))
    patches = _patches(images, places, 7)  # (5 * 2000) x 3 x 49
    assert patches.shape == (10_000, 3, 49)
    inside = torch.arange(49)
    assert torch.equal(patches[:, 0], patches[:, 0, :1] + inside // 7)
    assert torch.equal(patches[:, 1], patches[:, 1, :1] + inside % 7)
    assert torch.equal(patches[:, 2], torch.arange(5.0).repeat_interleave(2000)[:, None].expand(-1, 49))
    assert patches[:, 0, 0].unique().tolist() == list(range(16 - 6))
    assert patches[:, 1, 0].unique().tolist() == list(range(19 - 6))


def test_identity_and_symmetry() -> None:
    x, y = textures(24, seed=3), textures(24, seed=4).square()
    assert sliced_wasserstein(x, x) == {64: 0.0, 32: 0.0, 16: 0.0}
    forth, back = sliced_wasserstein(x, y), sliced_wasserstein(y, x)
    assert list(forth) == [64, 32, 16]
    for size, value in forth.items():
        assert value > 5
        assert back[size] == pytest.approx(value, rel=1e-6)
    # The order of pictures moves patches, not what they are drawn from.
    shuffled = sliced_wasserstein(x, x.flip(0))
    assert all(0 < shuffled[size] < 0.5 * forth[size] for size in forth)


def test_shift_and_gain_are_not_seen() -> None:
    """As in the paper each set is normalised on its own; colours and contrast are left to FID and KID."""
    x = textures(6, seed=5)
    channels = torch.tensor([0.5, 0.6, 0.9])[:, None, None]
    assert max(sliced_wasserstein(x, x * channels + 0.1).values()) < 0.1
    # Flat pictures have no structure: nothing is divided by zero, nor rounding blown up.
    flat = torch.full((4, 3, 64, 64), 0.3)
    assert max(sliced_wasserstein(flat, flat * 0.77 + 0.1).values()) < 10


def blurred(images: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)


def raised(x: Tensor, changed: Tensor, reference: Tensor) -> list[float]:
    """By how much each level's distance to `reference` grows, finest first."""
    before, after = sliced_wasserstein(x, reference), sliced_wasserstein(changed, reference)
    return [after[size] - before[size] for size in before]


def test_blur_raises_the_finest_level_most() -> None:
    x, reference = textures(16, seed=6), textures(16, seed=7)
    fine, middle, coarse = raised(x, blurred(x), reference)
    assert fine > 3 * middle > 0
    assert fine > 3 * abs(coarse)


def test_grain_raises_the_finest_level_most_and_light_the_coarsest() -> None:
    x, reference = blurred(textures(16, seed=8)), blurred(textures(16, seed=9))
    grain = x + 0.1 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    fine, middle, coarse = raised(x, grain, reference)
    assert fine > 3 * max(middle, coarse)
    lit = x + 0.6 * torch.cos(torch.linspace(0, torch.pi, 64))  # from the left, in each picture
    fine, middle, coarse = raised(x, lit, reference)
    assert coarse > 3 * max(fine, middle)


def test_unequal_numbers_and_shapes() -> None:
    x, y = textures(12, seed=10), textures(5, seed=11, width=90)
    for first, second in ((x, y), (y, x)):
        distances = sliced_wasserstein(first, second)
        assert list(distances) == [64, 32, 16]
        assert 0 < max(distances.values()) < 300
    # Sets of one kind are nearer than those of two, whatever their numbers.
    near = sliced_wasserstein(textures(24, seed=3), textures(16, seed=12))
    far = sliced_wasserstein(textures(24, seed=3).square(), textures(16, seed=12))
    assert all(near[size] < 0.75 * far[size] for size in near)


def test_more_pictures_than_go_through_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = textures(9, seed=13), textures(7, seed=14)
    whole = sliced_wasserstein(x, y)
    monkeypatch.setattr("cyclestyle.evaluation.sliced._IMAGES_AT_ONCE", 2)
    monkeypatch.setattr("cyclestyle.evaluation.sliced._PROJECTIONS_AT_ONCE", 100)
    parts = sliced_wasserstein(x, y)
    assert parts == {size: pytest.approx(value, rel=1e-6) for size, value in whole.items()}


def test_a_seed_fixes_it_on_any_number_of_threads_and_changes_nothing_else() -> None:
    x, y = textures(4, seed=15), textures(4, seed=16)
    torch.manual_seed(1)
    np.random.seed(1)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = sliced_wasserstein(x, y)
    torch.rand(1)
    torch.set_rng_state(before)
    threads = torch.get_num_threads()
    try:
        for other in (2, 3):
            torch.set_num_threads(other)
            assert sliced_wasserstein(x, y) == {size: pytest.approx(v, rel=1e-6) for size, v in first.items()}
    finally:
        torch.set_num_threads(threads)
    assert sliced_wasserstein(x, y) == first
    assert sliced_wasserstein(x, y, seed=1) != first
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], before_numpy)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_dtype(dtype: torch.dtype) -> None:
    x, y = textures(4, seed=17).to(dtype), textures(4, seed=18).to(dtype)
    expected = sliced_wasserstein(x.float(), y.float())
    assert sliced_wasserstein(x.requires_grad_(), y) == expected


def test_levels() -> None:
    grey = torch.rand(2, 1, 70, 61) * 2 - 1
    assert list(sliced_wasserstein(grey, grey)) == [61, 31, 16]
    assert list(sliced_wasserstein(grey, grey, num_levels=1)) == [61]
    assert list(sliced_wasserstein(grey, grey, patch_size=20)) == [61, 31]
    assert list(sliced_wasserstein(grey[..., :16], grey[..., :16])) == [16]


def test_errors() -> None:
    x = torch.zeros(2, 3, 32, 40)
    with pytest.raises(DataError, match="needs 16 px on the shorter side of the coarsest, got 15"):
        sliced_wasserstein(x[:, :, :15], x[:, :, :15])
    with pytest.raises(DataError, match=r"over 3 level.* got 8 .pictures of 32"):
        sliced_wasserstein(x, x, num_levels=3)
    with pytest.raises(DataError, match="equal channels, got 3 and 1"):
        sliced_wasserstein(x, x[:, :1])
    with pytest.raises(DataError, match="shorter sides of 32 and 30 px"):
        sliced_wasserstein(x, x[:, :, :30])
    with pytest.raises(DataError, match="got none"):
        sliced_wasserstein(x, x[:0])
    with pytest.raises(DataError, match="pictures of 40 x 32 px are too small for a pyramid of 7 levels"):
        laplacian_pyramid(x, 7)
