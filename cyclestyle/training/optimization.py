"""How losses change weights: an Adam a player, mixed precision, accumulation, clipping, learning rates.

A step whose loss or gradients are not finite changes nothing, and is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cyclestyle.config.schema import OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.distributed import sum_in_place
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
        share: this process's part of each batch; its losses are means over that.

    Attributes:
        lr_scale: all learning rates are multiplied by it.
        num_skipped: steps in which a player was left as it was, since whoever counts them set it to 0; int64 on the
            device. Without fp16's, which are its scaler's ordinary course.
        streak: those in a row, up to the last step, fp16's too.
    """

    def __init__(
        self,
        method: Method,
        config: OptimizerConfig,
        precision: Precision,
        device: torch.device,
        num_steps: int,
        *,
        share: float = 1.0,
    ) -> None:
        self.config = config
        self.share = share
        self.num_steps = num_steps
        self.lr_scale = 1.0
        self.num_skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.streak = torch.zeros((), dtype=torch.int64, device=device)
        self._is_broken = torch.zeros((), dtype=torch.bool, device=device)  # the step that is being taken
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
        factor = self.lr_scale * learning_rate_factor(step, self.num_steps, self.config)
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

    def update(self, player: str, loss: Tensor, *, is_last: bool) -> Tensor | None:
        """Add the gradients of `loss / accumulation`; with the last part of a batch, take the step and drop them.

        Processes add theirs up once a step. An explicit sum, and no DistributedDataParallel: that one counts on one
        forward pass before each backward pass, and networks here have several.

        Args:
            player: whose parameters.
            loss: scalar.
            is_last: whether this is the last part of the batch (`optimizer.accumulation`).

        Returns:
            With the last part the norm of the player's gradients before clipping, a scalar on the device, else None.
        """
        scaler, optimizer = self._scalers[player], self._optimizers[player]
        scaler.scale(loss * (self.share / self.config.accumulation)).backward()
        if not is_last:
            return None
        parameters = self._parameters(player)
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = loss.detach().reshape(1) * self.share
        sum_in_place([*gradients, total])
        scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, norm)
        is_broken = ~(norm.isfinite() & total[0].isfinite())
        self._is_broken.logical_or_(is_broken)
        if scaler.is_enabled():
            scaler.step(optimizer)
            scaler.update()
        else:
            _step_unless(is_broken, optimizer)
        optimizer.zero_grad(set_to_none=True)  # now, not before the next use: what comes in between has their memory
        return norm

    def finish_step(self) -> None:
        """Count the step that was taken, or skipped; waits for nothing."""
        # A scaler skips steps to find its scale.
        if not any(scaler.is_enabled() for scaler in self._scalers.values()):
            self.num_skipped.add_(self._is_broken)
        self.streak.add_(1).mul_(self._is_broken)
        self._is_broken.zero_()

    def state_dict(self) -> dict[str, Any]:
        """Moments of Adam and scale of the losses, by player; counts of skipped steps."""
        return {
            "lr_scale": self.lr_scale,
            "skipped": [int(self.num_skipped), int(self.streak)],
            "optimizers": {player: optimizer.state_dict() for player, optimizer in self._optimizers.items()},
            "scalers": {player: scaler.state_dict() for player, scaler in self._scalers.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`; all settings of Adam follow the config and the device, not the state."""
        self.lr_scale = state.get("lr_scale", 1.0)  # checkpoints of version 0.1 know of no skipped steps
        for count, saved_count in zip((self.num_skipped, self.streak), state.get("skipped", (0, 0)), strict=True):
            count.fill_(saved_count)
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


def _step_unless(is_broken: Tensor, optimizer: torch.optim.Adam) -> None:
    """A step of Adam, or none, as a flag on the device says; the fused kernels look at it, nobody waits for it."""
    if not optimizer.defaults["fused"]:
        if not is_broken.item():
            optimizer.step()
        return
    # What `torch.amp.GradScaler` hands to optimizers that can skip by themselves.
    optimizer.found_inf = is_broken.float()  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.found_inf  # type: ignore[attr-defined]


def _match_layouts(optimizer: torch.optim.Optimizer) -> None:
    """Give moments the memory layout of their weights: the fused Adam pairs values by address, without looking.

    A checkpoint has the layout of the machine that wrote it.
    """
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if moment.shape == parameter.shape and moment.stride() != parameter.stride():
                moments[name] = torch.empty_like(parameter, dtype=moment.dtype).copy_(moment)
