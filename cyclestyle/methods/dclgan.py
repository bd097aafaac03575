"""DCLGAN: two generators, content kept by contrast in both directions.

Han, Shoeiby, Petersson, Armin: "Dual Contrastive Learning for Unsupervised Image-to-Image Translation", CVPR Workshops
2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.losses import reconstruction
from cyclestyle.losses.widening import widened
from cyclestyle.methods.adversarial import Translated
from cyclestyle.methods.contrast import ContrastiveMethod
from cyclestyle.networks.layers import mixes_images
from cyclestyle.networks.recomputing import Recomputable


@dataclass
class DCLGANOutputs(Translated):
    """See `Translated`; beside it

    Attributes:
        idt_a, idt_b: real_a through gen_ba, real_b through gen_ab; None when identity has no weight.
        keys: direction -> features of its source, a layer each, without gradients.
    """

    idt_a: Tensor | None
    idt_b: Tensor | None
    keys: dict[str, list[Tensor]]


class DCLGAN(ContrastiveMethod):
    """Two generators against two discriminators; each encoder knows one domain, real or translated into it.

    A translation into B is seen by the encoder of gen_ba, its source by that of gen_ab (section 3.2). The
    discriminators step first, as in CUT.
    """

    players: ClassVar[tuple[str, ...]] = ("discriminators", "generators")
    generators: ClassVar[tuple[str, ...]] = ("gen_ab", "gen_ba")

    def forward_batch(self, batch: UnpairedBatch) -> DCLGANOutputs:
        """A translation and an identity in one pass where that changes nothing; keys are features on its way."""
        fake_b, idt_b, keys_ab = self._translate(
            self.gen_ab, batch.real_a, batch.real_b if self.weights["identity_b"] else None
        )
        fake_a, idt_a, keys_ba = self._translate(
            self.gen_ba, batch.real_b, batch.real_a if self.weights["identity_a"] else None
        )
        return DCLGANOutputs({"ab": fake_b, "ba": fake_a}, idt_a, idt_b, {"ab": keys_ab, "ba": keys_ba})

    def _translate(
        self, generator: Recomputable, images: Tensor, same: Tensor | None
    ) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        given = images if same is None or mixes_images(generator) else torch.cat([images, same])
        made, features = generator.translate_with_features(given, list(self.contrast.layers))
        keys = [feature[: len(images)].detach() for feature in features]
        if given is not images:
            fake, idt = widened(made).chunk(2)
            return fake, idt, keys
        return widened(made), None if same is None else widened(generator(same)), keys

    def own_terms(self, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """Contrast of each translation with its source, and of similarities (SRC); identity as in CycleGAN."""
        encoders = {"ab": (self.gen_ab, self.embed_ab), "ba": (self.gen_ba, self.embed_ba)}
        names, places = list(self.contrast.layers), self.contrast.places(batch.draws)
        terms: dict[str, Tensor] = {}
        for direction, back in (("ab", "ba"), ("ba", "ab")):
            weights = {name: self.weights[f"{name}_{direction}"] for name in ("nce", "src")}
            if not any(weights.values()):
                continue
            (_, embed_source), (gen_back, embed_back) = encoders[direction], encoders[back]
            queries = embed_back(gen_back.encode(outputs.fakes[direction], names), places)
            with torch.no_grad():
                keys = embed_source(outputs.keys[direction], places)
            if weights["nce"]:
                terms[f"nce_{direction}"] = self.contrast.loss(queries, keys)
            if weights["src"]:
                terms[f"src_{direction}"] = self.contrast.relations(queries, keys)
        if outputs.idt_a is not None:
            terms["identity_a"] = reconstruction.identity(outputs.idt_a, batch.real_a)
        if outputs.idt_b is not None:
            terms["identity_b"] = reconstruction.identity(outputs.idt_b, batch.real_b)
        return terms
