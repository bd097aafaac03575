"""Places and the networks that look at them, in closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cyclestyle.networks.patch_features import PatchFeatures, sample_places

SIZES = [(6, 8), (3, 4), (1, 2)]
LAYERS = {"image": 3, "down_1": 5, "block_1": 4}
WIDTH = 16


def maps(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [torch.randn(2, channels, *size, dtype=dtype) for channels, size in zip(LAYERS.values(), SIZES, strict=True)]


def places(num_places: int = 7, seed: int = 1) -> list[Tensor]:
    return sample_places(SIZES, num_places, torch.Generator().manual_seed(seed))


def test_places_are_different_ones_of_the_layer():
    drawn = places()
    assert [len(where) for where in drawn] == [7, 7, 2]  # the last layer has no more
    for where, (height, width) in zip(drawn, SIZES, strict=True):
        assert where.dtype == torch.int64
        assert len(set(where.tolist())) == len(where)
        assert set(where.tolist()) <= set(range(height * width))
        assert where.untyped_storage().nbytes() == where.nbytes  # what a checkpoint would write


def test_all_places_are_as_likely():
    """1000 draws of 3 among 12: each place 250 times, and as often first; five deviations are allowed."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample_places([(3, 4)], 3, generator)[0] for _ in range(1000)])
    for values, share in ((drawn, 3 / 12), (drawn[:, 0], 1 / 12)):
        counts = values.flatten().bincount(minlength=12).float()
        assert float((counts - 1000 * share).abs().max()) < 5 * math.sqrt(1000 * share * (1 - share))


def test_places_are_drawn_from_the_given_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    once, again, other = places(seed=1), places(seed=1), places(seed=2)
    assert all(map(torch.equal, once, again))
    assert not torch.equal(once[0], other[0])
    assert torch.get_rng_state().equal(state)
    generator = torch.Generator().manual_seed(1)
    first, second = (sample_places([(4, 4), (4, 4)], 16, generator)[number] for number in (0, 1))
    assert not torch.equal(first, second)


def identity(layers: dict[str, int], width: int) -> PatchFeatures:
    """Networks that copy their channels, where these are positive."""
    networks = PatchFeatures(layers, width)
    for part in networks.modules():
        if isinstance(part, nn.Linear):
            nn.init.eye_(part.weight)
    return networks


def test_places_pick_their_pixels():
    """Pixel (y, x) of image n has the channels (1 + n, 1 + y, 1 + x): seen as they are, scaled to length 1."""
    n, y, x = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), torch.arange(4.0), indexing="ij")
    image = torch.stack([1 + n, 1 + y, 1 + x], dim=1)
    (seen,) = identity({"image": 3}, 4)([image], [torch.tensor([11, 0, 6])])  # (2, 3), (0, 0), (1, 2)
    expected = torch.tensor([
        [[1.0, 3.0, 4.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 2.0, 3.0, 0.0]],
        [[2.0, 3.0, 4.0, 0.0], [2.0, 1.0, 1.0, 0.0], [2.0, 2.0, 3.0, 0.0]],
    ])  # fmt: skip
    torch.testing.assert_close(seen, F.normalize(expected, dim=2), rtol=1e-6, atol=1e-6)


def test_each_layer_has_its_own_two_linear_layers():
    networks, features, drawn = PatchFeatures(LAYERS, WIDTH, gain=1.0).double(), maps(torch.float64), places()
    for parameter in networks.parameters():
        nn.init.normal_(parameter)  # biases too
    seen = networks(features, drawn)
    for name, x, where, result in zip(LAYERS, features, drawn, seen, strict=True):
        first, _, second = networks.networks[name]
        assert first.weight.shape == (WIDTH, LAYERS[name])
        assert second.weight.shape == (WIDTH, WIDTH)
        for index, place in enumerate(where.tolist()):
            column = x[:, :, place // x.shape[3], place % x.shape[3]]  # N x C
            hidden = (column @ first.weight.T + first.bias).clamp(min=0)
            expected = F.normalize(hidden @ second.weight.T + second.bias, dim=1)
            torch.testing.assert_close(result[:, index], expected, rtol=1e-6, atol=1e-6)


def test_vectors_have_length_1_from_the_start():
    """With weights as small as CUT's, where they are about 1e-4 long before."""
    for seen, where in zip(PatchFeatures(LAYERS, 256)(maps(), places()), places(), strict=True):
        assert seen.shape == (2, len(where), 256)
        torch.testing.assert_close(seen.norm(dim=2), torch.ones(2, len(where)), rtol=0, atol=5e-3)


def test_gradients_reach_all_parameters_and_the_features():
    networks, features = PatchFeatures(LAYERS, WIDTH, gain=1.0), [x.requires_grad_(True) for x in maps()]
    drawn = places()
    weights = torch.randn(WIDTH)
    sum((seen @ weights).sum() for seen in networks(features, drawn)).backward()
    for name, parameter in networks.named_parameters():
        assert parameter.grad.abs().max() > 0, name
    for x, where in zip(features, drawn, strict=True):
        touched = x.grad.abs().sum((0, 1)).flatten() > 0
        assert set(touched.nonzero().flatten().tolist()) == set(where.tolist())  # and no other places


def test_gradients_are_right_numerically():
    networks, x = PatchFeatures({"image": 2}, 4, gain=1.0).double(), torch.randn(1, 2, 2, 3, dtype=torch.float64)
    where = torch.tensor([4, 1, 0])
    assert torch.autograd.gradcheck(lambda x: networks([x], [where])[0], x.requires_grad_(True))


def test_zeros_stay_zeros_without_a_gradient():
    """A grey place at the start, or one where no hidden channel is active: 1 / 1e-7 would be in the gradients."""
    networks = PatchFeatures({"image": 3}, 4)
    grey = torch.zeros(1, 3, 2, 2, requires_grad=True)
    (seen,) = networks([grey], [torch.arange(4)])
    assert seen.eq(0).all()
    seen.sum().backward()
    for parameter in networks.parameters():
        assert parameter.grad.eq(0).all()


def test_layouts_agree():
    networks, features = PatchFeatures(LAYERS, WIDTH), maps()
    last = [x.to(memory_format=torch.channels_last) for x in features]
    for one, other in zip(networks(features, places()), networks(last, places()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_half_precision_features_are_looked_at_in_fp32():
    networks, features = PatchFeatures(LAYERS, WIDTH), [x.bfloat16() for x in maps()]
    expected = networks([x.float() for x in features], places())
    with torch.autocast("cpu", torch.bfloat16):
        seen = networks(features, places())
    for one, other in zip(seen, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_initialisation():
    """Xavier with gain 0.02 unless told otherwise: standard deviation gain * sqrt(2 / (fan in + fan out))."""
    networks = PatchFeatures({"block_1": 64}, 256)
    first, _, second = networks.networks["block_1"]
    assert float(first.weight.detach().std()) == pytest.approx(0.02 * math.sqrt(2 / (64 + 256)), rel=0.05)
    assert float(second.weight.detach().std()) == pytest.approx(0.02 * math.sqrt(2 / 512), rel=0.05)
    assert first.bias.eq(0).all()
    assert second.bias.eq(0).all()
    other, _, _ = PatchFeatures({"block_1": 64}, 256, init="normal", gain=0.5).networks["block_1"]
    assert float(other.weight.detach().std()) == pytest.approx(0.5, rel=0.05)


def test_one_seed_one_set_of_networks_and_all_of_it_from_the_start():
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return PatchFeatures(LAYERS, WIDTH).state_dict()

    one, same, other = state(1), state(1), state(2)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    weights = [value for name, value in one.items() if name.endswith("2.weight")]
    assert not any(torch.equal(*pair) for pair in pairwise(weights))  # drawn one after another, not copied
    networks = PatchFeatures(LAYERS, WIDTH)
    networks(maps(), places())
    assert networks.state_dict().keys() == one.keys()
