"""How weights fit a generator: it is built without memory, compared name by name, and takes them as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError
from cyclestyle.networks.build import build_generator

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

Shapes = dict[str, tuple[int, ...]]
"""Name of each weight -> its shape, in the order of the state dict."""


class _Undrawn(TorchFunctionMode):
    """Inside, weights are not initialised: drawing on the meta device imports the compiler (seconds)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":  # each gives back the tensor that it was given
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def empty_generator(config: GeneratorConfig, channels: int) -> nn.Module:
    """The generator that `config` describes on torch's meta device: names and shapes, but no memory and no values."""
    with torch.device("meta"), _Undrawn():
        return build_generator(replace(config, init="normal"), channels)


def shapes_of(weights: Mapping[str, Tensor]) -> Shapes:
    """Shape of each weight of a state dict."""
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def first_difference(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str | None:
    """Where two state dicts first differ in names or shapes, in words; None where they agree."""
    have, want = shapes_of(found), shapes_of(wanted)
    for name, shape in want.items():
        if name not in have:
            return f"{name} is missing"
        if have[name] != shape:
            return f"{name} has shape {have[name]}, needed is {shape}"
    extra = next((name for name in have if name not in want), None)
    return None if extra is None else f"{shown_name(extra)} has no place in it"


def shown_name(name: object) -> str:
    """The name of a weight for messages: short and printable, whatever a file says."""
    text = str(name)
    return text if text.isprintable() and len(text) <= 80 else repr(text)[:80]


def usable_weights(weights: Mapping[str, Tensor], source: Path) -> dict[str, Tensor]:
    """The weights read from the file `source` in fp32 (counters as they are); never more memory than the file has.

    Raises:
        CheckpointError: no plain tensors of numbers, more of them than the file can hold, or not finite.
    """
    # A view may repeat one stored number a billion times.
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    if total > source.stat().st_size:
        raise CheckpointError(f"{source} holds fewer numbers than its weights would have: the file is made wrongly")
    found: dict[str, Tensor] = {}
    for name, weight in weights.items():
        is_counter = str(name).endswith("num_batches_tracked") and weight.dtype is torch.long
        is_plain = weight.layout is torch.strided and weight.device.type == "cpu" and not weight.is_quantized
        is_number = weight.dtype in _FLOATS or is_counter
        if not (isinstance(name, str) and is_plain and weight.numel() and is_number):
            kind = f"{weight.dtype}, {tuple(weight.shape)}, {weight.device.type}"
            raise CheckpointError(f"{source}: {shown_name(name)} is no weight of a network ({kind})")
        found[name] = weight.detach() if is_counter else weight.detach().float()
        if not all(bound.isfinite() for bound in found[name].aminmax()):  # NaN is the bound of what holds one
            raise CheckpointError(
                f"{source}: {shown_name(name)} has values that are not finite, so it translates nothing: take an "
                "earlier checkpoint"
            )
    return found
