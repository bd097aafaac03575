"""Training a run from its config, and going on with one that exists: alone, or one of several processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from cyclestyle.config.loading import config_from_mapping, load_config, to_mapping, to_yaml
from cyclestyle.config.schema import Config
from cyclestyle.data.loader import Data
from cyclestyle.devices import choose_device
from cyclestyle.distributed import (
    GroupError,
    from_first,
    is_first,
    joined,
    launched_processes,
    local_rank,
    rank,
)
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.run_index import read_index
from cyclestyle.training.assembly import assemble, check_alike, names_of
from cyclestyle.training.best import stopped_early
from cyclestyle.training.continuation import check_fits, known_length
from cyclestyle.training.failures import DivergenceError, explained
from cyclestyle.training.initial_weights import Files, read_initial_weights
from cyclestyle.training.interruption import StopRequest
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.run_lock import RunLock
from cyclestyle.training.trainer import LR_AFTER_SETBACK, Trainer

logger = logging.getLogger("cyclestyle")


def train(config: Config | Mapping[str, Any] | str | Path, init_from: Files = ()) -> Path:
    """Train a run, or go on with it where its folder already holds a checkpoint.

    Args:
        config: a loaded `Config`, a nested mapping like the YAML files, or the path of a YAML file.
        init_from: files or run folders whose generators a new run starts from.

    Returns:
        The run folder.

    Raises:
        CyclestyleError: a mistake of the user's, in one line.
        SystemExit: 130 or 143, when SIGINT or SIGTERM ended the run after saving it; 75 after `train.max_seconds`.
    """
    started = time.monotonic()
    if isinstance(config, str | Path):
        config = load_config(Path(config))
    elif not isinstance(config, Config):
        config = config_from_mapping(config)
    device = choose_device(config.train.device)
    if launched_processes() > 1:
        _check_processes(config, device)
    lock = RunLock(Path(config.output_dir) / config.name)
    patience = timedelta(seconds=config.train.timeout_seconds)
    try:
        with joined(patience=patience, gpus=device.type == "cuda"), _one_voice():
            check_alike(to_yaml(config), "configs: start all with the same command")
            stop = _train(config, init_from, lock, started)
    except GroupError as error:
        raise ConfigError(str(error)) from error
    finally:
        lock.release()
    if stop is not None and stop.exit_code:
        raise SystemExit(stop.exit_code)
    return Path(config.output_dir) / config.name


def _check_processes(config: Config, device: torch.device) -> None:
    """Whether so many processes can train this; on GPUs each takes its own."""
    micro_batch = config.train.batch_size // config.optimizer.accumulation
    if micro_batch < launched_processes():
        parts = f" in {config.optimizer.accumulation} parts" if config.optimizer.accumulation > 1 else ""
        raise ConfigError(
            f"started as {launched_processes()} processes, but train.batch_size={config.train.batch_size}{parts} does "
            "not have an image for each: raise train.batch_size (it counts the images of all processes together), or "
            "start fewer processes"
        )
    if config.discriminator.batch_statistics and micro_batch < 2 * launched_processes():
        raise ConfigError(
            f"started as {launched_processes()} processes, but train.batch_size={config.train.batch_size} leaves some "
            "with one image at a time, which discriminator.batch_statistics says nothing of: set train.batch_size="
            f"{2 * launched_processes() * config.optimizer.accumulation} or more, or start fewer processes"
        )
    if device.type == "cuda":
        if local_rank() >= torch.cuda.device_count():
            raise ConfigError(
                f"process {rank()} is the {local_rank() + 1}. on its machine, which has {torch.cuda.device_count()} "
                "GPUs: start as many processes as there are GPUs (torchrun --nproc_per_node), or set train.device=cpu"
            )
        torch.cuda.set_device(local_rank())


@contextmanager
def _one_voice() -> Iterator[None]:
    """Inside, of several processes only the first says what all find."""
    if is_first():
        yield
        return
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _own_voices() -> Iterator[None]:
    """Inside, the others say their warnings too, with their number: each meets pictures of its own."""
    if is_first():
        yield
        return

    def numbered(record: logging.LogRecord) -> bool:
        record.msg = f"process {rank()}: {record.msg}"
        return True

    level = logger.level
    logger.setLevel(logging.WARNING)
    logger.addFilter(numbered)
    try:
        yield
    finally:
        logger.removeFilter(numbered)
        logger.setLevel(level)


def _train(config: Config, init_from: Files, lock: RunLock, started: float) -> StopRequest | None:
    """Train to the end of the run, or until something asks to stop; None: there was nothing left to train."""
    folder = RunFolder(Path(config.output_dir) / config.name)
    if is_first():
        lock.acquire()
    state = from_first(folder.load_latest)
    if state is not None:
        check_fits(to_mapping(config), state, folder.path)
        if init_from:
            logger.warning("--init-from was ignored: %s goes on from its own checkpoint", folder.path)
        if _is_done(config, folder, state):
            return None
    setbacks = 0
    while True:
        initial = read_initial_weights(
            init_from if state is None else (), config.generator, config.data.channels, names_of(config)
        )
        trainer, data = assemble(config, folder, lock, state, initial)
        if setbacks:
            trainer.set_back(setbacks)
        trainer.deadline = started + config.train.max_seconds if config.train.max_seconds else math.inf
        try:
            with _own_voices():
                stop = trainer.run()
            break
        except DivergenceError as error:
            trainer.tracker.close()
            setbacks = trainer.setbacks + 1
            state = from_first(folder.load_latest)
            _go_back(config, error, setbacks, state)
        except (MemoryError, RuntimeError) as error:
            line = explained(error, config.train, trainer.device)
            if line is None:
                raise
            raise line from error
    trainer.tracker.hparams(to_mapping(config), trainer.watch.scores)
    trainer.tracker.close()
    _say_how_it_ended(config, folder, trainer, data, stop)
    return stop


def _is_done(config: Config, folder: RunFolder, state: dict[str, Any]) -> bool:
    """Whether nothing is left to train after this checkpoint; then that is said."""
    if state["step"] >= (config.train.steps or known_length(config.train, state)):
        more = f"train.steps={2 * state['step']}"
        said = f"already finished: {state['step']} steps; to train on, raise its length, e.g. {more}"
    elif stopped_early(state, config.evaluate):
        said = (
            f"already stopped early at step {state['step']}: no better score in {config.evaluate.patience} "
            "evaluations; to train on, set evaluate.patience=0"
        )
    else:
        return False
    if is_first():
        folder.restore_translators(state)
        _say_done(config, folder, said)
    return True


def _go_back(config: Config, error: DivergenceError, setbacks: int, state: dict[str, Any] | None) -> None:
    """Say where a training that broke goes on, or that it has been enough."""
    step = 0 if state is None else state["step"]
    if setbacks > config.optimizer.max_setbacks:
        raise ConfigError(
            f"{error}, after {setbacks - 1} setbacks; {_good(state)}. Lower "
            "optimizer.generator_lr and optimizer.discriminator_lr, set train.precision=fp32 or optimizer.clip_norm=1, "
            "or raise optimizer.max_setbacks"
        ) from error
    logger.warning(
        "%s; back to step %d, with %g times the learning rates (setback %d of %d, optimizer.max_setbacks)",
        error, step, LR_AFTER_SETBACK**setbacks, setbacks, config.optimizer.max_setbacks,
    )  # fmt: skip


def _good(state: dict[str, Any] | None) -> str:
    return "nothing was saved yet" if state is None else f"the newest checkpoint, of step {state['step']}, is good"


def _say_how_it_ended(config: Config, folder: RunFolder, trainer: Trainer, data: Data, stop: StopRequest) -> None:
    if data.bad_files:
        logger.warning("broken image files that were left out: %d, each named above", len(data.bad_files))
    if stop.reason:
        logger.warning(
            "stopped by %s at step %d, saved: the same command goes on from there", stop.reason, trainer.step
        )
        return
    if config.doctor.on_alarm == "stop" and trainer.watch.alarms:
        raise ConfigError(
            f"stopped by doctor.on_alarm=stop at step {trainer.step}, saved: {trainer.watch.stop}. "
            "Turn that knob, or go on with doctor.on_alarm=warn"
        )
    early = "" if trainer.watch.stop is None else f", stopped early: {trainer.watch.stop}"
    if is_first():
        _say_done(config, folder, f"trained: {trainer.step} steps{early}")


def resume(run: Path, overrides: Sequence[str] = (), init_from: Files = ()) -> Path:
    """Go on with the run in folder `run`, by its own config with `key=value` overrides.

    Raises:
        CheckpointError: no run there.
    """
    config_file = RunFolder(run).config_file
    if not config_file.is_file():
        raise CheckpointError(f"no run in {run}: needed is a folder with a config.yaml, as train.py leaves under runs/")
    fixed = [setting for setting in overrides if setting.partition("=")[0].strip() in ("name", "output_dir")]
    if fixed:
        raise ConfigError(f"{fixed[0]} was given with --resume {run}: a run goes on in its own folder; leave it out")
    # The folder may have been moved or renamed since: where it is now is where the run goes on.
    place = [f"output_dir={run.resolve().parent}", f"name={run.resolve().name}"]
    return train(load_config(config_file, [*place, *overrides]), init_from)


def _say_done(config: Config, folder: RunFolder, first_line: str) -> None:
    """The closing lines, on stdout; the last is for scripts."""
    print(first_line)
    index = read_index(folder.path)
    if index is not None and index.best is not None:
        print(f"best checkpoint: {index.best_reason}")
    print(f"sample grids: {folder.samples}")
    print(f"curves: tensorboard --logdir {config.output_dir}")
    print(
        f"translate: python test.py --run {folder.path} --to {names_of(config)[1]} --input FOLDER --output translated"
    )
    print(f"run: {folder.path}", flush=True)
