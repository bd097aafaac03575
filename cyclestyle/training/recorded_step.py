"""The learning step as a CUDA graph: recorded once, then replayed with one launch.

A step launches thousands of small kernels; at batch 1 a GPU waits for the launches. Replaying runs the same kernels on
the same addresses: the same mathematics, without the launches. What it needs: shapes that stay, inputs that are copied
to where the recording reads them, no draw and no wait for the device inside (`Method.draw`, `learning.learn`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from cyclestyle.batch import UnpairedBatch
from cyclestyle.devices import is_out_of_memory
from cyclestyle.training.learning import Learned

logger = logging.getLogger("cyclestyle")

Step = Callable[[Sequence[UnpairedBatch]], Learned]


class Recorder(Protocol):
    """What runs the steps before the recording, and records one; tests hand in one that needs no GPU."""

    def warm_up(self, function: Callable[[], Learned]) -> Learned:
        """Run `function` as it is."""
        ...

    def record(self, function: Callable[[], Learned]) -> tuple[Learned, Callable[[], None]]:
        """Record `function` without running it: where its result will be, and what runs the recording."""
        ...


_NUM_WARM_UP = 3
"""Ordinary steps before the recording: cuDNN chooses its algorithms, Adam makes its moments, pools their room."""


class RecordedStep:
    """Takes the first steps as they are, then records one and replays it from there on.

    Args:
        step: a learning step on parts of a batch; a function of them and of tensors that stay where they are.
        recorder: of CUDA graphs if None.
    """

    def __init__(self, step: Step, recorder: Recorder | None = None) -> None:
        self._step = step
        self._recorder = recorder or CudaGraphs()
        self._inputs: list[UnpairedBatch] = []
        self._num_taken = 0
        self._recording: tuple[Learned, Callable[[], None]] | None = None
        self._failed = False

    def __call__(self, parts: Sequence[UnpairedBatch]) -> Learned:
        """Take a step; what it gives back is overwritten by the next one."""
        self._num_taken += 1
        if self._num_taken <= _NUM_WARM_UP:
            return self._recorder.warm_up(lambda: self._step(parts))
        if self._recording is None and not self._failed:
            self._start(parts)
        if self._recording is None:
            return self._step(parts)
        for kept, given in zip(_tensors(self._inputs), _tensors(parts), strict=True):
            assert kept.shape == given.shape, f"recorded with {kept.shape}, given {given.shape}"
            kept.copy_(given, non_blocking=True)
        learned, replay = self._recording
        replay()
        return learned

    def _start(self, parts: Sequence[UnpairedBatch]) -> None:
        self._inputs = [_copy(part) for part in parts]
        try:
            self._recording = self._recorder.record(lambda: self._step(self._inputs))
        except RuntimeError as error:  # of CUDA: something in the step cannot be recorded
            if is_out_of_memory(error):
                raise
            self._failed = True
            logger.warning("the step could not be recorded as a CUDA graph, training goes on without: %s", error)


class CudaGraphs:
    """Records on a stream of its own, on which the steps before run too: autograd remembers where it first ran."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()

    def warm_up(self, function: Callable[[], Learned]) -> Learned:
        """See `Recorder`."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            learned = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return learned

    def record(self, function: Callable[[], Learned]) -> tuple[Learned, Callable[[], None]]:
        """See `Recorder`."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: the loader's pinning thread allocates memory meanwhile, which must not end the recording.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            learned = function()
        return learned, graph.replay


def _copy(part: UnpairedBatch) -> UnpairedBatch:
    return UnpairedBatch(
        part.real_a.clone(), part.real_b.clone(), {name: draw.clone() for name, draw in part.draws.items()}
    )


def _tensors(parts: Sequence[UnpairedBatch]) -> list[Tensor]:
    return [tensor for part in parts for tensor in part.tensors()]
