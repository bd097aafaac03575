"""From defaults, a YAML file and `key=value` to one frozen, checked `Config`, and from a `Config` back to YAML.

Each layer is flattened to dotted keys and checked against the schema (`keys`), later layers win, OmegaConf converts
each value to its field's type, blanks such as the domains' names are filled in, and `validation` refuses the rest.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cyclestyle.config import keys, no_effect, risks, validation, yaml_text
from cyclestyle.config.methods import MethodConfig
from cyclestyle.config.schema import Config
from cyclestyle.errors import ConfigError

RIVALS = {"train.steps": "train.epochs", "train.epochs": "train.steps"}
"""Two ways to say one thing: a layer may give one of them, and what it gives replaces the other of earlier layers."""

_LONGEST_NAME = 64  # letters of a domain's name; two of them are in the name of a translator's file

_MISFITS = (OmegaConfBaseException, ValueError, TypeError, OverflowError)


@dataclass(frozen=True)
class _Layer:
    """One source of settings: dotted keys and raw values, with the place of each key for messages."""

    values: dict[str, Any]
    source: str = ""
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    """What does not count, a line each for people."""

    def place(self, key: str) -> str:
        """ "file.yaml, line 3: " for files, nothing for the command line, whose words people still see."""
        if not self.source:
            return ""
        return f"{self.source}, line {self.lines[key]}: " if key in self.lines else f"{self.source}: "


# ---------------------------------------------------------------------------------------------------- the public side


def load_config(yaml_file: Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Defaults < YAML < `key=value`, checked; raises `ConfigError` with one line that says what to change."""
    return _build(*_layers(yaml_file, overrides))


def load_with_warnings(yaml_file: Path | None = None, overrides: Sequence[str] = ()) -> tuple[Config, tuple[str, ...]]:
    """`load_config`, and one line for each setting that the person gave in vain, and for each known risk."""
    layers, method = _layers(yaml_file, overrides)
    config = _build(layers, method)
    return config, (
        *(line for layer in layers for line in layer.left_out),
        *no_effect.warnings_of(config, _explicit(layers, method)),
        *risks.warnings_of(config),
    )


def config_from_mapping(mapping: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """A checked config from nested mappings: for Python use and for the config inside a run folder or checkpoint."""
    data = yaml_text.plain_data(mapping)
    if not isinstance(data, dict):
        raise ConfigError(f"a {type(mapping).__name__} was given, but a config is a mapping of keys to values")
    method = _chosen_method(data, overrides)
    return _build([_flat_layer(data, [method]), _override_layer(overrides, method)], method)


def to_mapping(config: Config) -> dict[str, Any]:
    """The config as plain nested dicts, lists, numbers and strings; `config_from_mapping` gives back an equal one."""
    return cast("dict[str, Any]", yaml_text.plain_data(dataclasses.asdict(config)))


def to_yaml(config: Config) -> str:
    """The config as YAML, every option written out: enough to repeat the run."""
    return yaml_text.write_yaml(to_mapping(config))


# ---------------------------------------------------------------------------------------------------- layers


def _layers(yaml_file: Path | None, overrides: Sequence[str]) -> tuple[list[_Layer], str]:
    """What the file and the command line say, and the method whose options they may set."""
    if yaml_file is None:
        method = _chosen_method({}, overrides)
        return [_override_layer(overrides, method)], method
    data, lines = yaml_text.read_yaml_file(Path(yaml_file))
    method, own = _chosen_method(data, overrides), _chosen_method(data, ())
    layer = _flat_layer(data, (method, own), str(yaml_file), lines)
    if own != method:
        layer = _without_options_of(own, layer, method)
    return [layer, _override_layer(overrides, method)], method


def _without_options_of(own: str, layer: _Layer, method: str) -> _Layer:
    """A file's settings for another method than it was written for: that one's weights are not this one's.

    What only the chosen method has was meant for it, in a file that names none; what neither has is refused later.
    """
    dropped = [key for key in keys.options_of(own) if key.startswith("method.") and key in layer.values]
    kept = {key: value for key, value in layer.values.items() if key not in dropped}
    named = [key for key in dropped if key != "method.name"]
    line = (
        f"{layer.source} is written for method.name={own}: its {', '.join(named)} are left out, "
        f"{method} has defaults of its own"
    )
    return replace(layer, values=kept, left_out=(line,) if named else ())


def _chosen_method(data: Mapping[str, Any], overrides: Sequence[str]) -> str:
    """`method.name` has to be known before the rest can be read: each method brings its own keys."""
    section = data.get("method")
    name = section.get("name", keys.DEFAULT_METHOD) if isinstance(section, Mapping) else keys.DEFAULT_METHOD
    for text in overrides:
        key, _, raw = (part.strip() for part in text.partition("="))
        if key == "method" and raw.startswith("{"):  # method={name: cut}
            given = yaml_text.read_yaml(raw, _cut(text))[0]
            name = given.get("name", name) if isinstance(given, Mapping) else name
        name = raw if key == "method.name" else name
    keys.method_config(name)
    return str(name)


def _flat_layer(
    data: Mapping[str, Any], methods: Sequence[str], source: str = "", lines: Mapping[str, int] | None = None
) -> _Layer:
    """Dotted keys, by the sections that these methods have."""
    layer = _Layer({}, source, lines or {})
    sections = set().union(*(keys.sections_of(method) for method in methods))

    def flatten(mapping: Mapping[Any, Any], prefix: str) -> None:
        for name, value in mapping.items():
            key = f"{prefix}{name}"
            if "." in str(name):
                nested = _cut(": {".join(str(name).split(".")) + ": ..." + "}" * str(name).count("."))
                raise ConfigError(
                    f"{layer.place(key)}{_cut(key)}: dotted keys are for the command line; here it is nested: {nested}"
                )
            if key in sections and isinstance(value, Mapping):
                flatten(value, key + ".")
            elif key in sections and value is None and source:
                continue  # `train:` with nothing below it
            else:
                layer.values[key] = yaml_text.plain_data(value)

    flatten(data, "")
    return layer


def _override_layer(overrides: Sequence[str], method: str) -> _Layer:
    options, sections = keys.options_of(method), keys.sections_of(method)
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, raw = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(f"{_cut(text)}: settings are written key=value, such as train.batch_size=4")
        value = _override_value(key, raw, options.get(key))
        inner = {key: value}
        if key in sections and isinstance(value, dict):  # train={steps: 5}
            inner = _flat_layer(_nested(inner), [method]).values
        values |= inner  # given twice, the last wins: scripts append settings to those of others
    return _Layer(values)


def _override_value(key: str, raw: str, option: keys.Option | None) -> Any:
    if option is not None and keys.accepts(option.type, str) and not keys.accepts(option.type, int):
        if keys.accepts(option.type, type(None)) and raw in ("null", "~", ""):
            return None
        if raw[:1] not in ('"', "'"):
            return raw  # a name or folder means what it says: name=1.10, data.root=C:\photos #2
    return yaml_text.plain_data(yaml_text.read_yaml(raw, _cut(f"{key}={raw}"))[0])


def _explicit(layers: Sequence[_Layer], method: str) -> set[str]:
    """The keys that a person set: a file that sets every single option is a run's own config.yaml, nobody's choices."""
    everything = set(keys.options_of(method))
    return {key for layer in layers if not everything <= set(layer.values) for key in layer.values}


# ---------------------------------------------------------------------------------------------------- building


def _build(layers: Sequence[_Layer], method: str) -> Config:
    options = keys.options_of(method)
    settings: dict[str, Any] = {}
    places: dict[str, str] = {}
    for layer in layers:
        _refuse_unknown(layer, options, method)
        _drop_rivals(settings, layer)
        for key, value in layer.values.items():
            places[key] = layer.place(key)
            settings[key] = _fitting(options[key], value, places[key])
    config = _filled_in(_typed(settings, options, places, method))
    validation.check(config)
    return config


def _refuse_unknown(layer: _Layer, options: Mapping[str, keys.Option], method: str) -> None:
    sections = keys.sections_of(method)
    for key, value in layer.values.items():
        if key in sections:
            raise ConfigError(
                f"{layer.place(key)}{key}: got {keys.shown(value)}, but {key} is a section; give one of its keys: "
                f"{', '.join(sections[key])}"
            )
        if key not in options:
            raise ConfigError(f"{layer.place(key)}unknown key {_cut(key)}: {keys.advice_for(_cut(key), method)}")


def _cut(text: str) -> str:
    """For messages, whatever somebody pasted or a file is made of."""
    return text if len(text) <= 100 else text[:97] + "..."


def _drop_rivals(settings: dict[str, Any], layer: _Layer) -> None:
    for key, rival in RIVALS.items():
        given, other = layer.values.get(key), layer.values.get(rival)
        if given is not None and other is not None:
            raise ConfigError(
                f"{layer.place(key)}both {key}={keys.shown(given)} and {rival}={keys.shown(other)} are given; keep one"
            )
        if given is not None:
            settings.pop(rival, None)


def _wrong_type(option: keys.Option, value: Any, place: str) -> ConfigError:
    return ConfigError(f"{place}{option.key}: got {keys.shown(value)}, expected {keys.spoken(option.type)}")


def _fitting(option: keys.Option, value: Any, place: str) -> Any:
    """The value, where OmegaConf's own conversion to the field's type would let a slip pass: refused or made clear."""
    _refuse_odd_text(value, option.key, place)
    kinds = keys.alternatives(option.type)
    if isinstance(value, bool):
        if bool not in kinds:
            raise _wrong_type(option, value, place)  # true would pass as the number 1
    elif isinstance(value, (int, float)):
        if str in kinds and int not in kinds:
            raise ConfigError(
                f"{place}{option.key}: got {keys.shown(value)}, a number where text is needed; put it in quotes"
            )
        if bool in kinds and value not in (0, 1):
            raise _wrong_type(option, value, place)
        if int in kinds and math.isfinite(value) and value == int(value):
            return int(value)  # train.steps=1e5
    elif keys.is_words(option.type) and isinstance(value, list) and not all(isinstance(each, str) for each in value):
        raise _wrong_type(option, value, place)  # OmegaConf would take a list within a list
    return value


def _typed(
    settings: Mapping[str, Any], options: Mapping[str, keys.Option], places: Mapping[str, str], method: str
) -> Config:
    """The settings on top of the defaults, each converted to its field's type by OmegaConf."""
    base = _defaults(keys.method_config(method))  # type: ignore[arg-type]  # mypy: classes are not Hashable
    try:
        config = OmegaConf.to_object(_merged(base, settings))
    except _MISFITS as error:
        # The errors of a whole merge do not always name the key: find it by merging one setting at a time.
        for key, value in settings.items():
            try:
                _merged(base, {key: value})
            except _MISFITS:
                raise _wrong_type(options[key], value, places[key]) from error
        raise
    assert isinstance(config, Config)
    return config


@functools.cache
def _defaults(method: type[MethodConfig]) -> DictConfig:
    """The schema in OmegaConf's form; read-only, as the dataclasses are frozen, so that one serves every load."""
    defaults = OmegaConf.structured(Config(method=method()))
    assert isinstance(defaults, DictConfig)
    return defaults


def _merged(base: DictConfig, settings: Mapping[str, Any]) -> Any:
    return OmegaConf.merge(base, _nested(settings))


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as mappings within mappings."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        section = nested
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = value
    return nested


def _refuse_odd_text(value: Any, key: str, place: str) -> None:
    """Values are taken as they stand: nothing in a config reads the environment, other keys or runs a resolver.

    Nor does one hold what breaks file names, logs and terminals: zero bytes, line breaks, escapes.
    """
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for inner in value:
            _refuse_odd_text(inner, key, place)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(
            f"{place}{key}: got {keys.shown(value)}, but configs are not expanded; write the value itself, not ${{...}}"
        )
    elif value == "???":
        raise ConfigError(f"{place}{key}: got '???', which stands for a missing value; write one")
    elif isinstance(value, str) and not _can_be_named(value):
        raise ConfigError(f"{place}{key}: got {keys.shown(value)}, which has control characters or broken letters")


def _can_be_named(text: str) -> bool:
    """Whether a file can have this name, and a log show it on one line."""
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return not any(unicodedata.category(letter) == "Cc" for letter in text)


# ---------------------------------------------------------------------------------------------------- filling in


def _filled_in(config: Config) -> Config:
    """`~` in folders stands for the home folder; domains without a name take their train folder's, else a / b."""
    data = config.data
    domains = {}
    for letter, domain in (("a", data.a), ("b", data.b)):
        train, test = _expanded(domain.train), _expanded(domain.test)
        name = domain.name or _name_from_folder(train) or letter
        domains[letter] = replace(domain, train=train, test=test, name=name)
    data = replace(data, root=_expanded(data.root), a=domains["a"], b=domains["b"])
    return replace(config, data=data, output_dir=os.path.expanduser(config.output_dir))


def _expanded(folder: str | None) -> str | None:
    return None if folder is None else os.path.expanduser(folder)


def _name_from_folder(folder: str | None) -> str | None:
    """The folder's own name, in letters that can stand in file names and on the command line."""
    if not folder:
        return None
    ascii_only = unicodedata.normalize("NFKD", Path(folder).name).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_only).strip("-_")[:_LONGEST_NAME] or None
