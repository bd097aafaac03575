"""What a training will take, told before it starts: memory, time, disk, and the largest batch that fits.

Pictures are counted by their headers; steps are tried by `probing`, in batches that `fitting` chooses; what is here
puts a run's figures together.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclestyle.config.loading import config_from_mapping, load_config
from cyclestyle.config.schema import Config
from cyclestyle.data.counting import Images, count_images
from cyclestyle.devices import choose_device, free_memory, used_memory
from cyclestyle.errors import ConfigError
from cyclestyle.training.assembly import length
from cyclestyle.training.fitting import Tried, try_batches
from cyclestyle.training.probing import Between, Probe, Task, probe
from cyclestyle.training.scoring import _NUM_TRAINING, _SMALLEST, square_size

logger = logging.getLogger("cyclestyle")

Prober = Callable[[Config, Task], Probe | None]

USABLE = 0.9
"""Share of the free memory that a training may take: the forecast errs, and others want some."""
WRITE_SPEED = 200e6
"""Bytes a second that checkpoints are assumed to be written with, synced."""
PNG_SHARE = 0.6
"""What is assumed to be left of a sample grid's bytes as PNG."""
WORKER_BYTES = 64 * 2**20
"""A worker process beyond what it shares with the one that forked it: 20 to 110 MiB were seen, by size of the files."""

_GIB = 2**30
_COPIES_SCORED = 6  # floats that scores hold at once of each pixel: patches at several sizes, source, translation
_IMAGES_HELD = 16  # floats that a step holds at least of each pixel: 8 pictures of each domain


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes at the peak.

    Attributes:
        peak: of the training process; on a GPU what torch holds there (`memory_gb` in metrics.jsonl).
        steps, evaluations: the most in each, the larger of which is `peak`; evaluations 0: there are none.
        host: of the training process itself: `peak`, but where it trains on a GPU.
        cache: of `host`, training pictures that are kept.
        workers: what worker processes take beside it.
        free, host_free: what the device, and the machine, have to give to a training.
    """

    peak: int
    steps: int
    evaluations: int
    host: int
    cache: int
    workers: int
    free: int
    host_free: int


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """Of the whole run, by what they are spent on, and how often that is."""

    steps: float
    evaluations: float
    grids: float
    checkpoints: float
    num_evaluations: int
    num_grids: int
    num_checkpoints: int

    @property
    def total(self) -> float:
        """All together."""
        return self.steps + self.evaluations + self.grids + self.checkpoints


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes in the run folder at its end.

    Attributes:
        checkpoint: one of them; while it is written, the one that it replaces is still there.
        num_checkpoints: kept at most, the best one included.
        translators: all.
        grids: sample grids, as files and in TensorBoard; an estimate.
        free: on that disk.
    """

    checkpoint: int
    num_checkpoints: int
    translators: int
    grids: int
    free: int

    @property
    def total(self) -> int:
        """All together."""
        return self.num_checkpoints * self.checkpoint + self.translators + self.grids


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will take.

    Attributes:
        folder: of the run.
        images, memory, seconds, disk: see there.
        num_steps, num_epochs, batch_size: its length.
        parameters: of each player's networks.
        device, precision: where and in what arithmetic.
        seconds_per_step: by the clock, looks of the doctor included, waiting for data not.
        fastest_step, slowest_step: of those measured, in seconds; far apart where other work runs on the machine.
        processor_seconds_per_step: as `seconds_per_step`, of all cores together.
        images_per_second: of each domain.
        num_measured: steps of that size that were timed; 0: it follows from smaller ones.
        largest_batch: the largest `train.batch_size` that fits, with `optimizer.accumulation` as it is.
        is_largest_sure: that size was tried; else it follows from a line through the memory of those that were.
        tried: batch sizes that were tried.
        notes: what should be known of these figures, a sentence each.
    """

    folder: str
    images: Images
    num_steps: int
    num_epochs: float
    batch_size: int
    parameters: dict[str, int]
    device: str
    precision: str
    seconds_per_step: float
    fastest_step: float
    slowest_step: float
    processor_seconds_per_step: float
    images_per_second: float
    num_measured: int
    memory: Memory
    seconds: Seconds
    disk: Disk
    largest_batch: int
    is_largest_sure: bool
    tried: tuple[int, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As nested plain values: bytes, seconds and counts, with their totals."""
        plain = asdict(self)
        plain["seconds"]["total"] = self.seconds.total
        plain["disk"]["total"] = self.disk.total
        return plain


def forecast(
    config: Config | Mapping[str, Any] | str | Path, *, seconds: float = 20.0, prober: Prober = probe
) -> Forecast:
    """What training with `config` will take on this machine; nothing is written.

    Args:
        config: a loaded `Config`, a nested mapping like the YAML files, or the path of a YAML file.
        seconds: about so long may the steps of one batch take; two or three are tried.
        prober: takes the steps.

    Raises:
        CyclestyleError: a mistake in the config, or a run that does not fit into the memory.
    """
    if isinstance(config, str | Path):
        config = load_config(Path(config))
    elif not isinstance(config, Config):
        config = config_from_mapping(config)
    device = choose_device(config.train.device).type
    images = count_images(config.data, device)
    parts = config.optimizer.accumulation
    micro = config.train.batch_size // parts
    tried, memory = _try(config, images, device, seconds, prober)
    between = tried.probes[1].between
    assert between is not None, "the first probe was asked for it"
    num_steps = config.train.steps or length(config.train.epochs, images.epoch, config.train.batch_size)
    look = between.look_seconds / config.doctor.every if config.doctor.every else 0.0
    per_step = look + tried.seconds_at(micro)
    spent = _seconds(config, images, between, num_steps, per_step)
    return Forecast(
        folder=str(Path(config.output_dir) / config.name),
        images=images,
        num_steps=num_steps,
        num_epochs=num_steps * config.train.batch_size / images.epoch,
        batch_size=config.train.batch_size,
        parameters=between.parameters,
        device=device,
        precision=tried.probes[1].precision,
        seconds_per_step=per_step,
        fastest_step=look + tried.seconds_at(micro, lambda each: each.fastest),
        slowest_step=look + tried.seconds_at(micro, lambda each: each.slowest),
        processor_seconds_per_step=look + tried.seconds_at(micro, lambda each: each.processor_seconds),
        images_per_second=config.train.batch_size / per_step,
        num_measured=tried.probes[micro].num_measured if micro in tried.probes else 0,
        memory=memory,
        seconds=spent,
        disk=(disk := _disk(config, between, spent)),
        largest_batch=parts * tried.largest,
        is_largest_sure=tried.is_sure,
        tried=tuple(parts * batch for batch in sorted(tried.probes)),
        notes=tuple(_notes(config, images, disk, is_measured=micro in tried.probes)),
    )


# --------------------------------------------------------------------------------------------------------- memory


def _try(config: Config, images: Images, device: str, seconds: float, prober: Prober) -> tuple[Tried, Memory]:
    """Take steps of a few batches, and add what a run holds beside them; raises `ConfigError` where it does not fit."""
    parts = config.optimizer.accumulation
    micro = config.train.batch_size // parts

    def take(batch: int, **more: bool) -> Probe | None:
        logger.info("trying train.batch_size=%d, two to seven steps of it", parts * batch)
        return prober(config, Task(micro_batch=batch, seconds=seconds, **more))

    first = take(1, is_watched=True, is_evaluated=_is_evaluated(config, images))
    if first is None:
        raise ConfigError(f"does not fit: {_size(config, parts)} ran out of memory on {device}; {_knobs(config, 0)}")
    empty = _memory(config, images, first, 0, device)
    tried = try_batches(
        take,
        first,
        micro,
        limit=USABLE * empty.free - empty.steps - (0 if device == "cuda" else empty.workers),
        seconds=seconds,
        is_shared=device != "cuda",
        least_slope=_IMAGES_HELD * 4.0 * config.data.channels * config.data.crop_size**2,
    )
    memory = _memory(config, images, first, tried.bytes_at(micro), device)
    _refuse(config, memory, parts * tried.largest, device)
    return tried, memory


def _is_evaluated(config: Config, images: Images) -> bool:
    is_large_enough = square_size(config.data, config.generator) >= _SMALLEST
    return config.evaluate.every > 0 and is_large_enough and min(images.num_test) >= 2


def _num_scored(config: Config, images: Images) -> tuple[int, int]:
    """Test pictures of each domain that an evaluation looks at."""
    a, b = (min(number, config.evaluate.num_images) for number in images.num_test)
    return a, b


def _memory(config: Config, images: Images, first: Probe, step_bytes: int, device: str) -> Memory:
    """Of a run whose steps alone take `step_bytes`."""
    assert first.between is not None, "the first probe was asked for it"
    num_values = config.data.channels * square_size(config.data, config.generator) ** 2
    # Test pictures wait in memory for the next evaluation, a byte a value.
    kept, more = images.cache_bytes, 0
    if first.between.evaluation_seconds:
        scored = _num_scored(config, images)
        compared = [min(n, _NUM_TRAINING) for n, has in zip(images.num_train, images.have_tests, strict=True) if has]
        kept += num_values * (sum(scored) + sum(compared))
        more = _COPIES_SCORED * 4 * num_values * max(0, max(scored) - first.between.num_scored)
    on_device = 0 if device == "cuda" else kept
    evaluations = first.between.evaluation_bytes
    if evaluations:
        evaluations += on_device + (0 if device == "cuda" else more)
    peak = max(step_bytes + on_device, evaluations)
    host_free = free_memory() + used_memory(choose_device("cpu"))  # this process makes room for the training
    return Memory(
        peak=peak,
        steps=step_bytes + on_device,
        evaluations=evaluations,
        host=first.host_bytes + kept + more if device == "cuda" else peak,
        cache=images.cache_bytes,
        workers=images.num_workers * WORKER_BYTES,
        free=first.free_bytes if device == "cuda" else host_free,
        host_free=host_free,
    )


def _refuse(config: Config, memory: Memory, largest: int, device: str) -> None:
    """Raise `ConfigError` where a run would take more than there is, with the knob for what is too large."""
    room, host_room = USABLE * memory.free, USABLE * memory.host_free
    host, beside = memory.host + memory.workers, 0 if device == "cuda" else memory.workers
    if host > host_room >= host - memory.cache:
        raise ConfigError(
            f"does not fit: the process takes about {_gib(host)} of the machine's memory, {_gib(memory.cache)} of it "
            f"pictures, {_gib(host_room)} can be had; set data.cache=off or lower data.load_size"
        )
    if memory.steps + beside > room:
        raise ConfigError(
            f"does not fit: {_size(config, config.train.batch_size)} takes about {_gib(memory.steps + beside)} of "
            f"{device} memory, {_gib(room)} can be had; {_knobs(config, largest)}"
        )
    if memory.evaluations + beside > room:
        raise ConfigError(
            f"does not fit: an evaluation takes {_gib(memory.evaluations)} of {device} memory, {_gib(room)} can be had;"
            " lower evaluate.num_images or data.load_size, or set evaluate.every=0"
        )
    if host > host_room:  # beside a GPU
        raise ConfigError(
            f"does not fit: the process takes about {_gib(host)} of the machine's memory, {_gib(host_room)} can be had;"
            " lower data.num_workers or evaluate.num_images, or set data.cache=off"
        )


def _size(config: Config, batch_size: int) -> str:
    return f"train.batch_size={batch_size} at data.crop_size={config.data.crop_size}"


def _knobs(config: Config, largest: int) -> str:
    """What to turn where steps take too much."""
    words = [] if config.train.checkpointing else ["set train.checkpointing=true"]
    if largest:
        words.append(f"set train.batch_size={largest} or less")
    words.append("lower data.crop_size or generator.filters")
    if config.train.batch_size > config.optimizer.accumulation:
        words.append("raise optimizer.accumulation")
    return ", ".join(words[:-1]) + f", or {words[-1]}" if len(words) > 1 else words[0]


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.1f} GiB"


# --------------------------------------------------------------------------------------------------- time and disk


def _seconds(config: Config, images: Images, between: Between, num_steps: int, per_step: float) -> Seconds:
    def due(every: int) -> int:
        """How often something happens that is due every so many steps, and at the end."""
        return -(-num_steps // every) if every else 0

    is_evaluated = between.evaluation_seconds > 0
    num_evaluations = due(config.evaluate.every) if is_evaluated else 0
    num_grids, num_checkpoints = due(config.log.samples_every), due(config.train.checkpoint_every)
    scored = between.evaluation_seconds * max(_num_scored(config, images)) / between.num_scored
    return Seconds(
        steps=num_steps * per_step,
        evaluations=num_evaluations * scored,
        grids=num_grids * between.grid_seconds * config.log.num_samples,
        checkpoints=num_checkpoints * (between.checkpoint_bytes + between.translators_bytes) / WRITE_SPEED,
        num_evaluations=num_evaluations,
        num_grids=num_grids,
        num_checkpoints=num_checkpoints,
    )


def _disk(config: Config, between: Between, spent: Seconds) -> Disk:
    # A row is RGB of four pictures, or of two where there is no way back; each grid is a file, and in TensorBoard.
    num_pictures = 2 * 4 if between.num_directions == 2 else 2
    values = num_pictures * 3 * square_size(config.data, config.generator) ** 2
    grids = spent.num_grids * 2 * config.log.num_samples * values * PNG_SHARE
    folder = Path(config.output_dir).absolute()
    existing = next(each for each in (folder, *folder.parents) if each.exists())
    return Disk(
        checkpoint=between.checkpoint_bytes,
        num_checkpoints=min(config.train.keep_checkpoints, spent.num_checkpoints) + (spent.num_evaluations > 0),
        translators=between.translators_bytes,
        grids=round(grids),
        free=shutil.disk_usage(existing).free,
    )


def _notes(config: Config, images: Images, disk: Disk, *, is_measured: bool) -> Iterator[str]:
    if images.are_missing:
        yield f"{config.data.root} is not there: the first start makes it in about a minute, as it is counted here"
    if not is_measured:
        yield f"steps of train.batch_size={config.train.batch_size} were not timed: figures follow from other sizes"
    if disk.total + disk.checkpoint > disk.free:
        yield (
            f"the disk has {_gib(disk.free)} free, too little for this run: lower train.keep_checkpoints, or "
            "set another output_dir"
        )
    if (Path(config.output_dir) / config.name / "checkpoints").is_dir():
        yield "this run has checkpoints already, and goes on from there: what stands here is the whole run"
