"""Putting a run together from its config, and going on with one that exists.

The only place of the library that sees the whole config.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cyclestyle.checkpoint import save_translator, write_text
from cyclestyle.config.loading import config_from_mapping, load_config, to_mapping, to_yaml
from cyclestyle.config.rules import receptive_field
from cyclestyle.config.schema import SAMPLE_ROOT, Config
from cyclestyle.data.duplicates import quick_look
from cyclestyle.data.fixed import load_fixed
from cyclestyle.data.loader import Data, build_data
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.devices import choose_device, choose_precision
from cyclestyle.distributed import launched_processes, world_size
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.evaluation.evaluate import Evaluator
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.networks.build import count_parameters
from cyclestyle.run_index import read_index
from cyclestyle.training.best import stopped_early
from cyclestyle.training.continuation import check_fits, known_length
from cyclestyle.training.doctor import Doctor
from cyclestyle.training.failures import explained
from cyclestyle.training.initial_weights import Files, InitialWeights, read_initial_weights, start_from
from cyclestyle.training.learner import build_learner
from cyclestyle.training.previews import Previews
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.scoring import build_evaluator, square_size
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.trainer import Trainer
from cyclestyle.training.watch import Watch

logger = logging.getLogger("cyclestyle")


# Training pictures of each domain that are looked at before the start: from memory, or read for that alone.
_MOST_CACHED, _MOST_READ = 2000, 100


def train(config: Config | Mapping[str, Any] | str | Path, init_from: Files = ()) -> Path:
    """Train a run, or go on with it where its folder already holds a checkpoint.

    Args:
        config: a loaded `Config`, a nested mapping like the YAML files, or the path of a YAML file.
        init_from: files or run folders whose generators a new run starts from.

    Returns:
        The run folder.

    Raises:
        CyclestyleError: a mistake of the user's, in one line.
        SystemExit: 130 or 143, when SIGINT or SIGTERM ended the run after saving it.
    """
    if isinstance(config, str | Path):
        config = load_config(Path(config))
    elif not isinstance(config, Config):
        config = config_from_mapping(config)
    _refuse_several_processes()
    folder = RunFolder(Path(config.output_dir) / config.name)
    state = folder.load_latest()
    if state is not None:
        check_fits(to_mapping(config), state, folder.path)
        if init_from:
            logger.warning("--init-from was ignored: %s goes on from its own checkpoint", folder.path)
        if state["step"] >= (config.train.steps or known_length(config.train, state)):
            _restore_translators(folder, state)
            _say_finished(config, folder, state["step"])
            return folder.path
        if stopped_early(state, config.evaluate):
            _restore_translators(folder, state)
            _say_done(config, folder, f"already stopped early at step {state['step']}: no better score in "
                      f"{config.evaluate.patience} evaluations; to train on, set evaluate.patience=0")  # fmt: skip
            return folder.path
    files = init_from if state is None else ()
    initial = read_initial_weights(files, config.generator, config.data.channels, _names(config))
    trainer, data = _assemble(config, folder, state, initial)
    try:
        stop = trainer.run()
    except (MemoryError, RuntimeError) as error:
        line = explained(error, config.train, trainer.device)
        if line is None:
            raise
        raise line from error
    trainer.tracker.hparams(to_mapping(config), trainer.watch.scores)
    trainer.tracker.close()
    if data.bad_files:
        logger.warning("broken image files that were left out: %d, each named above", len(data.bad_files))
    if stop.signal_number is not None:
        logger.warning("stopped by %s at step %d, saved: the same command goes on from there", stop.name, trainer.step)
        raise SystemExit(stop.exit_code)
    if config.doctor.on_alarm == "stop" and trainer.watch.alarms:
        raise ConfigError(
            f"stopped by doctor.on_alarm=stop at step {trainer.step}, saved: {trainer.watch.stop}. "
            "Turn that knob, or go on with doctor.on_alarm=warn"
        )
    early = "" if trainer.watch.stop is None else f", stopped early: {trainer.watch.stop}"
    _say_done(config, folder, f"trained: {trainer.step} steps{early}")
    return folder.path


def _refuse_several_processes() -> None:
    """Under torchrun, so many independent trainings would write into one run folder."""
    if launched_processes() > world_size():
        raise ConfigError(
            f"started as {launched_processes()} processes (WORLD_SIZE), but training runs in one process: "
            "start train.py without torchrun, or with --nproc_per_node=1"
        )


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


def _restore_translators(folder: RunFolder, state: dict[str, Any]) -> None:
    """Write the translators of a finished run that are missing, from its checkpoint."""
    for name, spec in state["translators"].items():
        path = folder.translator_file(spec["source"], spec["target"])
        if not path.exists():
            folder.create()
            save_translator(path, state["averages"][name], {**spec, "step": state["step"]})


def _assemble(
    config: Config, folder: RunFolder, state: dict[str, Any] | None, initial: InitialWeights
) -> tuple[Trainer, Data]:
    """Build every component from its section, at the state of a checkpoint if there is one."""
    device = choose_device(config.train.device)
    precision = choose_precision(config.train.precision, device)
    data = _build_data(config, device)
    if state is None and config.doctor.every:
        _look_at_pictures(data)
    num_steps = config.train.steps or _length(config.train.epochs, data.epoch_images, config.train.batch_size)
    origins: dict[str, str] = {}
    learner = build_learner(
        config, device, precision, num_steps=num_steps, start=lambda method: origins.update(start_from(initial, method))
    )
    method = learner.method
    evaluator = _build_evaluator(config, data, [name.removeprefix("gen_") for name in method.generators], device)
    # Nothing was written so far: what is refused leaves no folder behind.
    folder.create()
    write_text(folder.config_file, to_yaml(config))
    tracker = Tracker(folder.path, state["step"] if state else 0)
    trainer = Trainer(
        learner=learner,
        data=data,
        tracker=tracker,
        previews=_build_previews(config, data),
        watch=_build_watch(config, evaluator, tracker),
        folder=folder,
        specs=_specs(config, method.generators),
        config=config.train,
        log=config.log,
        accumulation=config.optimizer.accumulation,
        device=device,
        num_steps=num_steps,
        settings=to_mapping(config),
    )
    if state is not None:
        trainer.load_state_dict(state)
        _forget_a_best_that_is_gone(trainer, folder)
    _introduce(config, trainer, data, origins)
    return trainer, data


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
    if root is not None and Path(root) == Path(SAMPLE_ROOT) and not samples_complete(Path(root)):
        logger.info("making the sample set in %s (once, about a minute)", root)
        make_samples(Path(root))
    return build_data(config.data, seed=config.seed, device_type=device.type)


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
    return Previews(fixed_a, fixed_b, _names(config))


def _build_evaluator(config: Config, data: Data, directions: Sequence[str], device: torch.device) -> Evaluator | None:
    """What scores the run; None where nothing is to be scored, or too little is there."""
    section = config.evaluate
    if not section.every:
        return None
    if section.direction not in (*directions, "both"):
        raise ConfigError(
            f"evaluate.direction={section.direction} was given, but this method translates only "
            f"{' and '.join(directions)}"
        )
    return build_evaluator(
        section, config.data, config.generator, folders=data.folders, directions=directions, device=device
    )


def _build_watch(config: Config, evaluator: Evaluator | None, tracker: Tracker) -> Watch:
    doctor = Doctor(every=config.doctor.every, upsample=config.generator.upsample, names=_names(config))
    return Watch(config.evaluate, config.doctor, evaluator, doctor, tracker)


def _names(config: Config) -> tuple[str, str]:
    a, b = config.data.a.name, config.data.b.name
    assert a is not None, "loading a config resolves the names"
    assert b is not None, "loading a config resolves the names"
    return a, b


def _specs(config: Config, generators: Sequence[str]) -> dict[str, TranslatorSpec]:
    """What the translator file of each generator says about it."""
    names = dict(zip("ab", _names(config), strict=True))
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


def _length(epochs: float | None, epoch_images: int, batch_size: int) -> int:
    """Steps of so many epochs; an epoch is as many images as the larger domain has."""
    assert epochs is not None, "loading a config asks for steps or epochs"
    return max(1, math.ceil(epochs * epoch_images / batch_size))


def _introduce(config: Config, trainer: Trainer, data: Data, origins: Mapping[str, str]) -> None:
    """Say on stderr and in TensorBoard what is about to be trained."""
    name_a, name_b = _names(config)
    parameters = {
        player: sum(count_parameters(network) for network in trainer.method.networks_of(player))
        for player in trainer.method.players
    }
    facts = {
        "images": f"{data.num_images_a} {name_a}, {data.num_images_b} {name_b}",
        "method": config.method.name,
        "parameters": ", ".join(f"{number / 1e6:.2f} M in {player}" for player, number in parameters.items()),
        "discriminators": f"judge patches of {receptive_field(config.discriminator)} px",
        "device": f"{trainer.device.type}, {trainer.precision.name} ({trainer.precision.reason})",
        "steps": f"{trainer.step} done of {trainer.num_steps}",
        **origins,
    }
    for key, value in facts.items():
        logger.info("%s: %s", key, value)
    table = "| | |\n|---|---|\n" + "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    trainer.tracker.layout([name.removeprefix("gen_") for name in trainer.method.generators])
    trainer.tracker.text("run", table, trainer.step)
    trainer.tracker.text("config", "\n".join(f"    {line}" for line in to_yaml(config).splitlines()), trainer.step)


def _say_finished(config: Config, folder: RunFolder, step: int) -> None:
    _say_done(
        config, folder, f"already finished: {step} steps; to train on, raise its length, e.g. train.steps={2 * step}"
    )


def _say_done(config: Config, folder: RunFolder, first_line: str) -> None:
    """The closing lines, on stdout; the last is for scripts."""
    print(first_line)
    index = read_index(folder.path)
    if index is not None and index.best is not None:
        print(f"best checkpoint: {index.best_reason}")
    print(f"sample grids: {folder.samples}")
    print(f"curves: tensorboard --logdir {config.output_dir}")
    print(f"translate: python test.py --run {folder.path} --to {_names(config)[1]} --input FOLDER --output translated")
    print(f"run: {folder.path}", flush=True)
