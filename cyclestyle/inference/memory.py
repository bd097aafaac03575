"""What a translation takes in memory, told before it starts, and what there is.

The constants were measured (peak resident memory on the CPU, 1024 x 1024 and 1536 x 1024 pixels, 32 and 64 filters) and
rounded up. Their unit is the first feature map of the picture: height x width x filters values.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from cyclestyle.devices import free_memory
from cyclestyle.inference.windows import rows_a_band
from cyclestyle.networks.layers import ResizeConv, SubpixelConv
from cyclestyle.networks.resnet_generator import ResnetGenerator

# Whole at once: input and output of the layer that needs most, and what oneDNN sets aside; (fp32, half precision).
# With resize that is the doubled map before its convolution, which has twice the channels: as such, padded, reordered.
_RESNET_WHOLE = {"transpose": (2.3, 3.6), "resize": (6.0, 6.3), "subpixel": (2.8, 3.4)}
# With antialias, whatever the upsampling: before the first blur norm, ReLU and padding, each with twice the channels
# at full size (6.5 was seen in fp32; half precision has the same tensors).
_BLURRED_WHOLE = (7.0, 7.5)
_UNET_WHOLE = {"transpose": (1.5, 2.4), "resize": (5.4, 5.8), "subpixel": (1.9, 2.4)}

# In bands: x and y at a quarter of the size, or one map at half of it, or the skips of a U-Net: half a unit each.
_MAPS = 0.5
# Everything else lives as long as a band; in units of a band. 9 to 15 were seen, allocator included.
_BANDS = 14
# With antialias: 13 to 15 where 7 to 10 were seen without.
_BLURRED_BANDS = 20

# A limit is to be kept, not met on average: the output that fills up meanwhile, holes between chunks.
_SAFETY = 1.5

# And this part of the limit, whatever the bands: 96 megapixels went 2 to 3% beyond theirs.
_HOLES = 16

_TILES = (512, 256, 128)
# Bytes left alone: other programs, and what forecasts do not see.
_RESERVE = 2**29


def forecast_whole(generator: nn.Module, height: int, width: int) -> int:
    """Bytes that `generator(image)` takes at its peak, beyond weights and the image."""
    table = _RESNET_WHOLE if isinstance(generator, ResnetGenerator) else _UNET_WHOLE
    full, half = _BLURRED_WHOLE if _is_blurred(generator) else table[_upsample_name(generator)]
    narrow, wide = _value_sizes(generator)
    values = height * width * _filters(generator)
    # The ends of the network may compute in fp32 while the rest is in half precision.
    return int(values * max((half if narrow < 4 else full) * narrow, full * wide))


def forecast_tiled(generator: nn.Module, height: int, width: int, tile: int) -> int:
    """Bytes that `tiling.translate_tiled` takes at its peak when it writes nothing to a file, beyond weights."""
    rows = rows_a_band(tile, width, generator.stride)  # type: ignore[arg-type]  # every generator has it
    maps = _MAPS * height * width * _filters(generator) * _value_sizes(generator)[0]
    return int(maps) + bytes_of_bands(generator, width, min(rows, height))


def bytes_of_bands(generator: nn.Module, width: int, rows: int) -> int:
    """Bytes beside the maps that are kept, for bands of `rows` rows."""
    bands = _BLURRED_BANDS if _is_blurred(generator) else _BANDS
    return bands * rows * width * _filters(generator) * _value_sizes(generator)[1]


def available(device: torch.device) -> int:
    """Bytes that can still be taken on `device`."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free_memory()


def choose_tile(
    generator: nn.Module, height: int, width: int, device: torch.device, memory_limit: int | None
) -> int | None:
    """The tile to translate with: None (the whole picture at once) if that fits, else the largest that does.

    If none fits without a file, the largest whose bands leave most of the room to the maps.
    """
    room = max(0, available(device) - _RESERVE)
    if memory_limit is not None:
        room = min(room, memory_limit - taken(device))
    if forecast_whole(generator, height, width) <= room:
        return None
    for tile in _TILES:
        if forecast_tiled(generator, height, width, tile) <= room:
            return tile
    stride: int = generator.stride  # type: ignore[assignment]
    for tile in _TILES:
        if 3 * bytes_of_bands(generator, width, rows_a_band(tile, width, stride)) <= room:
            return tile
    return _TILES[-1]


def taken(device: torch.device) -> int:
    """Bytes that this process holds: of the GPU's memory, or resident (0 where the system does not tell)."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return 0


def return_freed() -> None:
    """Give freed memory back to the system where the C library (glibc) would keep it, and so count as ours."""
    if _TRIM is not None:
        _TRIM(0)


def _find_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return None


_TRIM = _find_trim()


def default_limit(device: torch.device) -> int:
    """Bytes that this process may reach where nobody set a limit: what it holds and what is free, less a reserve."""
    return taken(device) + max(0, available(device) - _RESERVE)


def map_budget(
    generator: nn.Module, width: int, rows: int, device: torch.device, memory_limit: int | None
) -> int | None:
    """Bytes of maps that may be kept on the device, for bands of `rows` rows; None: no limit."""
    if memory_limit is None:
        return None
    return_freed()  # what an earlier picture left would count
    # Narrow bands weigh more: halos of the widest convolution, three rows on each side.
    bands = bytes_of_bands(generator, width, rows + 6)
    return max(0, memory_limit - memory_limit // _HOLES - taken(device) - int(_SAFETY * bands))


def host_budget() -> int:
    """Bytes of maps that a GPU may still move to the processor's memory."""
    return max(0, available(torch.device("cpu")) - _RESERVE)


def _filters(generator: nn.Module) -> int:
    return next(layer.out_channels for layer in generator.modules() if isinstance(layer, nn.Conv2d))


def _value_sizes(generator: nn.Module) -> tuple[int, int]:
    """Bytes a value: of the narrowest and of the widest convolution."""
    sizes = [layer.weight.element_size() for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    return min(sizes), max(sizes)


def _is_blurred(generator: nn.Module) -> bool:
    return isinstance(generator, ResnetGenerator) and generator.antialias


def _upsample_name(generator: nn.Module) -> str:
    names = {ResizeConv: "resize", SubpixelConv: "subpixel"}
    return next((names[type(layer)] for layer in generator.modules() if type(layer) in names), "transpose")
