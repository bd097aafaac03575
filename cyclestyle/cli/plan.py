"""`cyclestyle plan`: what a training will take, before it starts."""

from __future__ import annotations

import argparse
import json
import logging
from typing import TYPE_CHECKING

from cyclestyle.cli.settings import add_config_file, add_settings, load_settings
from cyclestyle.training.speed import parameters_in_words

if TYPE_CHECKING:
    from cyclestyle.training.forecast import Forecast

SUMMARY = "Tell what a training will take before it starts: memory, hours, disk, the largest batch that fits"

logger = logging.getLogger("cyclestyle")

_KIB, _UNITS = 1024.0, ("bytes", "KiB", "MiB", "GiB", "TiB")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_config_file(parser)
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=20.0,
        metavar="N",
        help="about so long may the steps of each batch that is tried take (default 20); two are timed in any case",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON instead of a table")
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the forecast; a run that does not fit is a mistake of the user's."""
    config = load_settings(args)  # before torch is imported: a slip in the config shows at once
    from cyclestyle.training.forecast import forecast

    found = forecast(config, seconds=args.seconds)
    if args.json:
        print(json.dumps(found.to_json(), indent=2))
        return 0
    width = max(len(name) for name, _ in lines(found)) + 2
    for name, text in lines(found):
        print(f"{name:{width}}{text}")
    for note in found.notes:
        logger.warning(note)
    return 0


def lines(found: Forecast) -> list[tuple[str, str]]:
    """The table: what it is about, and what is said of it."""
    images, seconds, disk = found.images, found.seconds, found.disk
    times = [
        (seconds.steps, "steps"),
        (seconds.evaluations, _counted(seconds.num_evaluations, "evaluation")),
        (seconds.grids, _counted(seconds.num_grids, "sample grid")),
        (seconds.checkpoints, _counted(seconds.num_checkpoints, "checkpoint")),
    ]
    how = f"median of {_counted(found.num_measured, 'step')}" if found.num_measured else "from smaller batches"
    spread = f"{found.fastest_step:.3g} to {found.slowest_step:.3g}"
    kept = _counted(disk.num_checkpoints, "checkpoint")
    return [
        ("run", found.folder),
        ("images", ", ".join(f"{count} {name}" for count, name in zip(images.num_train, images.names, strict=True))),
        ("length", f"{found.num_steps} steps of batch {found.batch_size}, {found.num_epochs:.3g} epochs"),
        ("parameters", parameters_in_words(found.parameters)),
        ("device", f"{found.device}, {found.precision}"),
        ("memory", _memory(found)),
        ("speed", f"{found.seconds_per_step:.3g} s a step ({how}, {spread}), {found.images_per_second:.3g} images/s"),
        ("time", f"{_time(seconds.total)}: {', '.join(f'{_time(each)} {what}' for each, what in times if each)}"),
        ("disk", f"{_size(disk.total)}: {kept} of {_size(disk.checkpoint)}, translators {_size(disk.translators)}, "
                 f"sample grids about {_size(disk.grids)}; {_size(disk.free)} free"),
        ("largest batch", f"train.batch_size={found.largest_batch} "
                          f"({'tried' if found.is_largest_sure else 'by the memory of'} "
                          f"{', '.join(map(str, found.tried))})"),
    ]  # fmt: skip


def _memory(found: Forecast) -> str:
    memory = found.memory
    parts = [f"steps {_size(memory.steps)}"]
    if memory.evaluations:
        parts.append(f"evaluations {_size(memory.evaluations)}")
    if memory.cache:
        parts.append(f"pictures kept in memory {_size(memory.cache)}")
    if memory.workers:
        parts.append(f"and {_counted(found.images.num_workers, 'worker')} beside it about {_size(memory.workers)}")
    text = f"{_size(memory.peak)} at the peak of {_size(memory.free)} free: {', '.join(parts)}"
    if found.device == "cuda":
        text += f"; the process itself {_size(memory.host)} of {_size(memory.host_free)}"
    return text


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(num_bytes: float) -> str:
    """Three figures and a unit."""
    for unit in _UNITS:
        if num_bytes < 1000 or unit == _UNITS[-1]:
            break
        num_bytes /= _KIB
    return f"{num_bytes:.3g} {unit}"


def _time(seconds: float) -> str:
    """Hours, minutes or seconds, whichever reads best."""
    for least, name in ((5400, "h"), (90, "min")):
        if seconds >= least:
            return f"{seconds / (3600 if name == 'h' else 60):.1f} {name}"
    return f"{seconds:.1f} s"


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"got {text!r}, needs a number of seconds above 0")
    return number
