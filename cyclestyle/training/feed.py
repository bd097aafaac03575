"""From the loader to the device: each step's batch in parts, with its draws, and how long the step waited for it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from cyclestyle.batch import UnpairedBatch
from cyclestyle.methods.base import Method
from cyclestyle.networks.build import memory_format


class Feed:
    """Hands each step its batch on the device.

    On an NVIDIA GPU batches are copied on a stream of their own, beside the step that still runs; the processor runs at
    most one step ahead.

    Args:
        batches: parts of batches, from the loader.
        method: draws what chance decides about each.
        device: where they are wanted.
        num_parts: parts of one batch (`optimizer.accumulation`).

    Attributes:
        waited: seconds in which a step could not begin for want of data; whoever reads it sets it back.
    """

    def __init__(self, batches: Iterator[UnpairedBatch], method: Method, device: torch.device, num_parts: int) -> None:
        self._batches = batches
        self._method = method
        self._device = device
        self._num_parts = num_parts
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._last_step: torch.cuda.Event | None = None
        self.waited = 0.0

    def fetch(self) -> list[UnpairedBatch]:
        """The parts of the next batch, from the loader."""
        self._let_the_device_catch_up()
        started = time.perf_counter()
        parts = [next(self._batches) for _ in range(self._num_parts)]
        if not self._device_is_busy():
            self.waited += time.perf_counter() - started
        return parts

    def hand_over(self, parts: list[UnpairedBatch]) -> list[UnpairedBatch]:
        """These parts with their draws, on the device.

        Draws are made now and not ahead, so that a checkpoint between two steps knows them all.
        """
        drawn = [UnpairedBatch(part.real_a, part.real_b, self._method.draw(part)) for part in parts]
        return self._to_device(drawn)

    def _to_device(self, parts: list[UnpairedBatch]) -> list[UnpairedBatch]:
        layout = memory_format(self._device)
        if self._stream is None:
            return [part.to(self._device, layout) for part in parts]
        with torch.cuda.stream(self._stream):
            copies = [part.to(self._device, layout) for part in parts]
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._stream)
        for copy in copies:
            for tensor in copy.tensors():
                tensor.record_stream(computing)  # its memory is not given away while a step still reads it
        return copies

    def _let_the_device_catch_up(self) -> None:
        """Wait for the step before the last one; remember the last one, which is launched by now."""
        if self._stream is None:
            return
        if self._last_step is not None:
            self._last_step.synchronize()
        self._last_step = torch.cuda.Event()
        self._last_step.record(torch.cuda.current_stream(self._device))

    def _device_is_busy(self) -> bool:
        """Whether the last step still runs: then nothing has waited for data yet."""
        return self._last_step is not None and not self._last_step.query()
