"""Generators of pytorch-CycleGAN-and-pix2pix (`*_net_G_A.pth`): told by names and shapes of their weights, both ways.

Its networks are those of `ResnetGenerator` and `UnetGenerator` with the same names, but for these: without a norm its
convolutions have no bias (ours have); instance norms of old files carry running statistics that were never used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cyclestyle.config import rules
from cyclestyle.config.schema import GeneratorConfig, NormName
from cyclestyle.errors import CheckpointError
from cyclestyle.inference.fit import empty_generator, first_difference, shown_name, usable_weights

_BLOCK = re.compile(r"model\.(\d{1,6})\.conv_block\.(\d)\.weight")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

SMALLEST_UNET = 5
"""Halvings: its U-Nets are built around five stages."""

# What its defaults prepare images with: --preprocess resize_and_crop --load_size 286 --crop_size 256.
PREPROCESSING: dict[str, Any] = {"resize": "squash", "load_size": 286, "crop_size": 256}


@dataclass(frozen=True)
class LegacyGenerator:
    """What a file was recognised as.

    Attributes:
        generator: the `generator` section of the same network here.
        channels: of its images.
        weights: its state dict, by our names.
        notes: what a person should know about it, a plain line each.
    """

    generator: GeneratorConfig
    channels: int
    weights: dict[str, Tensor]
    notes: tuple[str, ...]


def recognise(state: Any, source: Path) -> LegacyGenerator:
    """The generator whose state dict was read from `source`.

    Raises:
        CheckpointError: no generator of the other tool, or one that has no counterpart here; says what was found.
    """
    weights, notes = _plain_weights(state, source)
    _refuse_other_networks(weights, source)
    norm = _norm_of(weights)
    is_unet = "model.model.0.weight" in weights
    config, channels = (_unet if is_unet else _resnet)(weights, norm, source)
    wanted = empty_generator(config, channels).state_dict()
    if norm == "none":
        absent = [name for name in _inner_biases(config, wanted) if name not in weights]
        weights = {**weights, **{name: torch.zeros(wanted[name].shape) for name in absent}}
    difference = first_difference(weights, wanted)
    if difference is not None:
        raise CheckpointError(f"{source} looks like {describe(config, channels)}, but {difference}")
    return LegacyGenerator(
        generator=config,
        channels=channels,
        weights={name: weights[name] for name in wanted},
        notes=(*notes, *_notes_on(config)),
    )


def describe(config: GeneratorConfig, channels: int) -> str:
    """A generator in words, for people."""
    if rules.is_unet(config):
        form = f"a U-Net generator of {rules.resolved_depth(config)} halvings"
    else:
        form = f"a ResNet generator of {rules.resolved_blocks(config)} blocks"
    norm = "no norm" if config.norm == "none" else f"{config.norm} norm"
    has = {"dropout": config.dropout > 0}
    if not rules.is_unet(config):
        has |= {"antialias": config.antialias, "attention": config.attention}
    extras = "".join(f", {name}" for name, there in has.items() if there)
    return f"{form}, {config.filters} filters, {norm}{extras}, {channels} channel{'s' if channels != 1 else ''}"


# ---------------------------------------------------------------------------------------------------- reading


def _plain_weights(state: Any, source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The state dict without prefixes of DataParallel and statistics of instance norms; what was left out, in words."""
    if isinstance(state, Mapping) and {"state", "param_groups"} <= set(state):
        raise CheckpointError(f"{source} holds the state of an optimizer: needed is a generator, such as *_net_G_A.pth")
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{source} holds no weights by name: needed is a generator, such as *_net_G_A.pth")
    other = next((name for name, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise CheckpointError(
            f"{source} holds more than weights ({shown_name(other)} is a {type(state[other]).__name__}): needed is the "
            "plain state dict of a generator, such as *_net_G_A.pth"
        )
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    weights = usable_weights({name.removeprefix(prefix): value for name, value in state.items()}, source)
    unused = [
        name
        for name in weights
        if name.endswith(_STATISTICS) and f"{name.rpartition('.')[0]}.weight" not in weights
    ]  # fmt: skip
    for name in unused:
        del weights[name]
    for name in [name for name in weights if name.endswith(".running_var")]:  # torch before 0.4.1 did not count
        counter = name.replace("running_var", "num_batches_tracked")
        weights.setdefault(counter, torch.tensor(0, dtype=torch.long))
    dropped = "running statistics of instance norms, which the generator never used, were left out"
    return weights, [dropped] if unused else []


def _refuse_other_networks(weights: Mapping[str, Tensor], source: Path) -> None:
    """Name what people are likely to give by mistake."""
    needed = "needed is a generator, such as latest_net_G_A.pth"
    first = weights.get("model.0.weight")
    if (first is not None and first.shape[2:] == (4, 4)) or "net.0.weight" in weights:
        raise CheckpointError(f"{source} holds a discriminator: {needed}")
    if any(name.endswith(".filt") for name in weights):
        raise CheckpointError(
            f"{source} holds a generator with antialiasing, as CUT trains it (filt buffers): its upsampling "
            "convolutions see zeros beyond the border, those of cyclestyle (generator.antialias) reflections; needed "
            "is one trained with --no_antialias --no_antialias_up, or by CycleGAN"
        )
    if any(word in name for name in weights for word in ("modulation", "style", "synthesis", "mapping")):
        raise CheckpointError(f"{source} holds a StyleGAN generator, which cyclestyle does not have: {needed}")
    if "model.model.0.weight" not in weights and "model.1.weight" not in weights:
        raise CheckpointError(
            f"{source} holds a network that is unknown here (its first weight is {shown_name(next(iter(weights)))}): "
            f"{needed} of pytorch-CycleGAN-and-pix2pix"
        )


def _norm_of(weights: Mapping[str, Tensor]) -> NormName:
    if any(name.endswith(".running_mean") for name in weights):
        return "batch"
    num_biases = sum(name.endswith(".bias") for name in weights)
    return "instance" if num_biases > 1 else "none"  # only the last convolution has a bias before no norm


def _resnet(weights: Mapping[str, Tensor], norm: NormName, source: Path) -> tuple[GeneratorConfig, int]:
    blocks = sorted({int(found[1]) for name in weights if (found := _BLOCK.fullmatch(name))})
    convolutions = {int(found[2]) for name in weights if (found := _BLOCK.fullmatch(name)) and weights[name].ndim == 4}
    if 0 in convolutions:
        # Its two outermost convolutions still pad by reflection; our padding=zero pads everywhere.
        raise CheckpointError(
            f"{source} holds a ResNet generator with zero padding inside its blocks only, which cyclestyle does not "
            "have: needed is one with reflection padding, the other tool's only setting"
        )
    filters, channels = _outer_sizes(weights, "model.1.weight", f"model.{17 + len(blocks)}.weight", source, out=0)
    dropout = 0.5 if 6 in convolutions else 0.0
    return GeneratorConfig(name="resnet", filters=filters, blocks=len(blocks), norm=norm, dropout=dropout), channels


def _unet(weights: Mapping[str, Tensor], norm: NormName, source: Path) -> tuple[GeneratorConfig, int]:
    depth = 1
    stage = "model.model.1.model."
    while any(name.startswith(stage) for name in weights):
        depth += 1
        stage += "3.model."
    highest = 16
    if not rules.MIN_UNET_DEPTH <= depth <= highest:
        raise CheckpointError(
            f"{source} looks like a U-Net generator of {depth} halvings, needed are {rules.MIN_UNET_DEPTH} to {highest}"
        )
    filters, channels = _outer_sizes(weights, "model.model.0.weight", "model.model.3.weight", source, out=1)
    return GeneratorConfig(name="unet", filters=filters, depth=depth, norm=norm), channels


def _outer_sizes(weights: Mapping[str, Tensor], first: str, last: str, source: Path, *, out: int) -> tuple[int, int]:
    """Filters and channels by the outermost convolutions; `out` is the axis of output channels in the last one."""
    if last not in weights or weights[first].ndim != 4 or weights[last].ndim != 4:
        problem = f"{last} is missing" if last not in weights else "its outermost weights are no convolutions"
        raise CheckpointError(f"{source} looks like a generator of pytorch-CycleGAN-and-pix2pix, but {problem}")
    filters, channels = weights[first].shape[:2]
    made = weights[last].shape[out]
    if made != channels:
        raise CheckpointError(
            f"{source} turns {channels} channel{'s' if channels != 1 else ''} into {made}: here pictures have as many "
            "channels before as after, needed is a generator with equal --input_nc and --output_nc"
        )
    return filters, channels


def _notes_on(config: GeneratorConfig) -> Iterator[str]:
    where = "the other tool's test.py, without --eval,"
    if config.norm == "batch":
        yield (
            f"{where} normalises each picture by its own statistics; here the stored statistics of training are used "
            "(batch norm in eval mode), so pictures may differ"
        )
    if config.dropout > 0:
        yield f"{where} keeps dropout on, so its pictures vary; here dropout is off while translating"
    elif rules.is_unet(config):
        yield (
            "a U-Net's file does not say whether it had dropout (off here while translating): to train on with it, "
            "set generator.dropout=0.5"
        )


# ---------------------------------------------------------------------------------------------------- writing


def to_legacy(
    generator: GeneratorConfig, channels: int, weights: Mapping[str, Tensor], source: Path
) -> dict[str, Tensor]:
    """The state dict that the other tool's network of the same form loads.

    Raises:
        CheckpointError: it has no such network; names the option that stands in the way.
    """
    left_out = _inner_biases(generator, weights) if generator.norm == "none" else []
    obstacle = _obstacle(generator)
    if obstacle is None and any(weights[name].count_nonzero() for name in left_out):
        obstacle = "no biases with generator.norm=none, and this one has some"
    if obstacle is not None:
        raise CheckpointError(f"{source} cannot be written in the old layout, which knows {obstacle}")
    names = [name for name in empty_generator(generator, channels).state_dict() if name not in left_out]
    return {name: weights[name].detach().cpu().contiguous() for name in names}


def _inner_biases(generator: GeneratorConfig, names: Iterable[str]) -> list[str]:
    """Biases of all convolutions but the last."""
    last = "model.model.3" if rules.is_unet(generator) else f"model.{17 + rules.resolved_blocks(generator)}"
    return [name for name in names if name.endswith(".bias") and name != f"{last}.bias"]


def _obstacle(generator: GeneratorConfig) -> str | None:
    """What keeps a generator from having a counterpart there; None: nothing."""
    if generator.upsample != "transpose":
        return f"only generator.upsample=transpose, and this one has {generator.upsample}"
    if rules.is_unet(generator):
        depth = rules.resolved_depth(generator)
        if depth < SMALLEST_UNET:
            return f"only U-Nets with generator.depth of at least {SMALLEST_UNET}, and this one has {depth}"
    elif generator.antialias or generator.attention:
        option = "antialias" if generator.antialias else "attention"
        return f"no generator.{option}, and this one has it"
    elif generator.padding != "reflect":
        # With its padding_type=zero the two outermost convolutions still pad by reflection.
        return f"only generator.padding=reflect, and this one has {generator.padding}"
    return None


def loading_flags(generator: GeneratorConfig, channels: int) -> str:
    """The other tool's flags that build the network for an exported file."""
    if rules.is_unet(generator):
        depth = rules.resolved_depth(generator)
        name = {7: "unet_128", 8: "unet_256"}.get(depth, f"UnetGenerator(num_downs={depth})")
    else:
        blocks = rules.resolved_blocks(generator)
        name = f"resnet_{blocks}blocks" if blocks in (6, 9) else f"ResnetGenerator(n_blocks={blocks})"
    dropout = "" if generator.dropout > 0 else " --no_dropout"
    sizes = f"--ngf {generator.filters} --input_nc {channels} --output_nc {channels}"
    return f"--netG {name} --norm {generator.norm} {sizes}{dropout}"
