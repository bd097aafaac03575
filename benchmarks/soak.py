"""Kills a training again and again, and shows that what it leaves is, bit for bit, what an undisturbed one leaves.

    python benchmarks/soak.py                          # 50 kills, some minutes
    python benchmarks/soak.py --small-disk             # and a disk that fills up (a tmpfs, where it may be mounted)
    python benchmarks/soak.py --kills 500 --seed 1 --signals KILL

A small training with everything that has a state of its own (dropout, image pools, spectral norm, gradient penalty,
accumulation, averages) runs once without disturbance. Then the same command is started, killed and started again: at
random instants of its start, of its steps, and of its saving; by SIGKILL, SIGTERM and SIGINT; and now and then the
newest checkpoint is cut, emptied or one bit of it flipped while the training is down. At the end the final checkpoint,
the translators, the sample grids, the config and all rows of metrics.jsonl (but for what is timed) are compared.

Steps lost are those that metrics.jsonl (a row each 3 steps) knew of when the process died and that were taken again.
Exit code 1 where a file differs, more was lost than the interval of checkpoints, or a process ended in any other way
than it should.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIGNALS = {"KILL": signal.SIGKILL, "TERM": signal.SIGTERM, "INT": signal.SIGINT}
MOMENTS = {"start": 0.15, "step": 0.6, "save": 0.25}
"""When a process is killed, and how often."""
INTERVAL = 10
"""Steps between checkpoints."""
TIMED = ("seconds_per_step", "images_per_second", "data_wait", "doctor_data_wait", "memory_gb", "seconds")

SETTINGS = (
    "generator.dropout=0.3",
    "discriminator.spectral_norm=true",
    "discriminator.norm=none",
    "method.weights.gradient_penalty=1",
    "method.pool_size=5",
    "optimizer.accumulation=2",
    "train.batch_size=2",
    f"train.checkpoint_every={INTERVAL}",
    "train.device=cpu",
    "train.precision=fp32",
    "evaluate.every=0",
    "log.scalars_every=3",  # no divisor of the interval: sums are under way at checkpoints
    "log.samples_every=25",
    "output_dir=runs",
    "name=soak",
)


# ---------------------------------------------------------------------------------------------------- processes


class Process:
    """A training that was started: `python train.py` in a folder of its own, its output in a file.

    Args:
        folder: where it runs; the run folder is `runs/soak` there.
        settings: `key=value`s.
        largest_file: bytes; the system refuses more. 0: no limit.
    """

    def __init__(self, folder: Path, settings: list[str], largest_file: int = 0) -> None:
        self.log = folder / "log.txt"
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *arguments(settings)],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if largest_file:
            resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (largest_file, largest_file))

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended by itself gets none."""
        self._process.send_signal(number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code; minus a signal's number where that ended it."""
        return self._process.wait(seconds)


class Server:
    """Starts trainings as forks of one process that has imported everything: what a test has no time for otherwise."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __call__(self, folder: Path, settings: list[str], largest_file: int = 0) -> Fork:
        """As `Process`; one at a time."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {"folder": str(folder), "settings": settings, "largest_file": largest_file}
        self._server.stdin.write(json.dumps(order).encode() + b"\n")
        self._server.stdin.flush()
        return Fork(folder, self._server.stdout)

    def close(self) -> None:
        """End the server."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()


class Fork:
    """A training that a `Server` has started; see `Process`."""

    def __init__(self, folder: Path, answers: IO[bytes]) -> None:
        self.log = folder / "log.txt"
        self._answers = answers
        self._pid = int(_line_of(answers, 60))
        self._code: int | None = None

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        if self._code is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self._code is None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; one that has ended by itself gets none."""
        if self.is_running():
            os.kill(self._pid, number)

    def wait(self, seconds: float = 300) -> int:
        """Its exit code; minus a signal's number where that ended it."""
        if self._code is None:
            self._code = int(_line_of(self._answers, seconds))
        return self._code


Start = Callable[..., "Process | Fork"]


def _line_of(answers: IO[bytes], seconds: float) -> bytes:
    if not select.select([answers], [], [], seconds)[0]:
        raise TimeoutError(f"no answer in {seconds:g} s")
    text = b""
    while not text.endswith(b"\n"):  # by single bytes: what is buffered would hide from `select`
        byte = os.read(answers.fileno(), 1)
        assert byte, "the server has ended"
        text += byte
    return text


def serve() -> None:
    """The server's side: an order a line on stdin, its process id and later its exit code on stdout."""
    import torch

    import cyclestyle.training.run  # noqa: F401  (imported once, for all)
    from cyclestyle.cli.main import main as cyclestyle_main

    torch.use_deterministic_algorithms(False)  # imports even more
    torch.set_num_threads(1)
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        if (pid := os.fork()) == 0:
            os.chdir(order["folder"])
            log = os.open("log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for number, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
                os.dup2(number, target)
            if order["largest_file"]:
                resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"], order["largest_file"]))
            code = 1
            try:
                code = cyclestyle_main(["train", *arguments(order["settings"])])
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            finally:
                sys.stdout.flush()
                os._exit(code)
        os.write(1, f"{pid}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\n".encode())


def arguments(settings: list[str]) -> list[str]:
    """Of `train.py`."""
    return ["--config", str(ROOT / "configs" / "smoke.yaml"), *SETTINGS, *settings]


def environment() -> dict[str, str]:
    """One thread a process: more would wait for each other on networks this small."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


# ---------------------------------------------------------------------------------------------------- one run


@dataclass
class Outcome:
    """What a soak has seen.

    Attributes:
        kills: signal and moment of each, e.g. ("KILL", "save").
        codes: exit codes by signal.
        starts: processes in all.
        runs: that were killed on their way, and compared.
        lost: steps that were taken again after a kill, by signal.
        lost_by_damage: the same where the newest checkpoint had been damaged on top.
        damages: what was done to checkpoints, by kind.
        full_disks: processes that a full disk ended, as they should.
        num_compared: files and checkpoints compared at the end.
        wrong: what should not have happened, and files that differ.
        seconds: of all of it.
    """

    kills: list[tuple[str, str]] = field(default_factory=list)
    codes: dict[str, Counter[int]] = field(default_factory=dict)
    starts: int = 0
    runs: int = 0
    lost: dict[str, list[int]] = field(default_factory=dict)
    lost_by_damage: list[int] = field(default_factory=list)
    damages: Counter[str] = field(default_factory=Counter)
    full_disks: int = 0
    num_compared: int = 0
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0


def reached(folder: Path) -> int:
    """The last step that metrics.jsonl knows of."""
    try:
        lines = (folder / "runs" / "soak" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except ValueError:
            continue  # cut off
    return 0


def resumed(log: str) -> int | None:
    """The step that a process says it went on from; None: it did not come so far."""
    found = re.search(r"^steps: (\d+) done of", log, re.MULTILINE)
    return int(found[1]) if found else None


def checkpoints(folder: Path) -> list[Path]:
    """Those of the run, oldest first."""
    return sorted((folder / "runs" / "soak" / "checkpoints").glob("step_*.pt"))


def is_saving(folder: Path) -> bool:
    """Whether something is half written just now."""
    run = folder / "runs" / "soak"
    for part in ("checkpoints", "translators"):
        try:
            if any(".partial" in name for name in os.listdir(run / part)):
                return True
        except OSError:
            pass
    return False


def wait_for(moment: str, process: Process | Fork, folder: Path, chance: random.Random, num_steps: int) -> None:
    """Until a random instant of the moment, or the end of the process."""
    if moment == "start":
        began = time.monotonic()
        time.sleep(chance.uniform(0, 4 if isinstance(process, Process) else 1))
        assert time.monotonic() > began
        return
    before = reached(folder)
    wanted = chance.randint(1, num_steps)
    deadline = time.monotonic() + 300
    while process.is_running():
        assert time.monotonic() < deadline, f"no {moment} in five minutes"
        now = reached(folder)
        before = min(before, now)  # the start drops rows beyond its checkpoint
        if is_saving(folder) if moment == "save" else now >= before + wanted:
            break
        time.sleep(0.0005)
    if moment == "step":
        time.sleep(chance.uniform(0, 0.1))
    else:
        time.sleep(chance.choice((0, 0, 0.001, 0.003, 0.01)))


def damage(path: Path, chance: random.Random) -> str:
    """Do to a file what disks and file systems do; says what."""
    data = bytearray(path.read_bytes())
    kind = chance.choice(("cut", "empty", "bit", "zeros"))
    if kind == "cut":
        data = data[: chance.randrange(1, len(data))]
    elif kind == "empty":
        data = bytearray()
    elif kind == "bit":
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    else:
        place = chance.randrange(max(1, len(data) - 4096))
        data[place : place + 4096] = bytes(len(data[place : place + 4096]))
    if data == path.read_bytes():
        data[-1] ^= 1  # there were zeros already
    path.write_bytes(data)
    return kind


def run_whole(folder: Path, settings: list[str], start: Start) -> None:
    """The training without disturbance."""
    process = start(folder, settings)
    if process.wait(1800) != 0:
        raise SystemExit(f"the undisturbed training failed:\n{process.log.read_text()[-2000:]}")


def run_killed(
    folder: Path,
    settings: list[str],
    start: Start,
    outcome: Outcome,
    *,
    kills: int,
    num_steps: int,
    chance: random.Random,
    signals: list[str],
) -> None:
    """The training, killed `kills` times and started again until it ends."""
    pending: tuple[int, str] | None = None  # step and end of the last process, till another says where it goes on
    harmed, harm = Path(), b""  # the last checkpoint that was damaged, and what it held then
    is_damaged = False  # it is the newest still
    while True:
        # The rest of the steps for the rest of the kills, so that the run is not over before them.
        left = max(0, kills - len(outcome.kills))
        room = max(1, (num_steps - reached(folder)) // max(1, left))
        process = start(folder, settings)
        outcome.starts += 1
        name = chance.choice(signals)
        moment = chance.choices(list(MOMENTS), list(MOMENTS.values()))[0]
        if left:
            wait_for(moment, process, folder, chance, 2 * room)
            was_running = process.is_running()
            process.send(SIGNALS[name])
        code = process.wait()
        log = process.log.read_text(errors="replace")
        step = resumed(log)
        if step is not None and pending is not None:
            lost = max(0, pending[0] - step)
            (outcome.lost_by_damage if is_damaged else outcome.lost.setdefault(pending[1], [])).append(lost)
            if lost > INTERVAL * (2 if is_damaged else 1):
                outcome.wrong.append(f"{lost} steps lost after {pending[1]}")
            if is_damaged and "going on from step_" not in log:
                outcome.wrong.append(f"a damaged checkpoint was not named: {log[-300:]}")
            pending = None
        if code == 0 or not left:
            if code != 0:
                outcome.wrong.append(f"the last process ended with {code}: {log[-300:]}")
            return
        if not was_running:
            outcome.wrong.append(f"a process ended by itself with {code}: {log[-300:]}")
            return
        outcome.kills.append((name, moment))
        outcome.codes.setdefault(name, Counter())[code] += 1
        if code not in {-SIGNALS[name], 128 + SIGNALS[name]}:
            outcome.wrong.append(f"SIG{name} gave exit code {code}: {log[-300:]}")
        saved = re.search(r"stopped by SIG\w+ at step (\d+), saved", log)
        if pending is None or step is not None:  # else it died before it had done anything
            pending = (int(saved[1]) if saved else reached(folder), name)
        saves = checkpoints(folder)
        is_damaged = bool(saves) and saves[-1] == harmed and harmed.read_bytes() == harm
        if len(saves) > 1 and not is_damaged and chance.random() < 0.15:
            harmed, is_damaged = saves[-1], True
            outcome.damages[damage(harmed, chance)] += 1
            harm = harmed.read_bytes()


# ---------------------------------------------------------------------------------------------------- small disks


@contextmanager
def small_disk(folder: Path, num_bytes: int) -> Iterator[bool]:
    """Inside, `folder` is a file system of so many bytes; False where this user may not mount one."""
    folder.mkdir()
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "tmpfs", str(folder)], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def run_on_small_disk(
    folder: Path, settings: list[str], start: Start, outcome: Outcome, *, is_mounted: bool, rounds: int, whole: Path
) -> None:
    """The training, on a disk that fills up `rounds` times and is given room again, or with a limit on its files."""
    num_bytes = checkpoints(whole)[-1].stat().st_size
    filler = folder / "filler"
    for _ in range(rounds):
        before = {path: path.read_bytes() for path in checkpoints(folder)}
        process = start(folder, settings, *([] if is_mounted or not before else [num_bytes // 2]))
        outcome.starts += 1
        if is_mounted or not before:
            first = reached(folder)
            while process.is_running() and reached(folder) < first + 2 * INTERVAL:
                time.sleep(0.002)
        if is_mounted:
            with open(filler, "wb") as file:
                for size in (2**16, 2**10):
                    while shutil.disk_usage(folder).free > num_bytes // 2:
                        file.write(bytes(size))
                        file.flush()
        elif not before:
            process.send(signal.SIGKILL)
            process.wait()
            process = start(folder, settings, num_bytes // 2)
            outcome.starts += 1
        _expect_full(process, folder, outcome)
        if is_mounted:  # it stays full: the same line again, at once or at the next checkpoint
            process = start(folder, settings)
            outcome.starts += 1
            _expect_full(process, folder, outcome)
            filler.unlink()
    process = start(folder, settings)
    outcome.starts += 1
    if (code := process.wait()) != 0:
        outcome.wrong.append(f"with room again: exit code {code}: {process.log.read_text()[-300:]}")


def _expect_full(process: Process | Fork, folder: Path, outcome: Outcome) -> None:
    code, log = process.wait(), process.log.read_text(errors="replace")
    lines = [line for line in log.splitlines() if line.startswith("error: ")]
    if code != 2 or len(lines) != 1 or not re.search("No space left|File too large", lines[0]):
        outcome.wrong.append(f"a full disk gave exit code {code}: {log[-300:]}")
    if not checkpoints(folder):
        outcome.wrong.append("a full disk cost all checkpoints")
    outcome.full_disks += 1


# ---------------------------------------------------------------------------------------------------- comparison


def differences(whole: Path, broken: Path) -> tuple[list[str], int]:
    """Names of what differs between two folders in which the training ran, and how much was compared."""
    import torch

    from cyclestyle.checkpoint import load_checkpoint

    whole, broken = whole / "runs" / "soak", broken / "runs" / "soak"
    found, compared = [], 0

    def same(one: Any, other: Any) -> bool:
        if isinstance(one, dict):
            return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
        if isinstance(one, list | tuple):
            return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, torch.Tensor):
            return one.dtype == other.dtype and torch.equal(one, other)
        return bool(type(one) is type(other) and one == other)

    last = sorted((whole / "checkpoints").glob("step_*.pt"))[-1].name
    states = [load_checkpoint(run / "checkpoints" / last) for run in (whole, broken)]
    for key in states[0]:  # part by part, so that the name says more
        compared += 1
        if not same(states[0][key], states[1].get(key)):
            found.append(f"{last}: {key}")
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        compared += 1
        if rows(whole / name) != rows(broken / name):
            found.append(name)
    for part in ("translators", "samples"):
        names = {path.name for run in (whole, broken) for path in (run / part).iterdir()}
        for name in sorted(names):
            compared += 1
            one, other = whole / part / name, broken / part / name
            if not (one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()):
                found.append(f"{part}/{name}")
    for name in ("config.yaml", "checkpoints/index.json"):
        compared += 1
        if (whole / name).read_bytes() != (broken / name).read_bytes():
            found.append(name)
    return found, compared


def rows(path: Path) -> list[dict[str, Any]]:
    """Of a .jsonl, without what is timed."""
    if not path.exists():
        return []
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMED} for row in found]


# ---------------------------------------------------------------------------------------------------- all of it


def prepare(workspace: Path, num_steps: int) -> list[str]:
    """Pictures to train on; gives the settings that name them."""
    from cyclestyle.data.synthetic import make_samples

    make_samples(workspace / "pictures", num_train=6, num_test=2, size=48, workers=1, progress=False)
    return [f"data.root={workspace / 'pictures'}", f"train.steps={num_steps}"]


def soak(
    workspace: Path, *, kills: int, num_steps: int, seed: int, signals: list[str], start: Start = Process
) -> Outcome:
    """Run the training undisturbed in `workspace`/whole and killed in `workspace`/killed-0, and compare."""
    began, outcome = time.monotonic(), Outcome()
    settings = prepare(workspace, num_steps)
    chance, whole = random.Random(seed), workspace / "whole"
    whole.mkdir()
    run_whole(whole, settings, start)
    while len(outcome.kills) < kills and len(outcome.wrong) < 5:
        folder = workspace / f"killed-{outcome.runs}"  # a further one where the last was over before all kills
        folder.mkdir()
        run_killed(folder, settings, start, outcome, kills=kills, num_steps=num_steps, chance=chance, signals=signals)
        found, compared = differences(whole, folder)
        outcome.runs += 1
        outcome.num_compared += compared
        outcome.wrong += [f"differs: {name}" for name in found]
    outcome.seconds = time.monotonic() - began
    return outcome


def soak_small_disk(workspace: Path, *, num_steps: int, rounds: int = 3, start: Start = Process) -> tuple[Outcome, str]:
    """The same with a disk that fills up, beside `workspace`/whole; gives also what limited it."""
    began, outcome = time.monotonic(), Outcome()
    settings = prepare(workspace, num_steps)
    whole = workspace / "whole"
    if not whole.exists():
        whole.mkdir()
        run_whole(whole, settings, start)
    num_bytes = sum(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    with small_disk(workspace / "small", 2 * num_bytes) as is_mounted:
        folder = workspace / "small"
        run_on_small_disk(folder, settings, start, outcome, is_mounted=is_mounted, rounds=rounds, whole=whole)
        found, outcome.num_compared = differences(whole, folder)
    outcome.wrong += [f"differs: {name}" for name in found]
    outcome.seconds = time.monotonic() - began
    return outcome, "a tmpfs" if is_mounted else "RLIMIT_FSIZE"


def table(outcome: Outcome) -> str:
    """What the soak has seen, for people."""
    moments = list(MOMENTS)
    lines = [
        "| signal | kills | "
        + " | ".join(f"in its {name}" for name in moments)
        + " | exit codes | steps lost: mean, max |",
        "|---|---|" + "---|" * len(moments) + "---|---|",
    ]
    for name in sorted({signal_name for signal_name, _ in outcome.kills}):
        mine = Counter(moment for signal_name, moment in outcome.kills if signal_name == name)
        codes = ", ".join(f"{code} x {count}" for code, count in sorted(outcome.codes[name].items()))
        lost = outcome.lost.get(name, [0])
        counts = " | ".join(str(mine[moment]) for moment in moments)
        lines.append(f"| SIG{name} | {mine.total()} | {counts} | {codes} | {sum(lost) / len(lost):.1f}, {max(lost)} |")
    damaged = ", ".join(f"{count} x {kind}" for kind, count in sorted(outcome.damages.items())) or "none"
    lines += [
        "",
        f"runs: {outcome.runs}, started {outcome.starts} times; {INTERVAL} steps between checkpoints; "
        f"{outcome.seconds:.0f} s",
        f"newest checkpoint damaged: {damaged}; steps lost then: max {max(outcome.lost_by_damage, default=0)}",
        f"compared at the end: {outcome.num_compared} files and parts; differing: "
        f"{sum(line.startswith('differs') for line in outcome.wrong)}",
    ]
    return "\n".join(lines + [f"WRONG: {line}" for line in outcome.wrong])


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=0, help="of the training; 0: enough for the kills")
    parser.add_argument("--seed", type=int, default=0, help="of the instants, signals and damages")
    parser.add_argument("--signals", nargs="+", choices=list(SIGNALS), default=list(SIGNALS))
    parser.add_argument("--small-disk", action="store_true", help="also on a disk that fills up")
    parser.add_argument(
        "--forked", action="store_true", help="processes are forks of one that has imported all: faster"
    )
    parser.add_argument("--workspace", type=Path, help="an empty folder to work in, kept; else a temporary one")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve()
        return 0
    num_steps = args.steps or max(60, 8 * args.kills)
    server = Server() if args.forked else None
    with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
        workspace = (args.workspace or Path(scratch)).resolve()
        workspace.mkdir(parents=True, exist_ok=True)
        start: Start = server or Process
        outcome = soak(
            workspace, kills=args.kills, num_steps=num_steps, seed=args.seed, signals=args.signals, start=start
        )
        print(table(outcome), flush=True)
        wrong = outcome.wrong
        if args.small_disk:
            small, what = soak_small_disk(workspace, num_steps=num_steps, start=start)
            wrong = wrong + small.wrong
            differing = sum(line.startswith("differs") for line in small.wrong)
            print(
                f"\nsmall disk ({what}): {small.full_disks} times full, each exit code 2 and one line; starts: "
                f"{small.starts}; compared: {small.num_compared}, differing: {differing}; {small.seconds:.0f} s"
            )
            print("\n".join(f"WRONG: {line}" for line in small.wrong))
    if server is not None:
        server.close()
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
