"""CycleGAN: the terms of the paper against a plain step, and which parameters each half's gradients reach."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import CycleGANConfig, CycleGANWeights
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig, OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.methods.build import build_method
from cyclestyle.methods.cyclegan import CycleGAN
from cyclestyle.training.learning import learn
from cyclestyle.training.optimization import Optimization

GENERATOR = GeneratorConfig(filters=4, blocks=1)
FP32 = Precision("fp32", "")
DISCRIMINATOR = DiscriminatorConfig(filters=4, layers=1)


def build(config: CycleGANConfig | None = None, norm: str = "instance", **disc: object) -> CycleGAN:
    torch.manual_seed(3)
    method = build_method(
        config or CycleGANConfig(),
        replace(GENERATOR, norm=norm, init_gain=0.2),
        replace(DISCRIMINATOR, norm=norm, init_gain=0.2, **disc),
        channels=3,
        seed=0,
    )
    assert isinstance(method, CycleGAN)
    return method


def random_batch(size: int = 1) -> UnpairedBatch:
    return UnpairedBatch(torch.rand(size, 3, 16, 16) * 2 - 1, torch.rand(size, 3, 16, 16) * 2 - 1)


def plain_terms(method: CycleGAN, batch: UnpairedBatch) -> dict[str, torch.Tensor]:
    """The paper's objective, pass by pass, with an empty pool: equations 1 to 3, identity of section 5.2, D halved."""
    gen_ab, gen_ba, disc_a, disc_b = method.gen_ab, method.gen_ba, method.disc_a, method.disc_b
    real_a, real_b = batch.real_a, batch.real_b
    fake_b, fake_a = gen_ab(real_a), gen_ba(real_b)

    def judged(disc: nn.Module, images: torch.Tensor, wanted: float) -> torch.Tensor:
        return ((disc(images)[0] - wanted) ** 2).mean()

    return {
        "adversarial_ab": judged(disc_b, fake_b, 1.0),
        "adversarial_ba": judged(disc_a, fake_a, 1.0),
        "cycle_a": 10.0 * (gen_ba(fake_b) - real_a).abs().mean(),
        "cycle_b": 10.0 * (gen_ab(fake_a) - real_b).abs().mean(),
        "identity_a": 5.0 * (gen_ba(real_a) - real_a).abs().mean(),
        "identity_b": 5.0 * (gen_ab(real_b) - real_b).abs().mean(),
        "discriminator_a": 0.5 * (judged(disc_a, real_a, 1.0) + judged(disc_a, fake_a.detach(), 0.0)),
        "discriminator_b": 0.5 * (judged(disc_b, real_b, 1.0) + judged(disc_b, fake_b.detach(), 0.0)),
    }


def drawn(method: CycleGAN, batch: UnpairedBatch) -> UnpairedBatch:
    return replace(batch, draws=method.draw(batch))


def all_terms(method: CycleGAN, batch: UnpairedBatch) -> dict[str, torch.Tensor]:
    batch = drawn(method, batch)
    outputs = method.forward_batch(batch)
    return {name: term for player in method.players for name, term in method.terms(player, batch, outputs).items()}


# Batch norm couples the images of a batch, so there the passes stay apart; the terms are always those of plain passes.
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("size", [1, 3])
def test_terms_are_those_of_the_paper_pass_by_pass(norm: str, size: int) -> None:
    batch = random_batch(size)
    expected = plain_terms(build(norm=norm), batch)
    found = all_terms(build(norm=norm), batch)
    assert set(found) == set(expected)
    for name, value in expected.items():
        # fp32 sums in another order: a few units of the last place
        torch.testing.assert_close(found[name], value, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_twenty_steps_follow_an_independent_plain_step(norm: str) -> None:
    """Losses of 20 whole steps (both halves, Adam) against a step written out here, pool off.

    In float64: in fp32 Adam makes whole steps of gradients that are only rounding (biases before a norm).
    """
    config = CycleGANConfig(pool_size=0)
    method, plain = build(config, norm).double(), build(config, norm).double()
    optimization = Optimization(method, OptimizerConfig(), FP32, torch.device("cpu"), num_steps=1000)
    gens = torch.optim.Adam([*plain.gen_ab.parameters(), *plain.gen_ba.parameters()], lr=2e-4, betas=(0.5, 0.999))
    discs = torch.optim.Adam([*plain.disc_a.parameters(), *plain.disc_b.parameters()], lr=2e-4, betas=(0.5, 0.999))
    for step in range(20):
        batch = random_batch(2)
        batch = UnpairedBatch(batch.real_a.double(), batch.real_b.double())
        expected = plain_terms(plain, batch)
        gens.zero_grad()
        sum(value for name, value in expected.items() if not name.startswith("discriminator")).backward(
            retain_graph=True
        )
        gens.step()
        discs.zero_grad()
        (expected["discriminator_a"] + expected["discriminator_b"]).backward()
        discs.step()

        optimization.start_step(step)
        (found,) = learn(method, optimization, FP32, [drawn(method, batch)]).scalars
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)


def reached(method: CycleGAN) -> set[str]:
    """Networks of which every parameter has a gradient; asserts that no network has it in part."""
    found = set()
    for name in ("gen_ab", "gen_ba", "disc_a", "disc_b"):
        # The penultimate convolution's bias before an instance norm has a gradient of zero, but it has one.
        grads = [parameter.grad is not None for parameter in method.get_submodule(name).parameters()]
        assert all(grads) or not any(grads), f"{name} is reached in part"
        if all(grads):
            found.add(name)
    return found


@pytest.mark.parametrize(
    "config",
    [
        CycleGANConfig(),
        CycleGANConfig(
            adversarial="wgan", gradient_penalty="one_centered", weights=CycleGANWeights(gradient_penalty=10.0)
        ),
    ],
    ids=["lsgan", "wgan with penalty"],
)
def test_each_half_reaches_exactly_its_own_parameters(config: CycleGANConfig) -> None:
    method = build(config, norm="none")
    batch = drawn(method, random_batch())
    optimization = Optimization(method, OptimizerConfig(), FP32, torch.device("cpu"), num_steps=10)
    outputs = method.forward_batch(batch)
    for player, networks in (("generators", {"gen_ab", "gen_ba"}), ("discriminators", {"disc_a", "disc_b"})):
        method.zero_grad(set_to_none=True)
        with optimization.only(player):
            sum(method.terms(player, batch, outputs).values()).backward(retain_graph=True)
        assert reached(method) == networks


def test_the_discriminators_terms_do_not_depend_on_the_generators() -> None:
    """Even without `only`: the fakes are detached."""
    method = build()
    batch = drawn(method, random_batch())
    sum(method.terms("discriminators", batch, method.forward_batch(batch)).values()).backward()
    assert reached(method) == {"disc_a", "disc_b"}


@pytest.mark.parametrize("term", ["adversarial_ab", "adversarial_ba", "cycle_a", "cycle_b", "identity_a", "identity_b"])
def test_each_term_reaches_the_generators_it_should(term: str) -> None:
    method, batch = build(), random_batch()
    optimization = Optimization(method, OptimizerConfig(), FP32, torch.device("cpu"), num_steps=10)
    with optimization.only("generators"):
        method.terms("generators", batch, method.forward_batch(batch))[term].backward()
    expected = {
        "adversarial_ab": {"gen_ab"},
        "adversarial_ba": {"gen_ba"},
        "identity_a": {"gen_ba"},
        "identity_b": {"gen_ab"},
    }
    assert reached(method) == expected.get(term, {"gen_ab", "gen_ba"})


def test_discriminators_are_shown_the_pool() -> None:
    """With a full pool of one and many steps, old fakes come up: scores then differ from those of the newest alone."""
    with_pool, without = build(CycleGANConfig(pool_size=1)), build(CycleGANConfig(pool_size=0))
    differing = 0
    for _ in range(20):
        batch = random_batch()
        pooled, newest = all_terms(with_pool, batch), all_terms(without, batch)
        differing += not torch.allclose(pooled["discriminator_b"], newest["discriminator_b"], rtol=1e-6)
        torch.testing.assert_close(pooled["adversarial_ab"], newest["adversarial_ab"])
    assert 3 <= differing <= 17  # Binomial(19, 1/2)


def test_no_identity_weight_no_identity_term() -> None:
    method, batch = build(CycleGANConfig(weights=CycleGANWeights(identity_a=0.0, identity_b=0.0))), random_batch()
    outputs = method.forward_batch(batch)
    assert outputs.idt_a is None
    assert not [name for name in method.terms("generators", batch, outputs) if name.startswith("identity")]


def test_state_dict_holds_pools_and_random_states() -> None:
    config = CycleGANConfig(pool_size=2, weights=CycleGANWeights(gradient_penalty=1.0))
    method = build(config)
    for _ in range(5):
        all_terms(method, random_batch())
    resumed = build(config)
    resumed.load_state_dict(method.state_dict())
    for _ in range(5):
        batch = random_batch()
        expected, found = all_terms(method, batch), all_terms(resumed, batch)
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_bf16_terms_are_near_fp32_and_are_fp32_themselves() -> None:
    batch = random_batch(2)
    expected = all_terms(build(), batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_terms(build(), batch)
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        # bf16 has 8 bits: 0.4% a rounding, several on the way
        torch.testing.assert_close(found[name], value, rtol=0.05, atol=0.02)
