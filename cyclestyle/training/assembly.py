"""Every component of a run, built from its section of the config, at the state of a checkpoint if there is one."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cyclestyle.checkpoint import write_text
from cyclestyle.config.keys import flatten
from cyclestyle.config.loading import to_mapping, to_yaml
from cyclestyle.config.methods import active_terms
from cyclestyle.config.rules import receptive_field
from cyclestyle.config.schema import SAMPLE_ROOT, Config
from cyclestyle.data.duplicates import quick_look
from cyclestyle.data.fixed import load_fixed
from cyclestyle.data.loader import Data, build_data
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.devices import choose_device, choose_precision, is_out_of_memory
from cyclestyle.distributed import are_equal, is_first, local_rank, meet
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.evaluation.evaluate import Evaluator
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.networks.build import count_parameters
from cyclestyle.training.doctor import Doctor
from cyclestyle.training.initial_weights import InitialWeights, start_from
from cyclestyle.training.learner import build_learner
from cyclestyle.training.previews import Previews
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.run_lock import RunLock
from cyclestyle.training.scoring import build_evaluator, square_size
from cyclestyle.training.speed import parameters_in_words
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.trainer import Trainer
from cyclestyle.training.watch import Watch

logger = logging.getLogger("cyclestyle")

# Training pictures of each domain that are looked at before the start: from memory, or read for that alone.
_MOST_CACHED, _MOST_READ = 2000, 100


def check_alike(value: str, what: str) -> None:
    """Raise `ConfigError` where the processes do not all have the same `value`."""
    if not are_equal(value):
        raise ConfigError(f"the processes have different {what}")


def assemble(
    config: Config, folder: RunFolder, lock: RunLock, state: dict[str, Any] | None, initial: InitialWeights
) -> tuple[Trainer, Data]:
    """A trainer with all that it needs, and its data; of several processes the first one opens the run folder.

    Args:
        config: the whole of it.
        folder, lock: of the run.
        state: a checkpoint to go on from; None: from the start.
        initial: weights of generators that a new run starts from.
    """
    device = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, device)
    data = _build_data(config, device)
    if state is None and config.doctor.every and is_first():
        _look_at_pictures(data)
    num_steps = config.train.steps or length(config.train.epochs, data.epoch_images, config.train.batch_size)
    origins: dict[str, str] = {}
    learner = build_learner(
        config, device, precision, num_steps=num_steps, start=lambda method: origins.update(start_from(initial, method))
    )
    method = learner.method
    # Before the run folder is made: it refuses what has no test pictures.
    held_out = data.held_out(method.held_out_domains()) if method.held_out_domains() else None
    evaluator = _build_evaluator(config, data, method.directions, device)
    if is_first():  # nothing was written so far: what is refused leaves no folder behind
        _open(folder, lock, state)
        write_text(folder.config_file, to_yaml(config))
    tracker = Tracker(folder.path if is_first() else None, state["step"] if state else 0)
    trainer = Trainer(
        learner=learner,
        data=data,
        held_out=held_out,
        tracker=tracker,
        previews=_build_previews(config, data),
        watch=_build_watch(config, evaluator, tracker),
        folder=folder,
        specs=_specs(config, method.generators),
        config=config.train,
        log=config.log,
        device=device,
        num_steps=num_steps,
        settings=to_mapping(config),
    )
    if state is not None:
        _load(trainer, state)
        _forget_a_best_that_is_gone(trainer, folder)
    _introduce(config, trainer, data, origins)
    return trainer, data


def _load(trainer: Trainer, state: dict[str, Any]) -> None:
    """Go on from a checkpoint; one that was made up, or by another program, may hold anything."""
    try:
        trainer.load_state_dict(state)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise CheckpointError(
            f"the checkpoint of step {state['step']} does not fit this run ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:160]})"
        ) from error


def _open(folder: RunFolder, lock: RunLock, state: dict[str, Any] | None) -> None:
    with suppress(OSError):  # `create` says what is wrong
        folder.path.mkdir(parents=True, exist_ok=True)
    lock.acquire()
    folder.create()
    if state is None and folder.checkpoint_files():
        raise ConfigError(f"another process has trained {folder.path} meanwhile: give the same command again")


def _forget_a_best_that_is_gone(trainer: Trainer, folder: RunFolder) -> None:
    best = trainer.watch.best
    if best is None or best.step is None or folder.checkpoint_file(best.step).is_file():
        return
    logger.warning(
        "the best checkpoint, %s, is gone: the next evaluation begins anew", folder.checkpoint_file(best.step).name
    )
    best.forget()


def _build_data(config: Config, device: torch.device) -> Data:
    """The data, with the sample set made first where the config names it and it is absent."""
    root = config.data.root
    if root is not None and Path(root) == Path(SAMPLE_ROOT):
        # Once for all processes that share a disk, then on each machine that has one of its own.
        for is_maker in (is_first(), local_rank() == 0):
            if is_maker and not samples_complete(Path(root)):
                logger.info("making the sample set in %s (once, about a minute)", root)
                make_samples(Path(root))
            meet()
    data = build_data(config.data, seed=config.seed, device_type=device.type)
    files = [path for folders in data.folders for path in (*folders.train_files, *folders.test_files)]
    seen = "\0".join(f"{path.name} {path.stat().st_size if path.exists() else 0}" for path in files)
    check_alike(seen, f"pictures ({len(files)} in this one), by their names or sizes: give all the same files")
    return data


def _look_at_pictures(data: Data) -> None:
    """Warn of training pictures that spoil a training quietly, before it begins."""
    a, b = data.folders
    lines = quick_look(
        a.train_files,
        b.train_files,
        lambda side, index: data.dataset.picture("a" if side == 0 else "b", index),
        most=_MOST_CACHED if data.cached else _MOST_READ,
        names=(a.name, b.name),
    )
    for line in lines:
        logger.warning(line)


def _build_previews(config: Config, data: Data) -> Previews:
    """Grids of test images at the scale of training; of training images where a domain has no test folder."""
    size = square_size(config.data, config.generator)
    fixed_a, fixed_b = (
        [
            (picture.path.name, picture.pixels)
            for picture in load_fixed(
                folders.test_files or folders.train_files, config.data, config.log.num_samples, size
            )
        ]
        for folders in data.folders
    )
    return Previews(fixed_a, fixed_b, names_of(config))


def _build_evaluator(config: Config, data: Data, directions: Sequence[str], device: torch.device) -> Evaluator | None:
    """What scores the run; None where nothing is to be scored, or too little is there."""
    section = config.evaluate
    if not section.every:
        return None
    return build_evaluator(
        section, config.data, config.generator, folders=data.folders, directions=directions, device=device
    )


def _build_watch(config: Config, evaluator: Evaluator | None, tracker: Tracker) -> Watch:
    doctor = Doctor(every=config.doctor.every, names=names_of(config), options=flatten(to_mapping(config)))
    return Watch(config.evaluate, config.doctor, evaluator, doctor, tracker)


def names_of(config: Config) -> tuple[str, str]:
    """Of domain A and domain B."""
    a, b = config.data.a.name, config.data.b.name
    assert a is not None, "loading a config resolves the names"
    assert b is not None, "loading a config resolves the names"
    return a, b


def _specs(config: Config, generators: Sequence[str]) -> dict[str, TranslatorSpec]:
    """What the translator file of each generator says about it."""
    names = dict(zip("ab", names_of(config), strict=True))
    return {
        generator: TranslatorSpec(
            source=names[generator[-2]],
            target=names[generator[-1]],
            direction=generator.removeprefix("gen_"),
            generator=asdict(config.generator),
            channels=config.data.channels,
            resize=config.data.resize,
            load_size=config.data.load_size,
            crop_size=config.data.crop_size,
        )
        for generator in generators
    }


def length(epochs: float | None, epoch_images: int, batch_size: int) -> int:
    """Steps of so many epochs; an epoch is as many images as the larger domain has."""
    assert epochs is not None, "loading a config asks for steps or epochs"
    return max(1, math.ceil(epochs * epoch_images / batch_size))


def _introduce(config: Config, trainer: Trainer, data: Data, origins: Mapping[str, str]) -> None:
    """Say on stderr and in TensorBoard what is about to be trained."""
    name_a, name_b = names_of(config)
    parameters = {
        player: sum(count_parameters(network) for network in trainer.method.networks_of(player))
        for player in trainer.method.players
    }
    facts = {
        "images": f"{data.num_images_a} {name_a}, {data.num_images_b} {name_b}",
        "method": config.method.name,
        "parameters": parameters_in_words(parameters),
        "discriminators": f"judge patches of {receptive_field(config.discriminator)} px",
        "device": f"{trainer.device.type}, {trainer.precision.name} ({trainer.precision.reason})",
        "steps": f"{trainer.step} done of {trainer.num_steps}",
        **origins,
    }
    for key, value in facts.items():
        logger.info("%s: %s", key, value)
    table = "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    adapted = [f"augment_{domain}" for domain in trainer.method.held_out_domains()]
    trainer.tracker.layout(trainer.method.directions, [*active_terms(config.method.weights), *adapted])
    trainer.tracker.text("run", table, trainer.step)
    trainer.tracker.text("config", "\n".join(f"    {line}" for line in to_yaml(config).splitlines()), trainer.step)
