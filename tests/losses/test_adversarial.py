"""Adversarial losses by hand; the gradient penalty in closed form and by finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from cyclestyle.config.schema import DiscriminatorConfig
from cyclestyle.losses.adversarial import ADVERSARIAL, draw_mix, gradient_penalty, r1
from cyclestyle.networks.build import build_discriminator

# Two scales of different size: the coarse one counts as much as the fine one.
REAL = [torch.tensor([[[[0.5, 2.0]]]]), torch.tensor([[[[-1.0]]]])]
FAKE = [torch.tensor([[[[-0.5, 1.5]]]]), torch.tensor([[[[0.25]]]])]


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


EXPECTED = {
    # name: (discriminator on real + on fake, generator); each the mean of scale 0 and scale 1
    "lsgan": (
        ((0.25 + 1.0) / 2 + 4.0) / 2 + ((0.25 + 2.25) / 2 + 0.0625) / 2,
        ((2.25 + 0.25) / 2 + 0.5625) / 2,
    ),
    "nonsaturating": (
        ((softplus(-0.5) + softplus(-2.0)) / 2 + softplus(1.0)) / 2
        + ((softplus(-0.5) + softplus(1.5)) / 2 + softplus(0.25)) / 2,
        ((softplus(0.5) + softplus(-1.5)) / 2 + softplus(-0.25)) / 2,
    ),
    "hinge": (
        ((0.5 + 0.0) / 2 + 2.0) / 2 + ((0.5 + 2.5) / 2 + 1.25) / 2,
        -(0.5 + 0.25) / 2,
    ),
    "wgan": (
        (0.5 + 0.25) / 2 - (1.25 - 1.0) / 2,
        -(0.5 + 0.25) / 2,
    ),
}


def test_all_losses_are_tested():
    assert set(EXPECTED) == set(ADVERSARIAL)


@pytest.mark.parametrize("name", EXPECTED)
def test_values_by_hand(name):
    discriminator, generator = EXPECTED[name]
    assert ADVERSARIAL[name].discriminator(REAL, FAKE).item() == pytest.approx(discriminator, rel=1e-6)
    assert ADVERSARIAL[name].generator(FAKE).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("name", EXPECTED)
def test_half_precision_scores_are_judged_in_fp32(name):
    """1025 scores of 1 + 2^-7, one bf16 step above one: sums in bf16 would be far off."""
    scores = [torch.full((1, 1, 25, 41), 1 + 2**-7, dtype=torch.bfloat16)]
    with torch.autocast("cpu", torch.bfloat16):
        losses = [ADVERSARIAL[name].generator(scores), ADVERSARIAL[name].discriminator(scores, scores)]
    exact = [scores[0].double()]
    expected = [ADVERSARIAL[name].generator(exact), ADVERSARIAL[name].discriminator(exact, exact)]
    for loss, exact_loss in zip(losses, expected, strict=True):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact_loss.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_half_pulls_the_right_way(name):
    """Generators want high scores; discriminators high on real images, low on translations."""
    real, fake = torch.zeros(1, 1, 2, 2, requires_grad=True), torch.zeros(1, 1, 2, 2, requires_grad=True)
    (up,) = torch.autograd.grad(ADVERSARIAL[name].generator([fake]), fake)
    assert (up < 0).all()
    on_real, on_fake = torch.autograd.grad(ADVERSARIAL[name].discriminator([real], [fake]), (real, fake))
    assert (on_real < 0).all()
    assert (on_fake >= 0).all()
    assert (on_fake > 0).all() == (name != "lsgan")  # lsgan's target for translations is 0, where they are here


def test_logits_do_not_overflow():
    far = [torch.tensor([[[[1e4, -1e4]]]])]
    assert ADVERSARIAL["nonsaturating"].generator(far).item() == pytest.approx(5e3)
    assert ADVERSARIAL["nonsaturating"].discriminator(far, far).item() == pytest.approx(1e4)


HEIGHT, WIDTH = 4, 5
PLACES = HEIGHT * WIDTH


def images(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)


def penalty_of(
    critic: Callable[[Tensor], list[Tensor]],
    real: Tensor,
    fake: Tensor,
    *,
    center: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    mix = draw_mix(len(real), center=center, generator=generator)
    return gradient_penalty(critic, real, fake, center=center, mix=mix)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_penalty_of_a_linear_critic(center):
    """D(x) = mean over places of sum_c w x, so grad D = w / places whatever the mix, for each image."""
    real, fake = images(3, 2, HEIGHT, WIDTH)
    weight = torch.randn(2, HEIGHT, WIDTH)

    def critic(x: Tensor) -> list[Tensor]:
        return [(weight * x).sum(1, keepdim=True)]

    slope = float(weight.norm()) / PLACES
    expected = slope**2 if center == 0 else (slope - 1) ** 2
    assert penalty_of(critic, real, fake, center=center).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_penalty_averages_over_scales(center):
    """2 x at every place and 3 x at the first alone: grad D = (2 / places everywhere + 3 at the first place) / 2."""
    real, fake = images(2, 1, HEIGHT, WIDTH)

    def critic(x: Tensor) -> list[Tensor]:
        return [2 * x, 3 * x[..., :1, :1]]

    first, others = (2 / PLACES + 3) / 2, (2 / PLACES) / 2
    slope = math.sqrt(first**2 + (PLACES - 1) * others**2)
    expected = slope**2 if center == 0 else (slope - 1) ** 2
    assert penalty_of(critic, real, fake, center=center).item() == pytest.approx(expected, rel=1e-5)


def mixing(critic_images: list[Tensor], center: float, seed: int = 5) -> Tensor:
    """The mixed images of real = 1, fake = 0: each image shows its own a."""
    real, fake = torch.ones(4, 1, HEIGHT, WIDTH), torch.zeros(4, 1, HEIGHT, WIDTH)

    def critic(x: Tensor) -> list[Tensor]:
        critic_images.append(x.detach())
        return [x.square() / 2]

    return penalty_of(critic, real, fake, center=center, generator=torch.Generator().manual_seed(seed))


def test_mixed_images_zero_centered():
    """One a for the whole batch; with D(x) = mean x^2 / 2 the penalty is a^2 / places."""
    seen: list[Tensor] = []
    penalty = mixing(seen, center=0.0)
    a = torch.rand(1, generator=torch.Generator().manual_seed(5)).item()
    torch.testing.assert_close(seen[0], torch.full((4, 1, HEIGHT, WIDTH), a))
    assert penalty.item() == pytest.approx(a**2 / PLACES, rel=1e-5)


def test_mixed_images_one_centered():
    """One a an image; with D(x) = mean x^2 / 2 the slope there is a / sqrt(places)."""
    seen: list[Tensor] = []
    penalty = mixing(seen, center=1.0)
    a = torch.rand(4, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(seen[0], a[:, None, None, None].expand(4, 1, HEIGHT, WIDTH))
    expected = (a / math.sqrt(PLACES) - 1).square().mean()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("center", [0.0, 1.0])
def test_mixing_is_drawn_from_the_given_generator(center):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    once, again, other = mixing([], center, 7), mixing([], center, 7), mixing([], center, 8)
    assert once.equal(again)
    assert not once.equal(other)
    assert torch.get_rng_state().equal(state)  # the global generator was left alone
    critic, (real, fake) = (lambda x: [x.square()]), images(2, 1, HEIGHT, WIDTH)
    penalty_of(critic, real, fake, center=center)
    assert not torch.get_rng_state().equal(state)


SMALL = DiscriminatorConfig(filters=2, layers=1, init_gain=0.5)


@pytest.mark.parametrize("center", [0.0, 1.0])
@pytest.mark.parametrize("spectral_norm", [False, True])
@pytest.mark.parametrize("norm", ["instance", "none"])
def test_penalty_gradient_is_right_numerically(center, spectral_norm, norm):
    """All parameters' gradients against finite differences, in float64, through the norms' second derivatives.

    Along random directions, which is what `fast_mode` means.
    Spectral norm is in eval mode here: its vectors must stand still while one parameter moves.
    """
    torch.manual_seed(0)
    config = DiscriminatorConfig(filters=2, layers=1, init_gain=0.5, norm=norm, spectral_norm=spectral_norm)
    net = build_discriminator(config, 1).double().eval()
    real, fake = images(2, 1, 8, 8, dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)

    def penalty(*parameters: Tensor) -> Tensor:
        state = dict(zip(names, parameters, strict=True))
        mix = torch.Generator().manual_seed(1)
        return penalty_of(lambda x: functional_call(net, state, x), real, fake, center=center, generator=mix)

    assert penalty(*values).dtype == torch.float64
    assert torch.autograd.gradcheck(penalty, values, fast_mode=True)


@pytest.mark.parametrize("center", [0.0, 1.0])
@pytest.mark.parametrize(
    "config",
    [
        DiscriminatorConfig(filters=4, layers=2, init_gain=0.2),
        DiscriminatorConfig(filters=4, layers=2, init_gain=0.2, norm="none", spectral_norm=True),
        DiscriminatorConfig(filters=4, layers=1, init_gain=0.2, name="multiscale", spectral_norm=True),
        DiscriminatorConfig(filters=4, init_gain=0.2, name="pixel"),
    ],
    ids=["instance", "spectral", "multiscale", "pixel"],
)
def test_penalty_trains_the_discriminator_and_nothing_else(center, config):
    torch.manual_seed(0)
    net = build_discriminator(config, 3)
    real, fake = images(2, 3, 32, 32)
    real.requires_grad_(True)
    fake.requires_grad_(True)
    penalty_of(net, real, fake, center=center).backward()
    assert real.grad is None
    assert fake.grad is None
    for name, parameter in net.named_parameters():
        if "bias" not in name:  # a bias moves scores, not slopes
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_penalty_is_computed_in_full_precision_under_autocast():
    torch.manual_seed(0)
    net = build_discriminator(SMALL, 3).eval()
    real, fake = images(2, 3, 16, 16)

    def penalty() -> Tensor:
        return penalty_of(net, real, fake, center=0.0, generator=torch.Generator().manual_seed(1))

    exact = penalty()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(penalty(), exact, rtol=0, atol=0)
        fake = fake.bfloat16()  # what a generator under autocast hands over
        assert penalty().dtype == torch.float32
    assert penalty().item() == pytest.approx(exact.item(), rel=0.05)


def test_penalty_of_a_flat_critic_is_finite():
    """Zero slope, where the derivative of a norm is undefined: no NaN reaches the parameters."""
    for center, value in ((0.0, 0.0), (1.0, 1.0)):
        net = nn.Conv2d(1, 1, 1)
        nn.init.zeros_(net.weight)
        penalty = penalty_of(lambda x, net=net: [net(x)], *images(2, 1, 4, 4), center=center)
        penalty.backward()
        assert penalty.item() == value
        assert net.weight.grad.isfinite().all()


def test_r1_of_a_linear_critic():
    """grad D = w / places at every image: half of its squared norm, and (w / places^2) as gradient for w."""
    real, _ = images(3, 2, HEIGHT, WIDTH)
    weight = torch.randn(2, HEIGHT, WIDTH, requires_grad=True)
    penalty = r1(lambda x: [(weight * x).sum(1, keepdim=True)], real)
    assert penalty.item() == pytest.approx((float(weight.detach().norm()) / PLACES) ** 2 / 2, rel=1e-5)
    penalty.backward()
    torch.testing.assert_close(weight.grad, weight.detach() / PLACES**2)


def test_r1_is_a_mean_over_images_and_scales():
    """D = mean over places of (x^2 / 2 and x) / 2, so grad D = (x + 1) / (2 places) at each image."""
    real, _ = images(3, 2, HEIGHT, WIDTH, dtype=torch.float64)
    penalty = r1(lambda x: [x.square().sum(1, keepdim=True) / 2, x.sum(1, keepdim=True)], real)
    expected = ((real + 1) / (2 * PLACES)).square().sum((1, 2, 3)).mean() / 2
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-12)


@pytest.mark.parametrize("norm", ["instance", "none"])
def test_r1_gradient_is_right_numerically(norm):
    torch.manual_seed(0)
    net = build_discriminator(DiscriminatorConfig(filters=2, layers=1, init_gain=0.5, norm=norm), 1).double()
    real, _ = images(2, 1, 8, 8, dtype=torch.float64)
    names, values = zip(*net.named_parameters(), strict=True)

    def penalty(*parameters: Tensor) -> Tensor:
        return r1(lambda x: functional_call(net, dict(zip(names, parameters, strict=True)), x), real)

    assert penalty(*values).dtype == torch.float64
    assert torch.autograd.gradcheck(penalty, values, fast_mode=True)


def test_r1_trains_the_discriminator_and_nothing_else():
    net = build_discriminator(SMALL, 3)
    real = torch.randn(2, 3, 16, 16, requires_grad=True)
    r1(net, real).backward()
    assert real.grad is None
    for name, parameter in net.named_parameters():
        if "bias" not in name:
            assert parameter.grad.abs().max() > 0, name


def test_r1_is_computed_in_full_precision_under_autocast():
    net = build_discriminator(SMALL, 3).eval()
    real, _ = images(2, 3, 16, 16)
    exact = r1(net, real)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(r1(net, real), exact, rtol=0, atol=0)
        assert r1(net, real.bfloat16()).dtype == torch.float32
