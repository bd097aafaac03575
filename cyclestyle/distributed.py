"""Which of how many processes this one is, and what they tell each other; everything that depends on rank asks here.

A launcher such as torchrun says it in the environment: RANK, WORLD_SIZE, LOCAL_RANK. Work that was shared out by them
is counted together over a gloo group, which needs no GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# One process may have much larger pictures than another: waiting is no fault. A dead one is noticed at once, by its
# connection.
_PATIENCE = timedelta(days=2)
_PATIENCE_AT_THE_START = timedelta(minutes=10)


class GroupError(RuntimeError):
    """The launched processes cannot work together; the message is one line for people."""


def rank() -> int:
    """Index of this process, 0 .. launched_processes() - 1."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """Index of this process among those on its machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def launched_processes() -> int:
    """How many processes a launcher such as torchrun started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def world_size() -> int:
    """Number of processes that have joined and work together; 1 outside `joined`."""
    import torch.distributed

    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


@contextmanager
def joined() -> Iterator[ProcessGroup | None]:
    """Inside, the launched processes form the group that is given; None where there is one process.

    Raises:
        GroupError: the environment does not say how to find the others, or they did not come.
    """
    if launched_processes() == 1:
        yield None
        return
    import torch.distributed

    if not 0 <= rank() < launched_processes():
        raise GroupError(
            f"RANK={rank()} was given with WORLD_SIZE={launched_processes()}: use torchrun, which sets both"
        )
    if "MASTER_ADDR" not in os.environ or "MASTER_PORT" not in os.environ:
        raise GroupError(
            f"started as {launched_processes()} processes (WORLD_SIZE), but MASTER_ADDR and MASTER_PORT do not say "
            "where they meet: start with torchrun, or unset WORLD_SIZE"
        )
    try:
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE_AT_THE_START)
        group = torch.distributed.new_group(timeout=_PATIENCE)
    except RuntimeError as error:
        raise GroupError(f"the {launched_processes()} processes did not find each other ({_first(error)})") from error
    try:
        assert not isinstance(group, int), "internal: not a member of the group of all"
        yield group
    finally:
        torch.distributed.destroy_process_group()


def sum_over_processes(counts: list[int], group: ProcessGroup | None) -> list[int]:
    """Each count summed over all processes of the group; returns when all have come here.

    Raises:
        RuntimeError: one of them is gone.
    """
    if group is None:
        return counts
    import torch

    sums = torch.tensor(counts, dtype=torch.int64)
    torch.distributed.all_reduce(sums, group=group)
    return [int(value) for value in sums]


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0][:160]
