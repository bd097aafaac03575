"""CycleGAN.

Zhu, Park, Isola, Efros: "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks", ICCV 2017.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.losses import reconstruction
from cyclestyle.losses.widening import widened
from cyclestyle.methods.adversarial import AdversarialMethod, Translated, translate


@dataclass
class CycleGANOutputs(Translated):
    """See `Translated`; beside it, N x C x H x W each,

    Attributes:
        rec_a, rec_b: the translations, translated back again.
        idt_a, idt_b: real_a through gen_ba, real_b through gen_ab; None when identity has no weight.
    """

    rec_a: Tensor
    rec_b: Tensor
    idt_a: Tensor | None
    idt_b: Tensor | None


class CycleGAN(AdversarialMethod):
    """Two generators against two discriminators, bound by cycle consistency."""

    players: ClassVar[tuple[str, ...]] = ("generators", "discriminators")
    generators: ClassVar[tuple[str, ...]] = ("gen_ab", "gen_ba")

    def forward_batch(self, batch: UnpairedBatch) -> CycleGANOutputs:
        """Six translations in four passes: a translation and an identity share one pass where that changes nothing."""
        fake_b, idt_b = translate(self.gen_ab, batch.real_a, batch.real_b if self.weights["identity_b"] else None)
        fake_a, idt_a = translate(self.gen_ba, batch.real_b, batch.real_a if self.weights["identity_a"] else None)
        rec_a = widened(self.gen_ba(fake_b))
        rec_b = widened(self.gen_ab(fake_a))
        return CycleGANOutputs({"ab": fake_b, "ba": fake_a}, rec_a, rec_b, idt_a, idt_b)

    def own_terms(self, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """See `AdversarialMethod`."""
        terms = {
            "cycle_a": reconstruction.cycle(outputs.rec_a, batch.real_a),
            "cycle_b": reconstruction.cycle(outputs.rec_b, batch.real_b),
        }
        if outputs.idt_a is not None:
            terms["identity_a"] = reconstruction.identity(outputs.idt_a, batch.real_a)
        if outputs.idt_b is not None:
            terms["identity_b"] = reconstruction.identity(outputs.idt_b, batch.real_b)
        return terms
