"""Forecasts of memory against what torch really allocates, and the tile that is chosen from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from cyclestyle.inference import memory
from cyclestyle.inference.memory import choose_tile, forecast_tiled, forecast_whole, map_budget
from cyclestyle.inference.tiling import translate_tiled
from cyclestyle.networks.resnet_generator import ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator

CPU = torch.device("cpu")
GIB = 2**30


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors alive that were made inside; `most` is their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = WeakIdKeyDictionary()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else [result]:
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                self.seen[storage] = storage.nbytes()
        self.most = max(self.most, sum(self.seen.values()))
        return result


def live_bytes(work: Callable[[], object]) -> int:
    with torch.no_grad(), LiveBytes() as live:
        work()
    return live.most


GENERATORS: list[tuple[str, Callable[[], nn.Module]]] = [
    *(
        (f"resnet-{name}", lambda name=name: ResnetGenerator(3, 16, blocks=1, upsample=name))
        for name in ("transpose", "resize", "subpixel")
    ),
    *(
        (f"resnet-{'-'.join(options)}", lambda options=options: ResnetGenerator(3, 16, blocks=1, **options))
        for options in ({"antialias": True}, {"attention": True}, {"antialias": True, "attention": True})
    ),
    *(
        (f"unet-{name}", lambda name=name: UnetGenerator(3, 16, depth=4, upsample=name))
        for name in ("transpose", "resize", "subpixel")
    ),
]


@pytest.mark.parametrize(("name", "make"), GENERATORS, ids=[name for name, _ in GENERATORS])
def test_forecasts_cover_the_tensors_alive(name: str, make: Callable[[], nn.Module]) -> None:
    """The forecasts also hold what the convolution library and the allocator take, which is not seen here."""
    generator, size = make().eval(), 128
    picture = torch.randn(1, 3, size, size)
    alive = live_bytes(lambda: generator(picture))
    assert alive <= forecast_whole(generator, size, size) <= 2.2 * alive

    def in_bands() -> None:
        translate_tiled(
            generator, lambda lo, hi: picture[:, :, lo:hi], lambda _, rows: None, size, size, tile=48, device=CPU
        )

    alive = live_bytes(in_bands)
    assert alive <= forecast_tiled(generator, size, size, 48)


def test_photograph_of_24_megapixels_fits_in_six_and_four_gib() -> None:
    generator = ResnetGenerator(3, 64, blocks=9)
    assert forecast_tiled(generator, 4016, 6016, 512) < 5 * GIB
    assert forecast_tiled(generator.bfloat16(), 4016, 6016, 512) < 3 * GIB
    assert forecast_whole(generator, 4016, 6016) > 8 * GIB


def test_ends_in_fp32_cost_more() -> None:
    generator = ResnetGenerator(3, 64, blocks=1).bfloat16()
    narrow = forecast_whole(generator, 512, 512)
    generator.model[1].float()
    generator.model[-2].float()
    assert forecast_whole(generator, 512, 512) > 1.2 * narrow


def test_choose_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda _: 8 * GIB)
    monkeypatch.setattr(memory, "taken", lambda _: GIB)
    generator = ResnetGenerator(3, 64, blocks=9)
    assert choose_tile(generator, 512, 512, CPU, None) is None
    assert choose_tile(generator, 4016, 6016, CPU, None) == 512
    assert choose_tile(generator, 512, 512, CPU, GIB + forecast_whole(generator, 512, 512)) is None
    assert choose_tile(generator, 512, 512, CPU, GIB + forecast_whole(generator, 512, 512) - 1) in (256, 128)
    # Bands of 512 would fill 5 GiB with the maps; what fits without a file is preferred.
    need = forecast_tiled(generator, 4016, 6016, 256)
    assert choose_tile(generator, 4016, 6016, CPU, GIB + need) == 256
    assert choose_tile(generator, 4016, 6016, CPU, 4 * GIB) == 512
    assert choose_tile(generator, 4016, 6016, CPU, 1) == 128


def test_map_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "taken", lambda _: GIB)
    generator = ResnetGenerator(3, 64, blocks=1)
    assert map_budget(generator, 512, 512, CPU, None) is None
    assert map_budget(generator, 512, 512, CPU, GIB) == 0
    bands = memory.bytes_of_bands(generator, 512, 512)
    assert bands == 14 * 512 * 512 * 64 * 4
    blurred = ResnetGenerator(3, 64, blocks=1, antialias=True)
    assert memory.bytes_of_bands(blurred, 512, 512) == 20 * 512 * 512 * 64 * 4
    with_halos = 14 * 518 * 512 * 64 * 4
    assert map_budget(generator, 512, 512, CPU, 3 * GIB) == 2 * GIB - 3 * GIB // 16 - int(1.5 * with_halos)


def test_what_this_process_holds_and_may_take() -> None:
    before = memory.taken(CPU)
    held = torch.ones(2**24)
    assert memory.taken(CPU) >= before + held.nbytes // 2 or before == 0
    assert memory.available(CPU) > 0
    assert memory.host_budget() <= memory.available(CPU)
