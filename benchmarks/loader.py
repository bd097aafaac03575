"""Times the loader alone: batches taken as fast as they come, and what an image costs on its way.

    python benchmarks/loader.py                            # rendered landscapes of 286 px, as JPEG
    python benchmarks/loader.py --photographs FOLDER       # one's own, their shorter side brought to 286 and 2000 px
    python benchmarks/loader.py --device cuda --workers 0 4 8 15 --batch 1 16   # into pinned memory

An image is one of either domain: a step of batch 1 takes two. `main` and `workers` are ms of processor time an
image, of the process that trains and of all workers together; "cores for 1000/s" is their sum: how many cores are busy
where 1000 images a second are wanted. Starting and ending workers is left out: processor time is the difference between
a long pass and a short one, the clock runs from the moment on at which all that was prepared ahead has been taken. Of
each cell the best of `--repeats` passes counts, since others may use the machine.

The second table is one process going step by step, without queues.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cyclestyle import images  # noqa: E402
from cyclestyle.config.schema import DataConfig, DomainConfig  # noqa: E402
from cyclestyle.data.decode import decode  # noqa: E402
from cyclestyle.data.landscapes import render_landscape  # noqa: E402
from cyclestyle.data.loader import Data, build_data  # noqa: E402
from cyclestyle.data.sampling import sample_seed  # noqa: E402
from cyclestyle.data.transforms import build_augment, build_resize  # noqa: E402

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")
NUM_FILES = {286: 120, 2000: 12}
"""Of each domain; copies of fewer pictures, under names of their own."""


@dataclass(frozen=True)
class Cost:
    """What a pass took.

    Attributes:
        images_per_second: of both domains, by the clock.
        main: milliseconds of processor time an image.
        workers: the same of all worker processes.
    """

    images_per_second: float
    main: float
    workers: float


def write_pictures(root: Path, side: int, photographs: list[Path]) -> int:
    """trainA and trainB of JPEGs whose shorter side is `side`; how many in each."""
    count = NUM_FILES.get(side, 24)
    for domain, folder in enumerate(("trainA", "trainB")):
        (root / folder).mkdir(parents=True)
        made: list[Path] = []
        for index in range(count):
            file = root / folder / f"{index:04d}.jpg"
            if index < min(count, 12, len(photographs) or 12):
                picture = (
                    Image.open(photographs[index]).convert("RGB")
                    if photographs
                    else Image.fromarray(render_landscape((0, 1 + domain, index), side))
                )
                scale = side / min(picture.size)
                size = round(picture.width * scale), round(picture.height * scale)
                picture.resize(size, Image.Resampling.LANCZOS).save(file, quality=92)
                made.append(file)
            else:
                shutil.copyfile(made[index % len(made)], file)
    return count


def config_of(root: Path, crop: int, *, cached: bool, num_workers: int) -> DataConfig:
    """The paper's: resized to 286 of 256, random crop, flip."""
    return DataConfig(
        root=str(root), a=DomainConfig(name="a"), b=DomainConfig(name="b"), load_size=round(crop * 286 / 256),
        crop_size=crop, cache="on" if cached else "off", num_workers=num_workers,
    )  # fmt: skip


@dataclass(frozen=True)
class Pass:
    """One way through some batches: how many images, images/s, seconds of processor time here and in the workers."""

    num_images: int
    images_per_second: float
    here: float
    workers: float


def take(data: Data, batch: int, num_batches: int) -> Pass:
    """Take so many batches as fast as they come."""
    ahead = min(num_batches - 1, 1 + 2 * data.num_workers)
    here, workers, started = processor_seconds(resource.RUSAGE_SELF), processor_seconds(resource.RUSAGE_CHILDREN), 0.0
    for number, _ in enumerate(data.batches(0, num_batches, batch), start=1):
        if number == ahead:
            started = time.perf_counter()
    speed = 2 * batch * (num_batches - ahead) / (time.perf_counter() - started)
    here = processor_seconds(resource.RUSAGE_SELF) - here
    workers = processor_seconds(resource.RUSAGE_CHILDREN) - workers
    return Pass(2 * batch * num_batches, speed, here, workers)


def processor_seconds(whose: int) -> float:
    """Of this process, or of its children that have ended."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def measure(data: Data, batch: int, num_images: int, repeats: int) -> Cost:
    """The best of some passes."""
    num_batches = max(8, num_images // (2 * batch))
    long = [take(data, batch, num_batches) for _ in range(repeats)]
    short = [take(data, batch, num_batches // 4) for _ in range(repeats)]
    milliseconds = 1e3 / (long[0].num_images - short[0].num_images)
    return Cost(
        max(one.images_per_second for one in long),
        (min(one.here for one in long) - min(one.here for one in short)) * milliseconds,
        (min(one.workers for one in long) - min(one.workers for one in short)) * milliseconds,
    )


def print_speeds(args: argparse.Namespace, roots: dict[int, Path]) -> None:
    """A row for each source, crop, batch and number of workers."""
    print(f"\n{'source':>16} {'crop':>5} {'batch':>5} {'workers':>7} {'images/s':>9} {'main ms':>8} {'workers ms':>10} "
          f"{'cores for 1000/s':>16}")  # fmt: skip
    for side, cached in [(next(iter(roots)), True), *((side, False) for side in roots)]:
        name = "memory" if cached else f"JPEG of {side} px"
        num_images = args.images if cached or side <= 512 else max(32, args.images // 10)
        for crop in args.crop:
            for num_workers in args.workers:
                config = config_of(roots[side], crop, cached=cached, num_workers=num_workers)
                data = build_data(config, seed=0, device_type=args.device)
                for batch in args.batch:
                    cost = measure(data, batch, num_images, args.repeats)
                    print(f"{name:>16} {crop:>5} {batch:>5} {num_workers:>7} {cost.images_per_second:>9.0f} "
                          f"{cost.main:>8.2f} {cost.workers:>10.2f} {cost.main + cost.workers:>16.1f}",
                          flush=True)  # fmt: skip


def processor_milliseconds(work: Callable[[int], object], times: int) -> float:
    """Of one call, the least of five averages."""
    averages = []
    for number in range(5):
        started = time.process_time()
        for index in range(number * times, (number + 1) * times):
            work(index)
        averages.append((time.process_time() - started) / times)
    return 1e3 * min(averages)


def pieces(root: Path, side: int, crop: int, batch: int) -> Iterator[tuple[str, float]]:
    """The steps of an image's way, each alone."""
    config = config_of(root, crop, cached=False, num_workers=0)
    files = sorted((root / "trainA").iterdir())
    resize, augment = build_resize(config), build_augment(config)
    times = 20 if side <= 512 else 2
    yield "decode", processor_milliseconds(lambda index: decode(files[index % len(files)], 3), times)
    decoded = [decode(file, 3) for file in files[:12]]
    yield "resize", processor_milliseconds(lambda index: resize(decoded[index % len(decoded)]), times)
    resized = [resize(pixels) for pixels in decoded]
    yield "out of memory", processor_milliseconds(lambda index: resized[index % len(resized)].copy(), 100)
    yield "seed", processor_milliseconds(lambda index: sample_seed(0, "a", index), 100)
    yield "crop, flip", processor_milliseconds(lambda index: augment(resized[index % len(resized)], index), 100)
    cropped = augment(resized[0], 0)
    yield "to float32 planes", processor_milliseconds(lambda _: images.to_tensor(cropped), 100)
    made = [images.to_tensor(cropped) for _ in range(batch)]
    out = torch.empty(batch, *made[0].shape)
    yield "into the batch", processor_milliseconds(lambda _: torch.stack(made, out=out), 100) / batch


def print_pieces(args: argparse.Namespace, roots: dict[int, Path]) -> None:
    """What each step costs by source and crop; resizing to a small crop's size costs less, so crops have their own."""
    columns = [(side, crop) for side in roots for crop in args.crop]
    table = [dict(pieces(roots[side], side, crop, max(args.batch))) for side, crop in columns]
    print("\nms of processor time an image" + "".join(f"{f'{side} px, crop {crop}':>19}" for side, crop in columns))
    for name in table[0]:
        print(f"{name:>29}" + "".join(f"{column[name]:>19.3f}" for column in table))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, metavar="FOLDER", help="use the pictures in it, not landscapes")
    parser.add_argument("--side", type=int, nargs="+", help="shorter sides of the JPEGs")
    parser.add_argument("--crop", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8], help="images of each domain in a batch")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=480, help="in a pass; a tenth of it for large files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="cuda: into pinned memory")
    args = parser.parse_args()
    photographs: list[Path] = []
    if args.photographs is not None:
        photographs = sorted(file for file in args.photographs.rglob("*") if file.suffix.lower() in SUFFIXES)[:12]
        if not photographs:
            parser.error(f"there are no pictures in --photographs {args.photographs}")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here: leave out --device cuda")
    torch.set_num_threads(1)  # as in workers, and processor time is not spent waiting
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, "
          f"{f'{len(photographs)} photographs' if photographs else 'rendered landscapes'}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        roots = {side: Path(folder) / str(side) for side in args.side or ([286, 2000] if photographs else [286])}
        for side, root in roots.items():
            write_pictures(root, side, photographs)
        print_speeds(args, roots)
        print_pieces(args, roots)


if __name__ == "__main__":
    main()
