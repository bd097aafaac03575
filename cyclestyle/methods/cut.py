"""CUT and FastCUT: one generator, one discriminator, and content that is kept by contrast instead of cycles.

Park, Efros, Zhang, Zhu: "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import CUTConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.losses.widening import widened
from cyclestyle.methods.adversarial import Translated
from cyclestyle.methods.contrast import ContrastiveMethod


@dataclass
class CUTOutputs(Translated):
    """See `Translated`; beside it

    Attributes:
        idt_b: real_b through gen_ab, N x C x H x W; None when its contrast has no weight.
        keys: features of real_a, and of real_b below them where idt_b is there, a layer each, without gradients.
    """

    idt_b: Tensor | None
    keys: list[Tensor]


class CUT(ContrastiveMethod):
    """A generator against a discriminator; each place of a translation is to know the place that it comes from.

    The discriminator steps first, as in the authors' code: the generator meets the newer one.
    """

    players: ClassVar[tuple[str, ...]] = ("discriminators", "generators")
    generators: ClassVar[tuple[str, ...]] = ("gen_ab",)

    def __init__(
        self,
        config: CUTConfig,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        seed: int,
    ) -> None:
        super().__init__(config, generator, discriminator, channels, seed)
        self.flips = config.flip_equivariance

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Places that are compared, and which images are mirrored."""
        draws = super().draw(batch)
        if self.flips:
            draws["flip"] = torch.rand((len(batch), 1, 1, 1), generator=self._placing) < 0.5
        return draws

    def forward_batch(self, batch: UnpairedBatch) -> CUTOutputs:
        """Translation and identity in one pass, which gives the keys too: they are features on its way.

        Mirrored images need a second pass of the encoder: their keys are features of images that are not.
        """
        names = list(self.contrast.layers)
        has_identity = self.weights["nce_identity_b"] > 0
        real = torch.cat([batch.real_a, batch.real_b]) if has_identity else batch.real_a
        if self.flips:
            made = self._mirrored(self.gen_ab(self._mirrored(real, batch)), batch)
            with torch.no_grad():
                keys = self.gen_ab.encode(real, names)
        else:
            made, keys = self.gen_ab.translate_with_features(real, names)
        fake_b, idt_b = widened(made).chunk(2) if has_identity else (widened(made), None)
        return CUTOutputs({"ab": fake_b}, idt_b, [key.detach() for key in keys])

    def own_terms(self, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """Contrast of fake_b with real_a and of idt_b with real_b (eq. 5), and of similarities (SRC)."""
        if not any(self.weights[name] for name in ("nce_ab", "src_ab", "nce_identity_b")):
            return {}
        fake_b = outputs.fakes["ab"]
        made = fake_b if outputs.idt_b is None else torch.cat([fake_b, outputs.idt_b])
        places = self.contrast.places(batch.draws)
        seen = self.gen_ab.encode(self._mirrored(made, batch), list(self.contrast.layers))
        queries = self.embed_ab([self._mirrored(each, batch) for each in seen], places)
        with torch.no_grad():
            keys = self.embed_ab(outputs.keys, places)
        num = len(fake_b)
        of_a = [each[:num] for each in queries], [each[:num] for each in keys]
        terms = {"nce_ab": self.contrast.loss(*of_a)} if self.weights["nce_ab"] else {}
        if self.weights["src_ab"]:
            terms["src_ab"] = self.contrast.relations(*of_a)
        if outputs.idt_b is not None:
            of_b = [each[num:] for each in queries], [each[num:] for each in keys]
            terms["nce_identity_b"] = self.contrast.loss(*of_b)
        return terms

    def _mirrored(self, x: Tensor, batch: UnpairedBatch) -> Tensor:
        """Left to right, the images or features of those that the draw says (twice in real | identity)."""
        if not self.flips:
            return x
        flip = batch.draws["flip"].repeat(len(x) // len(batch), 1, 1, 1)
        return torch.where(flip, x.flip(3), x)
