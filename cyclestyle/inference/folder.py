"""Translating files: a folder in, a mirrored folder out; every file that fails is named and counted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cyclestyle.checkpoint import replacing
from cyclestyle.data.decode import decode
from cyclestyle.data.folders import list_images
from cyclestyle.errors import CheckpointError, CyclestyleError, DataError
from cyclestyle.inference.files import describe
from cyclestyle.inference.translator import Translator, as_picture

logger = logging.getLogger("cyclestyle")

# Formats that are written back as they came; anything else becomes PNG.
_KEPT: dict[str, dict[str, Any]] = {
    ".jpg": {"quality": 95, "subsampling": 0},
    ".jpeg": {"quality": 95, "subsampling": 0},
    ".png": {},
    ".webp": {"quality": 95},
    ".tif": {},
    ".tiff": {},
    ".bmp": {},
}


def translate_folder(
    *,
    run: Path | None = None,
    checkpoint: Path | None = None,
    to: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> int:
    """Translate a file or a folder with all its sub-folders; prints the summary and the output folder.

    Args:
        run: run folder; None with no checkpoint: the newest under `runs`.
        checkpoint: a checkpoint or translator file instead of a run.
        to: domain to translate to; None: the run's second.
        input: file or folder; None: the run's test images of the source domain.
        output: None: `translated/<source>_to_<target>` in the run folder, or beside the checkpoint's folder.

    Returns:
        Exit code: 0 all translated, 1 some failed.

    Raises:
        CyclestyleError: nothing could be started.
    """
    if checkpoint is None:
        run = run or newest_run(Path("runs"))
    source = checkpoint or run
    assert source is not None
    translator = Translator.load(source, to, device=device, precision=precision)
    logger.info("translating %s (%s, %s)", describe(translator.spec), translator.device.type, translator.precision.name)
    if input is None:
        input = _test_folder(run, translator.spec.direction)
    output = output or (run or source.parent) / "translated" / f"{translator.spec.source}_to_{translator.spec.target}"
    files = [input] if input.is_file() else list_images(input, key="--input")
    root = input.parent if input.is_file() else input
    targets = output_paths(files, root, output)
    _check_output(input, output, targets)
    failed = 0
    with logging_redirect_tqdm([logger]):
        for file, target in tqdm(targets, desc="translating", unit="image", dynamic_ncols=True):
            try:
                translate_file(translator, file, target)
            except CyclestyleError as error:  # names the file itself
                failed += 1
                logger.warning("failed: %s", error)
            except (OSError, MemoryError, RuntimeError) as error:  # RuntimeError: what torch has no memory for
                failed += 1
                logger.warning("failed: %s: %s", file, str(error).partition("\n")[0])
    print(f"translated: {len(files) - failed} of {len(files)}, failed: {failed}, skipped: 0")
    print(output)
    return 1 if failed else 0


def translate_file(translator: Translator, file: Path, target: Path) -> None:
    """Translate one file; `target` appears whole or not at all."""
    translated = translator.pixels(decode(file, translator.spec.channels))
    target.parent.mkdir(parents=True, exist_ok=True)
    _write(translated, target)


def _write(pixels: np.ndarray, target: Path) -> None:
    """H x W x C uint8 or uint16 to an image file; 16 bits survive in grey PNG and TIFF, arrays in .npy."""
    with replacing(target) as partial:
        if target.suffix == ".npy":
            np.save(partial, pixels, allow_pickle=False)
            return
        if pixels.shape[-1] not in (1, 3):
            raise DataError(
                f"{target}: {pixels.shape[-1]} channels can only be written as .npy; give .npy files as input"
            )
        if pixels.dtype == np.uint16 and target.suffix.lower() not in (".png", ".tif", ".tiff"):
            pixels = np.round(pixels / 257.0).astype(np.uint8)
        as_picture(pixels).save(partial, **_KEPT[target.suffix.lower()])


def output_paths(files: list[Path], root: Path, output: Path) -> list[tuple[Path, Path]]:
    """Where each file goes: the same place and name under `output`, so far as the format can be written.

    A format that cannot be written becomes PNG; where that name is taken, the old suffix stays inside it (x.gif.png).
    """
    kept = {file.relative_to(root) for file in files if file.suffix.lower() in (*_KEPT, ".npy")}
    pairs = []
    for file in files:
        place = file.relative_to(root)
        if place not in kept:
            place = place.with_suffix(".png") if place.with_suffix(".png") not in kept else place
            while place in kept or place.suffix != ".png":
                place = place.with_name(place.name + ".png")
            kept.add(place)
        pairs.append((file, output / place))
    return pairs


def _check_output(input: Path, output: Path, targets: list[tuple[Path, Path]]) -> None:
    """Refuse to write where the input is read from."""
    root, place = input.resolve(), output.resolve()
    if input.is_dir() and (place == root or root in place.parents):
        raise DataError(f"the output folder {output} lies in the input {input}: choose another --output")
    if output.exists() and not output.is_dir():
        raise DataError(f"the output {output} is a file, needed is a folder: choose another --output")
    sources = {file.resolve() for file, _ in targets}
    for file, target in targets:
        if target.resolve() in sources:
            raise DataError(f"the translation of {file} would replace an input, {target}: choose another --output")


def newest_run(runs: Path) -> Path:
    """The run folder under `runs` whose translators were written last.

    Raises:
        CheckpointError: there is none.
    """
    found = [path.parent.parent for path in runs.glob("*/translators/*.safetensors")]
    if not found:
        raise CheckpointError(
            f"no trained run in {runs.resolve()}: train one with train.py, or give --run or --checkpoint"
        )
    return max(found, key=lambda run: max(file.stat().st_mtime for file in (run / "translators").iterdir()))


def _test_folder(run: Path | None, direction: str) -> Path:
    """The test folder of the source domain, as the run's config has it."""
    if run is None:
        raise DataError("--checkpoint was given without --input: say which file or folder to translate")
    from cyclestyle.config.loading import load_config
    from cyclestyle.data.folders import find_domain

    config = load_config(run / "config.yaml")
    letter: Literal["a", "b"] = "a" if direction == "ab" else "b"
    folders = find_domain(config.data.root, config.data.a if letter == "a" else config.data.b, letter)
    if folders.test is None:
        raise DataError(f"the run in {run} has no test folder (data.{letter}.test): give --input")
    return folders.test
