"""What learns, put together from a config: networks, their averages, optimizers, and the step that moves them.

Runs, probes of what a run will take (`probing.py`) and benchmarks all learn with what is built here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import Config, TrainConfig
from cyclestyle.data.sampling import share_of_batch
from cyclestyle.devices import Precision
from cyclestyle.distributed import group_rank, world_size
from cyclestyle.methods.base import Method
from cyclestyle.methods.build import build_method
from cyclestyle.networks.batch_norm import share_batch_norm
from cyclestyle.networks.build import memory_format
from cyclestyle.networks.recomputing import recompute_activations
from cyclestyle.training.ema import Averages
from cyclestyle.training.learning import Learned, learn
from cyclestyle.training.optimization import Optimization
from cyclestyle.training.recorded_step import RecordedStep

logger = logging.getLogger("cyclestyle")

_SEEDS_APART = 1000
"""Between the seeds of one process and the next: methods take a few from theirs on."""


@dataclass(frozen=True)
class Learner:
    """Networks on their device, and how they learn.

    Attributes:
        method, averages, optimization: what a checkpoint holds of them.
        precision: arithmetic of the passes.
        is_recorded: steps are taken as a CUDA graph.
    """

    method: Method
    averages: Averages
    optimization: Optimization
    precision: Precision
    is_recorded: bool

    def step(self) -> Callable[[Sequence[UnpairedBatch]], Learned]:
        """The learning step on the parts of a batch (`learning.learn`)."""

        def plain(parts: Sequence[UnpairedBatch]) -> Learned:
            return learn(self.method, self.optimization, self.precision, parts)

        return RecordedStep(plain) if self.is_recorded else plain


def build_learner(
    config: Config,
    device: torch.device,
    precision: Precision,
    *,
    num_steps: int,
    start: Callable[[Method], None] = lambda _: None,
) -> Learner:
    """What learns with this config, seeded by `config.seed`; sets torch's global state and arithmetic.

    Processes that train together begin with the same weights, and draw (pools, dropout) each for itself.

    Args:
        config: the whole of it.
        device, precision: as chosen for `train.device` and `train.precision`.
        num_steps: length of the run, for the learning rates.
        start: changes the first weights.
    """
    _set_arithmetic(config.train, device)
    torch.manual_seed(config.seed)
    seed = config.seed + _SEEDS_APART * group_rank()
    method = build_method(
        config.method, config.generator, config.discriminator, channels=config.data.channels, seed=seed
    ).to(device)
    start(method)
    if group_rank():
        torch.manual_seed(seed)
    if world_size() > 1:
        share_batch_norm(method)
    method.to(memory_format=memory_format(device))
    averages = Averages(method, config.ema)
    _spend_less(config.train, method)
    micro_batch = config.train.batch_size // config.optimizer.accumulation
    own = share_of_batch(micro_batch, rank=group_rank(), world_size=world_size())
    optimization = Optimization(method, config.optimizer, precision, device, num_steps, share=len(own) / micro_batch)
    return Learner(method, averages, optimization, precision, can_record(config, device, precision))


def can_record(config: Config, device: torch.device, precision: Precision) -> bool:
    """Whether steps are taken as a CUDA graph: no step may ask the GPU, or move random states, on its way."""
    asks = precision.name == "fp16"  # the loss scaler, whether a gradient overflowed
    moves = config.train.checkpointing and config.generator.dropout > 0  # to draw the same dropout again
    talks = world_size() > 1  # sums of gradients could be recorded too, but nobody has tried
    return device.type == "cuda" and config.train.cuda_graph and not asks and not moves and not talks


def _set_arithmetic(config: TrainConfig, device: torch.device) -> None:
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
        torch.backends.cudnn.allow_tf32 = config.tf32
        torch.backends.cudnn.benchmark = not config.deterministic
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it, set before its first use
    if torch.are_deterministic_algorithms_enabled() != config.deterministic:  # the call alone imports torch._inductor
        torch.use_deterministic_algorithms(config.deterministic)


def _spend_less(config: TrainConfig, method: Method) -> None:
    """Less memory or time for the networks that learn; their averages stay as they are."""
    if config.checkpointing:
        for name in method.generators:
            recompute_activations(method.get_submodule(name))
    if config.compile:
        logger.info("train.compile: the first steps compile the networks, which takes minutes")
        for player in method.players:
            for network in method.networks_of(player):
                network.compile(dynamic=False)  # batches of one and of two images, each compiled for itself
