"""`cyclestyle evaluate`: how good the translations of a run, or of any folder, are."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclestyle.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from cyclestyle.evaluation.evaluate import Evaluation, Evaluator

logger = logging.getLogger("cyclestyle")

SUMMARY = "Score a run's translations, or any folder of pictures, against real pictures of the target"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    from cyclestyle.config.keys import choices, options_of

    options = options_of()
    run = parser.add_argument_group("a run")
    run.add_argument("--run", type=Path, metavar="RUN", help="run folder; without it the newest one in runs/")
    run.add_argument(
        "--checkpoint",
        default="latest",
        metavar="WHICH",
        help="latest, best, all (one after another), or a file of that run's checkpoints (default latest)",
    )
    folders = parser.add_argument_group("any pictures")
    folders.add_argument("--generated", type=Path, metavar="DIR", help="the pictures to judge")
    folders.add_argument("--reference", type=Path, metavar="DIR", help="real pictures of the target")
    folders.add_argument("--source", type=Path, metavar="DIR", help="what they were made from, by the same names")
    folders.add_argument("--truth", type=Path, metavar="DIR", help="the true translations, by the same names")
    folders.add_argument("--training", type=Path, metavar="DIR", help="what training saw of the target: finds copies")
    folders.add_argument("--size", type=int, metavar="N", help="compare squares of N pixels (default up to 256)")
    folders.add_argument("--channels", type=int, default=3, metavar="C", help="of the pictures (default 3)")
    parser.add_argument("--num-images", type=int, metavar="N", help="the most pictures of each folder, evenly chosen")
    parser.add_argument(
        "--extractor",
        choices=choices(options["evaluate.extractor"].type),
        help="features behind FID and KID: builtin is always there, the Inceptions want weights (docs/metrics.md)",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the Inception's weights")
    parser.add_argument("--device", choices=choices(options["train.device"].type), default="auto")
    parser.add_argument("--precision", choices=choices(options["train.precision"].type), default="auto")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE.png", help="write a picture: each translation beside its source and the "
        "training picture that it is nearest to, the nearest first"
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print everything, each picture's scores too, as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the scores; 1 where pictures had to be left out."""
    for name in ("size", "num_images", "channels"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value} was given, needed is a whole number of at least 1")
    if (args.generated is None) != (args.reference is None):
        raise ConfigError("--generated and --reference belong together: give both, or --run")
    if args.generated is not None and args.checkpoint != "latest":
        raise ConfigError(f"--checkpoint {args.checkpoint} was given with --generated: it is of a run, --run")
    if args.weights is not None and args.extractor not in ("inception", "torchvision"):
        raise ConfigError("--weights was given without an Inception: choose --extractor inception or torchvision")
    if args.generated is not None and args.run is not None:
        raise ConfigError("--run and --generated were given: a run's translations are made anew; leave one out")
    rows, num_left_out = _of_run(args) if args.generated is None else _of_folders(args)
    from cyclestyle.evaluation import table
    from cyclestyle.evaluation.perceptual import why_no_lpips

    if (lack := why_no_lpips()) is not None:
        logger.info(lack)
    if args.json:
        print(table.as_json(rows))
    else:
        print("\n".join(table.one_evaluation(rows[0]) if len(rows) == 1 else table.several_evaluations(rows)))
        if args.sheet is not None:
            print(args.sheet)
    return 1 if num_left_out else 0


def _of_folders(args: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    from cyclestyle.devices import choose_device
    from cyclestyle.evaluation.features import build_extractor
    from cyclestyle.evaluation.folders import Folders, evaluate_folders
    from cyclestyle.evaluation.perceptual import build_lpips
    from cyclestyle.evaluation.sheet import write_sheet

    device = choose_device(args.device)
    found = evaluate_folders(
        Folders(
            generated=args.generated,
            reference=args.reference,
            source=args.source,
            truth=args.truth,
            training=args.training,
        ),
        build_extractor(args.extractor or "builtin", args.weights, device, args.channels),
        channels=args.channels,
        size=args.size,
        num_images=args.num_images,
        perceptual=build_lpips(device) if args.channels == 3 else None,
    )
    if args.sheet is not None:
        write_sheet(args.sheet, found.side, found.outputs, found.row["directions"][""]["pictures"])
    return [found.row], found.num_left_out


def _of_run(args: argparse.Namespace) -> tuple[list[dict[str, Any]], int]:
    for name in ("reference", "source", "truth", "training", "size"):
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name} was given without --generated: a run's own test folders and size are used")
    from dataclasses import replace

    from cyclestyle.config.loading import load_config
    from cyclestyle.data.folders import find_folders
    from cyclestyle.devices import choose_device
    from cyclestyle.evaluation.sheet import write_sheet
    from cyclestyle.inference.files import read_translators
    from cyclestyle.inference.folder import newest_run
    from cyclestyle.training.scoring import build_evaluator

    folder = args.run or newest_run(Path("runs"))
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"no run in {folder}: needed is a folder with a config.yaml, as train.py leaves under runs/"
        )
    config = load_config(folder / "config.yaml")
    given = {"num_images": args.num_images, "extractor": args.extractor, "weights": args.weights and str(args.weights)}
    section = replace(config.evaluate, **{key: value for key, value in given.items() if value is not None})
    device = choose_device(args.device)
    files = _checkpoints(folder, args.checkpoint)
    directions = sorted(spec.direction for spec, _ in read_translators(files[0]))
    evaluator = build_evaluator(
        section, config.data, config.generator, folders=find_folders(config.data), directions=directions, device=device
    )
    if evaluator is None:
        raise ConfigError(f"{folder} has too few test pictures to score (data.a.test, data.b.test)")
    found = [_score(file, evaluator, args) for file in files]
    if args.sheet is not None:
        side = evaluator.sides[0]
        rows = found[-1].row["directions"][side.direction]["pictures"]
        write_sheet(args.sheet, side, found[-1].outputs[side.direction], rows)
    return [each.row for each in found], 0


def _score(file: Path, evaluator: Evaluator, args: argparse.Namespace) -> Evaluation:
    from cyclestyle.inference.translator import Translator

    translators = {
        side.direction: Translator.load(file, to=side.target, device=args.device, precision=args.precision)
        for side in evaluator.sides
    }
    step = next(iter(translators.values())).spec.step
    logger.info("scoring step %d", step)
    return evaluator.evaluate(step, lambda direction, images: translators[direction].tensor(images))


def _checkpoints(run: Path, which: str) -> list[Path]:
    """The files that `--checkpoint` names; the run folder itself stands for its newest translators."""
    from cyclestyle.run_index import best_checkpoint

    if which == "latest":
        return [run]
    if which == "best":
        return [best_checkpoint(run)]
    if which != "all":
        return [Path(which)]
    files = sorted((run / "checkpoints").glob("step_*.pt"))
    if not files:
        raise CheckpointError(f"no checkpoints in {run / 'checkpoints'}")
    return files
