"""Times the translation of a folder of JPEGs from disk to disk: `cyclestyle translate` and, beside it, another tool.

    python benchmarks/translate.py [--num-images 200] [--rounds 3] [--run RUN]
    python benchmarks/translate.py --other FOLDER    # a checkout of pytorch-CycleGAN-and-pix2pix, with the same weights

Every tool runs as a child process on the same pictures, with as many threads, and as it is shipped: ours writes a JPEG
a picture; the other's test.py, with `--preprocess none`, two PNGs and a line of HTML. The tools take turns (A B C, A B
C, ...), and the table holds medians over the rounds; a ratio is taken in each round, before its median, so that a
machine that becomes slower meanwhile counts on both sides.

The times at which the output files appeared are cut into blocks of a tenth of the pictures, and the median block tells
the time of an image: on machines that stall now and then, whole runs would compare stalls. Tools that work ahead, in
threads or batches, gain nothing by it but within a block. Start-up is the time until the first picture, less one:
the interpreter, imports, weights, the first call of every kernel.

`network` is one pass of the generator alone on one picture, in a child of the same precision and threads; its share of
an image's time can pass 100% where a tool runs several pictures side by side. Pictures are rendered landscapes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from cyclestyle.checkpoint import save_translator  # noqa: E402
from cyclestyle.config.rules import is_unet, resolved_blocks  # noqa: E402
from cyclestyle.config.schema import GeneratorConfig  # noqa: E402
from cyclestyle.data.landscapes import render_landscape  # noqa: E402
from cyclestyle.errors import CyclestyleError  # noqa: E402
from cyclestyle.inference.files import TranslatorSpec, read_translator  # noqa: E402
from cyclestyle.inference.translator import Translator  # noqa: E402
from cyclestyle.networks.build import build_generator  # noqa: E402

NETWORK_REPEATS = 10
NUM_BLOCKS = 10
PSNR_IMAGES = 32


@dataclass(frozen=True)
class Setting:
    """What all tools share: the pictures (`all`, `exact`) and the weights lie in `work`."""

    work: Path
    size: int
    num_images: int
    device: str
    environment: dict[str, str]
    generator: GeneratorConfig

    @property
    def translator(self) -> Path:
        """The weights as one of our files."""
        return self.work / "translator.safetensors"


@dataclass(frozen=True)
class Tool:
    """One row of the table; `other` is the other tool's checkout, None for ours."""

    name: str
    precision: str
    other: Path | None = None


@dataclass(frozen=True)
class Times:
    """Seconds of one tool in one round: until its first picture, an image, one pass of the network."""

    first: float
    image: float
    network: float


def run_child(command: list[str], setting: Setting, folder: Path) -> str:
    """stdout of a child process in `folder`; its failure ends the benchmark."""
    child = subprocess.run(command, cwd=folder, env=setting.environment, capture_output=True, text=True, check=False)
    if child.returncode:
        stop(f"{' '.join(command)}\nended with {child.returncode}:\n{child.stderr[-2000:]}")
    return child.stdout


def translate(tool: Tool, setting: Setting, pictures: str, output: Path | None = None) -> list[float]:
    """Seconds after which a child of `tool` had each picture of the folder `pictures` translated, in order."""
    source = setting.work / pictures
    wanted = sum(1 for _ in source.iterdir())
    target = output or setting.work / "output"
    shutil.rmtree(target, ignore_errors=True)
    started = time.time()
    if tool.other is None:
        command = [sys.executable, "test.py", "--checkpoint", str(setting.translator), "--input", str(source)]
        command += ["--output", str(target), "--precision", tool.precision, "--device", setting.device]
        run_child(command, setting, REPOSITORY)
        found = [file for file in target.iterdir() if file.suffix in (".jpg", ".png")]
    else:
        command = [sys.executable, "test.py", "--model", "test", "--name", "same", "--dataroot", str(source)]
        command += ["--checkpoints_dir", str(setting.work / "checkpoints"), "--results_dir", str(target)]
        command += ["--no_dropout", "--preprocess", "none", "--num_test", str(wanted)]
        command += ["--ngf", str(setting.generator.filters), "--netG", other_name(setting.generator)]
        run_child(command, setting, tool.other)
        found = list(target.rglob("*_fake.png"))
    if len(found) != wanted:
        stop(f"{tool.name} translated {len(found)} of {wanted} pictures")
    return sorted(file.stat().st_mtime - started for file in found)


def time_network(tool: Tool, setting: Setting) -> float:
    """Seconds of one picture's pass through the generator alone, in a child."""
    command = [sys.executable, str(Path(__file__).resolve()), "--size", str(setting.size), "--device", setting.device]
    command += ["--filters", str(setting.generator.filters), "--precision", tool.precision]
    command += ["--network", str(setting.translator)]
    if tool.other is not None:
        command += ["--other", str(tool.other), "--network-name", other_name(setting.generator)]
    return float(run_child(command, setting, REPOSITORY))


def print_network_seconds(args: argparse.Namespace) -> None:
    """The child of `time_network`: median over passes of one picture, after three that warm up."""
    x = torch.rand(1, 3, args.size, args.size) * 2 - 1
    if args.other is None:
        translator = Translator.load(args.network, device=args.device, precision=args.precision[0])
        x, forward = x.to(translator.device), translator.tensor
    else:
        sys.path.insert(0, str(args.other))
        from models.networks import define_G  # type: ignore[import-not-found]  # the other tool's

        network = define_G(3, 3, args.filters, args.network_name, "instance", False)
        network.load_state_dict(read_translator(args.network, None)[1])
        x = x.to("cuda" if torch.cuda.is_available() else "cpu")
        forward = network.to(x.device)
    times = []
    with torch.no_grad():
        for _ in range(NETWORK_REPEATS + 3):
            started = time.perf_counter()
            forward(x).sum().item()  # .item() waits for a GPU
            times.append(time.perf_counter() - started)
    print(statistics.median(times[3:]))


def measure(tool: Tool, setting: Setting) -> Times:
    """One round of one tool."""
    moments = translate(tool, setting, "all")
    return Times(moments[0], image_seconds(moments), time_network(tool, setting))


def image_seconds(moments: list[float]) -> float:
    """Seconds an image: the median over blocks of a tenth of the pictures."""
    block = max(1, (len(moments) - 1) // NUM_BLOCKS)
    starts = range(0, len(moments) - block, block)
    return statistics.median((moments[start + block] - moments[start]) / block for start in starts)


def make_weights(args: argparse.Namespace) -> tuple[TranslatorSpec, dict[str, torch.Tensor]]:
    """The trained generator that was asked for, else a random one."""
    trained = args.run or args.checkpoint
    if trained is not None:
        return read_translator(trained, args.to)
    config = GeneratorConfig(filters=args.filters, blocks=args.blocks)
    torch.manual_seed(args.seed)
    spec = TranslatorSpec(
        source="photo",
        target="random",
        direction="ab",
        generator=asdict(config),
        channels=3,
        resize="none",
        load_size=args.size,
        crop_size=args.size,
    )
    return spec, build_generator(config, 3).state_dict()


def other_name(generator: GeneratorConfig) -> str:
    """What the other tool calls this generator."""
    return f"resnet_{resolved_blocks(generator)}blocks"


def other_can_load(generator: GeneratorConfig) -> bool:
    """Whether the other tool builds this very network: then the state dict is its own too."""
    same = (generator.norm, generator.upsample, generator.padding) == ("instance", "transpose", "reflect")
    return same and not is_unet(generator) and resolved_blocks(generator) in (6, 9) and generator.dropout == 0


def write_pictures(work: Path, num_images: int, size: int) -> None:
    """`all`: the JPEGs; `exact`: some as PNG, so that translations are PNG as well."""
    for name in ("all", "exact"):
        (work / name).mkdir()
    for index in range(num_images):
        file = work / "all" / f"{index:05d}.jpg"
        Image.fromarray(render_landscape((0, 3, index), size)).save(file, quality=95)
        if index < PSNR_IMAGES:
            Image.open(file).save(work / "exact" / f"{index:05d}.png")


def psnr(tool: Tool, setting: Setting) -> float:
    """PSNR in dB of a precision of ours against fp32, over all 8-bit values of all pictures; no JPEG in between."""
    outputs = [setting.work / "exact_fp32", setting.work / "exact_other"]
    for precision, output in zip(("fp32", tool.precision), outputs, strict=True):
        translate(Tool(precision, precision), setting, "exact", output)
    errors = []
    for file in sorted(outputs[0].glob("*.png")):
        pair = [np.asarray(Image.open(output / file.name), dtype=np.float64) for output in outputs]
        errors.append(np.mean((pair[0] - pair[1]) ** 2))
    mean = float(np.mean(errors))
    return 10 * float(np.log10(255**2 / mean)) if mean else float("inf")


def print_table(tools: list[Tool], base: Tool, rounds: dict[Tool, list[Times]]) -> None:
    """Medians over the rounds; the ratio is taken in each round first."""
    versus = f"x {base.name}"
    columns = ("images/s", "s/image", "(range)", "start-up s", "network s", "share", versus)
    widths = (9, 9, 17, 11, 10, 7, max(8, len(versus) + 2))
    print(f"{'':>18}" + "".join(f"{name:>{width}}" for name, width in zip(columns, widths, strict=True)))
    seconds = {tool: [times.image for times in rounds[tool]] for tool in tools}
    for tool in tools:
        image = statistics.median(seconds[tool])
        startup = statistics.median(times.first for times in rounds[tool]) - image
        network = statistics.median(times.network for times in rounds[tool])
        ratio = statistics.median(b / a for a, b in zip(seconds[tool], seconds[base], strict=True))
        spread = f"{min(seconds[tool]):.4f}-{max(seconds[tool]):.4f}"
        cells = (f"{1 / image:.2f}", f"{image:.4f}", spread, f"{startup:.1f}", f"{network:.4f}")
        row = (*cells, f"{network / image:.0%}", f"{ratio:.2f}")
        print(f"{tool.name:>18}" + "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


def stop(message: str) -> NoReturn:
    """End with a message and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def parse_arguments() -> argparse.Namespace:
    """The command line; the last two options are for this script's own children."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--run", type=Path, help="a trained run; without it random weights")
    weights.add_argument("--checkpoint", type=Path, help="a checkpoint or translator file")
    parser.add_argument("--to", metavar="DOMAIN", help="which of a run's translators")
    parser.add_argument("--other", type=Path, metavar="FOLDER", help="checkout of pytorch-CycleGAN-and-pix2pix")
    parser.add_argument("--num-images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--filters", type=int, default=64, help="of the random generator")
    parser.add_argument("--blocks", type=int, default=9, help="of the random generator")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16", "fp16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda", "mps"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every child (OMP_NUM_THREADS)")
    parser.add_argument("--network", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--network-name", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.num_images < 2 or args.rounds < 1:
        parser.error("needed are --num-images of 2 or more and --rounds of 1 or more")
    if args.other is not None and not (args.other / "test.py").is_file():
        parser.error(f"there is no test.py in --other {args.other}")
    return args


def child_environment(args: argparse.Namespace) -> dict[str, str]:
    """This process's variables, with the number of threads, and GPUs hidden where the processor was asked for."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    return environment | ({"CUDA_VISIBLE_DEVICES": ""} if args.device == "cpu" else {})


def run_benchmark(args: argparse.Namespace, work: Path) -> None:
    """Make weights and pictures in `work`, measure, print."""
    spec, weights = make_weights(args)
    generator = GeneratorConfig(**spec.generator)
    if spec.channels != 3:
        stop(f"a generator of {spec.channels} channels was given, needed are 3")
    setting = Setting(work, args.size, args.num_images, args.device, child_environment(args), generator)
    save_translator(setting.translator, weights, asdict(spec))
    tools = [Tool(f"cyclestyle {name}", name) for name in args.precision]
    if args.other is not None:
        if not other_can_load(generator) or args.size % 4:
            stop("the other tool has no such generator, or rounds this size: leave out --other")
        (work / "checkpoints" / "same").mkdir(parents=True)
        torch.save(dict(weights), work / "checkpoints" / "same" / "latest_net_G.pth")
        tools.append(Tool("other fp32", "fp32", args.other.resolve()))
    write_pictures(work, args.num_images, args.size)
    trained = args.run or args.checkpoint
    print(f"torch {torch.__version__}, device {args.device}, {args.threads} threads, {os.cpu_count()} cores")
    print(f"{args.num_images} pictures of {args.size}x{args.size}, {args.rounds} rounds; {generator.name}, ", end="")
    print(
        f"{generator.filters} filters, {f'weights of {trained}' if trained else f'random weights (seed {args.seed})'}"
    )
    for tool in tools:
        time_network(tool, setting)  # reads programs and libraries into the page cache
    rounds: dict[Tool, list[Times]] = {tool: [] for tool in tools}
    for _ in range(args.rounds):
        for tool in tools:
            rounds[tool].append(measure(tool, setting))
    base = next((tool for tool in tools if tool.other), next((t for t in tools if t.precision == "fp32"), tools[0]))
    print_table(tools, base, rounds)
    for tool in tools if trained else ():
        if tool.precision != "fp32":
            count = min(args.num_images, PSNR_IMAGES)
            print(f"{tool.precision} against fp32: {psnr(tool, setting):.1f} dB over {count} pictures")


def main() -> None:
    """Print the table, or, as a child, the seconds of a network."""
    args = parse_arguments()
    if args.network is not None:
        print_network_seconds(args)
        return
    try:
        with tempfile.TemporaryDirectory() as folder:
            run_benchmark(args, Path(folder).resolve())
    except CyclestyleError as error:
        stop(str(error))


if __name__ == "__main__":
    main()
