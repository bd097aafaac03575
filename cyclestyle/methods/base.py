"""What the training loop asks of a method. A method never steps an optimizer, logs or saves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from cyclestyle.batch import Domain, UnpairedBatch


class Method(nn.Module, ABC):
    """Networks, what they compute on a batch, and the loss terms of each player.

    Everything that a resumed run needs (networks, pools, random states) is in `state_dict()`. What it draws with and
    remembers of images is extra state (`get_extra_state`): of several processes each has its own, parameters and
    buffers are common. Each term is a mean over the images of the batch, so that shares of a batch add up to it.

    Attributes:
        players: groups of parameters that are updated one after another, each on its own terms, in this order.
        generators: names of the submodules that translate ("gen_ab", "gen_ba", or the first alone); they are averaged
            and exported, and say in which directions there are grids, scores and translators.
        adapt_every: steps between calls of `adapt`; 0: never.
    """

    players: ClassVar[tuple[str, ...]]
    generators: ClassVar[tuple[str, ...]]
    adapt_every: int = 0

    @property
    def directions(self) -> tuple[str, ...]:
        """ "ab", "ba" or both: what `generators` translate."""
        return tuple(name.removeprefix("gen_") for name in self.generators)

    @abstractmethod
    def networks_of(self, player: str) -> list[nn.Module]:
        """The networks whose parameters `player` updates; each belongs to exactly one player."""

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        """All that chance decides about this batch, drawn on the processor from the method's own random states.

        `forward_batch` and `terms` find it in `batch.draws`, on the device of the images. They draw nothing else but
        what torch's own layers do (dropout): so a learning step can be recorded as a CUDA graph, never waits for the
        device to draw, and resumes exactly.
        """
        return {}

    @abstractmethod
    def forward_batch(self, batch: UnpairedBatch) -> Any:
        """Run the generators once on a batch; the result is handed to `terms` of every player."""

    @abstractmethod
    def terms(self, player: str, batch: UnpairedBatch, outputs: Any) -> dict[str, Tensor]:
        """Weighted loss terms of `player`, each a scalar; their sum is what the player minimises."""

    @abstractmethod
    def observations(self, outputs: Any) -> dict[str, Tensor]:
        """Detached scalars worth a curve that are no loss terms, e.g. the discriminators' mean scores."""

    @abstractmethod
    def translations(self, outputs: Any) -> dict[str, Tensor]:
        """The translations among `forward_batch`'s outputs, detached, by direction: {"ab": fake_b, "ba": fake_a}.

        Each lies over its source: `fake_b[i]` over `batch.real_a[i]`.
        """

    def held_out_domains(self) -> tuple[Domain, ...]:
        """Domains, "a" or "b", whose held-out images `adapt` looks at."""
        return ()

    def adapt(
        self, batch: UnpairedBatch, translations: Mapping[str, Tensor], held_out: Mapping[Domain, Tensor]
    ) -> None:
        """Turn what is no weight by how the networks fare on images that are not trained on; between two steps.

        Of several processes all are asked, each with images of its own; what is turned must come out alike.

        Args:
            batch: of the last step, or its first part.
            translations: of that batch, by direction, as `translations` gives them.
            held_out: domain -> as many of its test images, prepared as those of the batch, on their device.
        """
