"""Pictures in bands: the result of the whole picture at once, for every generator; maps in memory and in a file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cyclestyle.errors import CyclestyleError
from cyclestyle.inference import feature_maps
from cyclestyle.inference.feature_maps import ChunkStore, FeatureMap
from cyclestyle.inference.tiling import rows_a_band, translate_tiled
from cyclestyle.networks.attention import SelfAttention
from cyclestyle.networks.resnet_generator import ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator

CPU = torch.device("cpu")
# In [-1, 1]; a hundredth of one of 255 steps.
HUNDREDTH = 0.01 * 2 / 255


def prepared(generator: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In evaluation mode, with batch norms that have seen something, and outputs that fill the range."""
    for layer in generator.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0.0, 0.3)
            layer.running_var.uniform_(0.5, 2)
            nn.init.normal_(layer.weight, 1.0, 0.3)
            nn.init.normal_(layer.bias, 0.0, 0.3)
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in" if isinstance(layer, nn.Conv2d) else "fan_out")
        elif isinstance(layer, SelfAttention):
            nn.init.constant_(layer.gamma, 0.8)  # at 0 it would be an identity
    return generator.eval().to(dtype).to(memory_format=torch.channels_last)


def uneven(height: int, width: int, channels: int = 3) -> Tensor:
    """A picture whose parts have different means and contrasts, so that a band's own statistics are wrong."""
    rows, columns = torch.linspace(-0.9, 0.7, height)[:, None], torch.linspace(-0.3, 0.4, width)
    noise = torch.randn(1, channels, height, width) * torch.linspace(0.02, 0.4, height)[:, None]
    return (rows + columns + noise).clamp(-1, 1).contiguous(memory_format=torch.channels_last)


def whole(generator: nn.Module, picture: Tensor) -> Tensor:
    with torch.inference_mode():
        result: Tensor = generator(picture.to(next(generator.parameters()).dtype))
    assert result.std() > 0.05, "a flat result would hide everything"
    return result


def in_bands(generator: nn.Module, picture: Tensor, tile: int = 16, **options: Any) -> Tensor:
    height, width = picture.shape[2:]
    result = torch.full_like(picture, torch.nan, dtype=torch.float64)
    next_row = 0

    def read(lo: int, hi: int) -> Tensor:
        assert 0 <= lo < hi <= height
        return picture[:, :, lo:hi].clone()

    def write(lo: int, rows: Tensor) -> None:
        nonlocal next_row
        assert lo == next_row
        next_row += rows.shape[2]
        result[:, :, lo:next_row] = rows

    translate_tiled(generator, read, write, height, width, tile=tile, device=CPU, **options)
    assert next_row == height
    return result


def assert_exact(generator: nn.Module, picture: Tensor, tile: int = 16) -> None:
    difference = (whole(generator, picture) - in_bands(generator, picture, tile)).abs().max()
    assert difference < 1e-10


@pytest.mark.parametrize("padding", ["reflect", "zero", "replicate"])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("upsample", ["transpose", "resize", "subpixel"])
def test_resnet(upsample: Any, norm: Any, padding: Any) -> None:
    generator = ResnetGenerator(3, 6, blocks=2, norm=norm, upsample=upsample, padding=padding, dropout=0.5)
    assert_exact(prepared(generator), uneven(68, 36))


@pytest.mark.parametrize(
    ("size", "tile", "blocks"),
    [
        ((68, 36), 16, 2),  # maps of 17 x 9 places: attention sees them as they are
        ((180, 148), 24, 1),  # 45 x 37: the averages of neighbours overlap
        ((256, 64), 40, 3),  # 64 x 16: pairs of rows
        ((20, 136), 16, 1),  # wide; a last band of four rows
        ((148, 16), 16, 0),
    ],
)
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize(
    "options",
    [{"antialias": True, "upsample": "resize"}, {"attention": True}, {"antialias": True, "attention": True}],
    ids="+".join,
)
def test_antialias_and_attention(options: Any, norm: Any, size: tuple[int, int], tile: int, blocks: int) -> None:
    assert_exact(prepared(ResnetGenerator(3, 8, blocks, norm=norm, **options)), uneven(*size), tile)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("upsample", ["transpose", "resize", "subpixel"])
def test_unet(upsample: Any, norm: Any, depth: int) -> None:
    generator = UnetGenerator(3, 4, depth=depth, norm=norm, upsample=upsample, dropout=0.5)
    assert_exact(prepared(generator), uneven(5 * 16, 32))


def test_unet_with_dropout_in_the_middle_and_rows_of_one_pixel_at_the_bottom() -> None:
    generator = prepared(UnetGenerator(1, 2, depth=6, dropout=0.5))
    assert_exact(generator, uneven(3 * 64, 64, 1))


@pytest.mark.parametrize(
    ("height", "width", "tile"),
    [
        (16, 16, 16),  # one band
        (20, 16, 16),  # a last band of four rows: one at a quarter of the size
        (40, 24, 512),  # smaller than a tile
        (100, 16, 24),
        (16, 400, 16),  # very wide: bands cannot be narrower than 16 rows
        (36, 400, 40),
        (400, 16, 16),  # very tall
    ],
)
def test_sizes(height: int, width: int, tile: int) -> None:
    assert_exact(prepared(ResnetGenerator(3, 4, blocks=1)), uneven(height, width), tile)


@pytest.mark.parametrize(("channels", "blocks"), [(1, 6), (5, 1), (3, 9)])
def test_channels_and_blocks(channels: int, blocks: int) -> None:
    assert_exact(prepared(ResnetGenerator(channels, 3, blocks=blocks)), uneven(36, 32, channels))


@pytest.mark.parametrize("tile", [16, 32, 64])
def test_fp32_differs_by_rounding_only(tile: int) -> None:
    generator = prepared(ResnetGenerator(3, 8, blocks=6), torch.float32)
    picture = uneven(100, 64)
    assert (whole(generator, picture) - in_bands(generator, picture, tile)).abs().max() < HUNDREDTH


@pytest.mark.parametrize(
    "make",
    [
        lambda: ResnetGenerator(3, 8, blocks=3),
        lambda: ResnetGenerator(3, 8, blocks=3, antialias=True, attention=True),
        lambda: UnetGenerator(3, 8, depth=3),
    ],
)
def test_bf16_is_no_farther_from_the_truth_than_the_whole_picture_at_once(make: Callable[[], nn.Module]) -> None:
    generator, picture = prepared(make(), torch.bfloat16), uneven(100, 64)[:, :, :96]
    at_once = whole(generator, picture)
    bands = in_bands(generator, picture, 32)
    truth = whole(generator.double(), picture)
    assert (bands - truth).abs().mean() < 1.05 * (at_once - truth).abs().mean()


@pytest.mark.parametrize("options", [{}, {"antialias": True, "attention": True}])
def test_the_ends_may_stay_in_fp32(options: Any) -> None:
    generator = prepared(ResnetGenerator(3, 8, blocks=1, **options), torch.float32)
    picture = uneven(48, 32)
    truth = whole(generator, picture)
    convolutions = [m for m in generator.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    for convolution in convolutions[1:-1]:
        convolution.to(torch.bfloat16)
    assert (in_bands(generator, picture) - truth).abs().mean() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: ResnetGenerator(3, 8, blocks=2),
        lambda: ResnetGenerator(3, 8, blocks=2, antialias=True, attention=True),
        lambda: UnetGenerator(3, 8, depth=3),
    ],
)
def test_maps_in_a_file_give_the_same_bits(make: Callable[[], nn.Module], dtype: torch.dtype, tmp_path: Path) -> None:
    generator, picture = prepared(make(), dtype), uneven(72, 32)
    kept = in_bands(generator, picture)
    assert torch.equal(kept, in_bands(generator, picture, memory_limit=0, scratch=tmp_path))
    assert not list(tmp_path.iterdir())


def test_part_of_the_maps_in_a_file_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    generator, picture = prepared(ResnetGenerator(3, 8, blocks=2), torch.float32), uneven(96, 32)
    kept = in_bands(generator, picture)
    files: list[int] = []

    class Watched(ChunkStore):
        def __exit__(self, *error: Any) -> None:
            files.append(self.file_bytes)
            super().__exit__(*error)

    monkeypatch.setattr("cyclestyle.inference.tiling.ChunkStore", Watched)
    # x and y together, or the map of half the size: 48 x 16 x 16 values.
    maps = 4 * 48 * 16 * 16
    for budget in (0, maps // 2, maps):
        monkeypatch.setattr("cyclestyle.inference.tiling.map_budget", lambda *_, budget=budget: budget)
        assert torch.equal(kept, in_bands(generator, picture))
    everything, half, nothing = files
    assert maps <= everything <= 1.5 * maps
    assert 0 < half <= everything - maps // 2
    assert nothing == 0


@pytest.mark.parametrize("options", [{}, {"antialias": True}, {"attention": True}])
@pytest.mark.parametrize("blocks", [1, 2])
def test_maps_are_freed_as_they_are_used(options: Any, blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never more than the half-size map and one chunk of the other size."""
    most = 0
    held = 0

    class Counted(ChunkStore):
        def keep(self, chunk: Tensor) -> Any:
            nonlocal held, most
            held += chunk.numel()
            most = max(most, held)
            return super().keep(chunk)

        def forget(self, place: Any) -> None:
            nonlocal held
            held -= place.shape.numel()
            super().forget(place)

    monkeypatch.setattr("cyclestyle.inference.tiling.ChunkStore", Counted)
    generator, picture = prepared(ResnetGenerator(3, 8, blocks=blocks, **options)), uneven(256, 16)
    in_bands(generator, picture)
    half_map, chunk = 128 * 8 * 16, 8 * 8 * 16
    assert half_map <= most <= half_map + chunk
    assert held == 0


def test_unwritable_scratch(tmp_path: Path) -> None:
    generator = prepared(ResnetGenerator(3, 4, blocks=1))
    with pytest.raises(CyclestyleError, match=r"nowhere: No such file or directory.*TMPDIR") as caught:
        in_bands(generator, uneven(32, 16), memory_limit=0, scratch=tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_full_scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def seek(self, offset: int) -> None: ...
        def close(self) -> None: ...
        def write(self, data: memoryview) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_maps.tempfile, "TemporaryFile", lambda **_: Full())
    with pytest.raises(CyclestyleError, match=r"No space left on device.*needed.*TMPDIR"):
        in_bands(prepared(ResnetGenerator(3, 4, blocks=1)), uneven(32, 16), memory_limit=0, scratch=tmp_path)


def test_files_may_take_and_give_less_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux does beyond 2 GB."""

    class Short:
        def __init__(self) -> None:
            self.file = io.BytesIO()
            self.seek, self.close = self.file.seek, self.file.close

        def write(self, data: memoryview) -> int:
            return self.file.write(data[:100])

        def readinto(self, data: memoryview) -> int:
            return self.file.readinto(data[:70])

    monkeypatch.setattr(feature_maps.tempfile, "TemporaryFile", lambda **_: Short())
    with ChunkStore(CPU, 0) as store:
        chunk = torch.randn(1, 4, 4, 30).bfloat16()
        place = FeatureMap(store)
        place.put(0, chunk)
        assert torch.equal(place.get(0), chunk)


def test_the_scratch_file_uses_freed_space_again(tmp_path: Path) -> None:
    with ChunkStore(CPU, 0, None, tmp_path) as store:
        large, small = FeatureMap(store), FeatureMap(store)
        chunks = [torch.randn(1, 4, 4, 3) for _ in range(3)]
        for index, chunk in enumerate(chunks):
            large.put(index, chunk)
        size = store.file_bytes
        assert size == 3 * 4 * 4 * 3 * 4
        assert torch.equal(large.take(1), chunks[1])
        small.put(0, chunks[0][:, :, :2])
        small.put(1, chunks[1][:, :, 2:])
        assert torch.equal(small.take(0), chunks[0][:, :, :2])
        assert torch.equal(small.take(1), chunks[1][:, :, 2:])
        large.put(1, chunks[2])
        assert store.file_bytes == size
        for index in (0, 2):
            assert torch.equal(large.get(index), chunks[index])


@pytest.mark.parametrize(
    ("tile", "width", "stride", "rows"),
    [(512, 512, 4, 512), (512, 6016, 4, 44), (16, 6016, 4, 16), (512, 100, 4, 2620), (512, 6016, 256, 256)],
)
def test_rows_a_band(tile: int, width: int, stride: int, rows: int) -> None:
    assert rows_a_band(tile, width, stride) == rows
