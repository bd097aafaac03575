"""Generators of pytorch-CycleGAN-and-pix2pix: recognised by their weights, the same pictures, written back the same."""

from __future__ import annotations

import itertools
import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError
from cyclestyle.inference.files import build_translator_network, read_translator
from cyclestyle.inference.legacy import loading_flags, to_legacy
from cyclestyle.networks.build import build_generator

from .legacy_layouts import (
    Resnet,
    State,
    conv,
    discriminator_state,
    resnet_state,
    unet_forward,
    unet_state,
)

NORMS = ("instance", "batch", "none")


def saved(state: object, path: Path, **options: bool) -> Path:
    torch.save(state, path, **options)
    return path


def load(path: Path) -> tuple[dict[str, object], int, nn.Module, dict[str, Tensor]]:
    """generator section, channels, network and weights, as a translator has them."""
    spec, weights = read_translator(path, None)
    return spec.generator, spec.channels, build_translator_network(spec, weights, path), weights


def section(**options: object) -> dict[str, object]:
    return {**vars(GeneratorConfig()), **options}


@pytest.mark.parametrize(("norm", "dropout"), list(itertools.product(NORMS, (False, True))))
@pytest.mark.parametrize("sizes", [(1, 4, 3), (6, 4, 1), (9, 2, 4)])
def test_resnets_are_recognised_and_translate_the_same(
    tmp_path: Path, norm: str, dropout: bool, sizes: tuple[int, int, int]
) -> None:
    blocks, filters, channels = sizes
    state = resnet_state(blocks, filters, channels, norm, dropout)
    theirs = Resnet(blocks, filters, channels, norm, dropout).eval()
    theirs.load_state_dict(state)  # the names are those of plain torch modules
    found, found_channels, ours, _ = load(saved(state, tmp_path / "latest_net_G_A.pth"))
    expected = section(name="resnet", blocks=blocks, filters=filters, norm=norm, dropout=0.5 if dropout else 0.0)
    assert (found, found_channels) == (expected, channels)
    images = torch.rand(1, channels, 20, 24) * 2 - 1
    torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("depth", "filters", "channels"), [(5, 4, 3), (7, 2, 1), (8, 1, 3)])
def test_unets_are_recognised_and_translate_the_same(
    tmp_path: Path, norm: str, depth: int, filters: int, channels: int
) -> None:
    state = unet_state(depth, filters, channels, norm)
    found, found_channels, ours, _ = load(saved(state, tmp_path / "latest_net_G.pth"))
    assert (found, found_channels) == (section(name="unet", depth=depth, filters=filters, norm=norm), channels)
    images = torch.rand(1, channels, 2**depth, 2 * 2**depth) * 2 - 1
    torch.testing.assert_close(ours(images), unet_forward(state, images, depth, norm), rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("form", ["resnet", "dropout", "unet"])
def test_written_back_it_is_the_same_file(tmp_path: Path, form: str, norm: str) -> None:
    state = unet_state(6, 2, norm=norm) if form == "unet" else resnet_state(3, norm=norm, dropout=form == "dropout")
    path = saved(state, tmp_path / "latest_net_G_A.pth")
    spec, weights = read_translator(path, None)
    again = to_legacy(GeneratorConfig(**spec.generator), spec.channels, weights, path)
    assert list(again) == list(state), "in the order of the network"
    assert all(torch.equal(again[name], state[name]) and again[name].dtype == state[name].dtype for name in state)


def test_a_resnet_without_blocks_is_one_too(tmp_path: Path) -> None:
    assert load(saved(resnet_state(0), tmp_path / "g.pth"))[0]["blocks"] == 0


def test_what_the_other_tool_means_by_no_norm_is_ours_with_zero_biases(tmp_path: Path) -> None:
    state = resnet_state(2, norm="none")
    _, _, loaded, weights = load(saved(state, tmp_path / "g.pth"))
    plain = build_generator(GeneratorConfig(name="resnet", blocks=2, filters=4, norm="none"), 3)
    plain.load_state_dict({name: state.get(name, torch.zeros(value.shape)) for name, value in weights.items()})
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(images), plain.eval()(images))


# ---------------------------------------------------------------------------------------------------- old habits


def test_statistics_prefixes_and_old_layout_of_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = resnet_state(2)
    old = dict(state)
    for name, channels in (("model.2", 4), ("model.10.conv_block.2", 16)):
        old[f"{name}.running_mean"] = torch.full((channels,), 7.0)
        old[f"{name}.running_var"] = torch.full((channels,), 7.0)
        old[f"{name}.num_batches_tracked"] = torch.tensor(3)
    wrapped = {f"module.{name}": weight for name, weight in old.items()}
    path = saved(wrapped, tmp_path / "latest_net_G_A.pth", _use_new_zipfile_serialization=False)
    with caplog.at_level(logging.WARNING):
        weights = load(path)[3]
    assert weights.keys() == state.keys()
    assert all(torch.equal(weights[name], state[name]) for name in state)
    assert "latest_net_G_A.pth: running statistics of instance norms" in caplog.text
    assert len(caplog.records) == 1


def test_half_precision_is_widened_and_missing_counters_are_zero(tmp_path: Path) -> None:
    state = resnet_state(1, norm="batch")
    halves = {name: value.half() for name, value in state.items() if "num_batches" not in name}
    weights = load(saved(halves, tmp_path / "g.pth"))[3]
    assert all(torch.equal(weights[name], half.float()) for name, half in halves.items())
    assert weights["model.2.num_batches_tracked"] == 0
    assert weights.keys() == state.keys()


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (resnet_state(1), None),
        (resnet_state(1, norm="batch"), "stored statistics of training are used"),
        (resnet_state(1, dropout=True), "keeps dropout on"),
        (unet_state(5, 1), "does not say whether it had dropout"),
    ],
)
def test_what_may_differ_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, state: State, words: str | None
) -> None:
    read_translator(saved(state, tmp_path / "g.pth"), None)
    assert len(caplog.records) == (0 if words is None else 1)
    assert words is None or words in caplog.text


def test_names_and_preprocessing(tmp_path: Path) -> None:
    forward, _ = read_translator(saved(resnet_state(1), tmp_path / "200_net_G_A.pth"), "vangogh")
    assert (forward.source, forward.target, forward.direction, forward.step) == ("original", "vangogh", "ab", 0)
    assert (forward.resize, forward.load_size, forward.crop_size) == ("squash", 286, 256)
    backward, _ = read_translator(saved(resnet_state(1), tmp_path / "200_net_G_B.pth"), None)
    assert (backward.target, backward.direction) == ("translated", "ba")


# ---------------------------------------------------------------------------------------------------- refusals


def without(state: State, *names: str) -> State:
    return {name: weight for name, weight in state.items() if name not in names}


def zero_padded() -> State:
    """Blocks with their convolutions at 0 and 3."""
    return {
        name.replace("block.1.", "block.0.").replace("block.5.", "block.3."): w for name, w in resnet_state().items()
    }


REFUSED = {
    "discriminator": (discriminator_state(), "holds a discriminator: needed is a generator"),
    "pixel": (conv("net.0", 8, 3, 1, 1, bias=8) | conv("net.2", 16, 8, 1, 1), "holds a discriminator"),
    "antialias": (resnet_state() | {"model.7.filt": torch.rand(8, 1, 3, 3)}, "antialiasing"),
    "stylegan": ({"decoder.0.conv.modulation.weight": torch.rand(2, 2)}, "StyleGAN"),
    "vgg": ({"features.0.weight": torch.rand(4, 3, 3, 3)}, r"unknown here .*features\.0\.weight"),
    "optimizer": ({"state": {}, "param_groups": []}, "state of an optimizer"),
    "nested": ({"epoch": 3, "state_dict": resnet_state()}, r"more than weights \(epoch is a int\)"),
    "list": ([torch.rand(2)], "no weights by name"),
    "empty": ({}, "no weights by name"),
    "numbered": ({3: torch.rand(2)}, "no weights by name"),
    "cut": (without(resnet_state(), "model.12.bias"), r"2 blocks.*instance norm.*model\.12\.bias is missing"),
    "headless": (without(resnet_state(), "model.19.weight"), r"model\.19\.weight is missing"),
    "extra": (resnet_state() | {"model.30.weight": torch.rand(1)}, r"but model\.30\.weight has no place"),
    "shape": (resnet_state() | {"model.4.weight": torch.rand(8, 4, 4, 4)}, r"has shape \(8, 4, 4, 4\), needed is"),
    "flat": (resnet_state() | {"model.1.weight": torch.rand(5)}, "no convolutions"),
    "colouring": (resnet_state() | {"model.1.weight": torch.rand(4, 1, 7, 7)}, "turns 1 channel into 3"),
    "zero padding": (zero_padded(), "zero padding inside its blocks"),
    "nan": (resnet_state() | {"model.1.bias": torch.tensor([0, float("nan"), 0, 0])}, "values that are not finite"),
    "strings": (resnet_state() | {"model.1.bias": "no"}, "more than weights"),
    "repeated": (resnet_state() | {"model.1.weight": torch.zeros(1).expand(10**6, 3, 7, 7)}, "made wrongly"),
    "nowhere": (resnet_state() | {"model.1.bias": torch.empty(4, device="meta")}, "no plain numbers"),
    "whole numbers": (resnet_state() | {"model.1.bias": torch.arange(4)}, "no weight of a network"),
    "sparse": (resnet_state() | {"model.1.bias": torch.rand(4).to_sparse()}, "no plain numbers"),
    "huge index": (resnet_state() | {"model.99999999999.conv_block.1.weight": torch.rand(1)}, "has no place"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_one_line(tmp_path: Path, name: str) -> None:
    state, words = REFUSED[name]
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_translator(saved(state, tmp_path / "file.pth"), None)
    assert "\n" not in str(refusal.value)
    assert "file.pth" in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"upsample": "resize"}, "only generator.upsample=transpose, and this one has resize"),
        ({"upsample": "subpixel"}, "this one has subpixel"),
        ({"padding": "replicate"}, "only generator.padding=reflect, and this one has replicate"),
        ({"padding": "zero"}, "this one has zero"),
        ({"antialias": True}, "no generator.antialias, and this one has it"),
        ({"attention": True}, "no generator.attention, and this one has it"),
        ({"norm": "none"}, "no biases with generator.norm=none"),
        ({"name": "unet", "blocks": None, "depth": 4}, "depth of at least 5, and this one has 4"),
    ],
)
def test_what_the_old_layout_does_not_know(options: dict[str, object], words: str) -> None:
    config = GeneratorConfig(**{"filters": 2, "blocks": 1, **options})
    weights = build_generator(config, 3).state_dict()
    for name in weights:
        weights[name] = torch.ones_like(weights[name])
    with pytest.raises(CheckpointError, match=words):
        to_legacy(config, 3, weights, Path("run"))


def test_flags_that_build_the_same_network_there() -> None:
    assert loading_flags(GeneratorConfig(filters=32, blocks=6), 3) == (
        "--netG resnet_6blocks --norm instance --ngf 32 --input_nc 3 --output_nc 3 --no_dropout"
    )
    assert loading_flags(GeneratorConfig(name="unet_256", norm="batch", dropout=0.5), 1) == (
        "--netG unet_256 --norm batch --ngf 64 --input_nc 1 --output_nc 1"
    )
    assert "ResnetGenerator(n_blocks=4)" in loading_flags(GeneratorConfig(blocks=4), 3)
