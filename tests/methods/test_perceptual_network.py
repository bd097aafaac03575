"""VGG19 from a file: found, read, refused. Weights are random, and no more of them than a test looks at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.methods.perceptual_network import load_vgg19
from cyclestyle.networks.vgg import URL, VGG19Features

LAYERS = ("relu1_1", "relu2_1")


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture
def state() -> dict[str, Tensor]:
    """Up to relu2_1, and a bit of the classifier, as torchvision's file has it."""
    torch.manual_seed(0)
    shapes = {0: (64, 3), 2: (64, 64), 5: (128, 64)}
    weights = {f"features.{number}.weight": torch.randn(*shape, 3, 3) / 20 for number, shape in shapes.items()}
    biases = {f"features.{number}.bias": torch.randn(shape[0]) / 20 for number, shape in shapes.items()}
    return weights | biases | {"classifier.6.bias": torch.zeros(1000)}


@pytest.fixture
def file(state: dict[str, Tensor], tmp_path: Path) -> Path:
    path = tmp_path / "vgg.pth"
    torch.save(state, path)
    return path


def kept() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / "vgg19-dcbb9e9d.pth"


def assert_is_that_of(network: VGG19Features, state: dict[str, Tensor]) -> None:
    images = 2 * torch.rand(1, 3, 6, 8) - 1
    features = network(images)
    assert list(features) == list(LAYERS)
    for name, one in VGG19Features(state, LAYERS)(images).items():
        torch.testing.assert_close(features[name], one, rtol=0, atol=0)


def test_a_named_file(file: Path, state: dict[str, Tensor]):
    before = torch.get_rng_state()
    network = load_vgg19(str(file), LAYERS)
    assert torch.get_rng_state().equal(before)
    assert_is_that_of(network, state)


def test_the_file_that_torch_keeps(file: Path, state: dict[str, Tensor]):
    kept().parent.mkdir(parents=True)
    file.rename(kept())
    assert_is_that_of(load_vgg19(None, LAYERS), state)


def test_the_old_layout_of_files(state: dict[str, Tensor], tmp_path: Path):
    """What torch wrote before 1.6, when VGG19's weights were published."""
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_is_that_of(load_vgg19(str(tmp_path / "old.pth"), LAYERS), state)


def test_a_file_in_the_home_folder(file: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(file.parent))
    assert_is_that_of(load_vgg19(f"~/{file.name}", LAYERS), state)


def refused(error: type[Exception], file: Path | str | None) -> str:
    with pytest.raises(error) as raised:
        load_vgg19(None if file is None else str(file), LAYERS)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("file", [None, "nowhere.pth", "."])
def test_absent_weights_are_named_with_the_cure(file: str | None):
    text = refused(ConfigError, file)
    for part in (file or str(kept()), URL, str(kept()), "method.perceptual.file"):
        assert part in text


@pytest.mark.parametrize("length", [0, 1000, 100_000, -1])
def test_damaged_weights(length: int, file: Path):
    file.write_bytes(file.read_bytes()[:length])
    text = refused(CheckpointError, file)
    assert str(file) in text
    assert text.startswith("method.perceptual.file, ")


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2]], ids=["another network", "a list"])
def test_weights_of_something_else(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "other.pth")
    text = refused(CheckpointError, tmp_path / "other.pth")
    for part in ("method.perceptual.file, ", str(tmp_path / "other.pth"), URL):
        assert part in text


def test_weights_that_run_code_are_refused(tmp_path: Path):
    torch.save({"features.0.weight": print}, tmp_path / "code.pth")
    assert "run code" in refused(CheckpointError, tmp_path / "code.pth")


def test_a_picture(tmp_path: Path):
    (tmp_path / "vgg.pth").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    assert "vgg.pth" in refused(CheckpointError, tmp_path / "vgg.pth")
