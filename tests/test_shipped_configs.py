"""Every config that ships loads without a warning and says what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cyclestyle.checkpoint import load_checkpoint
from cyclestyle.config.loading import load_config, load_with_warnings
from cyclestyle.config.methods import CUTConfig, DCLGANConfig, active_terms
from cyclestyle.config.schema import SAMPLE_ROOT, Config

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def test_the_promised_ones_ship() -> None:
    promised = {"quickstart", "photo2vangogh", "cut", "fastcut", "dclgan", "smoke"}
    assert promised <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_loads_without_a_warning(path: Path) -> None:
    config, warnings = load_with_warnings(path)
    assert warnings == ()
    assert config.name == path.stem  # so that nobody's run folders collide


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_its_header_says_what_to_expect(path: Path) -> None:
    header = path.read_text(encoding="utf-8").split("\nname:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for heading in ("reproduces:", "data:", "time:", "memory:", "expected score:"):
        assert heading in header


def test_photo2vangogh_is_the_papers_recipe() -> None:
    config = load_config(CONFIGS / "photo2vangogh.yaml")
    weights = config.method.weights
    assert (config.data.a.name, config.data.b.name) == ("photo", "vangogh")
    assert (config.data.load_size, config.data.crop_size, config.data.flip) == (286, 256, True)
    assert (config.generator.name, config.generator.filters, config.generator.upsample) == ("resnet_9", 64, "transpose")
    assert (config.discriminator.name, config.discriminator.layers) == ("patchgan", 3)
    assert (config.method.adversarial, config.method.pool_size) == ("lsgan", 50)
    assert (weights.cycle_a, weights.cycle_b, weights.identity_a, weights.identity_b) == (10, 10, 5, 5)
    assert (config.optimizer.generator_lr, config.optimizer.betas) == (2e-4, (0.5, 0.999))
    assert (config.train.epochs, config.optimizer.schedule, config.optimizer.decay_start) == (200, "linear", 0.5)
    assert config.train.batch_size == 1


@pytest.mark.parametrize("name", ["cut", "fastcut"])
def test_cut_and_fastcut_are_the_papers_recipes(name: str) -> None:
    """FastCUT: ten times the contrast and none of the identity, mirrored images, 150 + 50 epochs for 200 + 200."""
    config = load_config(CONFIGS / f"{name}.yaml")
    assert isinstance(config.method, CUTConfig)
    is_fast, weights, contrast = name == "fastcut", config.method.weights, config.method.contrast
    assert (weights.adversarial_ab, weights.discriminator_b) == (1, 0.5)
    assert (weights.nce_ab, weights.nce_identity_b) == ((10, 0) if is_fast else (0.5, 0.5))
    assert config.method.flip_equivariance == is_fast
    assert contrast.layers == ("image", "down_1", "down_2", "block_1", "block_middle")
    assert config.optimizer.generator_lr == config.optimizer.discriminator_lr == 2e-4
    assert (config.train.epochs, config.optimizer.decay_start) == ((200, 150 / 200) if is_fast else (400, 0.5))
    assert_is_of_cuts_family(config)


def test_dclgan_is_the_papers_recipe() -> None:
    config = load_config(CONFIGS / "dclgan.yaml")
    assert isinstance(config.method, DCLGANConfig)
    weights = config.method.weights
    assert (weights.adversarial_ab, weights.adversarial_ba) == (1, 1)
    assert (weights.discriminator_a, weights.discriminator_b) == (0.5, 0.5)
    assert (weights.nce_ab, weights.nce_ba, weights.identity_a, weights.identity_b) == (2, 2, 1, 1)
    assert config.method.contrast.layers == ("down_1", "down_2", "block_1", "block_middle")
    assert config.optimizer.generator_lr == config.optimizer.discriminator_lr == 1e-4
    assert (config.train.epochs, config.optimizer.decay_start) == (400, 0.5)
    assert_is_of_cuts_family(config)


def assert_is_of_cuts_family(config: Config) -> None:
    """What the authors' code of CUT and DCLGAN has in common."""
    assert isinstance(config.method, CUTConfig | DCLGANConfig)
    contrast, generator, judge = config.method.contrast, config.generator, config.discriminator
    assert (config.data.a.name, config.data.b.name) == ("photo", "vangogh")
    assert (config.data.load_size, config.data.crop_size, config.data.flip) == (286, 256, True)
    assert (config.method.adversarial, config.method.pool_size) == ("lsgan", 0)
    assert (contrast.loss, contrast.num_places, contrast.temperature, contrast.width) == ("nce", 256, 0.07, 256)
    assert (generator.name, generator.filters, generator.norm, generator.dropout) == ("resnet_9", 64, "instance", 0)
    assert (generator.antialias, generator.upsample) == (True, "resize")  # its antialiased doubling
    assert (judge.name, judge.filters, judge.layers, judge.antialias) == ("patchgan", 64, 3, True)
    for network in (generator, judge):
        assert (network.init, network.init_gain) == ("xavier", 0.02)
    assert (config.optimizer.betas, config.optimizer.schedule) == ((0.5, 0.999), "linear")
    assert config.train.batch_size == 1
    own = {"adversarial_ab", "adversarial_ba", "discriminator_a", "discriminator_b", "identity_a", "identity_b"}
    further = [name for name in active_terms(config.method.weights) if name not in own and not name.startswith("nce")]
    assert further == []


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_the_small_ones_use_the_sample_set(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.data.root == SAMPLE_ROOT
    assert (config.data.a.name, config.data.b.name) == ("photo", "painting")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_trains_two_steps(path: Path, dataset: Path, tmp_path: Path) -> None:
    """As it ships but for the pictures and the length; those for a GPU with small crops and few filters."""
    import cyclestyle

    settings = [f"data.root={dataset}", f"output_dir={tmp_path}", "train.steps=2", "log.num_samples=1"]
    shipped = load_config(path)
    if shipped.data.crop_size > 128:
        settings += ["data.load_size=36", "data.crop_size=32", "generator.filters=8", "discriminator.filters=8"]
    run = cyclestyle.train(load_config(path, settings))
    state = load_checkpoint(run / "checkpoints" / "step_00000002.pt")
    directions = ["ab"] if isinstance(shipped.method, CUTConfig) else ["ab", "ba"]
    assert list(state["translators"]) == [f"gen_{direction}" for direction in directions]
    a, b = shipped.data.a.name, shipped.data.b.name
    ways = {"ab": f"{a}_to_{b}", "ba": f"{b}_to_{a}"}
    assert {file.stem for file in (run / "translators").iterdir()} == {ways[each] for each in directions}
    grids = {file.name for file in (run / "samples").iterdir()}
    assert grids == {f"step_00000002_{ways[each]}.png" for each in directions}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    logged = {name for row in rows for name in row}
    for term in active_terms(shipped.method.weights):  # gradient_penalty is one of gradient_penalty_a
        assert any(name.startswith(term) for name in logged), term
