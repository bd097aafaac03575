"""Worker processes that prepare batches ahead, and what happens when they die or hang.

Built on torch's DataLoader, which starts and feeds them; how their end is noticed is our own.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from cyclestyle.data.dataset import BadFile, UnpairedDataset
from cyclestyle.errors import DataError

_log = logging.getLogger("cyclestyle")

PREFETCH = 2
"""Batches that each worker has begun or finished before they are asked for."""

_LOOK_EVERY = 1.0
"""Seconds without a batch after which to see whether the workers live."""

_SAY_AFTER, _GIVE_UP_AFTER = 60.0, 600.0
"""Seconds without a batch: to say so; to take the workers for stuck."""

Found = list[BadFile] | DataError
"""What workers cannot tell the user themselves: files that broke since the start, or why there is no batch."""


class LostError(Exception):
    """Worker processes ended, or say nothing any more; the message says which."""


def fill(images: Tensor, dataset: UnpairedDataset, start: int) -> Found:
    """Write the batch that begins at a position into 2 x N x C x crop x crop.

    An error is returned, not raised: one that a worker raised would arrive with its traceback in the message.
    """
    try:
        samples = [dataset.load(start + place) for place in range(images.shape[1])]
    except DataError as error:
        return error
    torch.stack([sample.real_a for sample in samples], out=images[0])
    torch.stack([sample.real_b for sample in samples], out=images[1])
    return [bad for sample in samples for bad in sample.failures]


def by_workers(
    dataset: UnpairedDataset, slots: Tensor, starts: range, num_workers: int, start_method: str | None
) -> Generator[tuple[Tensor, Found]]:
    """Batches from one set of workers, which leave each in a slot and only say that it is there.

    Args:
        dataset: what shows the images.
        slots: slots x 2 x N x C x crop x crop in memory that all share; there are more than batches can be under way.
        starts: the position at which each batch begins.
        start_method: "fork", "spawn", "forkserver", or None for the platform's own.

    Yields:
        A batch, 2 x N x C x crop x crop, to be copied before the next is asked for; and what was found on the way.

    Raises:
        LostError: some workers ended, or say nothing any more; the others are ended too.
        DataError: they cannot be started.
    """
    loader = DataLoader(
        _Batches(dataset, slots),
        sampler=_Orders(starts, len(slots)),
        batch_size=None,  # _Batches makes whole batches
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_ignore_signals,
        # Its own, unused: else every iterator would draw from torch's global generator and move what comes after.
        generator=torch.Generator(),
        multiprocessing_context=start_method,
        prefetch_factor=PREFETCH,
        timeout=_LOOK_EVERY,
    )
    try:
        iterator = iter(loader)
    except OSError as error:
        raise DataError(
            f"{num_workers} worker processes cannot be started ({error.strerror}): lower data.num_workers"
        ) from error
    assert isinstance(iterator, _MultiProcessingDataLoaderIter)
    # torch would raise the end of a worker at once, wherever the training process is: in the middle of a step, or of a
    # checkpoint. It is enough to know when its batch is missing.
    signal_handling._remove_worker_pids(id(iterator))
    iterator._worker_pids_set = False
    try:
        for _ in starts:
            slot, found = _next_of(iterator)
            yield slots[slot], found
    except LostError:
        _kill_workers(iterator)
        raise
    finally:
        # Now, and not when the last traceback that mentions the iterator is forgotten: that may be never.
        iterator._shutdown_workers()


class _Batches(Dataset[tuple[int, Found]]):
    """Makes the batch of an order, (slot, position), in that slot."""

    def __init__(self, dataset: UnpairedDataset, slots: Tensor) -> None:
        self._dataset, self._slots = dataset, slots

    def __getitem__(self, order: tuple[int, int]) -> tuple[int, Found]:
        slot, start = order
        return slot, fill(self._slots[slot], self._dataset, start)


class _Orders(Sampler[tuple[int, int]]):
    """Slot and position of each batch of the rest of a run, never held all at once."""

    def __init__(self, starts: range, num_slots: int) -> None:
        self._starts, self._num_slots = starts, num_slots

    def __iter__(self) -> Iterator[tuple[int, int]]:
        for batch, start in enumerate(self._starts):
            yield batch % self._num_slots, start

    def __len__(self) -> int:
        return len(self._starts)


def _as_it_is(batch: Any) -> Any:
    return batch


def _next_of(iterator: _MultiProcessingDataLoaderIter) -> tuple[int, Found]:
    """What workers say of the next batch; raises `LostError` where it will not come."""
    began, is_said = time.monotonic(), False
    while True:
        try:
            found: tuple[int, Found] = next(iterator)
            return found
        except Exception as error:
            dead = [worker for worker in iterator._workers if not worker.is_alive()]
            if dead:
                raise LostError(" and ".join(_end_of(worker.pid, worker.exitcode) for worker in dead)) from error
            if not str(error).startswith("DataLoader timed out"):
                raise
        waited = time.monotonic() - began
        if waited >= _GIVE_UP_AFTER:
            raise LostError(f"for {_GIVE_UP_AFTER:.0f} s worker processes gave no batch")
        if waited >= _SAY_AFTER and not is_said:
            is_said = True
            _log.warning(
                "no batch for %d s, still waiting: does the disk or network with the pictures answer?", _SAY_AFTER
            )


def _end_of(pid: int | None, exit_code: int | None) -> str:
    """How a worker ended, for people."""
    if exit_code is None or exit_code >= 0:
        return f"worker process {pid} ended (exit code {exit_code})"
    name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else f"signal {-exit_code}"
    why = ", as the system does where memory runs out" if name == "SIGKILL" else ""
    return f"worker process {pid} was ended by {name}{why}"


def _kill_workers(iterator: _MultiProcessingDataLoaderIter) -> None:
    """End all workers without asking: one that died may have left a lock closed that the others, or we, would want."""
    for worker in iterator._workers:
        worker.kill()
    for worker in iterator._workers:
        worker.join(timeout=10)  # one that waits for a disk cannot even be killed; its slots are not used again
    for queue in iterator._index_queues:
        queue.cancel_join_thread()
        queue.close()
    iterator._shutdown = True  # it is done


def _ignore_signals(_worker: int) -> None:
    """In a worker: Ctrl-C and a SIGTERM to the whole group are for the main process, which still wants to save.

    Workers end when it closes their queue, sends them SIGTERM itself (as it does at its own end: one that ignored this
    would be waited for without end), or when they notice, within seconds, that it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main = multiprocessing.parent_process()
    if main is not None and hasattr(signal, "sigwaitinfo"):  # elsewhere a SIGTERM ends the worker
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told_by, args=(main.pid,), daemon=True).start()


def _end_when_told_by(pid: int | None) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != pid:
        pass
    os._exit(0)
