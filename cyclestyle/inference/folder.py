"""Translating in bulk: a folder, glob or list in, a mirrored folder and its account out; in one process or several."""

from __future__ import annotations

import logging
import signal
import threading
import time
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

import torch
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from cyclestyle.distributed import GroupError, joined, launched_processes, local_rank, rank, sum_over_processes
from cyclestyle.errors import CheckpointError, ConfigError, DataError
from cyclestyle.inference.contact_sheet import write_contact_sheets
from cyclestyle.inference.files import describe
from cyclestyle.inference.inputs import list_inputs
from cyclestyle.inference.manifest import STATUSES, read_manifest, sweep
from cyclestyle.inference.options import Options
from cyclestyle.inference.plan import Plan, make_plan
from cyclestyle.inference.share import Result, iterate_share
from cyclestyle.inference.translator import Tile, Translator

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["Options", "Result", "iterate_folder", "newest_run", "translate_folder"]

logger = logging.getLogger("cyclestyle")


def translate_folder(
    *,
    run: Path | None = None,
    checkpoint: Path | None = None,
    best: bool = False,
    to: str | None = None,
    input: Path | None = None,
    output: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    tile: Tile = "auto",
    memory_limit: int | None = None,
    options: Options | None = None,
) -> int:
    """Translate a file, folder, glob or list; prints the summary and the output folder.

    Started by torchrun, each process takes its share, and the first one prints the summary of all.

    Args:
        run: run folder; None with no checkpoint: the newest under `runs`.
        checkpoint: a checkpoint or translator file instead of a run.
        best: the run's best checkpoint in place of its newest weights.
        to: domain to translate to; None: the run's second.
        input: as `list_inputs` takes it; None: the run's test images of the source domain.
        output: None: `translated/<source>_to_<target>` in the run folder, or in the current folder for a file outside.
        device, precision, tile, memory_limit: as `Translator.load` takes them.
        options: None: the defaults.

    Returns:
        Exit code: 0 all done, 1 some failed.

    Raises:
        CyclestyleError: nothing could be started, or the disk is full.
    """
    if str(input) == "-" and launched_processes() > 1:
        raise ConfigError(
            f"--input - was given to {launched_processes()} processes, but one alone has the standard input: "
            "write the list to a .txt file"
        )
    if torch.cuda.is_available() and device in ("auto", "cuda"):
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    if checkpoint is None:
        run = run or newest_run(Path("runs"))
    elif best:
        raise ConfigError(f"--best was given with --checkpoint {checkpoint}: it is of a run folder, --run")
    source = checkpoint or run
    assert source is not None
    translator = Translator.load(
        source, to, best=best, device=device, precision=precision, tile=tile, memory_limit=memory_limit
    )
    spec = translator.spec
    if rank() == 0:
        logger.info("translating %s (%s, %s)", describe(spec), translator.device.type, translator.precision.name)
    listing = list_inputs(_test_folder(run, spec.direction) if input is None else input)
    output = output or _home(run, source) / "translated" / f"{spec.source}_to_{spec.target}"
    plan = make_plan(listing, output, options or Options())
    with ExitStack() as stack:
        try:
            group = stack.enter_context(joined())
        except GroupError as error:
            raise ConfigError(str(error)) from error
        return _translate_together(translator, plan, group)


def iterate_folder(
    translator: Translator, input: str | Path, output: str | Path, options: Options | None = None
) -> Iterator[Result]:
    """Translate a file, folder, glob or list as the command does, in this process alone.

    Args:
        translator: what translates.
        input: as `list_inputs` takes it.
        output: folder; the input's tree is mirrored in it, beside a manifest.jsonl.
        options: None: the defaults.

    Returns:
        A result an input, in the listing's order, as they are done. Closing it early keeps what is done.

    Raises:
        CyclestyleError: at once, where nothing could be started; on the way, where the disk is full. What is wrong
            with one input is in its result.
    """
    plan = make_plan(list_inputs(input), Path(output), options or Options())
    sweep(plan.output)
    return _all_and_sheets(translator, plan)


def _all_and_sheets(translator: Translator, plan: Plan) -> Generator[Result, None, None]:
    with closing(iterate_share(translator, plan)) as results:
        yield from results
    _write_sheets(plan)


def _translate_together(translator: Translator, plan: Plan, group: ProcessGroup | None) -> int:
    """This process's share, then the account of all: 0 or 1."""
    is_first = rank() == 0
    if is_first:
        sweep(plan.output)
    world = launched_processes()
    checksum = zlib.crc32(
        "\0".join(file.row["input"] + "\0" + file.row["output"] for file in plan.files).encode(errors="replace")
    )
    if sum_over_processes([checksum], group) != [world * checksum]:  # nobody starts before the sweep is done
        raise DataError("the processes see different inputs: give them the same --input, on a disk that they share")
    counts = _translate_share(translator, plan)
    is_whole = True
    try:
        totals = sum_over_processes([counts[status] for status in STATUSES], group)
    except RuntimeError:
        logger.error("another process did not finish its share: give the same command again, it does what is missing")
        is_whole = False
        if is_first:
            totals = _totals_without_the_lost(plan)
    if is_first:
        _write_sheets(plan)
        print("translated: {} of {}, failed: {}, skipped: {}".format(totals[0], sum(totals), *totals[1:]))
        print(plan.output, flush=True)
    if not is_whole:
        return 1
    sum_over_processes([0], group)  # a launcher may end all when one has ended with 1
    return 1 if totals[1] else 0


def _translate_share(translator: Translator, plan: Plan) -> Counter[str]:
    """Translate with a progress bar; each failure is named."""
    counts: Counter[str] = Counter()
    num_files = len(plan.files[rank() :: launched_processes()])
    with (
        _ended_by_signals(),
        logging_redirect_tqdm([logger]),
        tqdm(total=num_files, desc="translating", unit="image", dynamic_ncols=True, disable=rank() > 0) as bar,
        closing(iterate_share(translator, plan, index=rank(), count=launched_processes())) as results,
    ):
        try:
            for result in results:
                counts[result.status] += 1
                if result.status == "failed":
                    logger.warning("failed: %s", result.error)
                bar.update()
        except (KeyboardInterrupt, SystemExit):
            logger.warning(
                "stopped after %d of %d files: the same command goes on from there", counts.total(), num_files
            )
            raise
    return counts


def _totals_without_the_lost(plan: Plan) -> list[int]:
    """Counts by status from the manifest, when all that live have finished; what nobody did counts as failed."""
    while sweep(plan.output):
        time.sleep(0.2)
    rows = read_manifest(plan.output)
    counts = Counter(rows[name]["status"] if (name := file.row["input"]) in rows else "failed" for file in plan.files)
    return [counts[status] for status in STATUSES]


def _write_sheets(plan: Plan) -> None:
    """The contact sheets, where they were asked for."""
    if plan.options.contact_sheet:
        rows = read_manifest(plan.output)
        listed = [rows[file.row["input"]] for file in plan.files if file.row["input"] in rows]
        try:
            pages = write_contact_sheets(listed, plan.output, side_by_side=plan.options.side_by_side)
        except OSError as error:
            raise DataError(f"contact sheets cannot be written to {plan.output} ({error}): free some space") from error
        logger.info("contact sheets: %d in %s", len(pages), plan.output)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end as Ctrl-C does: by an exception, so that what is being written is finished.

    A second one ends at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    watched = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    before = {number: signal.getsignal(number) for number in watched}

    def end(number: int, frame: FrameType | None) -> None:
        for each in watched:
            signal.signal(each, signal.SIG_DFL)
        raise SystemExit(128 + number)

    for number in watched:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def _home(run: Path | None, source: Path) -> Path:
    """Where `translated/` goes by default: the run folder, also for a file in one; else the current folder."""
    if run is not None:
        return run
    if source.is_dir():
        return source
    around = source.absolute().parent.parent
    return around if (around / "config.yaml").is_file() else Path()


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
