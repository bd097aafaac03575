"""VGG19's features against torchvision's own, run layer by layer, with random weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torchvision
from torch import Tensor, nn

from cyclestyle.config.methods import vgg_layers
from cyclestyle.errors import CheckpointError
from cyclestyle.networks.vgg import URL, VGG19Features

RELUS = (1, 3, 6, 8, 11, 13, 15, 17, 20, 22, 24, 26, 29, 31, 33, 35)
"""Numbers of the ReLUs in torchvision's `features`, as relu1_1 .. relu5_4."""
SHALLOW = ("relu1_1", "relu2_1")


def reference(depth: int) -> nn.Sequential:
    """torchvision's first `depth` layers of features, their weights random and of no more memory than they need."""
    with torch.device("meta"):
        layers = torchvision.models.vgg19(init_weights=False).features[:depth]
    layers = layers.to_empty(device="cpu")
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # so that activations do not fade with depth
            nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.ReLU):
            layer.inplace = False
    return layers.requires_grad_(False)


def state_of(layers: nn.Sequential) -> dict[str, Tensor]:
    return {f"features.{name}": value for name, value in layers.state_dict().items()}


@pytest.fixture(scope="module")
def shallow() -> nn.Sequential:
    """Up to relu2_1."""
    torch.manual_seed(0)
    return reference(7)


@pytest.fixture
def state(shallow: nn.Sequential) -> dict[str, Tensor]:
    return state_of(shallow)


def expected(layers: nn.Sequential, images: Tensor) -> dict[str, Tensor]:
    """Of images in [0, 1], with torchvision's own normalisation."""
    x = torchvision.transforms.functional.normalize(images, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    found = {}
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in RELUS:
            found[vgg_layers()[RELUS.index(number)]] = x
    return found


def test_all_layers_are_those_of_torchvision():
    """Each of the 16, at odd sizes, in float64 from weights in fp32."""
    layers = reference(36)
    network = VGG19Features(state_of(layers), vgg_layers()).double()
    assert network.min_size == 16
    images = torch.rand(1, 3, 16, 21, dtype=torch.float64)
    features = network(2 * images - 1)
    theirs = expected(layers.double(), images)
    assert list(features) == list(theirs) == list(vgg_layers())
    for name, one in features.items():
        # The constants of ImageNet's colours are kept in fp32.
        torch.testing.assert_close(one, theirs[name], rtol=1e-5, atol=1e-6)
        assert one.std() > 0.03, name  # neither faded nor constant
        assert one.min() == 0


@pytest.mark.parametrize(
    ("layers", "min_size"),
    [
        (("relu1_2",), 1),
        (("relu2_1",), 2),
        (("relu3_4", "relu1_1"), 4),
        (("relu4_2", "relu4_2"), 8),
        (("relu5_4",), 16),
    ],
)
def test_smallest_images(layers, min_size):
    torch.manual_seed(0)
    names = vgg_layers()
    last = max(map(names.index, layers))
    with torch.device("meta"):
        layers_of_torchvision = torchvision.models.vgg19(init_weights=False).features
    state = {
        name: torch.zeros(()).expand(value.shape) for name, value in state_of(layers_of_torchvision).items()
    }  # no memory
    network = VGG19Features(state, layers)
    assert network.min_size == min_size
    assert network.layers == tuple(sorted(set(layers), key=names.index))
    assert len(dict(network.named_buffers())) == 2 * (last + 1) + 2  # nothing deeper is kept
    features = network(torch.zeros(1, 3, min_size, min_size))
    assert list(features) == list(network.layers)
    assert features[names[last]].shape[2:] == (1, 1)
    if min_size > 1:
        with pytest.raises(RuntimeError):
            network(torch.zeros(1, 3, min_size, min_size - 1))


def test_only_the_wanted_layers_come_back(shallow: nn.Sequential, state: dict[str, Tensor]):
    """Each once, in the order of the network."""
    images = torch.rand(2, 3, 7, 6)
    features = VGG19Features(state, ["relu2_1", "relu1_2", "relu1_2"])(2 * images - 1)
    assert list(features) == ["relu1_2", "relu2_1"]
    theirs = expected(shallow, images)
    for name, one in features.items():
        torch.testing.assert_close(one, theirs[name], rtol=1e-4, atol=1e-5)


def test_grey_is_seen_as_colour(state: dict[str, Tensor]):
    network = VGG19Features(state, SHALLOW)
    grey = 2 * torch.rand(2, 1, 6, 8) - 1
    for one, other in zip(network(grey).values(), network(grey.expand(-1, 3, -1, -1)).values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    with pytest.raises(AssertionError, match="1 or 3 channels, not 4"):
        network(torch.zeros(1, 4, 6, 8))


def test_weights_are_nobodys_but_move_along(state: dict[str, Tensor]):
    """Within a larger module: not in state dicts, among parameters, or trained; moved by `.to`."""
    owner = nn.ModuleDict({"perceptual": VGG19Features(state, SHALLOW), "own": nn.Linear(1, 1)})
    assert set(owner.state_dict()) == {"own.weight", "own.bias"}
    assert {name for name, _ in owner.named_parameters()} == {"own.weight", "own.bias"}
    owner.load_state_dict({"own.weight": torch.ones(1, 1), "own.bias": torch.ones(1)})
    owner.to(torch.float64).to(memory_format=torch.channels_last).requires_grad_(True)
    buffers = dict(owner.named_buffers())
    assert len(buffers) == 2 * 3 + 2
    assert all(value.dtype == torch.float64 and not value.requires_grad for value in buffers.values())
    four = [value for value in buffers.values() if value.dim() == 4]
    assert len(four) == 3
    assert all(value.is_contiguous(memory_format=torch.channels_last) for value in four)
    assert owner.to("meta")["perceptual"](torch.zeros(1, 3, 4, 4, device="meta"))["relu2_1"].shape == (1, 128, 2, 2)


def test_gradients_reach_the_images(state: dict[str, Tensor]):
    network = VGG19Features(state, SHALLOW).double()
    images = torch.rand(1, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: network(x)["relu2_1"], images, fast_mode=True)
    network(images)["relu2_1"].sum().backward()
    assert images.grad.abs().max() > 0


def test_weights_that_want_gradients_get_none(state: dict[str, Tensor]):
    """A state dict made of parameters, as `keep_vars` gives it."""
    learned = {name: nn.Parameter(value) for name, value in state.items()}
    features = VGG19Features(learned, SHALLOW)(torch.zeros(1, 3, 4, 4))
    assert not features["relu2_1"].requires_grad


def test_building_draws_nothing_and_copies_nothing(state: dict[str, Tensor]):
    before = torch.get_rng_state()
    network = VGG19Features(state, SHALLOW)
    assert torch.get_rng_state().equal(before)
    stored = {value.data_ptr() for value in state.values()}
    assert sum(value.data_ptr() in stored for value in network.buffers()) == 2 * 3


def test_autocast_runs_it_in_half_precision(state: dict[str, Tensor]):
    network, images = VGG19Features(state, SHALLOW), 2 * torch.rand(1, 3, 8, 8) - 1
    exact = network(images)
    with torch.autocast("cpu", torch.bfloat16):
        features = network(images)
    for name, one in features.items():
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), exact[name], rtol=0.05, atol=0.05)


def test_layouts_agree(state: dict[str, Tensor]):
    network, images = VGG19Features(state, SHALLOW), 2 * torch.rand(2, 3, 8, 6) - 1
    plain = network(images)
    last = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    for name, one in last.items():
        torch.testing.assert_close(one, plain[name], rtol=1e-4, atol=1e-5)


def misfit(state: object) -> str:
    with pytest.raises(CheckpointError) as raised:
        VGG19Features(state, SHALLOW, source="vgg.pth")
    text = str(raised.value)
    assert "\n" not in text
    assert text.startswith("vgg.pth holds other weights than VGG19 needs (")
    assert URL in text
    return text


def test_weights_of_something_else(state: dict[str, Tensor]):
    name, bias = "features.5.weight", "features.2.bias"
    assert "type list" in misfit([1, 2])
    assert "features.0.weight is absent" in misfit({})
    assert f"{name} is absent" in misfit({key: value for key, value in state.items() if key != name})
    assert f"{name} has shape [128, 64, 1, 1], not [128, 64, 3, 3]" in misfit(
        {**state, name: torch.ones(128, 64, 1, 1)}
    )
    assert f"{bias} has shape [1, 64], not [64]" in misfit({**state, bias: torch.ones(1, 64)})
    assert f"{bias} is no tensor of numbers" in misfit({**state, bias: "red"})
    assert f"{bias} has values that are not finite" in misfit({**state, bias: torch.full((64,), torch.nan)})
    assert f"{bias} is no tensor of numbers" in misfit({**state, bias: torch.ones(64, dtype=torch.int64)})
    VGG19Features({**state, "classifier.0.weight": torch.zeros(1), 5: "noted"}, SHALLOW)  # neither is looked at


@pytest.mark.parametrize("other", ["vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19_bn"])
def test_its_sisters_are_told_apart(other: str, state: dict[str, Tensor]):
    """Even where the layers that are wanted have the same names and shapes."""
    with torch.device("meta"):
        network = torchvision.models.get_model(other, init_weights=False)
    assert "none of its weights" in misfit(network.state_dict() | state)


def test_blocks_are_as_deep_as_torchvision_has_them():
    assert len(RELUS) == len(vgg_layers()) == 16
    assert all(one < other for one, other in pairwise(RELUS))
