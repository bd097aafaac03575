"""The game between generators and discriminators: losses on score maps, and the gradient penalties.

Scores are raw (no sigmoid), high means real. A discriminator gives a list of maps, one a scale; each loss is the mean
over a map, then over the scales, in fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.losses.widening import widened


@dataclass(frozen=True)
class AdversarialLoss:
    """The two halves of one game."""

    generator: Callable[[list[Tensor]], Tensor]
    """Scores of translations -> scalar that falls as they pass for real."""
    discriminator: Callable[[list[Tensor], list[Tensor]], Tensor]
    """Scores of real images, scores of translations -> scalar that falls as the two are told apart."""
    boundary: float | None
    """The score halfway between real and fake; None where scores have no zero of their own."""


def _mean(maps: list[Tensor], penalty: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of `penalty(scores)` over each map, then over the maps: a coarse scale counts as much as a fine one."""
    return torch.stack([penalty(widened(scores)).mean() for scores in maps]).mean()


def _square(scores: Tensor) -> Tensor:
    return scores.square()


def _square_from_one(scores: Tensor) -> Tensor:
    return (scores - 1).square()


# -log sigmoid(s) = softplus(-s) and -log(1 - sigmoid(s)) = softplus(s), without overflow.
def _looks_fake(scores: Tensor) -> Tensor:
    return F.softplus(-scores)


def _looks_real(scores: Tensor) -> Tensor:
    return F.softplus(scores)


def _below_one(scores: Tensor) -> Tensor:
    return F.relu(1 - scores)


def _above_minus_one(scores: Tensor) -> Tensor:
    return F.relu(1 + scores)


ADVERSARIAL: dict[str, AdversarialLoss] = {
    # Mao et al. 2017, eq. 2 with a = 0, b = c = 1, without its factors 1/2: those are weights of the method.
    "lsgan": AdversarialLoss(
        generator=lambda fake: _mean(fake, _square_from_one),
        discriminator=lambda real, fake: _mean(real, _square_from_one) + _mean(fake, _square),
        boundary=0.5,
    ),
    # Goodfellow et al. 2014, eq. 1 for the discriminator; the generator maximises log D instead (section 3).
    "nonsaturating": AdversarialLoss(
        generator=lambda fake: _mean(fake, _looks_fake),
        discriminator=lambda real, fake: _mean(real, _looks_fake) + _mean(fake, _looks_real),
        boundary=0.0,
    ),
    # Lim and Ye 2017; Miyato et al. 2018, eq. 16 and 17.
    "hinge": AdversarialLoss(
        generator=lambda fake: _mean(fake, torch.neg),
        discriminator=lambda real, fake: _mean(real, _below_one) + _mean(fake, _above_minus_one),
        boundary=0.0,
    ),
    # Arjovsky et al. 2017, eq. 2; the scores have no bounds but what a gradient penalty or spectral norm sets.
    "wgan": AdversarialLoss(
        generator=lambda fake: _mean(fake, torch.neg),
        discriminator=lambda real, fake: _mean(fake, torch.clone) + _mean(real, torch.neg),
        boundary=None,
    ),
}
"""`method.adversarial` -> its two functions."""


def accuracy(real: list[Tensor], fake: list[Tensor], boundary: float) -> Tensor:
    """Share of decisions that are right: scores of real images above `boundary`, of fake ones below; mean of scales."""
    right = [((one > boundary).float().mean() + (other < boundary).float().mean()) / 2
             for one, other in zip(real, fake, strict=True)]  # fmt: skip
    return torch.stack(right).mean()


def _gradient(critic: Callable[[Tensor], list[Tensor]], images: Tensor) -> Tensor:
    """Gradient, per image, of the score averaged over places, then scales; N x C x H x W, itself differentiable."""
    images = images.detach().requires_grad_(True)
    # Autocast off: squares of small gradients vanish in half precision, and second derivatives of casts are costly.
    with torch.autocast(images.device.type, enabled=False):
        maps = critic(images)
        scores = torch.stack([scores.flatten(1).mean(1) for scores in maps]).mean(0)  # N
        # An image's score depends on no other image, so the gradient of the sum holds each image's own gradient. (With
        # batch statistics it does: then this is the gradient of the batch's sum, as StyleGAN2 has it.)
        (gradient,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return gradient


def draw_mix(num_images: int, *, center: float, generator: torch.Generator | None = None) -> Tensor:
    """The uniform a of `gradient_penalty`, on the CPU: one an image, or one for all (`center` 0), n x 1 x 1 x 1."""
    return torch.rand((1 if center == 0 else num_images, 1, 1, 1), generator=generator)


def gradient_penalty(
    critic: Callable[[Tensor], list[Tensor]],
    real: Tensor,
    fake: Tensor,
    *,
    center: float,
    mix: Tensor,
) -> Tensor:
    """How steep the critic is between real images and translations; its gradient reaches the critic's parameters only.

    Mixed images are x = a * real + (1 - a) * fake with a uniform in [0, 1]; D(x) is the mean of the scores over places
    and scales.

    Args:
        critic: images to a list of score maps; with batch norm the gradients of a batch's images would be entangled.
        real: N x C x H x W.
        fake: N x C x H x W.
        center: 1 for E[(|grad D(x)| - 1)^2], one a per image (WGAN-GP: Gulrajani et al. 2017, eq. 3, algorithm 1);
            0 for E[|grad D(x)|^2], one a per batch (UVCGANv2: Torbunov et al. 2023).
        mix: a, as `draw_mix` draws it.

    Returns:
        A scalar in fp32, not yet weighted.
    """
    real, fake = widened(real), widened(fake)
    gradient = _gradient(critic, torch.lerp(fake, real, mix.to(real)))
    if center == 0:
        # Without the root, whose derivative at 0 is infinite: a critic that starts flat is where this penalty is least.
        return gradient.flatten(1).square().sum(1).mean()
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - center).square().mean()


def r1(critic: Callable[[Tensor], list[Tensor]], real: Tensor) -> Tensor:
    """How steep the critic is at real images (Mescheder et al. 2018, eq. 9): E[|grad D(x)|^2] / 2.

    Its gradient reaches the critic's parameters only. D(x) is the mean of the scores over places and scales.

    Args:
        critic: images to a list of score maps; with batch norm the gradients of a batch's images would be entangled.
        real: N x C x H x W.

    Returns:
        A scalar in fp32, not yet weighted: the weight is the paper's gamma.
    """
    return _gradient(critic, widened(real)).flatten(1).square().sum(1).mean() / 2
