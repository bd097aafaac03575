"""The command as people meet it: what goes to stdout and stderr, exit codes, and what is not imported."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

import cyclestyle
from cyclestyle.cli import main as cli
from cyclestyle.config.loading import load_config
from cyclestyle.errors import CheckpointError
from cyclestyle.inference.options import Options

REPOSITORY = Path(__file__).parents[2]
ENOUGH = ("data.root=pictures", "train.steps=7")


def python(*words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *words], capture_output=True, text=True, env=environment, timeout=60, check=False, **kwargs
    )


def stand_in(monkeypatch: pytest.MonkeyPatch, module: str, **functions: object) -> None:
    """Put a light module where a verb imports its heavy one."""
    fake = types.ModuleType(module)
    for name, function in functions.items():
        setattr(fake, name, function)
    monkeypatch.setitem(sys.modules, module, fake)


def assert_one_error_line(text: str, *fragments: str) -> None:
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    for fragment in fragments:
        assert fragment in text


# ---------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in cli.VERBS)], ids=" ".join)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys\n"
        "from cyclestyle.cli.main import main\n"
        "try:\n"
        f"    main({words!r})\n"
        "except SystemExit as stop:\n"
        "    assert stop.code == 0, stop.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'cv2', 'albumentations', 'tensorboard'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = python("-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: cyclestyle")


def test_help_lists_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name}" in shown and verb.SUMMARY in shown for name, verb in cli.VERBS.items())


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert (stop.value.code, capsys.readouterr().out) == (0, f"cyclestyle {cyclestyle.__version__}\n")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        ([], ["VERB", "see cyclestyle --help"]),
        (["trian"], ["'trian'", "train", "translate", "see cyclestyle --help"]),
        (["train", "--steps", "5"], ["--steps", "see cyclestyle train --help"]),
        (["train", "--train.steps=5"], ["settings have no dashes: train.steps=1000"]),
        (["train", "--config", "a.yaml", "--resume", "runs/x"], ["--resume", "--config"]),
        (["train", "--conf", "a.yaml"], ["--conf"]),  # no abbreviations: they would change meaning as flags are added
        (["translate", "--device", "tpu"], ["'tpu'", "cuda", "mps"]),
        (["translate", "--run", "a", "--checkpoint", "b"], ["--run", "--checkpoint"]),
        (["translate", "--format", "gif"], ["'gif'", "keep", "webp"]),
        (["translate", "--tile", "10"], ["--tile: got '10', needs auto, off or a side of at least 16 pixels"]),
        (["translate", "--output", ""], ["--output: an empty path was given"]),
        (["translate", "--input", ""], ["--input: an empty path was given"]),
        (["translate", "--tile", "none"], ["--tile"]),
        (["translate", "--memory-limit", "0"], ["--memory-limit: got '0', needs a number of GiB above 0"]),
        (["translate", "--memory-limit", "much"], ["--memory-limit"]),
        (["translate", "--strength", "half"], ["--strength", "'half'"]),
        (["samples", "--size", "small"], ["--size: got 'small', needs a whole number of at least 32"]),
        (["samples", "--seed", "-1"], ["--seed"]),
    ],
)
def test_flags_that_make_no_sense_get_one_line(
    words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert_one_error_line(printed.err, *fragments)


# ---------------------------------------------------------------------------------------------------- config


def test_config_prints_what_a_run_would_use(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("data: {root: pictures}\ntrain: {steps: 5}\n")
    # Settings before and after the flag.
    assert cli.main(["config", "seed=3", "--config", str(file), "train.batch_size=2"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    (tmp_path / "shown.yaml").write_text(printed.out)
    assert load_config(tmp_path / "shown.yaml") == load_config(file, ["seed=3", "train.batch_size=2"])


def test_warnings_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", *ENOUGH, "generator.depth=3"]) == 0
    printed = capsys.readouterr()
    assert printed.err == "warning: generator.depth=3 has no effect in a ResNet\n"
    assert "warning" not in printed.out


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (["batch_size=4"], ["unknown key batch_size: did you mean train.batch_size?"]),
        (["quickstart"], ["stray argument 'quickstart'", "key=value"]),
        (["configs/smoke.yaml"], ["stray argument", "--config configs/smoke.yaml"]),
        (["--config", "absent.yaml"], ["absent.yaml: no such config file"]),
    ],
)
@pytest.mark.parametrize("verb", ["config", "train"])
def test_a_config_mistake_is_one_line_and_exit_2(
    verb: str, words: list[str], fragments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([verb, *words]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert_one_error_line(printed.err, *fragments)


def test_a_config_mistake_shows_before_torch_is_imported() -> None:
    program = (
        "import sys\nfrom cyclestyle.cli.main import main\ncode = main(['train', 'batch_size=4'])\n"
        "assert 'torch' not in sys.modules\nsys.exit(code)\n"
    )
    done = python("-c", program)
    assert done.returncode == 2
    assert_one_error_line(done.stderr, "train.batch_size")


def test_debug_shows_where_an_error_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "batch_size=4", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("error: unknown key batch_size")


def test_a_closed_pipe_is_no_error() -> None:
    # The reader leaves before anything is printed.
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-m", "cyclestyle.cli.main", "config", *ENOUGH],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=60,
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


# ---------------------------------------------------------------------------------------------------- train


def test_train_hands_over_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    stand_in(monkeypatch, "cyclestyle.training.run", train=given.append)
    assert cli.main(["train", "data.root=pictures", "--debug", "train.steps=7"]) == 0
    assert given == [load_config(None, ENOUGH)]


def test_train_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    stand_in(monkeypatch, "cyclestyle.training.run", resume=lambda *arguments: given.append(arguments))
    assert cli.main(["train", "--resume", "runs/x", "train.steps=9"]) == 0
    assert given == [(Path("runs/x"), ["train.steps=9"])]


def test_errors_of_the_run_are_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def train(config: object) -> None:
        raise CheckpointError("runs/x/checkpoints/step_1.pt: damaged;\n  take an older one")

    stand_in(monkeypatch, "cyclestyle.training.run", train=train)
    assert cli.main(["train", *ENOUGH]) == 2
    assert capsys.readouterr().err == "error: runs/x/checkpoints/step_1.pt: damaged; take an older one\n"


def test_ctrl_c_and_signals_keep_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    def terminated(config: object) -> None:
        raise SystemExit(143)

    stand_in(monkeypatch, "cyclestyle.training.run", train=interrupted)
    assert cli.main(["train", *ENOUGH]) == 130
    assert capsys.readouterr().err == "stopped\n"
    stand_in(monkeypatch, "cyclestyle.training.run", train=terminated)
    with pytest.raises(SystemExit, match="143"):
        cli.main(["train", *ENOUGH])


def test_our_own_mistakes_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(config: object) -> None:
        raise AssertionError("ours")

    stand_in(monkeypatch, "cyclestyle.training.run", train=train)
    with pytest.raises(AssertionError, match="ours"):
        cli.main(["train", *ENOUGH])


# ---------------------------------------------------------------------------------------------------- other verbs


def test_translate_hands_over_its_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    def translate_folder(**arguments: object) -> int:
        given.append(arguments)
        return 1  # some inputs failed

    stand_in(monkeypatch, "cyclestyle.inference.folder", translate_folder=translate_folder)
    assert cli.main(["translate"]) == 1
    nothing: dict[str, object] = dict.fromkeys(("run", "checkpoint", "to", "input", "output", "memory_limit"))
    auto = dict.fromkeys(("device", "precision", "tile"), "auto")
    assert given.pop() == {**nothing, **auto, "best": False, "options": Options()}
    words = (
        "--checkpoint x.pt --best --to vangogh --input photos --output out --device cpu --precision bf16 --tile 512 "
        "--memory-limit 1.5 --format webp --quality 80 --work-size 256 --strength 0.5 --keep-colors --mask masks "
        "--contact-sheet --side-by-side --overwrite --max-megapixels 50"
    )
    assert cli.main(["translate", *words.split()]) == 1
    assert given.pop() == {
        "run": None,
        "checkpoint": Path("x.pt"),
        "best": True,
        "to": "vangogh",
        "input": Path("photos"),
        "output": Path("out"),
        "device": "cpu",
        "precision": "bf16",
        "tile": 512,
        "memory_limit": 3 * 2**29,
        "options": Options(
            format="webp",
            quality=80,
            work_size=256,
            strength=0.5,
            keep_colors=True,
            mask=Path("masks"),
            contact_sheet=True,
            side_by_side=True,
            overwrite=True,
            max_megapixels=50.0,
        ),
    }
    assert cli.main(["translate", "--tile", "off"]) == 1
    assert given.pop()["tile"] is None


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        ("--quality 0", "--quality 0 was given, needed is 1"),
        ("--quality 101", "--quality 101 was given"),
        ("--work-size 0", "--work-size 0 was given"),
        ("--strength 1.5", "--strength 1.5 was given, needed is 0 (the source) to 1 (the translation)"),
        ("--strength nan", "--strength nan was given"),
        ("--max-megapixels 0", "--max-megapixels 0.0 was given"),
        ("--max-megapixels inf", "--max-megapixels inf was given"),
    ],
)
def test_translate_refuses_what_is_out_of_range(words: str, fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["translate", *words.split()]) == 2
    assert_one_error_line(capsys.readouterr().err, fragment)


def test_samples_prints_the_folder(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def make_samples(folder: Path, *, seed: int, size: int) -> Path:
        return folder / f"{seed}_{size}"

    stand_in(monkeypatch, "cyclestyle.data.synthetic", make_samples=make_samples)
    assert cli.main(["samples"]) == 0
    assert cli.main(["samples", "here", "--seed", "5", "--size", "64"]) == 0
    assert capsys.readouterr().out.split() == [str(Path("datasets/landscapes/0_256")), str(Path("here/5_64"))]


# ---------------------------------------------------------------------------------------------------- scripts


def run_script(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script of the repository with a stand-in for the training and inference that it would start."""
    program = (
        "import runpy, sys, types\n"
        "run, folder = types.ModuleType('run'), types.ModuleType('folder')\n"
        "run.train = lambda config: print('train', config.name, config.seed)\n"
        "run.resume = lambda run, settings: print('resume', run, settings)\n"
        "folder.translate_folder = lambda **flags: print('translate', flags['to']) or 1\n"
        "sys.modules['cyclestyle.training.run'] = run\n"
        "sys.modules['cyclestyle.inference.folder'] = folder\n"
        f"sys.argv = {[script, *words]!r}\n"
        f"runpy.run_path({str(REPOSITORY / script)!r}, run_name='__main__')\n"
    )
    return python("-c", program, cwd=cwd)


def test_train_py_trains_the_quickstart_from_anywhere(tmp_path: Path) -> None:
    done = run_script("train.py", "seed=5", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "train quickstart 5\n", "")
    done = run_script("train.py", f"--config={REPOSITORY / 'configs' / 'smoke.yaml'}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "train smoke 0\n")
    done = run_script("train.py", "--resume", "runs/x", "seed=5", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "resume runs/x ['seed=5']\n".replace("runs/x", str(Path("runs/x"))))


def test_test_py_translates_and_keeps_the_exit_code(tmp_path: Path) -> None:
    done = run_script("test.py", "--to", "vangogh", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "translate vangogh\n")
