"""Which of how many processes this one is. One process today; everything that depends on rank asks here."""

from __future__ import annotations

import os


def rank() -> int:
    """Index of this process, 0 .. world_size() - 1."""
    return 0


def world_size() -> int:
    """Number of processes that train together."""
    return 1


def launched_processes() -> int:
    """How many processes a launcher such as torchrun started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))
