"""Starting a training from generators that exist: `train.py --init-from FILE`.

The generators and their averages begin with these weights, the discriminators with new ones.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cyclestyle.config import rules
from cyclestyle.config.keys import shown
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import ConfigError
from cyclestyle.inference.files import TranslatorSpec, build_translator_network, read_translators
from cyclestyle.methods.base import Method

Files = str | Path | Sequence[str | Path]

logger = logging.getLogger("cyclestyle")


@dataclass(frozen=True)
class InitialGenerator:
    """A generator to start from.

    Attributes:
        network: on the CPU in fp32.
        origin: the file and what is in it, for people.
    """

    network: nn.Module
    origin: str


InitialWeights = Mapping[str, InitialGenerator]
"""gen_ab or gen_ba -> what it starts from."""


def read_initial_weights(
    files: Files, generator: GeneratorConfig, channels: int, names: tuple[str, str]
) -> InitialWeights:
    """What each generator of a run starts from.

    Args:
        files: each anything that holds translators; a run folder or a checkpoint gives both directions.
        generator, channels: what the run builds.
        names: of its domains A and B; they decide the direction where a file knows one of them, else the file does.

    Raises:
        CheckpointError: a file that is missing, damaged or of another kind.
        ConfigError: a generator of another form than the run's, or two for one direction.
    """
    found: dict[str, InitialGenerator] = {}
    for file in map(Path, [files] if isinstance(files, str | Path) else files):
        for spec, weights in read_translators(file):
            name = f"gen_{_direction(spec, names)}"
            origin = f"{file} ({spec.source} to {spec.target}, {spec.step} steps)"
            _check_form(spec, generator, channels, origin)
            if name in found:
                raise ConfigError(
                    f"--init-from: two files for {name}: {found[name].origin} and {origin}; give one for each direction"
                )
            found[name] = InitialGenerator(build_translator_network(spec, weights, file), origin)
    return found


def start_from(initial: InitialWeights, method: Method) -> dict[str, str]:
    """Give the generators of `method` their first weights, in place, before their averages are made.

    Returns:
        Facts for people: "gen_ab starts from" -> origin; empty without initial weights.
    """
    fitting = {name: start for name, start in initial.items() if name in method.generators}
    for name in initial.keys() - fitting.keys():
        unused = f"{initial[name].origin} is for {name}, which this method.name does not train"
        if not fitting:
            raise ConfigError(f"--init-from: {unused}")
        logger.info("--init-from: %s; left out", unused)
    for name, start in fitting.items():
        method.get_submodule(name).load_state_dict(start.network.state_dict())
    if fitting:
        for name in sorted(set(method.generators) - set(fitting)):
            logger.info("%s starts fresh: --init-from gave nothing for it", name)
    return {f"{name} starts from": start.origin for name, start in fitting.items()}


def _direction(spec: TranslatorSpec, names: tuple[str, str]) -> str:
    """ab or ba: by the run's names as far as the file knows one, the target first; else as in the file's own run."""
    a, b = names
    by_name = {("target", b): "ab", ("target", a): "ba", ("source", a): "ab", ("source", b): "ba"}
    for key in (("target", spec.target), ("source", spec.source)):
        if key in by_name:
            return by_name[key]
    return spec.direction


def _check_form(spec: TranslatorSpec, generator: GeneratorConfig, channels: int, origin: str) -> None:
    """Refuse a generator of another form, with the settings that would build it."""
    settings = _form_settings(GeneratorConfig(**spec.generator), generator)
    if spec.channels != channels:
        settings["data.channels"] = spec.channels
    if settings:
        words = {key: value if isinstance(value, str) else shown(value) for key, value in settings.items()}
        wanted = " ".join(f"{key}={value}" for key, value in words.items())
        raise ConfigError(f"--init-from: {origin} is another generator than the config's: set {wanted}")


def _form_settings(found: GeneratorConfig, config: GeneratorConfig) -> dict[str, object]:
    """The keys of the `generator` section in which a file differs from the config, so far as it changes the network."""
    settings: dict[str, object] = {}
    is_unet = rules.is_unet(found)
    resolved = rules.resolved_depth if is_unet else rules.resolved_blocks
    count, plain = ("depth", "unet") if is_unet else ("blocks", "resnet")
    if is_unet != rules.is_unet(config) or resolved(found) != resolved(config):
        if config.name != plain:  # the presets stand for one count
            settings["generator.name"] = plain
        settings[f"generator.{count}"] = resolved(found)
    keys = ["filters", "norm", "upsample"]
    if not is_unet:
        keys += ["padding", "antialias", "attention"]
    settings |= {f"generator.{key}": getattr(found, key) for key in keys if getattr(found, key) != getattr(config, key)}
    if not is_unet and (found.dropout > 0) != (config.dropout > 0):  # there it moves the layers behind it
        settings["generator.dropout"] = found.dropout
    return settings
