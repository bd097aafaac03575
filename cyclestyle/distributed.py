"""Which of how many processes this one is. One process today; everything that depends on rank asks here."""

from __future__ import annotations

import os

from cyclestyle.errors import ConfigError


def rank() -> int:
    """Index of this process, 0 .. world_size() - 1."""
    return 0


def world_size() -> int:
    """Number of processes that train together."""
    return 1


def refuse_several_processes() -> None:
    """Raise `ConfigError` under a launcher such as torchrun: N independent trainings would write one run folder."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > 1:
        raise ConfigError(
            f"started as {launched} processes (WORLD_SIZE={launched}), but training runs in one process: "
            "start train.py without torchrun, or with --nproc_per_node=1"
        )
