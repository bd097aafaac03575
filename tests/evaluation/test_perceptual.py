"""LPIPS against its equation, written out over torchvision's AlexNet; None, never a download, where it is absent.

AlexNet's weights are random here, lpips' own linear weights are those it ships.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.evaluation.perceptual import URL, build_lpips, why_no_lpips

lpips = pytest.importorskip("lpips", reason="lpips is the package that is wrapped")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trunk() -> nn.Sequential:
    from torchvision.models import alexnet

    torch.manual_seed(1)
    with torch.device("meta"):  # its classifier is large, and LPIPS has no use for it
        features: nn.Sequential = alexnet(weights=None).features
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return features.eval()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch would keep AlexNet's weights; nothing there yet, and nothing is fetched."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    path = tmp_path / "hub" / "checkpoints" / URL.rsplit("/", 1)[1]
    path.parent.mkdir(parents=True)
    return path


@pytest.fixture
def weights(kept: Path, trunk: nn.Sequential) -> Path:
    torch.save({f"features.{name}": tensor for name, tensor in trunk.state_dict().items()}, kept)
    return kept


@torch.no_grad()
def by_the_equation(trunk: nn.Sequential, images: Tensor, others: Tensor) -> Tensor:
    """Zhang et al. 2018, equation 1, with the linear weights that lpips ships."""
    file = Path(lpips.__file__).parent / "weights" / "v0.1" / "alex.pth"
    linear = torch.load(file, map_location="cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y = (images - shift) / scale, (others - shift) / scale
    total, stage = torch.zeros(len(images)), 0
    for index, layer in enumerate(trunk[:12]):
        x, y = layer(x), layer(y)
        if index in (1, 4, 7, 9, 11):  # after each of the five ReLUs
            difference = F.normalize(x, dim=1) - F.normalize(y, dim=1)
            total += F.conv2d(difference.square(), linear[f"lin{stage}.model.1.weight"]).mean((1, 2, 3))
            stage += 1
    assert stage == 5
    return total


def test_lpips_is_its_equation(weights: Path, trunk: nn.Sequential) -> None:
    distance = build_lpips(CPU)
    assert distance is not None
    assert why_no_lpips() is None
    images, others = torch.rand(3, 3, 64, 48) * 2 - 1, torch.rand(3, 3, 64, 48) * 2 - 1
    expected = by_the_equation(trunk, images, others)
    torch.testing.assert_close(distance(images, others), expected, rtol=1e-4, atol=1e-6)
    assert (expected > 1e-3).all()


def test_what_a_distance_is(weights: Path) -> None:
    distance = build_lpips(CPU)
    assert distance is not None
    images = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = distance(images, images)
    assert same.tolist() == [0.0, 0.0]
    assert same.dtype == torch.float32
    assert not same.requires_grad
    noise = torch.randn_like(images)
    little, much = distance(images, images + 0.05 * noise), distance(images, images + 0.5 * noise)
    assert (little > 0).all()
    assert (little < much).all()
    torch.testing.assert_close(distance(images + 0.5 * noise, images), much)
    assert distance(images[:0], images[:0]).shape == (0,)


def test_grey_tiny_and_many_channels(weights: Path) -> None:
    distance = build_lpips(CPU)
    assert distance is not None
    grey, others = torch.rand(2, 1, 64, 64), torch.rand(2, 1, 64, 64)
    colour = distance(grey.expand(-1, 3, -1, -1), others.expand(-1, 3, -1, -1))
    torch.testing.assert_close(distance(grey, others), colour)
    assert (distance(torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)) > 0).all()  # AlexNet itself ends at 31 pixels
    assert distance(torch.rand(2, 5, 64, 64), torch.rand(2, 5, 64, 64)).isnan().tolist() == [True, True]


def test_building_is_silent_and_leaves_random_numbers_alone(weights: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build_lpips(CPU) is not None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def reason() -> str:
    text = why_no_lpips()
    assert build_lpips(CPU) is None
    assert text is not None
    assert "\n" not in text
    return text


def test_without_weights_nothing_is_fetched(kept: Path) -> None:
    text = reason()
    assert URL in text
    assert str(kept) in text
    assert not kept.exists()


def test_without_the_package(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    assert 'pip install "cyclestyle[metrics]"' in reason()


def test_damaged_weights(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:5000])
    assert str(weights) in reason()


@pytest.mark.parametrize("content", [{"features.0.weight": torch.zeros(2)}, [1, 2]], ids=["another network", "a list"])
def test_weights_of_something_else(content: object, kept: Path) -> None:
    torch.save(content, kept)
    assert URL in reason()
