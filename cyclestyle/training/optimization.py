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
        # Fused: one pass over the weights, a third of the time on the CPU; on GPUs with a loss scaler the other forms
        # wait for the device in every step. Capturable, with the learning rate on the device: so that the step can be
        # recorded as a CUDA graph.
        on_gpu = device.type == "cuda"
        return torch.optim.Adam(
            self._parameters(player),
            lr=torch.tensor(self._peak_rate(player), device=device) if on_gpu else self._peak_rate(player),
            betas=self.config.betas,
            fused=True if device.type in ("cpu", "cuda") else None,
            capturable=on_gpu,
        )

    def _parameters(self, player: str) -> list[nn.Parameter]:
        return [parameter for network in self._networks[player] for parameter in network.parameters()]

    def learning_rates(self, step: int) -> dict[str, float]:
        """Learning rate of each player in the step after `step` steps."""
        factor = learning_rate_factor(step, self.num_steps, self.config)
        return {player: factor * self._peak_rate(player) for player in self._networks}

    def start_step(self, step: int) -> None:
        """Set the learning rates for the step after `step` steps."""
        for player, rate in self.learning_rates(step).items():
            for group in self._optimizers[player].param_groups:
                if isinstance(group["lr"], Tensor):  # in place: a recorded step reads it there
                    group["lr"].fill_(rate)
                else:
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
        """Add the gradients of `loss / accumulation`; with the last part of a batch, take the step and drop them.

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
        optimizer.zero_grad(set_to_none=True)  # now, not before the next use: what comes in between has their memory
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Moments of Adam and scale of the losses, by player."""
        return {
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self._optimizers.items()},
            "scalers": {player: scaler.state_dict() for player, scaler in self._scalers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; all settings of Adam follow the config and the device, not the state."""
        for player, optimizer in self._optimizers.items():
            saved = state["optimizers"][player]
            groups = [
                {**own, "params": group["params"]}
                for own, group in zip(optimizer.param_groups, saved["param_groups"], strict=True)
            ]
            optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})
            _match_layouts(optimizer)
            if self._scalers[player].is_enabled() and state["scalers"][player]:
                self._scalers[player].load_state_dict(state["scalers"][player])


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their weights: the fused Adam pairs values by address, without looking.

    A checkpoint has the layout of the machine that wrote it.
    """
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
