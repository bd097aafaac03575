"""The learning step: what happens to the weights between two batches, and nothing else.

It neither reads files, logs nor saves, and never waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.profiler import record_function

from cyclestyle.batch import UnpairedBatch
from cyclestyle.devices import Precision
from cyclestyle.methods.base import Method
from cyclestyle.training.optimization import Optimization


@dataclass(frozen=True)
class Learned:
    """What a step leaves behind; all detached, on the device.

    Attributes:
        scalars: loss terms and observations by name, for each part of the batch.
        norms: of each player's gradients before clipping, by player.
        translations: of the first part, by direction ("ab", "ba"), N x C x H x W.
    """

    scalars: list[dict[str, Tensor]]
    norms: dict[str, Tensor]
    translations: dict[str, Tensor]


def learn(
    method: Method,
    optimization: Optimization,
    precision: Precision,
    parts: Sequence[UnpairedBatch],
) -> Learned:
    """One optimizer step of every player on a batch: the whole of learning.

    Args:
        method, optimization: what learns, and how; the step's learning rates are set.
        precision: arithmetic of the forward passes; the backward passes follow it.
        parts: the batch, in `optimizer.accumulation` parts, on the device, with their draws.
    """
    device = parts[0].real_a.device
    scalars: list[dict[str, Tensor]] = []
    norms: dict[str, Tensor] = {}
    translations: dict[str, Tensor] = {}
    for index, batch in enumerate(parts):
        seen: dict[str, Tensor] = {}
        with record_function("translate"), precision.autocast(device):
            outputs = method.forward_batch(batch)
        for player in method.players:
            with record_function(player), optimization.only(player):
                with precision.autocast(device):
                    terms = method.terms(player, batch, outputs)
                loss = torch.stack(list(terms.values())).sum()
                norm = optimization.update(player, loss, is_last=index == len(parts) - 1)
            seen |= {name: term.detach() for name, term in terms.items()}
            if norm is not None:
                norms[player] = norm
        scalars.append(seen | method.observations(outputs))
        translations = translations or method.translations(outputs)
    optimization.finish_step()
    return Learned(scalars, norms, translations)
