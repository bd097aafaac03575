"""The two Inceptions: parity with their libraries' own calls, and what is said where something is missing.

Weights are random: trained ones cannot be fetched where tests run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.evaluation import inception, torchvision_inception
from cyclestyle.evaluation.features import Extractor, build_extractor
from cyclestyle.images import to_tensor

torch_fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is the reference")
CPU = torch.device("cpu")
NAMES = ("inception", "torchvision")
URLS = {"inception": inception.URL, "torchvision": torchvision_inception.URL}


def spread(network: nn.Module) -> nn.Module:
    """Statistics of the batch norms drawn at random: features of an untrained network hardly differ otherwise."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.1)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.05, 0.2)  # type: ignore[arg-type]
    return network


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Weight files of random networks."""
    from torch_fidelity import feature_extractor_inceptionv3 as module
    from torchvision.models import inception_v3

    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:  # an instance without the download that its constructor would start
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        fidelity = module.FeatureExtractorInceptionV3("random", ["2048"])
    networks = {"inception": fidelity, "torchvision": inception_v3(init_weights=False)}
    folder = tmp_path_factory.mktemp("weights")
    for name, network in networks.items():
        torch.save(spread(network).state_dict(), folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in networks}


@pytest.fixture(scope="module")
def extractors(files: dict[str, Path]) -> dict[str, Extractor]:
    return {name: build_extractor(name, files[name], CPU, 3) for name in NAMES}  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), dtype=np.uint8)


def test_features_are_those_of_torch_fidelity(
    files: dict[str, Path], extractors: dict[str, Extractor], pixels: np.ndarray
) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    reference = FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=str(files["inception"]))
    (expected,) = reference(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    features = extractors["inception"](to_tensor(pixels))
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    assert expected.std(0).mean() > 1e-2 * expected.abs().mean()  # other pictures have other features


def test_features_are_those_of_torchvision(
    files: dict[str, Path], extractors: dict[str, Extractor], pixels: np.ndarray
) -> None:
    """torchvision's own route: pixels in [0, 1], ImageNet's normalisation, which transform_input turns into [-1, 1]."""
    from torchvision.models import inception_v3
    from torchvision.transforms.v2 import functional as transforms

    reference = inception_v3(init_weights=False, transform_input=True).eval()
    reference.load_state_dict(torch.load(files["torchvision"], weights_only=True))
    pooled = []
    reference.avgpool.register_forward_hook(lambda _module, _inputs, output: pooled.append(output.flatten(1)))
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = transforms.resize(images, [299, 299], antialias=True)
    with torch.no_grad():
        reference(transforms.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    features = extractors["torchvision"](to_tensor(pixels))
    # 94 layers in float32, over inputs whose last bits differ; features are about 0.1 to 1.
    torch.testing.assert_close(features, pooled[0], rtol=1e-3, atol=1e-4)
    assert pooled[0].std(0).mean() > 1e-2 * pooled[0].abs().mean()


@pytest.mark.parametrize("name", NAMES)
def test_what_an_extractor_promises(name: str, extractors: dict[str, Extractor], pixels: np.ndarray) -> None:
    extractor, images = extractors[name], to_tensor(pixels).requires_grad_()
    assert extractor.name == name
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as within training
        features = extractor(images)
    assert features.shape == (2, extractor.num_features) == (2, 2048)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    one_by_one = torch.cat([extractor(image) for image in images.split(1)])
    torch.testing.assert_close(features, one_by_one, rtol=1e-4, atol=1e-5)
    assert extractor(images[:0]).shape == (0, 2048)
    # Values beyond the range and between grey levels count as the picture that would be saved.
    torch.testing.assert_close(extractor((images + 0.3 / 127.5)[:1]), features[:1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_grey_is_seen_as_colour(
    name: str, files: dict[str, Path], extractors: dict[str, Extractor], pixels: np.ndarray
) -> None:
    grey = to_tensor(pixels[:1, ..., :1])
    features = build_extractor(name, files[name], CPU, 1)(grey)  # type: ignore[arg-type]
    torch.testing.assert_close(features, extractors[name](grey.repeat(1, 3, 1, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_building_leaves_the_random_numbers_of_a_run_alone(name: str, files: dict[str, Path]) -> None:
    before = torch.random.get_rng_state()
    build_extractor(name, files[name], CPU, 3)  # type: ignore[arg-type]
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_fingerprint_follows_the_weights(
    name: str, files: dict[str, Path], extractors: dict[str, Extractor], tmp_path: Path
) -> None:
    same = tmp_path / "same.pth"
    same.write_bytes(files[name].read_bytes())
    state = torch.load(same, weights_only=True)
    next(iter(state.values()))[0, 0, 0, 0] += 1
    torch.save(state, tmp_path / "other.pth")
    again, other = (
        build_extractor(name, path, CPU, 3).fingerprint  # type: ignore[arg-type]
        for path in (same, tmp_path / "other.pth")
    )
    assert extractors[name].fingerprint == again != other


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_torch_keeps_are_found(
    name: str, files: dict[str, Path], extractors: dict[str, Extractor]
) -> None:
    kept = Path(torch.hub.get_dir()) / "checkpoints" / URLS[name].rsplit("/", 1)[1]
    kept.parent.mkdir(parents=True)
    kept.symlink_to(files[name])
    assert build_extractor(name, None, CPU, 3).fingerprint == extractors[name].fingerprint  # type: ignore[arg-type]


def message(error: type[Exception], build: Callable[[], Any]) -> str:
    with pytest.raises(error) as raised:
        build()
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [None, "nowhere.pth"])
def test_absent_weights_are_named_with_the_cure(name: str, weights: str | None) -> None:
    text = message(ConfigError, lambda: build_extractor(name, weights, CPU, 3))  # type: ignore[arg-type]
    kept = Path(torch.hub.get_dir()) / "checkpoints" / URLS[name].rsplit("/", 1)[1]
    for part in (weights or str(kept), URLS[name], str(kept), "evaluate.weights", "--weights", "extractor=builtin"):
        assert part in text


@pytest.mark.parametrize("name", NAMES)
def test_damaged_weights(name: str, files: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.pth"
    cut.write_bytes(files[name].read_bytes()[:100_000])
    assert str(cut) in message(CheckpointError, lambda: build_extractor(name, cut, CPU, 3))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2]], ids=["another network", "a list"])
def test_weights_of_something_else(name: str, content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    text = message(CheckpointError, lambda: build_extractor(name, tmp_path / "other.pth", CPU, 3))  # type: ignore[arg-type]
    assert "other.pth" in text
    assert URLS[name] in text


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_run_code_are_refused(name: str, tmp_path: Path) -> None:
    torch.save({"weight": print}, tmp_path / "code.pth")
    text = message(CheckpointError, lambda: build_extractor(name, tmp_path / "code.pth", CPU, 3))  # type: ignore[arg-type]
    assert "run code" in text


@pytest.mark.parametrize("name", NAMES)
def test_four_channels_are_for_the_builtin(name: str, files: dict[str, Path]) -> None:
    text = message(ConfigError, lambda: build_extractor(name, files[name], CPU, 4))  # type: ignore[arg-type]
    assert "4" in text
    assert "extractor=builtin" in text


def test_without_the_package(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    text = message(ConfigError, lambda: build_extractor("inception", files["inception"], CPU, 3))
    assert 'pip install "cyclestyle[metrics]"' in text
