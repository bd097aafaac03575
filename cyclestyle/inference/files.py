"""The files that hold a translator: a run folder, a checkpoint or a .safetensors, read to description and weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from cyclestyle.checkpoint import load_checkpoint, load_translator
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError


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


def read_translator(source: Path, to: str | None) -> tuple[TranslatorSpec, dict[str, Tensor]]:
    """Description and averaged weights of the generator in `source` that translates to domain `to`.

    Raises:
        CheckpointError: missing, damaged, or no such translator in it.
    """
    if source.is_dir():
        source = _file_in_run(source, to)
    if source.suffix == ".safetensors":
        weights, metadata = load_translator(source)
        spec = _spec_from(metadata, source)
        if to is not None and spec.target != to:
            raise CheckpointError(f"{source} translates to {spec.target}, not to {to}: use --to {spec.target}")
        return spec, weights
    state = load_checkpoint(source)
    specs = {name: _spec_from({**entry, "step": state["step"]}, source) for name, entry in state["translators"].items()}
    name = _choose({spec.target: (spec.direction, name) for name, spec in specs.items()}, to, source)
    return specs[name], state["averages"][name]


def _file_in_run(run: Path, to: str | None) -> Path:
    files = sorted((run / "translators").glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"no translators in {run}: needed is a run folder, as train.py leaves under runs/, with a checkpoint saved"
        )
    specs = {file: _spec_from(load_translator(file)[1], file) for file in files}
    return _choose({spec.target: (spec.direction, file) for file, spec in specs.items()}, to, run)


Choice = TypeVar("Choice", str, Path)


def _choose(by_target: dict[str, tuple[str, Choice]], to: str | None, source: Path) -> Choice:
    """The entry that translates to `to`; without `to` the one from A to B, or the only one."""
    if to is None:
        return min(by_target.values(), key=lambda entry: entry[0])[1]
    if to not in by_target:
        raise CheckpointError(f"{source} has no translator to {to}: use --to {' or '.join(sorted(by_target))}")
    return by_target[to][1]


def _spec_from(metadata: dict[str, Any], source: Path) -> TranslatorSpec:
    known = {field.name for field in fields(TranslatorSpec)}
    try:
        spec = TranslatorSpec(**{key: value for key, value in metadata.items() if key in known})
        GeneratorConfig(**spec.generator)
    except TypeError as error:
        raise CheckpointError(f"{source} does not describe its translator fully ({error})") from error
    return spec


def describe(spec: TranslatorSpec) -> str:
    """One line for people."""
    facts = asdict(spec)
    return "{source} to {target}, {channels} channels, trained {step} steps on {crop_size} px crops".format(**facts)
