"""What CUT and DCLGAN share, the contrastive term: which places of which features are compared, and how.

Park, Efros, Zhang, Zhu: "Contrastive Learning for Unpaired Image-to-Image Translation", ECCV 2020, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config import rules
from cyclestyle.config.methods import ContrastConfig, ContrastiveConfig
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.losses import contrastive
from cyclestyle.methods.adversarial import AdversarialMethod
from cyclestyle.networks.patch_features import PatchFeatures, sample_places


class Contrast:
    """Compares places of a translation with those of its source. Has no weights: `embedding` makes those.

    Args:
        config: the `method.contrast` section.
        generator, channels: which layers there are.
    """

    def __init__(self, config: ContrastConfig, generator: GeneratorConfig, channels: int) -> None:
        known = rules.encoder_layers(generator, channels)
        self.layers = {name: known[name] for name in config.layers}
        self._config = config
        self._generator = generator

    def embedding(self) -> PatchFeatures:
        """The two-layer networks on each layer's features, built up front from the generator's declared channels."""
        channels = {name: layer.channels for name, layer in self.layers.items()}
        return PatchFeatures(channels, self._config.width, init=self._generator.init, gain=self._generator.init_gain)

    def draw(self, shape: torch.Size, random: torch.Generator) -> dict[str, Tensor]:
        """Places of each layer for images N x C x H x W, the same in all of them: "places_<layer>" -> int64."""
        sizes = [(shape[2] // layer.stride, shape[3] // layer.stride) for layer in self.layers.values()]
        drawn = sample_places(sizes, self._config.num_places, random)
        return {f"places_{name}": places for name, places in zip(self.layers, drawn, strict=True)}

    def places(self, draws: Mapping[str, Tensor]) -> list[Tensor]:
        """What was drawn, a layer each."""
        return [draws[f"places_{name}"] for name in self.layers]

    def loss(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """The configured loss, mean over the layers, as in the authors' code (eq. 4 of the paper adds them up).

        Args:
            queries, keys: of the translation and of its source, a layer each, N x P x width of length 1.
        """
        config = self._config
        pairs = zip(queries, keys, strict=True)
        if config.loss == "hdce":
            found = [contrastive.hdce(q, k, config.temperature, config.hardness) for q, k in pairs]
        else:
            found = [contrastive.info_nce(q, k, config.temperature) for q, k in pairs]
        return torch.stack(found).mean()

    def relations(self, queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
        """Mean over the layers of the distance between their places' similarities (SRC, Jung et al. 2022)."""
        return torch.stack([contrastive.src(q, k) for q, k in zip(queries, keys, strict=True)]).mean()


class ContrastiveMethod(AdversarialMethod):
    """Generators whose encoders' features are compared; `embed_ab` looks at those of gen_ab, `embed_ba` of gen_ba.

    The networks on patches step with the generators. Arguments and errors: see `AdversarialMethod`.
    """

    embed_ab: PatchFeatures
    embed_ba: PatchFeatures  # of methods that have both

    def __init__(
        self,
        config: ContrastiveConfig,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        seed: int,
    ) -> None:
        super().__init__(config, generator, discriminator, channels, seed)
        self.contrast = Contrast(config.contrast, generator, channels)
        for direction in self.directions:
            self.add_module(f"embed_{direction}", self.contrast.embedding())
        self._placing = torch.Generator().manual_seed(seed + 4)

    def networks_of(self, player: str) -> list[nn.Module]:
        """See `Method`."""
        networks = super().networks_of(player)
        if player == "generators":
            networks += [self.get_submodule(f"embed_{direction}") for direction in self.directions]
        return networks

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """Beside what every discriminator needs: places that are compared, the same in all images."""
        return super().draw(batch) | self.contrast.draw(batch.real_a.shape, self._placing)

    def get_extra_state(self) -> dict[str, Any]:
        """See `Method`."""
        return super().get_extra_state() | {"placing": self._placing.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """See `get_extra_state`."""
        super().set_extra_state(state)
        self._placing.set_state(state["placing"].cpu())
