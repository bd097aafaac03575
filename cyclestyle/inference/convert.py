"""Translator files from other files and back: `cyclestyle import` and `cyclestyle export`."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from cyclestyle.checkpoint import is_checkpoint, is_safetensors, load_pickled, save_translator, save_weights
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError
from cyclestyle.inference import legacy
from cyclestyle.inference.files import build_translator_network, check_spec, read_legacy, read_translator


def import_generator(
    old: Path,
    output: Path,
    *,
    to: str,
    source: str | None = None,
    load_size: int | None = None,
    crop_size: int | None = None,
    overwrite: bool = False,
) -> str:
    """Write an old generator (`*_net_G_*.pth`) as a translator file.

    Args:
        old: a file of pytorch-CycleGAN-and-pix2pix.
        output: ends in .safetensors.
        to, source: names of the domains; without `source` it is called "original".
        load_size, crop_size: what it was trained with; without them the other tool's defaults, 286 and 256.
        overwrite: replace an `output` that exists.

    Returns:
        What was recognised, in one line.

    Raises:
        CheckpointError: no such generator, or `output` cannot be written.
    """
    _check_output(output, (".safetensors",), overwrite)
    state = None if old.is_file() and is_safetensors(old) else load_pickled(old)
    if state is None or is_checkpoint(state):
        raise CheckpointError(f"{old} is a file of cyclestyle: translate with it as it is, or see cyclestyle export")
    spec, weights = read_legacy(state, old, to)
    given = {"source": source, "load_size": load_size, "crop_size": crop_size}
    spec = replace(spec, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
    if spec.crop_size > spec.load_size:
        raise CheckpointError(
            f"crop size {spec.crop_size} is more than load size {spec.load_size}: give --load-size and --crop-size as "
            "in training"
        )
    check_spec(spec, old)
    save_translator(output, weights, asdict(spec))
    found = legacy.describe(GeneratorConfig(**spec.generator), spec.channels)
    return f"recognised: {found}; {spec.source} to {spec.target}"


def export_generator(source: Path, output: Path, *, to: str | None, format: str, overwrite: bool = False) -> str:
    """Write the generator of a run, checkpoint or translator that translates to `to` as a file of its own.

    Args:
        format: "pth" for the state dict that pytorch-CycleGAN-and-pix2pix loads, "safetensors" for a translator.
        (For the others see `read_translator` and `import_generator`.)

    Returns:
        What the file is good for, in one line.

    Raises:
        CheckpointError: no such generator, none that the other tool has, or `output` cannot be written.
    """
    _check_output(output, (f".{format}",), overwrite)
    spec, weights = read_translator(source, to)
    build_translator_network(spec, weights, source)  # so that no file is made of weights that fit nothing
    generator = GeneratorConfig(**spec.generator)
    if format == "safetensors":
        save_translator(output, weights, asdict(spec))
        return f"translator: {spec.source} to {spec.target}, {legacy.describe(generator, spec.channels)}"
    save_weights(output, legacy.to_legacy(generator, spec.channels, weights, source))
    return f"load it with: {legacy.loading_flags(generator, spec.channels)}"


def _check_output(output: Path, suffixes: tuple[str, ...], overwrite: bool) -> None:
    if output.suffix not in suffixes:
        raise CheckpointError(f"-o {output}: the file's name needs to end in {' or '.join(suffixes)}")
    if output.exists() and not overwrite:
        raise CheckpointError(f"{output} exists already: choose another -o, or replace it with --overwrite")
