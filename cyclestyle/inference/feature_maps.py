"""Feature maps of one picture, kept as chunks of rows: on the device, beyond that in memory, beyond that in a file.

The file is read and written explicitly, not mapped: mapped pages would count in the process's resident memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch
from torch import Tensor

from cyclestyle.errors import CyclestyleError
from cyclestyle.inference.memory import return_freed


@dataclass(frozen=True)
class _Region:
    """Where a chunk lies in the scratch file, and what it is: 1 x C x rows x W, channels_last, of `dtype`."""

    offset: int
    size: int
    shape: torch.Size
    dtype: torch.dtype


class ChunkStore:
    """The place of all chunks; use it as a context manager, so that the scratch file goes away.

    A chunk that is replaced stays where it was: passes go through maps in a circle, where moving what was used last
    would move everything.

    Args:
        device: where chunks are computed; `FeatureMap.get` gives them there.
        device_budget: bytes of chunks kept on the device; None: no limit.
        host_budget: asked on a GPU before a chunk goes to the processor's memory: bytes that may still go there.
        scratch: folder of the scratch file; None: the system's folder for temporary files.
    """

    def __init__(
        self,
        device: torch.device,
        device_budget: int | None = None,
        host_budget: Callable[[], int] | None = None,
        scratch: Path | None = None,
    ) -> None:
        self.device = device
        self.file_bytes = 0
        self._left = device_budget
        self._host_budget = host_budget
        self._scratch = scratch
        self._file: BinaryIO | None = None
        self._holes: list[tuple[int, int]] = []  # offset and size, ordered, none beside another

    def __enter__(self) -> ChunkStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()  # it has no name: closed is gone

    def keep(self, chunk: Tensor) -> Tensor | _Region:
        """Find a place for a new chunk."""
        size = _num_bytes(chunk)
        if self._left is not None:
            self._trim()
        if self._left is None or size <= self._left:
            if self._left is not None:
                self._left -= size
            return chunk
        if self.device.type != "cpu" and self._host_budget is not None and size <= self._host_budget():
            return chunk.to("cpu")
        region = _Region(self._reserve(size), size, chunk.shape, chunk.dtype)
        self.write(region, chunk)
        return region

    def forget(self, place: Tensor | _Region) -> None:
        """Free the place of a chunk."""
        if isinstance(place, _Region):
            self._release(place.offset, place.size)
        elif self._left is not None and place.device.type == self.device.type:
            self._left += _num_bytes(place)

    def write(self, region: _Region, chunk: Tensor) -> None:
        """Chunk to file."""
        self._trim()
        data = _as_bytes(chunk.permute(0, 2, 3, 1).contiguous().cpu())
        try:
            file = self._open()
            file.seek(region.offset)
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise CyclestyleError(
                f"scratch folder {self._folder()}: {error.strerror or error}, {self.file_bytes / 2**30:.1f} GB are "
                "needed there so far: point TMPDIR to another folder, or give more memory with --memory-limit"
            ) from error

    def read(self, region: _Region) -> Tensor:
        """File to chunk, on the device."""
        self._trim()
        count, channels, rows, width = region.shape
        chunk = torch.empty((count, rows, width, channels), dtype=region.dtype)
        data = _as_bytes(chunk)
        try:
            file = self._open()
            file.seek(region.offset)
            while data:
                num_read = file.readinto(data)  # type: ignore[attr-defined]  # unbuffered files have it
                if not num_read:
                    raise OSError("the scratch file ended early")
                data = data[num_read:]
        except OSError as error:
            raise CyclestyleError(f"scratch folder {self._folder()}: {error.strerror or error}") from error
        return chunk.permute(0, 3, 1, 2).to(self.device)

    def _trim(self) -> None:
        """Where chunks come and go between heap and file, freed ones would stay resident beside the new."""
        if self.device.type == "cpu":
            return_freed()

    def _folder(self) -> Path:
        return self._scratch or Path(tempfile.gettempdir())

    def _open(self) -> BinaryIO:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._folder(), buffering=0)  # noqa: SIM115
        assert self._file is not None
        return self._file

    def _reserve(self, size: int) -> int:
        """Offset of `size` free bytes: the first hole that is large enough, or the file's end."""
        for index, (offset, free) in enumerate(self._holes):
            if free >= size:
                self._holes[index : index + 1] = [(offset + size, free - size)] if free > size else []
                return offset
        self.file_bytes += size
        return self.file_bytes - size

    def _release(self, offset: int, size: int) -> None:
        """Put a hole back, joined with its neighbours."""
        joined: list[tuple[int, int]] = []
        for start, free in sorted([*self._holes, (offset, size)]):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + free)
            else:
                joined.append((start, free))
        self._holes = joined


class FeatureMap:
    """One map of the picture: chunk i is 1 x C x rows x W and covers band i, at whatever scale the map has."""

    def __init__(self, store: ChunkStore) -> None:
        self._store = store
        self._places: dict[int, Tensor | _Region] = {}

    def put(self, index: int, chunk: Tensor) -> None:
        """Keep a chunk; one of the same shape that was there is replaced."""
        place = self._places.get(index)
        if place is chunk:
            return
        if isinstance(place, _Region) and place.shape == chunk.shape:
            self._store.write(place, chunk)
            return
        if place is not None:
            self._store.forget(place)
        self._places[index] = self._store.keep(chunk)

    def get(self, index: int) -> Tensor:
        """The chunk on the device. It may be the kept one itself or a copy: `put` it back if it was changed."""
        place = self._places[index]
        return self._store.read(place) if isinstance(place, _Region) else place.to(self._store.device)

    def take(self, index: int) -> Tensor:
        """The chunk, which is no longer kept."""
        # One map is freed while another grows, in chunks of another size: freed pages would stay beside the new ones.
        if self._store.device.type == "cpu":
            return_freed()
        chunk = self.get(index)
        self._store.forget(self._places.pop(index))
        return chunk


def _num_bytes(chunk: Tensor) -> int:
    return chunk.numel() * chunk.element_size()


def _as_bytes(contiguous: Tensor) -> memoryview:
    # numpy has no bf16
    return memoryview(contiguous.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # an array is a buffer
