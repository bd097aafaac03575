"""The same pictures through several runs, on one sheet: source | run 1 | run 2 | ..., a row a picture."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclestyle.checkpoint import replacing
from cyclestyle.config.schema import DataConfig, GeneratorConfig
from cyclestyle.data.fixed import load_fixed
from cyclestyle.data.folders import list_images
from cyclestyle.errors import CheckpointError, CyclestyleError, DataError
from cyclestyle.evaluation.metrics import split
from cyclestyle.inference.translator import Translator
from cyclestyle.reports.compare import Column
from cyclestyle.reports.rows import score_of
from cyclestyle.reports.runs import printable
from cyclestyle.training.scoring import square_size

logger = logging.getLogger("cyclestyle")

_GAP, _LINE, _CAPTION, _TITLE_LINES = 8, 17, 18, 3
_PAPER, _INK, _FAINT = (255, 255, 255), (40, 40, 40), (120, 120, 120)
# Pixels: pictures are shown so large, smaller where many runs would make the sheet wider than screens.
_SMALLEST_CELL, _LARGEST_CELL, _WIDEST_SHEET = 128, 320, 2400


@dataclass(frozen=True)
class _Strip:
    """A column of the sheet: lines above it, and its pictures, H x W x C of uint8 or uint16."""

    titles: list[str]
    pictures: list[np.ndarray]


def write_sheet(
    columns: Sequence[Column], *, output: Path | None = None, input: Path | None = None, num_images: int = 6
) -> tuple[Path, list[str]]:
    """Write the contact sheet: rows are pictures, columns source | run 1 | run 2 | ...

    Args:
        output: folder; None: the one that holds the first run.
        input: folder of pictures; None: the test folder of the first run.
        num_images: rows, fewer where there are not so many pictures.

    Returns:
        The file, and a line for each run that is not on it, with the reason.

    Raises:
        CyclestyleError: no run can be drawn, no pictures, or the file cannot be written.
    """
    strips, files, skipped = _translate(columns, input, num_images)
    sheet = _draw(strips, files)
    folder = columns[0].run.path.resolve().parent if output is None else output
    names = "_".join(re.sub(r"[^\w.-]+", "-", column.run.name) for column in columns)
    targets = {column.target for column in columns}
    path = folder / f"compare_{names[:80]}{f'_to_{targets.pop()[:40]}' if len(targets) == 1 else ''}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            sheet.save(partial)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error}): give another --output") from error
    return path, skipped


def _translate(
    columns: Sequence[Column], input: Path | None, num_images: int
) -> tuple[list[_Strip], list[Path], list[str]]:
    """The pictures and each run's translations of them, one network in memory at a time."""
    strips: list[_Strip] = []
    files: list[Path] = []
    skipped: list[str] = []
    for column in columns:
        try:
            translator = Translator.load(column.run.best_checkpoint or column.run.path, column.target)
        except CyclestyleError as error:
            skipped.append(f"{column.label} is not on the sheet: {error}")
            continue
        spec = translator.spec
        if not strips:
            sources, channels, scale = _sources(column, translator, input, num_images), spec.channels, spec.load_size
            files = [path for path, _ in sources]
            strips.append(_Strip([column.source, "", ""], [pixels for _, pixels in sources]))
        elif spec.channels != channels:
            skipped.append(f"{column.label} is not on the sheet: it takes {spec.channels} channels, not {channels}")
            continue
        elif spec.load_size != scale:
            logger.warning(
                "%s was trained on pictures of %d px, and is shown ones of %d", column.label, spec.load_size, scale
            )
        logger.info("translating %d pictures with %s, step %d", len(files), column.label, spec.step)
        titles = [column.label, f"as {column.target}, step {spec.step}", _score_at(column, spec.step)]
        strips.append(_Strip(titles, [translator.pixels(pixels) for pixels in strips[0].pictures]))
    if not strips:
        raise CheckpointError(f"no run can be drawn; {'; '.join(skipped)}")
    return strips, files, skipped


def _score_at(column: Column, step: int) -> str:
    """The score of the generator that is shown, "kid 0.0123"; empty where it was never judged."""
    at_step = [each for each in (column.run.best, column.run.newest) if each is not None and each.step == step]
    score = score_of(at_step[0], column.direction) if at_step else None
    return f"{split(score[0])[0]} {score[1]:.4g}" if score else "not scored"


def _sources(
    column: Column, translator: Translator, input: Path | None, num_images: int
) -> list[tuple[Path, np.ndarray]]:
    """Pictures spread over the folder, cut as the run's own sample grids are."""
    spec, letter = translator.spec, column.direction[0]
    folder, key = (input, "--input") if input is not None else (_test_folder(column), f"data.{letter}.test")
    config = DataConfig(
        channels=spec.channels,
        resize=spec.resize,  # type: ignore[arg-type]  # checked when the file was read
        load_size=spec.load_size,
        crop_size=spec.crop_size,
    )
    size = square_size(config, GeneratorConfig(**spec.generator))
    found = load_fixed(list_images(folder, key=key), config, num_images, size)
    if not found:
        raise DataError(f"none of the pictures in {folder} can be read: give another --input")
    return [(picture.path, picture.pixels) for picture in found]


def _test_folder(column: Column) -> Path:
    letter = column.direction[0]
    named, root = column.run.option(f"data.{letter}.test"), column.run.option("data.root")
    if isinstance(named, str):
        folder = Path(named).expanduser()
    elif isinstance(root, str):
        folder = Path(root).expanduser() / f"test{letter.upper()}"
    else:
        raise DataError(f"{column.label} has no test folder (data.{letter}.test): give --input")
    if not folder.is_dir():
        raise DataError(f"no folder {folder}, where {column.label} has its test pictures: give --input")
    return folder


def _draw(strips: Sequence[_Strip], files: Sequence[Path]) -> Image.Image:
    across = len(strips)
    natural = min(max(strips[0].pictures[0].shape[0], 160), _LARGEST_CELL)
    cell = max(_SMALLEST_CELL, min(natural, (_WIDEST_SHEET - _GAP) // across - _GAP))
    header = _GAP + _TITLE_LINES * _LINE
    sheet = Image.new("RGB", (_GAP + across * (cell + _GAP), header + len(files) * (cell + _CAPTION)), _PAPER)
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(13), ImageFont.load_default(11)
    for column, strip in enumerate(strips):
        left = _GAP + column * (cell + _GAP)
        for line, text in enumerate(strip.titles):
            ink = _INK if line == 0 else _FAINT
            draw.text((left, 4 + line * _LINE), _fitting(text, large, cell), fill=ink, font=large)
        for row, pixels in enumerate(strip.pictures):
            top = header + row * (cell + _CAPTION)
            sheet.paste(_shown(pixels).resize((cell, cell), Image.Resampling.LANCZOS), (left, top))
            if column == 0:
                draw.text((left, top + cell + 2), _fitting(files[row].name, small, cell), fill=_FAINT, font=small)
    return sheet


def _shown(pixels: np.ndarray) -> Image.Image:
    """H x W x C of uint8 or uint16 as RGB: grey is repeated, of more channels the first three are taken."""
    if pixels.dtype == np.uint16:
        pixels = np.round(pixels / 257.0).astype(np.uint8)
    pixels = np.repeat(pixels[..., :1], 3, axis=-1) if pixels.shape[-1] < 3 else pixels[..., :3]
    return Image.fromarray(np.ascontiguousarray(pixels))


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its middle left out where it is wider than `width` pixels."""
    text = printable(text)
    fitting, keep = text, len(text)
    while font.getlength(fitting) > width and keep > 4:
        keep -= 1
        fitting = f"{text[: keep // 2]}...{text[len(text) - (keep - keep // 2) :]}"
    return fitting
