"""What README tells people to type does what it says, shortened."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from cyclestyle.cli.main import main
from cyclestyle.config.loading import load_config
from cyclestyle.data.synthetic import make_samples
from cyclestyle.evaluation.metrics import METRICS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# The same commands on a small set, with small networks, for two steps.
SHORTENED = [
    "train.steps=2",
    "data.load_size=32",
    "data.crop_size=32",
    "generator.filters=4",
    "discriminator.filters=4",
    "discriminator.layers=1",
    "log.num_samples=1",
    "evaluate.least_content=-1",  # the best checkpoint is named, though two steps keep nothing of the content
]

NUMBER = r"-?\d+(?:\.\d+)?(?:e-\d+)?"
# What `Best` says, in all its forms; README may leave out what the comparison with the best before says.
BEST = re.compile(
    rf"best checkpoint: step (?P<step>\d+): kid_ab (?P<kid>{NUMBER}), best so far"
    rf"(?: \((?:\.\.\.|{NUMBER} at step (?P<before>\d+): a difference of {NUMBER}"
    rf"(?: \+- {NUMBER}(?:, within noise)?|, too few pictures to tell whether by chance)?)\))?"
    rf"; content (?:kept|lost) \(luminance correlation {NUMBER}\)"
)


def blocks(language: str = "") -> list[str]:
    """Fenced blocks of README in one language."""
    # All of them, since the fence that ends a block looks like one that begins a block of no language.
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == language]


def commands() -> list[list[str]]:
    """Words of every line that starts python train.py, python test.py or cyclestyle, in their order."""
    lines = [part.strip() for block in blocks() for line in block.splitlines() for part in line.split("&&")]
    return [shlex.split(line) for line in lines if re.match(r"python (train|test)\.py|cyclestyle ", line)]


@pytest.fixture
def fresh_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the configs and a small sample set, as the first `python train.py` would find them."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    make_samples(tmp_path / "datasets" / "landscapes", num_train=2, num_test=2, size=32, workers=1, progress=False)
    shutil.copytree(tmp_path / "datasets" / "landscapes", tmp_path / "datasets" / "mine")
    shutil.copytree(tmp_path / "datasets" / "landscapes" / "testA", tmp_path / "FOLDER")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_screen_has_the_two_commands() -> None:
    assert "pip install -e . && python train.py" in blocks()[0]
    assert 'pip install -e ".[test]" && pytest' in README


def test_its_commands_run_and_its_python_too(fresh_clone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verbs = {"train.py": "train", "test.py": "translate"}
    ran = []
    for words in commands():
        argv = [verbs[words[1]], *words[2:]] if words[0] == "python" else words[1:]
        if argv[0] == "train":
            argv = [*argv, *([] if "--config" in argv else ["--config", "configs/quickstart.yaml"]), *SHORTENED]
        assert main(argv) == 0, words
        ran.append((argv[0], capsys.readouterr().out.splitlines()))
    assert [verb for verb, _ in ran] == ["train", "train", "translate", "evaluate", "report", "runs"]

    trained, mine, translated, evaluated, reported, runs = (lines for _, lines in ran)
    shown = blocks()[1].splitlines()
    best = BEST.fullmatch(trained.pop(1))
    assert best
    assert trained == ["trained: 2 steps", *shown[2:]]
    assert mine[-1] == "run: runs/mine"
    assert translated == ["translated: 2 of 2, failed: 0, skipped: 0", "translated"]
    assert sorted(path.name for path in Path("translated").glob("*.jpg")) == ["photo_0000.jpg", "photo_0001.jpg"]
    assert evaluated[0].startswith("step 2: 2 photo as painting against 2 of datasets/landscapes/testB")
    scores = {line.split()[0]: line for line in evaluated[3:]}
    assert METRICS["kid"].meaning in scores["kid"]  # "the scores with what each means"
    assert METRICS["change"].meaning in scores["change"]
    assert reported == ["runs/quickstart/report.html"]
    assert "</html>" in Path(reported[0]).read_text(encoding="utf-8")
    listed = {line.split()[0]: line for line in runs[1:]}
    assert set(listed) == {"quickstart", "mine"}
    assert f"kid_ab {best['kid']} at {best['step']}" in listed["quickstart"]

    assert main(["translate", "--run", "runs/quickstart"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == blocks()[2].splitlines()[1]

    shutil.copy(fresh_clone / "FOLDER" / "photo_0000.jpg", "photo.jpg")
    (snippet,) = blocks("python")
    exec(snippet, {})
    assert (fresh_clone / "painting.png").is_file()


def test_what_it_says_of_the_quickstart_can_be_true() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    trained, best_line, *_ = blocks()[1].splitlines()
    assert trained == f"trained: {config.train.steps} steps"
    best = BEST.fullmatch(best_line)
    assert best
    scored = [*range(config.evaluate.every, config.train.steps, config.evaluate.every), config.train.steps]
    assert int(best["step"]) in scored
    assert best["before"] is None or int(best["before"]) in scored[: scored.index(int(best["step"]))]


def test_its_links_and_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for path in re.findall(r"`(configs/\w+\.yaml)`", README):
        assert (ROOT / path).exists(), path


def test_its_map_of_the_code_is_complete() -> None:
    """Every module of the package stands in the map, by its name."""
    table = README.split("## How the code is laid out")[1].split("\n## ")[0]
    for path in (ROOT / "cyclestyle").rglob("*.py"):
        folder = path.parent.relative_to(ROOT / "cyclestyle").as_posix()
        if path.name == "__init__.py" or folder == "cli":
            continue
        assert path.name in table, f"{folder}/{path.name} is missing in README's map of the code"
