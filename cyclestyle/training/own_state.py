"""What each of several processes has of its own, beside common weights: pools, random states, sums of scalars."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor

from cyclestyle.distributed import group_rank, world_size
from cyclestyle.methods.base import Method
from cyclestyle.training.tracker import Tracker

logger = logging.getLogger("cyclestyle")


def own_state(method: Method, tracker: Tracker, device: torch.device) -> dict[str, Any]:
    """This process's part of a checkpoint."""
    return {
        # By convention: what a method draws with and remembers is extra state, weights and buffers are common.
        "method": {name: value for name, value in method.state_dict().items() if name.endswith("_extra_state")},
        "tracker": tracker.state_dict(),
        "random": random_state(device),
    }


def with_own_state(state: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with what this process has of its own in place of what the first one has.

    Args:
        state: of a trainer; "others" holds the parts of the processes after the first.
        fresh: the part of a process that begins anew, where there were fewer.
    """
    others = state.get("others", [])
    if len(others) + 1 != world_size():
        logger.warning(
            "trained by %d %s so far, now by %d: the same pictures in the same order, but not bit for bit (image pools "
            "and random states of new processes begin anew, those of others are dropped)",
            len(others) + 1, "processes" if others else "process", world_size(),
        )  # fmt: skip
        state = {**state, "tracker": {**state["tracker"], "means": []}}  # weighted by shares that have changed
    if group_rank() == 0:
        return state
    own = others[group_rank() - 1] if group_rank() <= len(others) else {**fresh, "tracker": state["tracker"]}
    return {**state, **own, "method": {**state["method"], **own["method"]}}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """torch's global random states, of the processor and of the GPU that trains."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Go on from `random_state`; a state of a device that is not used now is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
