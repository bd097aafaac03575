"""Activation checkpointing (Chen et al. 2016): activations that are computed again for the backward pass, not kept.

Owns `recomputed`, in which a generator wraps the stretches of its layers that are to run twice, and the switch that
makes a generator do so. Outputs and gradients are the same bit for bit where the arithmetic itself repeats bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.checkpoint import checkpoint

from cyclestyle.errors import ConfigError


class Recomputable(nn.Module):
    """A generator with a second way through its layers, on which it keeps few activations; off at first."""

    recomputes = False

    @property
    def recomputes_now(self) -> bool:
        """Whether to take the second way: `recompute_activations` was called, and gradients may be asked for."""
        return self.recomputes and torch.is_grad_enabled()

    def encode(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Features of the first half by name (`config.rules.encoder_layers`), in the order of `names`."""
        raise NotImplementedError

    def translate_with_features(self, x: Tensor, names: Sequence[str]) -> tuple[Tensor, list[Tensor]]:
        """The translation, and what `encode` gives, from one pass."""
        raise NotImplementedError

    @torch.no_grad()
    def _features_again(self, x: Tensor, names: Sequence[str]) -> list[Tensor]:
        """Features of what was translated on the second way: encoded anew, detached; batch norms do not move again."""
        norms = [part for part in self.modules() if isinstance(part, _BatchNorm)]
        with _statistics_kept(norms):
            return [feature.detach() for feature in self.encode(x, names)]


def recompute_activations(generator: nn.Module) -> None:
    """Let `generator` compute most of its activations twice instead of keeping them; without gradients nothing changes.

    The ResNet generator keeps a quarter of what it kept for 1.18 times the arithmetic of a forward and backward pass,
    the U-Net two fifths for 1.11 times. Names in the state dict stay; a deep copy is switched like its original.

    Raises:
        ConfigError: it is no `Recomputable`.
    """
    if not isinstance(generator, Recomputable):
        raise ConfigError(
            f"{type(generator).__name__} cannot compute its activations again: set train.checkpointing=false"
        )
    generator.recomputes = True


def recomputed(function: Callable[..., Tensor], layers: Iterable[nn.Module], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, of which only `inputs` are kept; the backward pass runs it again for the rest.

    It runs again only as far as the last tensor that it kept in the first place. So a function that ends with a
    convolution does not run this convolution again, as that keeps its input alone.

    Args:
        function: any number of tensors to one.
        layers: the modules that it runs.
        inputs: what it is given.
    """
    parts = [part for layer in layers for part in layer.modules()]
    norms = [part for part in parts if isinstance(part, _BatchNorm)]
    draws = any(isinstance(part, _DropoutNd) and part.p > 0 and part.training for part in parts)
    has_run = False

    def run(*again: Tensor) -> Tensor:
        nonlocal has_run
        if has_run:
            with _statistics_kept(norms):
                return function(*again)
        has_run = True
        return function(*again)

    # The random state is kept only where it is needed: it cannot be read while a CUDA graph is recorded.
    result: Tensor = checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=draws)
    return result


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Inside, batch norms move copies of their running statistics: the first run has moved the real ones."""
    kept: list[tuple[_BatchNorm, dict[str, Any]]] = [(norm, dict(norm.named_buffers(recurse=False))) for norm in norms]
    try:
        for norm, buffers in kept:
            for name, value in buffers.items():
                setattr(norm, name, value.clone())
        yield
    finally:
        for norm, buffers in kept:
            for name, value in buffers.items():
                setattr(norm, name, value)
