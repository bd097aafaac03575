"""Scores of pictures that lie in folders, whoever made them: which belong together, at which size they are compared."""

from __future__ import annotations

import logging
import re
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.decode import read_header
from cyclestyle.data.fixed import Fixed, load_fixed, square_reader
from cyclestyle.data.folders import list_images
from cyclestyle.devices import num_cores
from cyclestyle.errors import DataError
from cyclestyle.evaluation.evaluate import Evaluator, Perceptual, Pictures, describe
from cyclestyle.evaluation.features import Extractor

logger = logging.getLogger("cyclestyle")

# Larger squares say little more and take long; Inception looks at 299 px whatever it is given.
_LARGEST_USUAL = 256
_SMALLEST_SIZE, _LARGEST_SIZE = 16, 1024
# What `test.py --contact-sheet` leaves among the translations.
_SHEET = re.compile(r"contact_sheet(_\d+)?_\d{3}\.png")


@dataclass(frozen=True, kw_only=True)
class Folders:
    """What is compared.

    Attributes:
        generated: the pictures that are judged.
        reference: real pictures of the target.
        source: what `generated` was made from, by the same relative names; None: nothing is said about content.
        truth: the true translations, by the same names; None: unknown.
        training: real pictures of the target that training saw; None: nothing is said about memorisation.
    """

    generated: Path
    reference: Path
    source: Path | None = None
    truth: Path | None = None
    training: Path | None = None


@dataclass(frozen=True)
class FoldersJudged:
    """What was found.

    Attributes:
        row: as `evaluations.jsonl` has it, its one direction called "".
        side: what was compared.
        outputs: the pictures that were judged.
        num_left_out: files that could not be used, each named in a warning.
    """

    row: dict[str, Any]
    side: Pictures
    outputs: list[np.ndarray]
    num_left_out: int


def evaluate_folders(
    folders: Folders,
    extractor: Extractor,
    *,
    channels: int = 3,
    size: int | None = None,
    num_images: int | None = None,
    perceptual: Perceptual | None = None,
) -> FoldersJudged:
    """Score the pictures of a folder.

    Args:
        extractor: of the features behind FID, KID and memorisation.
        channels: of all pictures.
        size: pixels of the squares that are compared; None: 256, less where the pictures are smaller.
        num_images: the most of each folder, evenly chosen; None: all.
        perceptual: LPIPS, where it is there.

    Raises:
        DataError: folders that are missing or empty, too few pictures, or none that belong together.
    """
    started = time.perf_counter()
    made = [path for path in list_images(folders.generated, key="--generated") if not _SHEET.fullmatch(path.name)]
    real = list_images(folders.reference, key="--reference")
    groups, num_left_out = _belonging_together(made, folders)
    groups = _evenly(groups, num_images)
    _warn_of_shared(made, real)
    size = _chosen_size(size, [group[0] for group in groups], real, channels)
    data = DataConfig(channels=channels, resize="shorter", load_size=size, crop_size=size)
    read, num_groups = _read(groups, square_reader(data, size)), len(groups)
    outputs = [pictures[0] for pictures in read]
    num_left_out += num_groups - len(read)
    wanted = min(num_images or len(real), len(real))
    references = load_fixed(real, data, wanted, size)
    num_left_out += wanted - len(references)
    for name, found in (("--generated", outputs), ("--reference", references)):
        if len(found) < 2:
            raise DataError(f"{name}: {len(found)} pictures can be used, needed are 2 at least")
    seen = [] if folders.training is None else list_images(folders.training, key="--training")
    side = Pictures(
        direction="",
        source="" if folders.source is None else folders.source.name,
        target=folders.reference.name,
        sources=[source for _, source, _ in read if source is not None],
        references=references,
        training=load_fixed(seen, data, num_images or len(seen), size) if seen else [],
        truths=None if folders.truth is None else [truth.pixels for *_, truth in read if truth is not None],
        reference_folder=str(folders.reference),
    )
    evaluator = Evaluator([side], extractor, size=size, perceptual=perceptual)
    judged = evaluator.judge(side, [output.pixels for output in outputs])
    rows = judged.pictures or [{} for _ in outputs]
    direction = describe(side, [{"output": str(out.path), **row} for out, row in zip(outputs, rows, strict=True)])
    row = {
        "step": None,
        "seconds": round(time.perf_counter() - started, 3),
        "size": size,
        "extractor": extractor.name,
        "scores": judged.scores,
        "directions": {"": {**direction, "num_sources": len(outputs)}},
    }
    return FoldersJudged(row, side, [output.pixels for output in outputs], num_left_out)


Group = tuple[Path, Path | None, Path | None]
"""A generated picture, its source, its truth."""


def _belonging_together(made: Sequence[Path], folders: Folders) -> tuple[list[Group], int]:
    """Each generated picture with its source and truth; those without are named and counted."""
    others = [_by_name(folder, key) for folder, key in ((folders.source, "--source"), (folders.truth, "--truth"))]
    groups: list[Group] = []
    alone: list[str] = []
    for path in made:
        name = path.relative_to(folders.generated).with_suffix("").as_posix()
        source, truth = (None if known is None else known.get(name) for known in others)
        missing = [key for key, known, found in zip(("--source", "--truth"), others, (source, truth), strict=True)
                   if known is not None and found is None]  # fmt: skip
        if missing:
            alone.append(f"left out, {' and '.join(missing)} has none of its name: {path}")
            continue
        groups.append((path, source, truth))
    if not groups:
        raise DataError(
            f"--generated: none of the {len(made)} pictures in {folders.generated} has the name of one in "
            f"{folders.source or folders.truth}: needed are the same names, whatever their suffixes"
        )
    for line in alone:
        logger.warning(line)
    return groups, len(alone)


def _by_name(folder: Path | None, key: str) -> dict[str, Path] | None:
    if folder is None:
        return None
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in list_images(folder, key=key)}


def _evenly(groups: list[Group], count: int | None) -> list[Group]:
    if count is None or count >= len(groups):
        return groups
    return [groups[share * len(groups) // count] for share in range(count)]


def _read(groups: Sequence[Group], read: Callable[[Path], Fixed]) -> list[tuple[Fixed, Fixed | None, Fixed | None]]:
    """The squares of each group; groups with a broken file are named and left out."""

    def one(group: Group) -> tuple[Fixed, Fixed | None, Fixed | None] | None:
        made, source, truth = group
        try:
            return read(made), None if source is None else read(source), None if truth is None else read(truth)
        except DataError as error:
            logger.warning("left out, %s", error)
            return None

    with ThreadPoolExecutor(max_workers=min(8, num_cores())) as threads:
        return [found for found in threads.map(one, groups) if found is not None]


def _warn_of_shared(made: Sequence[Path], real: Sequence[Path]) -> None:
    both = {path.resolve() for path in made} & {path.resolve() for path in real}
    if both:
        logger.warning(
            "%d pictures are in --generated and in --reference: how near pictures are to themselves says nothing",
            len(both),
        )


def _chosen_size(wanted: int | None, made: Sequence[Path], real: Sequence[Path], channels: int) -> int:
    """Pixels of the squares: as asked for, else the usual shorter side of the folder whose pictures are smaller."""
    sides = [_shorter_sides(files, channels) for files in (made, real)]
    usual = [statistics.median_low(each) for each in sides]
    small, large = sorted(usual)
    size = wanted or min(small, _LARGEST_USUAL)
    if not _SMALLEST_SIZE <= size <= _LARGEST_SIZE:
        raise DataError(
            f"squares of {size} px were to be compared, needed are {_SMALLEST_SIZE} to {_LARGEST_SIZE} (--size)"
        )
    if large > 1.25 * small:
        logger.warning(
            "one folder's pictures are %d px on the shorter side, the other's %d: all are compared at %d px, which "
            "hides some detail of the larger ones (--size)", small, large, size,
        )  # fmt: skip
    num_small = sum(side < size / 1.25 for each in sides for side in each)
    if num_small:
        logger.warning(
            "%d of %d pictures are smaller than the squares of %d px and are enlarged, which softens them (--size)",
            num_small, sum(map(len, sides)), size,
        )  # fmt: skip
    return size


def _shorter_sides(files: Sequence[Path], channels: int) -> list[int]:
    """Of every picture that can be read; the others are named when they are."""
    sides, reasons = [], []
    for path in files:
        try:
            header = read_header(path, channels)
            sides.append(min(header.height, header.width))
        except DataError as error:
            reasons.append(str(error))
    if not sides:
        raise DataError(f"none of {len(files)} pictures can be used; the first: {reasons[0]}")
    return sides
