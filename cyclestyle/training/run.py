"""Putting a run together from its config, and going on with one that exists.

The only place of the library that sees the whole config.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from cyclestyle.checkpoint import save_translator, write_text
from cyclestyle.config.loading import config_from_mapping, load_config, to_mapping, to_yaml
from cyclestyle.config.rules import generator_stride, receptive_field
from cyclestyle.config.schema import SAMPLE_ROOT, Config
from cyclestyle.data.fixed import load_fixed
from cyclestyle.data.loader import Data, build_data
from cyclestyle.data.synthetic import make_samples, samples_complete
from cyclestyle.devices import choose_device, choose_precision, is_out_of_memory
from cyclestyle.distributed import launched_processes, world_size
from cyclestyle.errors import CheckpointError, ConfigError
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.methods.build import build_method
from cyclestyle.networks.build import count_parameters, training_memory_format
from cyclestyle.training.ema import Averages
from cyclestyle.training.initial_weights import Files, InitialWeights, read_initial_weights, start_from
from cyclestyle.training.optimization import Optimization
from cyclestyle.training.previews import Previews
from cyclestyle.training.run_folder import RunFolder
from cyclestyle.training.tracker import Tracker
from cyclestyle.training.trainer import Trainer

logger = logging.getLogger("cyclestyle")

# Pixels of a side: larger pictures in sample grids would take longer than the steps between them.
_LARGEST_SAMPLE = 512

# A checkpoint fits another config only where these agree; any other key may change between two starts.
_SHAPES = (
    "method.name",
    "generator",
    "discriminator",
    "data.channels",
    "data.a.name",
    "data.b.name",
)
# These change nothing of what is learned, so nothing is said about them.
_INCIDENTAL = ("output_dir", "log", "evaluate", "doctor", "train.steps", "train.epochs", "train.checkpoint_every",
               "train.keep_checkpoints", "data.num_workers", "data.cache", "data.cache_limit_gb")  # fmt: skip


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
        _check_fits(config, state, folder)
        if init_from:
            logger.warning("--init-from was ignored: %s goes on from its own checkpoint", folder.path)
        if state["step"] >= (config.train.steps or _known_length(config, state)):
            _restore_translators(folder, state)
            _say_finished(config, folder, state["step"])
            return folder.path
    files = init_from if state is None else ()
    initial = read_initial_weights(files, config.generator, config.data.channels, _names(config))
    trainer, data = _assemble(config, folder, state, initial)
    try:
        stop = trainer.run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"out of memory on {trainer.device.type}: lower data.crop_size, train.batch_size or generator.filters, or "
            f"raise optimizer.accumulation (each batch of {config.train.batch_size} then goes through in parts)"
        ) from error
    trainer.tracker.close()
    if data.bad_files:
        logger.warning("broken image files that were left out: %d, each named above", len(data.bad_files))
    if stop.signal_number is not None:
        logger.warning("stopped by %s at step %d, saved: the same command goes on from there", stop.name, trainer.step)
        raise SystemExit(stop.exit_code)
    _say_done(config, folder, f"trained: {trainer.step} steps")
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
    _set_arithmetic(config, device)
    data = _build_data(config, device)
    folder.create()
    write_text(folder.config_file, to_yaml(config))

    torch.manual_seed(config.seed)
    method = build_method(
        config.method, config.generator, config.discriminator, channels=config.data.channels, seed=config.seed
    ).to(device)
    origins = start_from(initial, method)
    method.to(memory_format=training_memory_format(device))
    num_steps = config.train.steps or _length(config.train.epochs, data.epoch_images, config.train.batch_size)
    tracker = Tracker(folder.path, state["step"] if state else 0)
    trainer = Trainer(
        method=method,
        optimization=Optimization(method, config.optimizer, precision, device, num_steps),
        averages=Averages(method, config.ema),
        data=data,
        tracker=tracker,
        previews=_build_previews(config, data),
        folder=folder,
        specs=_specs(config, method.generators),
        config=config.train,
        log=config.log,
        accumulation=config.optimizer.accumulation,
        device=device,
        precision=precision,
        num_steps=num_steps,
        settings=to_mapping(config),
    )
    if state is not None:
        trainer.load_state_dict(state)
    _introduce(config, trainer, data, origins)
    return trainer, data


def _set_arithmetic(config: Config, device: torch.device) -> None:
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.train.tf32
        torch.backends.cudnn.allow_tf32 = config.train.tf32
        torch.backends.cudnn.benchmark = not config.train.deterministic
    if config.train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it, set before its first use
    torch.use_deterministic_algorithms(config.train.deterministic)


def _build_data(config: Config, device: torch.device) -> Data:
    """The data, with the sample set made first where the config names it and it is absent."""
    root = config.data.root
    if root is not None and Path(root) == Path(SAMPLE_ROOT) and not samples_complete(Path(root)):
        logger.info("making the sample set in %s (once, about a minute)", root)
        make_samples(Path(root))
    return build_data(config.data, seed=config.seed, device_type=device.type)


def _build_previews(config: Config, data: Data) -> Previews:
    """Grids of test images at the scale of training; of training images where a domain has no test folder."""
    # Whole pictures say more than crops of them; networks that have seen crops take any size.
    largest = config.data.crop_size if config.data.resize == "none" else min(config.data.load_size, _LARGEST_SAMPLE)
    stride = generator_stride(config.generator)
    size = max(config.data.crop_size, largest // stride * stride)
    fixed = [
        load_fixed(folders.test_files or folders.train_files, config.data, config.log.num_samples, size)
        for folders in data.folders
    ]
    fixed_a, fixed_b = ([picture.pixels for picture in pictures] for pictures in fixed)
    return Previews(fixed_a, fixed_b, _names(config))


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


def _known_length(config: Config, state: dict[str, Any]) -> float:
    """Length of a run by epochs as its checkpoint knows it; infinite where `epochs` or `batch_size` changed."""
    before = state["config"]["train"]
    same = (before["epochs"], before["batch_size"]) == (config.train.epochs, config.train.batch_size)
    return state["num_steps"] if same else math.inf


def _check_fits(config: Config, state: dict[str, Any], folder: RunFolder) -> None:
    """Refuse a config that the checkpoint cannot go on with; name settings that change under way."""
    before, now = _flatten(state["config"]), _flatten(to_mapping(config))
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    words = {key: f"{key} was {before.get(key)}, is {now.get(key)}" for key in changed}
    clashing = [words[key] for key in changed if _is_below(key, _SHAPES)]
    if clashing:
        raise ConfigError(
            f"{folder.path} holds a run of another form ({'; '.join(clashing)}): choose another name=..., "
            "or give the settings that it began with"
        )
    for key in changed:
        if not _is_below(key, (*_INCIDENTAL, "name")):
            logger.warning("going on with a changed setting: %s", words[key])


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value})
    return flat


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
    trainer.tracker.text("run", table, trainer.step)
    trainer.tracker.text("config", "\n".join(f"    {line}" for line in to_yaml(config).splitlines()), trainer.step)


def _say_finished(config: Config, folder: RunFolder, step: int) -> None:
    _say_done(
        config, folder, f"already finished: {step} steps; to train on, raise its length, e.g. train.steps={2 * step}"
    )


def _say_done(config: Config, folder: RunFolder, first_line: str) -> None:
    """The closing lines, on stdout; the last is for scripts."""
    print(first_line)
    print(f"sample grids: {folder.samples}")
    print(f"curves: tensorboard --logdir {config.output_dir}")
    print(f"translate: python test.py --run {folder.path} --to {_names(config)[1]} --input FOLDER --output translated")
    print(f"run: {folder.path}", flush=True)
