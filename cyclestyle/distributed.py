"""Which of how many processes this one is, and what they tell each other; everything that depends on rank asks here.

A launcher such as torchrun says it in the environment: RANK, WORLD_SIZE, LOCAL_RANK. Inside `joined` the launched
processes form a group, and what stands below it talks; without a group each function is that of one process alone, and
says nothing. All processes call the talking functions in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup, Store

T = TypeVar("T")

# One process may have much larger pictures than another: waiting is no fault. A dead one is noticed at once, by its
# connection.
_PATIENCE = timedelta(days=2)
_PATIENCE_AT_THE_START = timedelta(minutes=10)
_LAST_WORDS = 2.0
"""Seconds that another process has to say why it failed, once its connection is gone."""
_BUCKET = 2**23
"""Values that are summed in one message: enough for full speed, few enough that several are on their way at once."""

_groups: dict[str, ProcessGroup] = {}  # by type of device: "cpu", and "cuda" where GPUs talk among themselves


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


def neighbours() -> int:
    """Processes on this machine that share its memory and cores with this one, itself included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if _groups else 1


def is_launched() -> bool:
    """Whether torchrun started this process, be it alone."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def world_size() -> int:
    """Number of processes that have joined and work together; 1 outside `joined`."""
    import torch.distributed

    return torch.distributed.get_world_size() if _groups else 1


def group_rank() -> int:
    """Index of this process among those that have joined; 0 outside `joined`."""
    return rank() if _groups else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return group_rank() == 0


@contextmanager
def joined(*, patience: timedelta = _PATIENCE, gpus: bool = False) -> Iterator[ProcessGroup | None]:
    """Inside, the launched processes form the group that is given (of gloo); None where there is one process.

    An error inside ends all of them: the others, where they wait for this one, raise its message.

    Args:
        patience: how long they wait for each other.
        gpus: tensors on GPUs are summed too, by NCCL.

    Raises:
        GroupError: the environment does not say how to find the others, they did not come, or one of them failed or
            ended.
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
        store, _, _ = next(torch.distributed.rendezvous("env://", timeout=_PATIENCE_AT_THE_START))
        store.set_timeout(_PATIENCE_AT_THE_START)
        # torchrun's store may outlive a restart, with the addresses of those who are gone.
        store = torch.distributed.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
        torch.distributed.init_process_group(
            "gloo", store=store, rank=rank(), world_size=launched_processes(), timeout=_PATIENCE_AT_THE_START
        )
        group = torch.distributed.new_group(timeout=patience, backend="gloo")
        assert not isinstance(group, int), "internal: not a member of the group of all"
        _groups["cpu"] = group
        if gpus:
            _groups["cuda"] = torch.distributed.new_group(timeout=patience, backend="nccl")  # type: ignore[assignment]
    except RuntimeError as error:
        raise GroupError(f"the {launched_processes()} processes did not find each other ({_first(error)})") from error
    failures = _Failures(store)
    try:
        yield group
    except BaseException as error:
        is_of_another = isinstance(error, GroupError) or _is_of_the_connection(error)
        if is_of_another and (told := failures.of_another()) is not None:
            raise GroupError(told) from error
        failures.tell(error)
        if is_of_another:
            raise GroupError(
                f"another of the {launched_processes()} processes ended without a word, or said nothing for "
                f"{patience.total_seconds():g} s ({_first(error)})"
            ) from error
        raise
    finally:
        _groups.clear()
        with suppress(RuntimeError):  # the connections are gone with another process
            torch.distributed.destroy_process_group()


class _Failures:
    """What the first process that failed had to say, in the store where all met."""

    _KEY = "cyclestyle/failure"

    def __init__(self, store: Store) -> None:
        self._store = store

    def tell(self, error: BaseException) -> None:
        """Leave the message of `error` for the others; an orderly end is none."""
        if isinstance(error, SystemExit):
            return
        text = " ".join(str(error).split()) or type(error).__name__
        with suppress(Exception):  # the store may be gone with the process that kept it
            self._store.set(self._KEY, f"process {rank()} of {launched_processes()} failed: {text}")

    def of_another(self) -> str | None:
        """What was told; None where nobody tells it soon."""
        deadline = time.monotonic() + _LAST_WORDS
        with suppress(Exception):
            while time.monotonic() < deadline:
                if self._store.check([self._KEY]):
                    return self._store.get(self._KEY).decode()
                time.sleep(0.05)
        return None


def _is_of_the_connection(error: BaseException) -> bool:
    """Whether it says that another process is gone, or silent."""
    import torch.distributed

    if isinstance(error, torch.distributed.DistError):
        return True
    words = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


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


def highest(number: int) -> int:
    """The highest of all processes' numbers."""
    if not _groups:
        return number
    import torch

    numbers = torch.tensor([number])
    torch.distributed.all_reduce(numbers, torch.distributed.ReduceOp.MAX, group=_groups["cpu"])
    return int(numbers.item())


def meet() -> None:
    """Return when all processes have come here."""
    highest(0)


def from_first(make: Callable[[], T]) -> T:
    """What `make` gives in the first process, which alone calls it; its error ends all."""
    if not _groups:
        return make()
    import torch

    found = [make() if is_first() else None]
    torch.distributed.broadcast_object_list(found, src=0, group=_groups["cpu"])
    return found[0]  # type: ignore[return-value]


def gathered(value: T) -> list[T]:
    """The values of all processes, in their order, in the first; nothing in the others."""
    if not _groups:
        return [value]
    import torch

    values: list[Any] | None = [None] * world_size() if is_first() else None
    torch.distributed.gather_object(value, values, dst=0, group=_groups["cpu"])
    return values or []


def are_equal(value: str) -> bool:
    """Whether all processes have the same value."""
    return highest(int(from_first(lambda: value) != value)) == 0


def sum_in_place(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes: the same bits in all of them.

    Args:
        tensors: of one device and dtype, in the same order and shapes everywhere.
    """
    if not _groups or not tensors:
        return
    import torch

    group = _groups.get(tensors[0].device.type, _groups["cpu"])
    on_their_way = []
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        on_their_way.append((bucket, flat, torch.distributed.all_reduce(flat, group=group, async_op=True)))
    for bucket, flat, work in on_their_way:
        work.wait()
        for tensor, piece in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(piece.view(tensor.shape))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(each.numel() for each in bucket) + tensor.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(tensor)
    yield bucket


def differentiable_sum(tensor: Tensor) -> Tensor:
    """The sum over the processes; gradients reach every process's tensor."""
    if not _groups:
        return tensor
    import torch

    class Sum(torch.autograd.Function):
        """Each process's result depends on each process's tensor, by a factor of 1: gradients are summed alike."""

        @staticmethod
        def forward(_context: Any, given: Tensor) -> Tensor:
            total = given.clone()
            sum_in_place([total])
            return total

        @staticmethod
        def backward(_context: Any, gradient: Tensor) -> Tensor:
            total = gradient.clone()
            sum_in_place([total])
            return total

    return Sum.apply(tensor)


def _first(error: BaseException) -> str:
    return str(error).partition("\n")[0][:160]
