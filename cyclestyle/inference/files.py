"""The files that hold a translator, read to its description, its weights and its network.

A run folder, a checkpoint, a translator (.safetensors) or an old generator (.pth): told by what is in them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, get_type_hints

from torch import Tensor, nn

from cyclestyle.checkpoint import (
    check_checkpoint,
    is_checkpoint,
    is_safetensors,
    load_metadata,
    load_pickled,
    load_translator,
)
from cyclestyle.config import rules
from cyclestyle.config.keys import accepts, alternatives, choices, shown, spoken
from cyclestyle.config.schema import DataConfig, GeneratorConfig
from cyclestyle.config.validation import RANGES, WHOLE
from cyclestyle.errors import CheckpointError
from cyclestyle.inference import legacy
from cyclestyle.inference.fit import empty_generator, first_difference, usable_weights

logger = logging.getLogger("cyclestyle")

# They become names of folders and files.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class TranslatorSpec:
    """All that is needed to use a generator's weights: the metadata of a translator file.

    Attributes:
        source, target: names of the domains, e.g. "photo" and "vangogh".
        direction: "ab" or "ba".
        generator: the `generator` section it was built from.
        channels: of its images.
        resize, load_size, crop_size: the preprocessing that it was trained with (`data` section).
        step: optimizer steps that it was trained for.
        scores: how good it was found to be, by the name of the measure; empty where it was never scored.
    """

    source: str
    target: str
    direction: str
    generator: dict[str, Any]
    channels: int
    resize: str
    load_size: int
    crop_size: int
    step: int = 0
    scores: dict[str, float] = field(default_factory=dict)


Weights = dict[str, Tensor]


def read_translator(source: Path, to: str | None) -> tuple[TranslatorSpec, Weights]:
    """Description and averaged weights (CPU, fp32, finite) of the generator in `source` that translates to `to`.

    Args:
        source: a run folder, a checkpoint, a translator or an old `*_net_G_*.pth`.
        to: name of the target; None: the second domain of the run. An old .pth has no names, so it takes this one.

    Raises:
        CheckpointError: missing, damaged, of another kind, or no such translator in it.
    """
    if source.is_dir():
        files = _files_in_run(source)
        metadata = [_spec_from(load_metadata(file), file) for file in files]
        source = files[_choose(metadata, to, source)]
    if _is_safetensors(source):
        weights, header = load_translator(source)
        spec = _spec_from(header, source)
        if to is not None and spec.target != to:
            raise CheckpointError(f"{source} translates to {spec.target}, not to {to}: use --to {spec.target}")
        return spec, usable_weights(weights, source)
    state = load_pickled(source)
    if not is_checkpoint(state):
        return read_legacy(state, source, to)
    found = _in_checkpoint(check_checkpoint(source, state), source)
    spec, weights = found[_choose([spec for spec, _ in found], to, source)]
    return spec, usable_weights(weights, source)


def read_translators(source: Path) -> list[tuple[TranslatorSpec, Weights]]:
    """Every generator in `source`, each as `read_translator` gives it: both directions of a run or checkpoint.

    Raises:
        CheckpointError: as `read_translator`.
    """
    if source.is_dir():
        return [read_translator(file, None) for file in _files_in_run(source)]
    if _is_safetensors(source):
        return [read_translator(source, None)]
    state = load_pickled(source)
    if not is_checkpoint(state):
        return [read_legacy(state, source, None)]
    found = _in_checkpoint(check_checkpoint(source, state), source)
    return [(spec, usable_weights(weights, source)) for spec, weights in found]


def read_legacy(state: Any, source: Path, to: str | None) -> tuple[TranslatorSpec, Weights]:
    """Description and weights of an old generator whose state dict was read from `source`; warns of what may differ.

    Raises:
        CheckpointError: no generator of pytorch-CycleGAN-and-pix2pix that has a counterpart here.
    """
    found = legacy.recognise(state, source)
    for note in found.notes:
        logger.warning("%s: %s", source.name, note)
    metadata = {
        "source": "original",
        "target": "translated" if to is None else to,
        "direction": "ba" if "net_G_B" in source.name else "ab",
        "generator": asdict(found.generator),
        "channels": found.channels,
        **legacy.PREPROCESSING,
    }
    return _spec_from(metadata, source), found.weights


def build_translator_network(spec: TranslatorSpec, weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    """The generator that `spec` describes with these weights, on the CPU in fp32, in eval mode, without gradients.

    It takes the tensors as they are: nothing is allocated or initialised, whatever the description says.

    Raises:
        CheckpointError: the weights do not fit; `source` is what the message names.
    """
    check_spec(spec, source)
    config = GeneratorConfig(**spec.generator)
    misfit = f"{source}: the weights do not fit the generator that it describes (first difference: "
    # No number of a network is larger than a side of its weights, no count larger than theirs.
    side = max((size for weight in weights.values() for size in weight.shape), default=0)
    largest = {"filters": (config.filters, side), "channels": (spec.channels, side)}
    if not rules.is_unet(config):
        largest["blocks"] = (rules.resolved_blocks(config), len(weights))
    for name, (number, bound) in largest.items():
        if number > bound:
            raise CheckpointError(f"{misfit}{name} is {number}, the weights have at most {bound})")
    try:
        network = empty_generator(config, spec.channels)
    except (RuntimeError, OverflowError) as error:  # more numbers in one weight than can be counted
        raise CheckpointError(f"{misfit}it describes a network larger than any)") from error
    difference = first_difference(weights, network.state_dict())
    if difference is not None:
        raise CheckpointError(f"{misfit}{difference})")
    floats = {name: weight.float() if weight.is_floating_point() else weight for name, weight in weights.items()}
    network.load_state_dict(floats, assign=True)
    return network.eval().requires_grad_(False)


def describe(spec: TranslatorSpec) -> str:
    """One line for people."""
    trained = f", trained {spec.step} steps on {spec.crop_size} px crops" if spec.step else ""  # unknown of old files
    return f"{spec.source} to {spec.target}, {spec.channels} channels{trained}"


# ---------------------------------------------------------------------------------------------------- kinds of files


def _is_safetensors(source: Path) -> bool:
    # By content where it says so; a damaged one is still better named by what it was meant to be.
    return source.suffix == ".safetensors" or (source.is_file() and is_safetensors(source))


def _files_in_run(run: Path) -> list[Path]:
    files = sorted((run / "translators").glob("*.safetensors"))
    if files:
        return files
    loose = sorted([*run.glob("*_net_G*.pth"), *run.glob("*.safetensors"), *run.glob("checkpoints/step_*.pt")])
    raise CheckpointError(
        f"no translators in {run}: "
        + (
            f"give one file of that folder, such as {loose[-1]}"
            if loose
            else "needed is a run folder, as train.py leaves under runs/, with a checkpoint saved"
        )
    )


def _in_checkpoint(state: dict[str, Any], source: Path) -> list[tuple[TranslatorSpec, Weights]]:
    """Description and averaged weights, unchecked, of each generator in a checkpoint."""
    translators, averages = state.get("translators"), state.get("averages")
    if not isinstance(translators, dict) or not translators or not isinstance(averages, dict):
        raise CheckpointError(f"{source} is a checkpoint without translators: needed is a step_*.pt of a run folder")
    found = []
    for name, entry in translators.items():
        weights = averages.get(name)
        if not isinstance(entry, dict) or not isinstance(weights, dict):
            raise CheckpointError(f"{source} does not describe its translator fully")
        if not all(isinstance(weight, Tensor) for weight in weights.values()):
            raise CheckpointError(f"{source} holds averages that are no weights")
        found.append((_spec_from({**entry, "step": state.get("step", 0)}, source), weights))
    return found


def _choose(specs: Sequence[TranslatorSpec], to: str | None, source: Path) -> int:
    """Index of the one that translates to `to`; without `to` of the one from A to B, or the only one."""
    if to is None:
        return min(range(len(specs)), key=lambda index: specs[index].direction)
    targets = [spec.target for spec in specs]
    if to not in targets:
        raise CheckpointError(f"{source} has no translator to {to}: use --to {' or '.join(sorted(targets))}")
    return targets.index(to)


# ---------------------------------------------------------------------------------------------------- descriptions


def _spec_from(metadata: Mapping[str, Any], source: Path) -> TranslatorSpec:
    """A description that was read from a file, which may come from anywhere: every value is checked."""
    known = {field.name for field in fields(TranslatorSpec)}
    try:
        spec = TranslatorSpec(**{key: value for key, value in metadata.items() if key in known})
    except TypeError as error:
        raise CheckpointError(f"{source} does not describe its translator fully ({error})") from error
    check_spec(spec, source)
    return spec


def check_spec(spec: TranslatorSpec, source: Path) -> None:
    """Raise `CheckpointError`, which names the file `source`, where a value of `spec` has a wrong type or range."""
    for key in ("source", "target"):
        name = getattr(spec, key)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            _refuse(source, key, name, "a domain's name: letters, digits, '_' and '-', at most 200")
    if spec.source == spec.target:
        _refuse(source, "target", spec.target, "another name than that of the source")
    for key, kind in (("direction", Literal["ab", "ba"]), ("resize", get_type_hints(DataConfig)["resize"])):
        if getattr(spec, key) not in choices(kind):
            _refuse(source, key, getattr(spec, key), spoken(kind))
    for key in ("channels", "load_size", "crop_size", "step"):
        number, allowed = getattr(spec, key), RANGES.get(f"data.{key}", WHOLE)
        if not _is_number(number, int) or not allowed.holds(number):
            _refuse(source, key, number, f"a whole number of {allowed}")
    scores = spec.scores
    if not isinstance(scores, dict) or not all(
        isinstance(name, str) and name.isprintable() and _is_number(score, float) for name, score in scores.items()
    ):
        _refuse(source, "scores", scores, "a number by each name")
    _generator_from(spec.generator, source)


def _generator_from(section: object, source: Path) -> GeneratorConfig:
    """The `generator` section of a description, its types and ranges checked."""
    if not isinstance(section, dict):
        _refuse(source, "generator", section, "a section of options")
    kinds = get_type_hints(GeneratorConfig)
    for key, value in section.items():
        if key not in kinds:
            raise CheckpointError(
                f"{source} does not describe its translator fully: generator.{str(key)[:40]!r} is unknown here; "
                "update cyclestyle"
            )
        kind, name = kinds[key], f"generator.{key}"
        if choices(kind):
            if value not in choices(kind):
                _refuse(source, name, value, spoken(kind))
        elif value is None and accepts(kind, type(None)):
            continue
        elif kind is bool:
            if not isinstance(value, bool):
                _refuse(source, name, value, spoken(kind))
        elif not any(_is_number(value, wanted) for wanted in alternatives(kind)):
            _refuse(source, name, value, spoken(kind))
        elif name in RANGES and not RANGES[name].holds(value):
            _refuse(source, name, value, str(RANGES[name]))
    return GeneratorConfig(**section)


def _is_number(value: object, wanted: type) -> bool:
    """JSON and pickles tell true from 1, and whole numbers from others; a whole number is also a fine float."""
    if isinstance(value, bool) or (isinstance(value, int) and abs(value) >= 2**63):
        return False
    return isinstance(value, (int, float) if wanted is float else wanted)


def _refuse(source: Path, key: str, value: object, needed: str) -> NoReturn:
    """One printable line, however large or deep the value is."""
    if isinstance(value, int) and abs(value) >= 2**63:
        found = "a huge number"
    else:
        found = shown(value) if value is None or isinstance(value, str | int | float) else type(value).__name__
    raise CheckpointError(f"{source} does not describe its translator: {key} is {found}, needed is {needed}")
