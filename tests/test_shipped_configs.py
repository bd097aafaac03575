"""Every config that ships loads without a warning and says what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest

from cyclestyle.config.loading import load_config, load_with_warnings
from cyclestyle.config.schema import SAMPLE_ROOT

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def test_the_promised_ones_ship() -> None:
    assert {"quickstart.yaml", "photo2vangogh.yaml", "smoke.yaml"} <= {path.name for path in SHIPPED}


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


@pytest.mark.parametrize("name", ["quickstart", "smoke"])
def test_the_small_ones_use_the_sample_set(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.yaml")
    assert config.data.root == SAMPLE_ROOT
    assert (config.data.a.name, config.data.b.name) == ("photo", "painting")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_it_trains_two_steps(path: Path, dataset: Path, tmp_path: Path) -> None:
    """As it ships but for the pictures and the length."""
    import cyclestyle

    settings = [f"data.root={dataset}", f"output_dir={tmp_path}", "train.steps=2", "log.num_samples=1"]
    run = cyclestyle.train(load_config(path, settings))
    assert (run / "checkpoints" / "step_00000002.pt").is_file()
    assert len(list((run / "translators").iterdir())) == 2
    assert len(list((run / "samples").glob("step_00000002_*.png"))) == 2
