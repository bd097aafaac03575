"""The options of each training method: one dataclass a method, chosen by `method.name`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

AdversarialName = Literal["lsgan", "nonsaturating", "hinge", "wgan"]


@dataclass(frozen=True, kw_only=True)
class CycleGANWeights:
    """Factor of each loss term; 0 switches a term off. Each term has this name in the logs too, weight included."""

    adversarial_ab: float = 1.0
    """gen_ab fools disc_b."""
    adversarial_ba: float = 1.0
    """gen_ba fools disc_a."""
    cycle_a: float = 10.0
    """L1 between real_a and gen_ba(gen_ab(real_a))."""
    cycle_b: float = 10.0
    """L1 between real_b and gen_ab(gen_ba(real_b))."""
    identity_a: float = 5.0
    """L1 between real_a and gen_ba(real_a): keeps colours (0.5 * cycle in the paper)."""
    identity_b: float = 5.0
    """L1 between real_b and gen_ab(real_b): keeps colours (0.5 * cycle in the paper)."""
    discriminator_a: float = 0.5
    """disc_a tells real_a from fake_a; halved in the paper."""
    discriminator_b: float = 0.5
    """disc_b tells real_b from fake_b; halved in the paper."""
    gradient_penalty: float = 0.0
    """Gradient penalty of both discriminators (WGAN needs it; 10 for one_centered, 0.01 to 1 for zero_centered)."""


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig:
    """CycleGAN (Zhu et al. 2017)."""

    name: str = "cyclegan"
    """Which method; each brings its own options."""
    adversarial: AdversarialName = "lsgan"
    """Adversarial loss: lsgan (the paper's), nonsaturating (logits), hinge or wgan (needs a gradient penalty)."""
    gradient_penalty: Literal["one_centered", "zero_centered"] = "zero_centered"
    """Form of the penalty on mixed samples: one_centered (Gulrajani et al. 2017) or zero_centered (UVCGANv2)."""
    pool_size: int = 50
    """Number of past translations a domain that the discriminators are shown; 0 shows only the newest."""
    weights: CycleGANWeights = field(default_factory=CycleGANWeights)


METHOD_CONFIGS: dict[str, type[CycleGANConfig]] = {"cyclegan": CycleGANConfig}
"""`method.name` -> its dataclass. A new method adds one dataclass and one entry here."""
