"""How losses change weights: an Adam a player, mixed precision, accumulation, clipping, learning rates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cyclestyle.config.schema import OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.methods.base import Method
from cyclestyle.training.schedules import learning_rate_factor


class Optimization:
    """Updates the players of a method.

    Args:
        method: its networks already on `device`.
        config: the `optimizer` section.
        precision: fp16 scales losses so that small gradients survive (torch.amp.GradScaler).
        device: of the networks.
        num_steps: length of the run, for the schedule.
    """

    def __init__(
        self, method: Method, config: OptimizerConfig, precision: Precision, device: torch.device, num_steps: int
    ) -> None:
        self.config = config
        self.num_steps = num_steps
        self._networks: dict[str, list[nn.Module]] = {player: method.networks_of(player) for player in method.players}
        self._optimizers = {player: self._adam(player, device) for player in method.players}
        scales = precision.name == "fp16"
        self._scalers = {player: torch.amp.GradScaler(device.type, enabled=scales) for player in method.players}

    def _peak_rate(self, player: str) -> float:
        return self.config.discriminator_lr if player == "discriminators" else self.config.generator_lr

    def _adam(self, player: str, device: torch.device) -> torch.optim.Adam:
        # Fused on GPUs: with a loss scaler the other forms wait for the device in every step. No gain on the CPU.
        return torch.optim.Adam(
            self._parameters(player),
            lr=self._peak_rate(player),
            betas=self.config.betas,
            fused=True if device.type == "cuda" else None,
        )

    def _parameters(self, player: str) -> list[nn.Parameter]:
        return [parameter for network in self._networks[player] for parameter in network.parameters()]

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rate of each player in the step after `step` steps."""
        factor = learning_rate_factor(step, self.num_steps, self.config)
        return {player: factor * self._peak_rate(player) for player in self._networks}

    def start_step(self, step: int) -> None:
        """Set the learning rates for the step after `step` steps and forget the gradients of the last one."""
        for player, rate in self.learning_rates(step).items():
            optimizer = self._optimizers[player]
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = rate

    @contextmanager
    def only(self, player: str) -> Iterator[None]:
        """Inside, gradients reach the parameters of `player` alone; other networks pass them on, but keep none."""
        others = [network for name, networks in self._networks.items() if name != player for network in networks]
        for network in others:
            network.requires_grad_(False)
        try:
            yield
        finally:
            for network in others:
                network.requires_grad_(True)

    def update(self, player: str, loss: Tensor, *, is_last: bool, measure: bool) -> Tensor | None:
        """Add the gradients of `loss / accumulation`; with the last part of a batch, take the optimizer's step.

        Args:
            player: whose parameters.
            loss: scalar.
            is_last: whether this is the last part of the batch (`optimizer.accumulation`).
            measure: give back the norm of the gradients.

        Returns:
            The norm of the player's gradients before clipping, as a scalar on the device, or None.
        """
        scaler, optimizer = self._scalers[player], self._optimizers[player]
        scaler.scale(loss / self.config.accumulation).backward()
        if not is_last:
            return None
        norm = None
        if measure or self.config.clip_norm:
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(self._parameters(player), self.config.clip_norm or float("inf"))
        scaler.step(optimizer)
        scaler.update()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments of Adam and scale of the losses, by player."""
        return {
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self._optimizers.items()},
            "scalers": {player: scaler.state_dict() for player, scaler in self._scalers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; learning rates and betas follow the config, not the state."""
        for player, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state["optimizers"][player])
            for group in optimizer.param_groups:
                group["betas"] = self.config.betas
            if self._scalers[player].is_enabled() and state["scalers"][player]:
                self._scalers[player].load_state_dict(state["scalers"][player])
