"""Contact sheets: pages of before | after, from the manifest and the files on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cyclestyle.checkpoint import replacing
from cyclestyle.data.decode import decode, quiet, reasons
from cyclestyle.data.jpeg import refuse_many_scans
from cyclestyle.errors import CyclestyleError
from cyclestyle.inference.arrays import as_picture
from cyclestyle.inference.manifest import Row

_THUMBNAIL = 256
_COLUMNS, _ROWS = 3, 4  # pairs
_GAP, _LABEL = 12, 20
_PAPER, _INK, _MISSING = (255, 255, 255), (40, 40, 40), (225, 225, 225)


def write_contact_sheets(rows: Sequence[Row], output: Path, *, side_by_side: bool = False) -> list[Path]:
    """Write contact_sheet_001.png ... of 3 x 4 pairs each into the output folder.

    Args:
        rows: of the manifest; those whose output exists are shown, in their order.
        output: the folder that the rows' outputs are relative to.
        side_by_side: each output is source | translation already; its right half is the translation.

    Returns:
        The pages. Where an output is called so itself, they are called contact_sheet_2_001.png and so on.
    """
    shown = [row for row in rows if row["status"] != "failed" and (output / row["output"]).is_file()]
    stem = _free_stem({row["output"].lower() for row in rows if row["output"]})
    pages = []
    each = _COLUMNS * _ROWS
    for number, start in enumerate(range(0, len(shown), each), start=1):
        path = output / f"{stem}_{number:03d}.png"
        with replacing(path) as partial:
            _page(shown[start : start + each], output, side_by_side).save(partial)
        pages.append(path)
    return pages


def _free_stem(outputs: set[str]) -> str:
    stem, number = "contact_sheet", 2
    while any(name.startswith(stem + "_") and name.endswith(".png") for name in outputs):
        stem, number = f"contact_sheet_{number}", number + 1
    return stem


def _page(rows: Sequence[Row], output: Path, side_by_side: bool) -> Image.Image:
    pair = 2 * _THUMBNAIL + _GAP // 2
    across, down = min(_COLUMNS, len(rows)), -(-len(rows) // _COLUMNS)
    size = across * (pair + _GAP) + _GAP, down * (_THUMBNAIL + _LABEL + _GAP) + _GAP
    page = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for index, row in enumerate(rows):
        left = _GAP + index % _COLUMNS * (pair + _GAP)
        top = _GAP + index // _COLUMNS * (_THUMBNAIL + _LABEL + _GAP)
        after = thumbnail(output / row["output"], right_half=side_by_side)
        for image, x in ((thumbnail(Path(row["input"])), left), (after, left + _THUMBNAIL + _GAP // 2)):
            page.paste(image, (x + (_THUMBNAIL - image.width) // 2, top + (_THUMBNAIL - image.height) // 2))
        draw.text((left, top + _THUMBNAIL + 4), _fitting(row["output"], font, pair), fill=_INK, font=font)
    return page


def thumbnail(path: Path, *, right_half: bool = False) -> Image.Image:
    """A picture of any kind, upright, its longer side at most 256 pixels; grey where it cannot be read."""
    try:
        image = _small_jpeg(path, 2 if right_half else 1) or _whole(path)
    except (CyclestyleError, OSError, MemoryError):
        return Image.new("RGB", (_THUMBNAIL, _THUMBNAIL), _MISSING)
    if right_half:
        image = image.crop((image.width // 2, 0, image.width, image.height))
    scale = min(1.0, _THUMBNAIL / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)


def _small_jpeg(path: Path, factor: int) -> Image.Image | None:
    """A JPEG decoded at an eighth to the whole of its size, whichever is enough; None: no JPEG."""
    with open(path, "rb") as file:
        if file.read(3) != b"\xff\xd8\xff":
            return None
    with reasons(path), quiet:
        refuse_many_scans(path)
        with Image.open(path, formats=["JPEG"]) as image:
            image.draft("RGB", (2 * factor * _THUMBNAIL, 2 * _THUMBNAIL))
            return ImageOps.exif_transpose(image).convert("RGB")


def _whole(path: Path) -> Image.Image:
    """Any picture as 8-bit RGB over white; of many channels the first three."""
    try:
        return as_picture(decode(path, 3))
    except CyclestyleError:
        return as_picture(_array(path))


def _array(path: Path) -> np.ndarray:
    """H x W x 3 of a .npy with another number of channels; `CyclestyleError` or `OSError` where it is none."""
    if path.suffix.lower() != ".npy":
        raise OSError(f"{path}: not shown")
    with reasons(path):
        channels = np.load(path, mmap_mode="r", allow_pickle=False).shape[-1]
    return decode(path, channels)[..., [0, min(1, channels - 1), min(2, channels - 1)]]


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its middle left out where it is too long; what a font cannot draw as question marks."""
    text = text.encode("utf-8", "replace").decode()
    short, keep = text, len(text)
    while font.getlength(short) > width and keep > 8:
        keep -= 1
        short = text[: keep // 2] + "..." + text[len(text) - keep // 2 :]
    return short
