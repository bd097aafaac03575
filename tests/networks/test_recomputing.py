"""Activation checkpointing: the same bits with fewer bytes, for little more arithmetic."""

from __future__ import annotations

import copy
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from cyclestyle.errors import ConfigError
from cyclestyle.networks import recomputing
from cyclestyle.networks.recomputing import recompute_activations
from cyclestyle.networks.resnet_generator import ResnetGenerator
from cyclestyle.networks.unet_generator import UnetGenerator

NORMS = ["instance", "batch", "none"]
UPSAMPLES = ["transpose", "resize", "subpixel"]


def randomized(generator: nn.Module) -> nn.Module:
    """With weights large enough that nothing is lost in rounding, and batch norms that are no identity."""
    for parameter in generator.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return generator


def twins(generator: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The generator as it is, and a copy that computes its activations again."""
    again = copy.deepcopy(randomized(generator))
    recompute_activations(again)
    return generator, again


def autocast(bf16: bool) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def weighed(y: Tensor) -> Tensor:
    """A loss with a different gradient at every pixel."""
    return (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()


def learned(generator: nn.Module, x: Tensor, bf16: bool) -> dict[str, Tensor]:
    """All that one pass forward and backward leaves behind."""
    torch.manual_seed(1)  # for dropout
    x = x.clone().requires_grad_(True)
    with autocast(bf16):
        y = generator(x)
    weighed(y).backward()
    return {"output": y, "input gradient": x.grad, **leavings(generator)}


def leavings(generator: nn.Module) -> dict[str, Tensor]:
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in generator.named_parameters()}
    return {**gradients, **dict(generator.named_buffers()), "random state": torch.get_rng_state()}


def assert_same(plain: dict[str, Tensor], again: dict[str, Tensor]) -> None:
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        assert value.dtype == again[name].dtype, name
        assert value.float().isfinite().all(), name
        assert value.equal(again[name]), name


PRECISIONS = pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
CASES = pytest.mark.parametrize(
    ("norm", "upsample", "dropout", "batch"),
    [*itertools.product(NORMS, UPSAMPLES, [0.0], [1, 2]), *itertools.product(NORMS, ["transpose"], [0.4], [1, 2])],
)


@PRECISIONS
@CASES
def test_resnet_same_bits(norm, upsample, dropout, batch, bf16):
    plain, again = twins(ResnetGenerator(3, 4, 2, norm=norm, upsample=upsample, dropout=dropout))
    x = torch.randn(batch, 3, 12, 16)
    assert_same(learned(plain, x, bf16), learned(again, x, bf16))


@pytest.mark.parametrize("padding", ["zero", "replicate"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_resnet_paddings_and_blocks_same_bits(padding, blocks):
    plain, again = twins(ResnetGenerator(1, 4, blocks, padding=padding))
    x = torch.randn(1, 1, 12, 12)
    assert_same(learned(plain, x, False), learned(again, x, False))


@PRECISIONS
@pytest.mark.parametrize(
    ("norm", "antialias", "attention", "blocks"),
    [
        *itertools.product(NORMS, [True], [True], [1]),
        *(("instance", antialias, attention, 3) for antialias, attention in ((True, False), (False, True))),
        ("batch", True, True, 0),
    ],
)
def test_resnet_with_antialias_and_attention_same_bits(norm, antialias, attention, blocks, bf16):
    generator = ResnetGenerator(3, 4, blocks, norm=norm, antialias=antialias, attention=attention)
    plain, again = twins(generator)
    x = torch.randn(2, 3, 16, 12)
    assert_same(learned(plain, x, bf16), learned(again, x, bf16))


@PRECISIONS
@CASES
def test_unet_same_bits(norm, upsample, dropout, batch, bf16):
    depth = 6 if dropout else 3  # dropout begins at a depth of 6
    plain, again = twins(UnetGenerator(3, 2, depth, norm=norm, upsample=upsample, dropout=dropout))
    x = torch.randn(batch, 3, 2**depth, 2**depth)
    assert_same(learned(plain, x, bf16), learned(again, x, bf16))


@pytest.mark.parametrize("depth", [2, 4])
def test_unet_depths_same_bits(depth):
    plain, again = twins(UnetGenerator(1, 2, depth))
    x = torch.randn(2, 1, 2**depth, 2 ** (depth + 1))
    assert_same(learned(plain, x, False), learned(again, x, False))


GENERATORS = {
    "resnet": lambda **options: ResnetGenerator(3, 4, 2, **options),
    "unet": lambda **options: UnetGenerator(3, 2, 6, **options),
}
BOTH = pytest.mark.parametrize("name", list(GENERATORS))


def image(name: str, batch: int = 1) -> Tensor:
    size = {"resnet": 12, "unet": 64}[name]
    return torch.randn(batch, 3, size, size)


@BOTH
@PRECISIONS
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_passes_of_a_cyclegan_step_same_bits(name, norm, bf16):
    """Two generators, three passes each before one backward pass, twice (accumulated), one input detached."""
    pairs = [twins(GENERATORS[name](norm=norm, dropout=0.3)) for _ in range(2)]
    real_a, real_b = image(name, 2).split(1)

    def step(gen_ab: nn.Module, gen_ba: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(1)
        for _ in range(2):
            with autocast(bf16):
                fake_b, idt_b = gen_ab(torch.cat([real_a, real_b])).chunk(2)
                fake_a = gen_ba(real_b)
                rec_a, rec_b = gen_ba(fake_b), gen_ab(fake_a.detach())
                with torch.no_grad():
                    gen_ab(real_a)  # a preview in between
            sum(weighed(y) for y in (fake_b, idt_b, fake_a, rec_a, rec_b)).backward()
        return {f"{at} {what}": value for at, g in enumerate((gen_ab, gen_ba)) for what, value in leavings(g).items()}

    plain, again = zip(*pairs, strict=True)
    assert_same(step(*plain), step(*again))


@BOTH
def test_two_backward_passes_over_one_forward(name):
    """As for gradients term by term: each computes the activations again."""
    plain, again = twins(GENERATORS[name](norm="batch", dropout=0.3))
    x = image(name, 2)

    def gradients(generator: nn.Module) -> dict[str, Tensor]:
        torch.manual_seed(1)
        y = generator(x)
        (y**2).sum().backward(retain_graph=True)
        weighed(y).backward()
        return leavings(generator)

    assert_same(gradients(plain), gradients(again))


@BOTH
def test_a_frozen_generator_passes_gradients_on(name):
    plain, again = (twin.requires_grad_(False) for twin in twins(GENERATORS[name]()))
    x = image(name)
    gradients = []
    for generator in (plain, again):
        given = x.clone().requires_grad_(True)
        weighed(generator(given)).backward()
        gradients.append(given.grad)
        assert all(parameter.grad is None for parameter in generator.parameters())
    assert gradients[0].equal(gradients[1])
    assert gradients[0].abs().max() > 0


def test_batch_norm_moves_once():
    _, again = twins(ResnetGenerator(3, 4, 1, norm="batch"))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        mean = again.model[1](again.model[0](x)).mean((0, 2, 3))
    before = dict(again.named_buffers())
    again(x).sum().backward()
    assert torch.allclose(again.model[2].running_mean, 0.1 * mean, atol=1e-6)
    for key, value in again.named_buffers():
        assert value is before[key], key  # an averaged copy or a recorded step may hold it
        if key.endswith("num_batches_tracked"):
            assert value == 1, key


# Memory and arithmetic: the usual nine blocks; a U-Net that widens as far as any.

FULL = {"resnet": (ResnetGenerator, 8, 9), "unet": (UnetGenerator, 8, 4)}
MOST_KEPT = {"resnet": 0.24, "unet": 0.41}
MOST_AT_PEAK = {"resnet": {1: 0.43, 3: 0.31}, "unet": {1: 0.65, 3: 0.57}}
MOST_ARITHMETIC = {"resnet": 1.18, "unet": 1.12}


def full_twins(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    network, filters, depth = FULL[name]
    plain = network(3, filters, depth)
    again = copy.deepcopy(plain)
    recompute_activations(again)
    return plain, again, torch.randn(2, 3, 64, 64)


def kept_bytes(generator: nn.Module, x: Tensor, bf16: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass, but for images and weights.

    Nor weights in bf16: all passes of a step share them.
    """
    kept: dict[int, Tensor] = {}  # by address; holds them, so that no address comes twice

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast(bf16):
        y = generator(x)
    others = {x.shape, *(parameter.shape for parameter in generator.parameters())}
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values() if tensor.shape not in others)
    assert y.requires_grad
    return total


@BOTH
@PRECISIONS
def test_less_than_half_is_kept(name, bf16):
    plain, again, x = full_twins(name)
    before, after = kept_bytes(plain, x, bf16), kept_bytes(again, x, bf16)
    assert 0 < after < MOST_KEPT[name] * before, after / before


class LivingBytes(TorchDispatchMode):
    """Counts bytes of all tensors that operations made and that still live, but for those of `others`."""

    def __init__(self, *others: Tensor) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage().data_ptr() for tensor in others}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self._known or not size:
            return
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._known.discard(address)
            self.now -= size

        weakref.finalize(storage, gone)


def peak_bytes(generator: nn.Module, x: Tensor, passes: int, bf16: bool) -> int:
    """Most bytes that live at once in so many passes forward and one backward, but for the weights' gradients."""
    with LivingBytes(x, *generator.parameters()) as living:
        with autocast(bf16):
            outputs = [generator(x) for _ in range(passes)]
        torch.stack([y.float().square().mean() for y in outputs]).sum().backward()
    return living.peak - sum(parameter.nbytes for parameter in generator.parameters())


@BOTH
@PRECISIONS
@pytest.mark.parametrize("passes", [1, 3])
def test_peak_falls(name, bf16, passes):
    """By less than what is kept: while a stretch goes backward, all of it is there."""
    plain, again, x = full_twins(name)
    before, after = peak_bytes(plain, x, passes, bf16), peak_bytes(again, x, passes, bf16)
    assert 0 < after < MOST_AT_PEAK[name][passes] * before, after / before


def arithmetic(generator: nn.Module, x: Tensor) -> int:
    """Multiplications and additions of convolutions, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        generator(x).square().mean().backward()
    return counter.get_total_flops()


def test_antialias_and_attention_keep_little_too():
    """A quarter less than without them, as more of what there is lies at the entry, for 1.19 times the arithmetic."""
    plain = ResnetGenerator(3, 8, 9, antialias=True, attention=True)
    again = copy.deepcopy(plain)
    recompute_activations(again)
    x = torch.randn(2, 3, 64, 64)
    assert kept_bytes(again, x, False) < 0.19 * kept_bytes(plain, x, False)
    assert arithmetic(again, x) < 1.19 * arithmetic(plain, x)


@BOTH
def test_arithmetic_grows_little(name):
    plain, again, x = full_twins(name)
    ratio = arithmetic(again, x) / arithmetic(plain, x)
    assert 1.05 < ratio < MOST_ARITHMETIC[name]


@BOTH
def test_state_dict_stays_and_copies_work(name):
    plain, again = twins(GENERATORS[name](norm="batch"))
    before, after = plain.state_dict(), again.state_dict()
    assert list(before) == list(after)
    averaged = copy.deepcopy(again).eval().requires_grad_(False)
    x = image(name)
    with torch.no_grad():
        assert averaged(x).equal(plain.eval()(x))


@BOTH
def test_without_gradients_nothing_changes(name, monkeypatch):
    plain, again = (twin.eval() for twin in twins(GENERATORS[name]()))

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("checkpointed without gradients")

    monkeypatch.setattr(recomputing, "checkpoint", refuse)
    x = image(name)
    with torch.no_grad():
        assert again(x).equal(plain(x))
    with torch.inference_mode():
        assert again(x).equal(plain(x))
    with pytest.raises(AssertionError, match="checkpointed"):
        again(x)
    plain(x)


@BOTH
def test_random_state_is_read_for_dropout_only(name, monkeypatch):
    """While a CUDA graph is recorded it cannot be read."""
    x = image(name)
    asked: list[bool] = []
    original = recomputing.checkpoint

    def spy(*inputs: Any, preserve_rng_state: bool, **options: Any) -> Any:
        asked.append(preserve_rng_state)
        return original(*inputs, preserve_rng_state=preserve_rng_state, **options)

    monkeypatch.setattr(recomputing, "checkpoint", spy)
    for dropout, expected in ((0.0, set()), (0.5, {True})):
        asked.clear()
        generator = GENERATORS[name](dropout=dropout)
        recompute_activations(generator)
        generator(x).sum().backward()
        assert set(asked) - {False} == expected
    asked.clear()
    generator.eval()(x).sum().backward()
    assert set(asked) == {False}


def test_other_networks_are_refused():
    with pytest.raises(ConfigError, match=r"Conv2d cannot .* train.checkpointing=false"):
        recompute_activations(nn.Conv2d(3, 3, 1))
