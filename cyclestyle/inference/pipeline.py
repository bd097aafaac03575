"""Reading, computing and writing at the same time: threads read ahead and write behind the one that computes.

Knows nothing of pictures but how many pixels one has: so many are in flight at most, so that memory stays bounded.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = Exception | None

# Read and not yet computed, and computed and not yet written: 64 megapixels together beyond those being computed.
_PIXELS_AHEAD = _PIXELS_BEHIND = 32_000_000
# Computed together.
_PIXELS_IN_A_CHUNK = 16_000_000


@dataclass(frozen=True)
class Stages(Generic[Item]):
    """What is done with each item; whatever the functions raise is that item's alone.

    Attributes:
        measure: its pixels, quickly, before it is read; in a reading thread.
        read: in a reading thread.
        compute: in the calling thread, several items; gives an outcome for each.
        write: in a writing thread.
    """

    measure: Callable[[Item], int]
    read: Callable[[Item], None]
    compute: Callable[[Sequence[Item]], list[Outcome]]
    write: Callable[[Item], None]


@dataclass(frozen=True)
class Threads:
    """How many threads read and write, and how many items are computed together."""

    readers: int
    writers: int
    chunk: int

    @classmethod
    def dividing(cls, num_cores: int, *, has_gpu: bool) -> Threads:
        """On the CPU torch keeps its cores and one or two threads do the files; beside a GPU they get the cores."""
        if has_gpu:
            each = max(2, min(8, num_cores // 2))
            return cls(each, each, 16)
        each = 1 if num_cores < 8 else 2
        return cls(each, each, 1)


def overlap(
    items: Iterable[Item], stages: Stages[Item], threads: Threads
) -> Generator[tuple[Item, Outcome], None, None]:
    """Every item with its outcome (None: written), in the order of `items`.

    Closing the iterator, or an exception in the calling thread, lets what is computed be written, and then stops.
    """
    room = _Room(_PIXELS_AHEAD)
    reading = ThreadPoolExecutor(threads.readers, "read")
    writing = ThreadPoolExecutor(threads.writers, "write")
    try:
        behind = _Behind(writing, stages.write)
        for chunk in _chunks(_read_ahead(items, stages, reading, room, threads), threads.chunk):
            readable = [item for item, _, outcome in chunk if outcome is None]
            computed = iter(stages.compute(readable) if readable else [])
            for item, pixels, outcome in chunk:
                behind.add(item, pixels, outcome or next(computed))
            yield from behind.finished()
        yield from behind.all()
    finally:
        room.close()
        reading.shutdown(cancel_futures=True)
        writing.shutdown()


Readied = tuple[Item, int, Outcome]


def _read_ahead(
    items: Iterable[Item], stages: Stages[Item], reading: ThreadPoolExecutor, room: _Room, threads: Threads
) -> Iterator[Readied[Item]]:
    """Items in order, each with its pixels, when they have been read or could not be."""

    def read(index: int, item: Item) -> int:
        pixels = stages.measure(item)
        room.enter(index, pixels)
        try:
            stages.read(item)
        except BaseException:
            room.leave(pixels)
            raise
        return pixels

    pending: deque[tuple[int, Item, Future[int]]] = deque()
    numbered = enumerate(items)
    while True:
        while len(pending) < 2 * threads.chunk + threads.readers and (following := next(numbered, None)) is not None:
            pending.append((*following, reading.submit(read, *following)))
        if not pending:
            return
        index, item, future = pending.popleft()
        room.let_in(index)
        try:
            pixels = future.result()
        except Exception as error:
            yield item, 0, error
        else:
            room.leave(pixels)
            yield item, pixels, None


def _chunks(readied: Iterator[Readied[Item]], most: int) -> Iterator[list[Readied[Item]]]:
    chunk: list[Readied[Item]] = []
    for each in readied:
        chunk.append(each)
        if len(chunk) >= most or sum(pixels for _, pixels, _ in chunk) >= _PIXELS_IN_A_CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


class _Room:
    """Room for pixels that were read; the item that is awaited is never kept out."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._awaited = -1
        self._is_closed = False
        self._changed = threading.Condition()

    def enter(self, index: int, pixels: int) -> None:
        """Wait for room; the item that is awaited has it, however large it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or pixels <= self._free or index == self._awaited)
            if self._is_closed:
                raise CancelledError
            self._free -= pixels

    def leave(self, pixels: int) -> None:
        with self._changed:
            self._free += pixels
            self._changed.notify_all()

    def let_in(self, index: int) -> None:
        with self._changed:
            self._awaited = index
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


class _Behind(Generic[Item]):
    """Items being written, in order."""

    def __init__(self, writing: ThreadPoolExecutor, write: Callable[[Item], None]) -> None:
        self._writing = writing
        self._write = write
        self._queue: deque[tuple[Item, int, Future[None]]] = deque()

    def add(self, item: Item, pixels: int, outcome: Outcome) -> None:
        """Start to write an item, or keep why it cannot be; waits while too many pixels wait to be written."""
        if outcome is None:
            future = self._writing.submit(self._write, item)
        else:
            future = Future()
            future.set_exception(outcome)
        self._queue.append((item, pixels, future))
        while True:
            unwritten = [(pixels, future) for _, pixels, future in self._queue if not future.done()]
            if sum(pixels for pixels, _ in unwritten) <= _PIXELS_BEHIND:
                return
            wait([unwritten[0][1]])

    def finished(self) -> Iterator[tuple[Item, Outcome]]:
        """What is done, as far as everything before it is."""
        while self._queue and self._queue[0][2].done():
            yield self._pop()

    def all(self) -> Iterator[tuple[Item, Outcome]]:
        """The rest, waiting for it."""
        while self._queue:
            yield self._pop()

    def _pop(self) -> tuple[Item, Outcome]:
        item, _, future = self._queue[0]
        error = future.exception()  # waits
        self._queue.popleft()
        assert error is None or isinstance(error, Exception)
        return item, error
