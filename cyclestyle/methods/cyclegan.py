"""CycleGAN.

Zhu, Park, Isola, Efros: "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import CycleGANConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.losses import reconstruction
from cyclestyle.losses.adversarial import ADVERSARIAL, accuracy, draw_mix, gradient_penalty
from cyclestyle.losses.widening import widened
from cyclestyle.methods.base import Method
from cyclestyle.methods.image_pool import ImagePool
from cyclestyle.networks.build import build_discriminator, build_generator


@dataclass
class CycleGANOutputs:
    """What the generators made of one batch, N x C x H x W each in fp32, with gradients to the generators.

    Attributes:
        fake_b, fake_a: translations of real_a and real_b.
        rec_a, rec_b: translations of these back again.
        idt_a, idt_b: real_a through gen_ba, real_b through gen_ab; None when identity has no weight.
        scores: mean scores and accuracy of the discriminators, filled in by the discriminators' terms.
    """

    fake_b: Tensor
    fake_a: Tensor
    rec_a: Tensor
    rec_b: Tensor
    idt_a: Tensor | None
    idt_b: Tensor | None
    scores: dict[str, Tensor] = field(default_factory=dict)


class CycleGAN(Method):
    """Two generators against two discriminators, bound by cycle consistency.

    Args:
        config: the `method` section.
        generator, discriminator: the sections of the networks, the same for both directions.
        channels: of the images.
        seed: of the pools and of the gradient penalty's mixing; weights come from torch's global random state.
    """

    players: ClassVar[tuple[str, ...]] = ("generators", "discriminators")
    generators: ClassVar[tuple[str, ...]] = ("gen_ab", "gen_ba")

    def __init__(
        self,
        config: CycleGANConfig,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.adversarial = ADVERSARIAL[config.adversarial]
        self.gen_ab = build_generator(generator, channels)
        self.gen_ba = build_generator(generator, channels)
        self.disc_a = build_discriminator(discriminator, channels)
        self.disc_b = build_discriminator(discriminator, channels)
        self.pool_a = ImagePool(config.pool_size, seed)
        self.pool_b = ImagePool(config.pool_size, seed + 1)
        self._mixing = torch.Generator().manual_seed(seed + 2)

    def networks_of(self, player: str) -> list[nn.Module]:
        """See `Method`."""
        return [self.gen_ab, self.gen_ba] if player == "generators" else [self.disc_a, self.disc_b]

    @property
    def _center(self) -> float:
        return 1.0 if self.config.gradient_penalty == "one_centered" else 0.0

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """What the pools do with the translations (each has the size of its source), the penalty's mixing."""
        draws = {"pool_a": self.pool_a.draw(batch.real_b.shape), "pool_b": self.pool_b.draw(batch.real_a.shape)}
        if self.config.weights.gradient_penalty:
            for domain in "ab":
                draws[f"mix_{domain}"] = draw_mix(len(batch), center=self._center, generator=self._mixing)
        return draws

    def forward_batch(self, batch: UnpairedBatch) -> CycleGANOutputs:
        """Six translations in four passes: a translation and an identity share one pass where that changes nothing."""
        weights = self.config.weights
        fake_b, idt_b = _translate(self.gen_ab, batch.real_a, batch.real_b if weights.identity_b else None)
        fake_a, idt_a = _translate(self.gen_ba, batch.real_b, batch.real_a if weights.identity_a else None)
        rec_a = widened(self.gen_ba(fake_b))
        rec_b = widened(self.gen_ab(fake_a))
        return CycleGANOutputs(fake_b, fake_a, rec_a, rec_b, idt_a, idt_b)

    def terms(self, player: str, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """See `Method`; the terms' names are those of `CycleGANWeights`."""
        if player == "generators":
            return self._generator_terms(batch, outputs)
        return self._discriminator_terms(batch, outputs)

    def _generator_terms(self, batch: UnpairedBatch, outputs: CycleGANOutputs) -> dict[str, Tensor]:
        weights = self.config.weights
        terms = {
            "adversarial_ab": weights.adversarial_ab * self.adversarial.generator(self.disc_b(outputs.fake_b)),
            "adversarial_ba": weights.adversarial_ba * self.adversarial.generator(self.disc_a(outputs.fake_a)),
            "cycle_a": weights.cycle_a * reconstruction.cycle(outputs.rec_a, batch.real_a),
            "cycle_b": weights.cycle_b * reconstruction.cycle(outputs.rec_b, batch.real_b),
        }
        if outputs.idt_a is not None:
            terms["identity_a"] = weights.identity_a * reconstruction.identity(outputs.idt_a, batch.real_a)
        if outputs.idt_b is not None:
            terms["identity_b"] = weights.identity_b * reconstruction.identity(outputs.idt_b, batch.real_b)
        return terms

    def _discriminator_terms(self, batch: UnpairedBatch, outputs: CycleGANOutputs) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        sides = (
            ("a", self.disc_a, batch.real_a, self.pool_a.query(outputs.fake_a.detach(), batch.draws["pool_a"])),
            ("b", self.disc_b, batch.real_b, self.pool_b.query(outputs.fake_b.detach(), batch.draws["pool_b"])),
        )
        weights = {"a": self.config.weights.discriminator_a, "b": self.config.weights.discriminator_b}
        for domain, disc, real, fake in sides:
            on_real, on_fake = _judge(disc, real, fake)
            terms[f"discriminator_{domain}"] = weights[domain] * self.adversarial.discriminator(on_real, on_fake)
            outputs.scores[f"score_real_{domain}"] = _mean_score(on_real)
            outputs.scores[f"score_fake_{domain}"] = _mean_score(on_fake)
            if self.adversarial.boundary is not None:
                outputs.scores[f"accuracy_{domain}"] = accuracy(on_real, on_fake, self.adversarial.boundary)
            if self.config.weights.gradient_penalty:
                mix = batch.draws[f"mix_{domain}"]
                penalty = gradient_penalty(disc, real, fake, center=self._center, mix=mix)
                terms[f"gradient_penalty_{domain}"] = self.config.weights.gradient_penalty * penalty
        return terms

    def observations(self, outputs: Any) -> dict[str, Tensor]:
        """Mean scores of real and shown fake images (LSGAN pulls them towards 1 and 0); share of right decisions."""
        return dict(outputs.scores)

    def translations(self, outputs: Any) -> dict[str, Tensor]:
        """See `Method`."""
        return {"ab": outputs.fake_b.detach(), "ba": outputs.fake_a.detach()}

    def get_extra_state(self) -> dict[str, Any]:
        """The random state of the gradient penalty's mixing."""
        return {"mixing": self._mixing.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See `get_extra_state`."""
        self._mixing.set_state(state["mixing"].cpu())


def mixes_images(network: nn.Module) -> bool:
    """Whether an image's result depends on the others in its batch, so that joining batches would change it."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def _translate(generator: nn.Module, images: Tensor, same: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """`generator` on images to translate and on images to leave as they are, in fp32 also under autocast."""
    if same is None:
        return widened(generator(images)), None
    if mixes_images(generator):
        return widened(generator(images)), widened(generator(same))
    translated, left = widened(generator(torch.cat([images, same]))).chunk(2)
    return translated, left


def _judge(disc: nn.Module, real: Tensor, fake: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Score maps of real and fake images, one a scale."""
    if mixes_images(disc):
        return disc(real), disc(fake)
    halves = [scores.chunk(2) for scores in disc(torch.cat([real, fake]))]
    return [half[0] for half in halves], [half[1] for half in halves]


def _mean_score(maps: list[Tensor]) -> Tensor:
    return torch.stack([scores.detach().float().mean() for scores in maps]).mean()
