"""Layers, types and the way back to YAML; every refusal says what was given, where, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cyclestyle.config.loading import (
    config_from_mapping,
    load_config,
    load_with_warnings,
    to_mapping,
    to_yaml,
)
from cyclestyle.config.methods import CUTConfig, CycleGANConfig, DCLGANConfig
from cyclestyle.config.schema import Config
from cyclestyle.errors import ConfigError

from ..fuzz.fuzzing import limits

ENOUGH = ("data.root=pictures", "train.steps=7")
"""The least that a config must say."""

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "given.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(*overrides: str, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(file, overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


# ---------------------------------------------------------------------------------------------------- layers


def test_later_layers_win_and_the_rest_stays_default(write: Write) -> None:
    file = write("train: {steps: 50, batch_size: 4}\ndata: {root: pictures}\n")
    config = load_config(file, ["train.batch_size=8"])
    assert (config.train.steps, config.train.batch_size) == (50, 8)
    assert config.generator == Config().generator
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.train.steps = 3  # type: ignore[misc]


def test_a_later_length_clears_the_other_way_to_say_it(write: Write) -> None:
    file = write("train: {steps: 50}\ndata: {root: pictures}\n")
    assert load_config(file, ["train.epochs=2"]).train == dataclasses.replace(Config().train, epochs=2.0)
    file = write("train: {epochs: 2}\ndata: {root: pictures}\n")
    config = load_config(file, ["train.steps=50"])
    assert (config.train.steps, config.train.epochs) == (50, None)
    # null says nothing, so it clears nothing: a run's own config.yaml writes both.
    assert load_config(file, ["train.steps=null"]).train.epochs == 2


def test_two_lengths_in_one_layer_are_refused(write: Write) -> None:
    assert "both train.steps=5 and train.epochs=2 are given" in refusal("train.steps=5", "train.epochs=2")
    file = write("data: {root: pictures}\ntrain:\n  epochs: 2\n  steps: 5\n")
    line = refusal(file=file)
    assert f"{file}, line 4: both train.steps=5 and train.epochs=2" in line


def test_no_length_is_refused_naming_both_keys() -> None:
    line = refusal("data.root=pictures")
    assert "train.steps" in line
    assert "train.epochs" in line


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.checkpoint_every=1e3", 1000),  # whole, however it is written
        ("optimizer.generator_lr=2e-4", 0.0002),  # YAML 1.1 would read text
        ("data.cache=on", "on"),  # YAML 1.1 would read true
        ("data.flip=no", False),
        ("data.num_workers=4", 4),
        ("data.num_workers=auto", "auto"),
        ("optimizer.betas=[0, 0.9]", (0.0, 0.9)),
        ("name=1.10", "1.10"),  # text keeps its digits
        ("name=007", "007"),
        ("name='quoted'", "quoted"),
        ("data.a.test=null", None),
        ("data.b.test=C:\\photos #2", "C:\\photos #2"),
        ("output_dir=a=b", "a=b"),
        ("data.augment=[{name: Blur, p: 0.3}]", ({"name": "Blur", "p": 0.3},)),
    ],
)
def test_command_line_values_become_what_their_key_expects(override: str, value: object) -> None:
    found: object = load_config(None, [*ENOUGH, override])
    for name in override.partition("=")[0].split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_a_section_can_be_given_whole() -> None:
    config = load_config(None, ["data.root=pictures", "train={steps: 5, batch_size: 2}"])
    assert (config.train.steps, config.train.batch_size) == (5, 2)
    assert (
        load_config(None, ["data.root=pictures", "train={steps: 5}", "train.steps=6"]).train.steps == 6
    )  # the last wins


# ---------------------------------------------------------------------------------------------------- unknown keys


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("batch_size", "did you mean train.batch_size?"),
        ("train.batchsize", "did you mean train.batch_size?"),
        ("generater.filters", "did you mean generator.filters?"),
        ("data.name", "did you mean data.a.name or data.b.name?"),
        ("weights.cycle_a", "did you mean method.weights.cycle_a?"),
        ("optimizer.lr", "did you mean optimizer.generator_lr or optimizer.discriminator_lr?"),
        ("trian", "did you mean train?"),
        ("ema.qqq", "ema has decay, warmup"),
        ("qqq.zzz", "a config has name, seed, output_dir, data,"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, advice: str) -> None:
    line = refusal(*ENOUGH, f"{key}=1")
    assert line.startswith(f"unknown key {key}: {advice}")
    assert line.endswith("?") == advice.endswith("?")


def test_an_unknown_key_in_a_file_says_where(write: Write) -> None:
    file = write("name: x\ntrain:\n  steps: 5\n  batch: 3\n")
    assert refusal(file=file) == f"{file}, line 4: unknown key train.batch: did you mean train.batch_size?"
    file = write("train.steps: 5\n")
    assert f"{file}, line 1: train.steps: dotted keys" in refusal(file=file)
    assert "nested: train: {steps: ...}" in refusal(file=file)


def test_a_value_in_place_of_a_section_is_refused(write: Write) -> None:
    assert "generator: got 'unet', but generator is a section; give one of its keys: name, filters" in refusal(
        *ENOUGH, "generator=unet"
    )
    file = write("data: [1, 2]\n")
    assert f"{file}, line 1: data: got [1, 2], but data is a section" in refusal(file=file)
    # An empty section is a way of saying nothing.
    assert load_config(write("ema:\ntrain: {steps: 1}\ndata: {root: x}\n")).ema == Config().ema


# ---------------------------------------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.batch_size=abc", "train.batch_size: got 'abc', expected a whole number"),
        ("train.batch_size=1.5", "train.batch_size: got 1.5, expected a whole number"),
        ("train.batch_size=true", "train.batch_size: got true, expected a whole number"),
        ("train.batch_size=null", "train.batch_size: got null, expected a whole number"),
        ("train.batch_size=[1]", "train.batch_size: got [1], expected a whole number"),
        ("train.batch_size={a: 1}", "train.batch_size: got {a: 1}, expected a whole number"),
        ("generator.blocks=many", "generator.blocks: got 'many', expected a whole number or null"),
        ("ema.decay=high", "ema.decay: got 'high', expected a number"),
        ("ema.decay=false", "ema.decay: got false, expected a number"),
        ("data.flip=maybe", "data.flip: got 'maybe', expected true or false"),
        ("data.flip=2", "data.flip: got 2, expected true or false"),
        ("generator.norm=layer", "generator.norm: got 'layer', expected one of instance, batch, none"),
        ("train.precision=16", "train.precision: got 16, expected one of auto, fp32, bf16, fp16"),
        (
            "method.name=fastcut",
            "method.name: got 'fastcut', expected one of cyclegan, cut, dclgan; FastCUT is CUT with the settings of "
            "configs/fastcut.yaml",
        ),
        ("method.name=cat", "method.name: got 'cat', expected one of cyclegan, cut, dclgan"),
        ("optimizer.betas=[0.5]", "optimizer.betas: got [0.5], expected a list of 2 numbers such as [0.5, 0.999]"),
        ("optimizer.betas=0.5", "optimizer.betas: got 0.5, expected a list of 2 numbers such as [0.5, 0.999]"),
        ("optimizer.betas=[a, b]", "optimizer.betas: got ['a', 'b'], expected a list of 2 numbers"),
        ("data.augment=[3]", "data.augment: got [3], expected a list of mappings"),
        ("data.augment=null", "data.augment: got null, expected a list of mappings"),
        ("data.num_workers=1.5", "data.num_workers: got"),
    ],
)
def test_a_wrong_type_is_refused_with_the_value_and_what_is_expected(override: str, line: str) -> None:
    assert refusal(*ENOUGH, override).startswith(line)


def test_a_wrong_type_in_a_file_says_where(write: Write) -> None:
    file = write("data:\n  root: x\n  crop_size: big\ntrain: {steps: 2}\n")
    assert refusal(file=file) == f"{file}, line 3: data.crop_size: got 'big', expected a whole number"
    file = write("name: 1.10\n")
    assert refusal(file=file) == f"{file}, line 1: name: got 1.1, a number where text is needed; put it in quotes"
    assert refusal(file=write("name: true\n")) == f"{file}, line 1: name: got true, expected text"


@pytest.mark.parametrize("word", ["steps", "=3", "--steps"])
def test_a_word_without_key_or_value_is_refused(word: str) -> None:
    assert refusal(word) == f"{word}: settings are written key=value, such as train.batch_size=4"


def test_a_key_given_twice_is_refused_in_a_file(write: Write) -> None:
    assert load_config(None, [*ENOUGH, "seed=1", "seed=2"]).seed == 2  # on the command line the last wins
    file = write("train:\n  steps: 5\n  seed: 1\n  steps: 6\n")
    assert refusal(file=file) == f"{file}, line 4: train.steps is given twice (first in line 2)"
    file = write("data:\n  augment:\n  - name: Blur\n    name: Sharpen\n")
    assert f"{file}, line 4: data.augment.[].name is given twice" in refusal(file=file)


# ---------------------------------------------------------------------------------------------------- files


def test_files_that_are_no_config_are_refused(write: Write, tmp_path: Path) -> None:
    assert f"{tmp_path / 'absent.yaml'}: no such config file" in refusal(file=tmp_path / "absent.yaml")
    assert f"{tmp_path}: cannot be read" in refusal(file=tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    assert "not a text file in UTF-8" in refusal(file=binary)
    file = write("- a\n- b\n")
    assert refusal(file=file) == f"{file}: holds a list, but a config is a mapping of keys to values (train: ...)"
    assert "holds a single value" in refusal(file=write("steps"))
    assert "no valid YAML: " in refusal(file=write("name: a\x07b\n"))  # a control character


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("name: x\ntrain: {steps: 5\n", 3),  # the brace never closes
        ("name: x\n\ttrain: 5\n", 2),  # a tab
        ("name: x\nseed: !!python/object/apply:os.getcwd []\n", 2),  # code
        ("name: x\n---\nname: y\n", 2),  # two documents
        ("name: x\nseed: *other\n", 2),  # an alias of nothing
    ],
)
def test_broken_yaml_names_file_and_line(write: Write, text: str, number: int) -> None:
    file = write(text)
    assert refusal(file=file).startswith(f"{file}, line {number}: no valid YAML: ")


def test_a_file_that_contains_itself_is_refused(write: Write) -> None:
    assert "contains itself" in refusal(file=write("data: &x\n  augment: *x\n"))


def test_an_empty_file_says_nothing(write: Write) -> None:
    assert load_config(write("# only a comment\n"), ENOUGH) == load_config(None, ENOUGH)


@pytest.mark.parametrize(
    "override", ["name=${oc.env:HOME}", "data.root=${name}", "data.augment=[{name: '${seed}'}]", "data.root='${a}'"]
)
def test_nothing_is_expanded(override: str, write: Write) -> None:
    line = refusal("train.steps=1", override)
    assert line.startswith(override.partition("=")[0] + ": got ")
    assert "configs are not expanded" in line
    assert "configs are not expanded" in refusal(file=write("data: {root: '${oc.env:HOME}'}\n"))
    assert "stands for a missing value" in refusal("name=???")


# ---------------------------------------------------------------------------------------------------- filling in


def test_domains_are_named_after_their_folders_or_a_and_b() -> None:
    config = load_config(None, ENOUGH)
    assert (config.data.a.name, config.data.b.name) == ("a", "b")
    config = load_config(None, ["train.steps=1", "data.a.train=in/My Phötos!/", "data.b.train=../..", "data.a.test=t"])
    assert (config.data.a.name, config.data.b.name) == ("My-Photos", "b")
    config = load_config(None, [*ENOUGH, "data.a.train=in/cats", "data.a.name=felines"])
    assert config.data.a.name == "felines"


def test_the_home_folder_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    config = load_config(None, ["train.steps=1", "data.root=~/x", "output_dir=~/runs"])
    assert Path(config.data.root or "") == tmp_path / "x"
    assert Path(config.output_dir) == tmp_path / "runs"


# ---------------------------------------------------------------------------------------------------- there and back


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.epochs=2.5", "data.augment=[{name: Blur, limit: [3, 7], p: 1e-3}]", "name=1e5", "seed=12"),
        ("generator.name=unet_128", "optimizer.generator_lr=1.234567890123e-7", "name=007", "data.a.name=no"),
        ("output_dir=a: b # c", 'data.a.test=ünïcode \'n "quotes"', "data.b.test=null # not null", "data.cache=off"),
    ],
)
def test_yaml_reads_back_to_an_equal_config(overrides: tuple[str, ...], write: Write) -> None:
    enough = [word for word in ENOUGH if "steps" not in word or "train.epochs=2.5" not in overrides]
    config = load_config(None, [*enough, *overrides])
    assert load_config(write(to_yaml(config))) == config
    assert config_from_mapping(to_mapping(config)) == config
    # Other YAML readers, of the older 1.1 rules, see the same text too.
    assert yaml.safe_load(to_yaml(config))["name"] == config.name


def test_yaml_holds_every_option() -> None:
    config = load_config(None, ENOUGH)
    sections = {field.name for field in dataclasses.fields(Config)}
    mapping = yaml.safe_load(to_yaml(config))
    assert set(mapping) == sections
    assert mapping["train"]["epochs"] is None
    assert mapping["optimizer"]["betas"] == [0.5, 0.999]


def test_python_mappings_may_hold_paths_and_tuples() -> None:
    config = config_from_mapping(
        {"data": {"root": Path("pictures")}, "train": {"steps": 5}, "optimizer": {"betas": (0, 0.9)}},
        ["train.epochs=2"],
    )
    assert (config.data.root, config.optimizer.betas, config.train.steps) == ("pictures", (0.0, 0.9), None)
    with pytest.raises(ConfigError, match=r"unknown key train\.stepz: did you mean train\.steps\?"):
        config_from_mapping({"train": {"stepz": 5}})


def test_warnings_name_what_was_set_in_vain(write: Write) -> None:
    file = write("data: {root: x}\ngenerator: {name: unet, blocks: 3}\ntrain: {steps: 5}\n")
    _, warnings = load_with_warnings(file, ["discriminator.scales=3"])
    assert warnings == (
        "generator.blocks=3 has no effect in a U-Net",
        "discriminator.scales=3 has no effect unless discriminator.name=multiscale",
    )
    # A run's own config.yaml sets everything, and nobody chose that.
    whole = write(to_yaml(load_config(file)))
    assert load_with_warnings(whole)[1] == ()
    assert load_with_warnings(whole, ["optimizer.step_every=9"])[1] == (
        "optimizer.step_every=9 has no effect unless optimizer.schedule=step",
    )


# ---------------------------------------------------------------------------------------------------- from anywhere


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)), "more than 20000 values"),
        ("".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}\n" for i in range(1, 9)), "more than 20000 values"),
        ("x: " + "[" * 21 + "]" * 21, "nested too deeply"),
        ("x: " + "[" * 400 + "]" * 400, "nested too deeply"),
        ("# " + "x" * 2**16, "longer than 64 KiB"),
        ("seed: 1" + "0" * 400, "a whole number as large as 1000"),
        ("seed: 1" + "0" * 5000, "a whole number as large as 1000"),
        ("seed: !!bool x", "is not read here"),
        ("seed: !!timestamp x", "is not read here"),
        ("data: {root: !!binary aGk=}", "is not read here"),
        ("seed: !!set {a}", "is not read here"),
        ("? [a, b]\n: 1", "a list or mapping as a key"),
        ("? &k [&l [*l]]\n: 1", "a list or mapping as a key"),
    ],
    ids=lambda value: value[:20],
)
def test_files_that_unfold_to_more_than_data_are_refused_at_once(write: Write, text: str, words: str) -> None:
    file = write("a0: &a0 {b: 1}\n" + text + "\n")
    with limits():
        line = refusal(file=file)
    assert words in line
    assert len(line) < 300


@pytest.mark.parametrize("text", ["a\\0b", "a\\nb", "a\\e[2Jb", "a\\x7fb", "a\\x85b", "\\uD800"])
def test_text_that_breaks_names_logs_and_terminals_is_refused(write: Write, text: str) -> None:
    for option in (
        "output_dir: {}",
        "data: {{root: {}}}",
        "evaluate: {{weights: {}}}",
        "data: {{augment: [{{name: {}}}]}}",
    ):
        assert "has control characters or broken letters" in refusal(file=write(option.format(f'"{text}"')))


def test_a_folder_whose_name_is_no_unicode_can_be_used() -> None:
    config = load_config(None, ["train.steps=1", "data.root=caf\udce9"])  # as Python hands over the byte E9
    assert config.data.root == "caf\udce9"
    assert config_from_mapping(to_mapping(config)) == config
    assert yaml.safe_load(to_yaml(config))["data"]["root"] == "caf\udce9"


class _Endless(list):  # type: ignore[type-arg]
    def __init__(self) -> None:
        super().__init__([self])


def _doubled(times: int) -> dict[str, object]:
    value: dict[str, object] = {"name": "Blur"}
    for _ in range(times):
        value = {"one": value, "other": value}
    return value


@pytest.mark.parametrize(
    "value",
    [_Endless(), _doubled(15), 10**5000, b"x", {1, 2}, {10**5000: 1}, object(), float],
    ids=lambda v: str(type(v)),
)
def test_mappings_of_a_checkpoint_may_hold_anything(value: object) -> None:
    for place in ({"seed": value}, {"data": {"augment": [value]}}, {"method": {"name": value}}, value):
        with pytest.raises(ConfigError) as caught:
            config_from_mapping(
                {"train": {"steps": 1}, "data": {"root": "x"}} | place if isinstance(place, dict) else place
            )  # type: ignore[arg-type]
        assert len(str(caught.value)) < 300


def test_messages_stay_short_whatever_was_given(write: Write) -> None:
    long = "x" * 10_000
    for text in (f"a: *{long}", f"a: !{long} b", f"{long}: 1\n{long}: 2", f"{long}: 1", f"a: '{long}", f"seed: {long}"):
        assert len(refusal(file=write(text))) < 600
    for word in ("x" * 10_000, "train." + "x" * 10_000 + "=1", "seed=" + "[" * 400, "a.b" * 5000 + "=1"):
        assert len(refusal(word)) < 400


# ---------------------------------------------------------------------------------------------------- another method


def test_a_files_method_section_is_for_its_own_method(tmp_path: Path) -> None:
    """`--config FILE method.name=...` compares methods on one recipe: none with the weights of another; it is said."""
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "data: {root: pictures}\ntrain: {steps: 5}\n"
        "method: {name: cut, pool_size: 7, contrast: {width: 8}, weights: {nce_ab: 3, r1: 2}}\n"
    )
    for method, options in (("cyclegan", CycleGANConfig()), ("dclgan", DCLGANConfig())):
        config, warnings = load_with_warnings(file, [f"method.name={method}"])
        assert config.method == options
        assert warnings == (
            f"{file} is written for method.name=cut: its method.pool_size, method.weights.r1, "
            f"method.weights.nce_ab, method.contrast.width are left out, {method} has defaults of its own",
        )
    config, warnings = load_with_warnings(file, ["method.name=cut"])
    assert (config.method.pool_size, warnings) == (7, ())


def test_the_method_may_be_named_in_its_section(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: pictures}\ntrain: {steps: 5}\nmethod: {weights: {cycle_a: 3}}\n")
    config = load_config(file, ["method={name: cut, contrast: {width: 8}}"])
    assert isinstance(config.method, CUTConfig)
    assert config.method.contrast.width == 8


@pytest.mark.parametrize("value", ["color", "[[color]]", "[{color: 1}]", "[1]", "[null]"])
def test_lists_of_words_hold_words(value: str) -> None:
    with pytest.raises(
        ConfigError, match=r"discriminator\.augment: got .* expected a list of words such as \[one, two\]"
    ):
        load_config(None, [*ENOUGH, f"discriminator.augment={value}"])


def test_misspelt_keys_are_refused_whatever_the_method(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: pictures}\ntrain: {steps: 5}\nmethod: {weights: {cycle_c: 3}}\n")
    for overrides in ([], ["method.name=cut"]):
        with pytest.raises(ConfigError, match=r"recipe\.yaml, line 3: unknown key method\.weights\.cycle_c"):
            load_config(file, overrides)


def test_a_file_without_a_method_may_have_options_of_the_chosen_one(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("data: {root: pictures}\ntrain: {steps: 5}\nmethod: {contrast: {width: 8}}\n")
    config = load_config(file, ["method.name=cut"])
    assert isinstance(config.method, CUTConfig)
    assert config.method.contrast.width == 8
