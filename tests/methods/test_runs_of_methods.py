"""Whole runs of every method: one class and one entry are a method, runs go on bit for bit, and one side is enough."""

from __future__ import annotations

import json
import logging
import pkgutil
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cyclestyle
from cyclestyle.batch import UnpairedBatch
from cyclestyle.checkpoint import load_checkpoint
from cyclestyle.cli.main import main
from cyclestyle.config import methods
from cyclestyle.config.keys import options_of
from cyclestyle.config.loading import load_config
from cyclestyle.config.methods import (
    METHODS,
    MethodConfig,
    MethodEntry,
    OneWayWeights,
    TwoWayWeights,
    term_names,
)
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig
from cyclestyle.methods.base import Method
from cyclestyle.methods.build import build_method
from cyclestyle.networks.build import build_generator
from cyclestyle.training import forecast, probing
from cyclestyle.training.run import resume

from ..conftest import TINY, write_pictures
from ..test_resume import assert_same, losses

SMALL_CONTRAST = ("method.contrast.num_places=8", "method.contrast.width=8")
SAFEGUARDS = (
    "discriminator.spectral_norm=true",
    "discriminator.norm=none",
    "discriminator.noise=0.1",
    "discriminator.augment=[color,translation,cutout]",
    "discriminator.augment_adaptive=true",
    "discriminator.augment_probability=0.5",
    "discriminator.augment_images=64",
    "discriminator.batch_statistics=true",
    "discriminator.antialias=true",
    "generator.antialias=true",
    "generator.attention=true",
    "method.weights.r1=1",
    "method.weights.gradient_penalty=0.1",
)
KINDS: dict[str, tuple[str, ...]] = {
    "cyclegan": ("method.name=cyclegan", "method.pool_size=3"),
    "cut": ("method.name=cut", *SMALL_CONTRAST),
    "fastcut": (
        "method.name=cut", "method.flip_equivariance=true", "method.weights.nce_ab=10",
        "method.weights.nce_identity_b=0", *SMALL_CONTRAST,
    ),
    "dclgan": ("method.name=dclgan", "method.pool_size=3", *SMALL_CONTRAST),
    "cut with all safeguards": (
        "method.name=cut", "method.contrast.loss=hdce", "method.weights.src_ab=1", "method.pool_size=3",
        *SMALL_CONTRAST, *SAFEGUARDS,
    ),
}  # fmt: skip
"""Each method, and the one with most states beside its weights."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Commands leave their handlers, which write to a stderr that is gone by the next test."""
    yield
    logging.getLogger("cyclestyle").handlers.clear()


def start(settings: list[str], *more: str) -> Path:
    return cyclestyle.train(load_config(None, [*settings, *more]))


def rows_of(run: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


# ------------------------------------------------------------------------------------------- a method of one's own


@dataclass(frozen=True, kw_only=True)
class ToyWeights(OneWayWeights):
    darkness_ab: float = 2.0


@dataclass(frozen=True, kw_only=True)
class ToyConfig(MethodConfig):
    name: str = "toy"
    target: float = -0.5
    weights: ToyWeights = field(default_factory=ToyWeights)


class Toy(Method):
    """All that a method has to be: it paints everything in one shade of grey, and draws how much of it counts."""

    players: ClassVar[tuple[str, ...]] = ("generators",)
    generators: ClassVar[tuple[str, ...]] = ("gen_ab",)

    def __init__(
        self,
        config: ToyConfig,
        generator: GeneratorConfig,
        discriminator: DiscriminatorConfig,
        channels: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.gen_ab = build_generator(generator, channels)
        self._random = torch.Generator().manual_seed(seed)

    def networks_of(self, player: str) -> list[nn.Module]:
        return [self.gen_ab]

    def draw(self, batch: UnpairedBatch) -> dict[str, Tensor]:
        return {"share": torch.rand((), generator=self._random)}

    def forward_batch(self, batch: UnpairedBatch) -> Tensor:
        return self.gen_ab(batch.real_a).float()

    def terms(self, player: str, batch: UnpairedBatch, outputs: Tensor) -> dict[str, Tensor]:
        distance = (outputs - self.config.target).abs().mean()
        return {"darkness_ab": self.config.weights.darkness_ab * batch.draws["share"] * distance}

    def observations(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"brightness_ab": outputs.detach().mean()}

    def translations(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"ab": outputs.detach()}

    def get_extra_state(self) -> dict[str, Any]:
        return {"random": self._random.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._random.set_state(state["random"])


@pytest.fixture
def toy(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Settings of a run of `Toy`; the entry is all that the package is told of it."""
    monkeypatch.setitem(METHODS, "toy", MethodEntry(ToyConfig, f"{__name__}:Toy"))
    return [*tiny, "method.name=toy", "optimizer.generator_lr=0.01", "generator.init_gain=0.2", "ema.decay=0"]


def test_a_method_takes_one_class_and_one_entry(toy: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, logged, drawn, scored, watched, kept, translated with, and shown."""
    run = start(toy, "train.steps=24", "evaluate.every=24", "log.samples_every=24", "method.target=-0.4")
    assert load_config(run / "config.yaml").method == ToyConfig(target=-0.4)
    rows = rows_of(run)
    assert {"darkness_ab", "brightness_ab", "lr_generators", "grad_norm_generators"} <= set(rows[0])
    assert any(name.startswith("doctor_") for row in rows for name in row)
    assert rows[-1]["kid_ab"] is not None
    assert rows[-2]["brightness_ab"] == pytest.approx(-0.4, abs=0.2)
    assert [path.name for path in sorted((run / "samples").iterdir())] == ["step_00000024_photo_to_painting.png"]
    assert load_checkpoint(run / "checkpoints" / "step_00000024.pt")["config"]["method"]["target"] == -0.4

    translate = cyclestyle.Translator.load(run)
    picture = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    assert translate(picture).mean() == pytest.approx((1 - 0.4) * 127.5, abs=20)

    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "darkness" in page
    assert main(["runs", str(run.parent)]) == 0
    assert "toy" in capsys.readouterr().out
    assert main(["evaluate", "--run", str(run)]) == 0
    assert "photo as painting" in capsys.readouterr().out


def test_a_method_of_ones_own_goes_on_bit_for_bit(toy: list[str]) -> None:
    assert_goes_on(toy, step=4, last=8)


def test_the_method_of_the_docs_is_a_method(tiny: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/methods.md, word by word."""
    page = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
    of_config, of_method = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.setattr(methods, "METHODS", table := dict(METHODS))
    for name in ("ToyWeights", "ToyConfig"):
        monkeypatch.setattr(methods, name, None, raising=False)  # taken away again
    exec(of_config, vars(methods))
    monkeypatch.setitem(METHODS, "toy", table["toy"])
    monkeypatch.setitem(sys.modules, "cyclestyle.methods.toy", module := ModuleType("cyclestyle.methods.toy"))
    exec(of_method, vars(module))
    assert options_of("toy")["method.weights.closeness_ab"].default == 10
    check_entry("toy")
    run = start(tiny, "method.name=toy", "train.steps=2", "evaluate.every=2", "log.scalars_every=1")
    rows = rows_of(run)
    assert rows[0]["closeness_ab"] > 0
    assert rows[-1]["kid_ab"] is not None


def test_its_options_are_its_own(toy: list[str]) -> None:
    with pytest.raises(cyclestyle.errors.ConfigError, match=r"unknown key method\.pool_sise.*method\.pool_size"):
        load_config(None, [*toy, "train.steps=1", "method.pool_sise=1"])
    with pytest.raises(cyclestyle.errors.ConfigError, match=r"unknown key method\.weights\.cycle_a"):
        load_config(None, [*toy, "train.steps=1", "method.weights.cycle_a=1"])
    assert load_config(None, [*toy, "train.steps=1", "method.weights.darkness_ab=3"]).method.weights.darkness_ab == 3  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------------------- what is in the table


@pytest.mark.parametrize("name", METHODS)
def test_an_entry_is_a_method_whose_terms_have_weights(name: str) -> None:
    check_entry(name)


def check_entry(name: str) -> None:
    entry = METHODS[name]
    options = entry.options()
    assert options.name == name
    implementation = pkgutil.resolve_name(entry.implementation)
    assert issubclass(implementation, Method)
    assert implementation.generators in (("gen_ab",), ("gen_ab", "gen_ba"))
    assert isinstance(options.weights, TwoWayWeights) == (len(implementation.generators) == 2)
    assert set(implementation.players) == {"generators", "discriminators"}  # optimizer.generator_lr, .discriminator_lr

    everything = {name: 1.0 for name in term_names(options.weights) if not name.startswith(("content_", "style_"))}
    config = entry.options(weights=type(options.weights)(**everything))
    generator, judge = GeneratorConfig(filters=4, blocks=2), DiscriminatorConfig(filters=4, layers=1, norm="none")
    method = build_method(config, generator, judge, channels=3, seed=0)
    owned = [id(p) for player in method.players for net in method.networks_of(player) for p in net.parameters()]
    assert sorted(owned) == sorted(id(p) for p in method.parameters())
    batch = UnpairedBatch(*(torch.rand(2, 3, 16, 16) for _ in range(2)))
    batch = replace(batch, draws=method.draw(batch))
    outputs = method.forward_batch(batch)
    found = {term for player in method.players for term in method.terms(player, batch, outputs)}
    sides = [direction[-1] for direction in method.directions]
    each = {"gradient_penalty", "r1"}  # one weight, a term for each discriminator
    assert found == (set(everything) - each) | {f"{kind}_{side}" for kind in each for side in sides}
    assert set(method.translations(outputs)) == set(method.directions)


# ------------------------------------------------------------------------------------------------------- going on


def assert_goes_on(settings: list[str], *, step: int, last: int) -> dict[str, Any]:
    """A run cut back to its checkpoint of `step` ends as it did when it was whole; gives that end."""
    settings = [*settings, f"train.steps={last}", f"train.checkpoint_every={step}", f"evaluate.every={last}",
                "log.scalars_every=3", "log.samples_every=100"]  # fmt: skip
    run = start(settings)
    whole, rows = load_checkpoint(run / "checkpoints" / f"step_{last:08d}.pt"), losses(run)
    (run / "checkpoints" / f"step_{last:08d}.pt").unlink()
    for translator in (run / "translators").iterdir():
        translator.unlink()
    start(settings)
    found = load_checkpoint(run / "checkpoints" / f"step_{last:08d}.pt")
    assert found["position"] == whole["position"] > 0
    assert_same(found, whole)
    assert losses(run) == rows
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_bit_for_bit(tiny: list[str], kind: str) -> None:
    """With sums of scalars, pools, places, mirrors, noise and the strength of augmentation under way."""
    end = assert_goes_on([*tiny, *KINDS[kind], "train.batch_size=2", "generator.dropout=0.2"], step=4, last=8)
    if "safeguards" in kind:
        assert float(end["method"]["augment_probability_b"]) != 0.5
        assert (end["method"]["augment_scores_b"] != 0).any()


# ----------------------------------------------------------------------------------------------------- one-sided runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Settings of tiny runs, and a place for them, common to the tests of this part."""
    folder = tmp_path_factory.mktemp("sides")
    for number, (name, count) in enumerate({"trainA": 5, "trainB": 3, "testA": 2, "testB": 3}.items()):
        write_pictures(folder / "data" / name, count, seed=number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CYCLESTYLE_CACHE", str(folder / "cache"))
        yield [*TINY, f"data.root={folder / 'data'}", f"output_dir={folder / 'runs'}", "evaluate.least_content=-1",
               "train.steps=4", "evaluate.every=2", "doctor.every=2"]  # fmt: skip


@pytest.fixture(scope="module")
def one_sided(place: list[str]) -> Path:
    return start(place, "name=one", "method.name=cut", *SMALL_CONTRAST, "evaluate.direction=both")


@pytest.fixture(scope="module")
def two_sided(place: list[str]) -> Path:
    return start(place, "name=two")


def runs_of(settings: list[str]) -> Path:
    return Path(next(each for each in settings if each.startswith("output_dir=")).partition("=")[2])


def is_of_ba(name: str) -> bool:
    return name.rpartition("_")[2] in ("ba", "a")


def test_one_side_leaves_files_of_one_side(one_sided: Path) -> None:
    assert [path.name for path in (one_sided / "translators").iterdir()] == ["photo_to_painting.safetensors"]
    assert [path.name for path in (one_sided / "samples").iterdir()] == ["step_00000004_photo_to_painting.png"]
    state = load_checkpoint(one_sided / "checkpoints" / "step_00000004.pt")
    assert list(state["translators"]) == list(state["averages"]) == ["gen_ab"]
    networks = {name.partition(".")[0] for name, value in state["method"].items() if isinstance(value, Tensor)}
    assert networks == {"gen_ab", "disc_b", "embed_ab"}
    assert load_config(one_sided / "config.yaml").method.name == "cut"


def test_one_side_is_logged_and_scored_alone(one_sided: Path) -> None:
    rows = rows_of(one_sided)
    assert {"adversarial_ab", "nce_ab", "nce_identity_b", "discriminator_b", "accuracy_b", "kid_ab"} <= {
        name for row in rows for name in row
    }
    assert any(name.startswith("doctor_") for row in rows for name in row)
    assert not [name for row in rows for name in row if is_of_ba(name)]
    for row in rows_of(one_sided, "evaluations.jsonl"):
        assert list(row["directions"]) == ["ab"]
        assert not [name for name in row["scores"] if is_of_ba(name)]
    # evaluate.direction=both: the mean of those that there are
    index = json.loads((one_sided / "checkpoints" / "index.json").read_text())
    best = min(row["kid_ab"] for row in rows if "kid_ab" in row)
    chosen = [row["kid_ab"] for row in rows if "kid_ab" in row and row["step"] == index["best_step"]]
    assert chosen == [best]
    events = b"".join(path.read_bytes() for path in one_sided.glob("events*") if "hparams" not in path.name)
    assert b"KID ab" in events
    assert b"KID ba" not in events
    assert b"samples/photo_to_painting" in events
    assert b"samples/painting_to_photo" not in events


def test_the_side_that_is_not_there_cannot_name_the_best(one_sided: Path, place: list[str]) -> None:
    with pytest.raises(cyclestyle.errors.ConfigError, match=r"evaluate\.direction: got ba, .*only ab") as refusal:
        start(place, "name=refused", "method.name=cut", *SMALL_CONTRAST, "evaluate.direction=ba")
    assert "\n" not in str(refusal.value)
    assert (runs_of(place) / "one").is_dir()
    assert not (runs_of(place) / "refused").exists()


def test_one_side_goes_on_and_is_translated_with(one_sided: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(one_sided, tmp_path / "moved"))
    assert resume(run, ["train.steps=5"]) == run.resolve()
    picture = np.random.default_rng(0).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    for to in (None, "painting"):
        assert cyclestyle.Translator.load(run, to)(picture).shape == picture.shape


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line of a command that a person has to change."""
    capsys.readouterr()
    assert main(list(words)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_translating_to_the_other_side_is_refused(
    one_sided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["translate", "--run", str(one_sided), "--output", str(tmp_path / "out")]
    line = refused(capsys, *words, "--to", "photo")
    assert "photo" in line
    assert "--to painting" in line
    assert not (tmp_path / "out").exists()
    assert main(words) == 0
    assert "translated: 2 of 2, failed: 0, skipped: 0" in capsys.readouterr().out


def test_evaluate_report_and_runs_show_one_side(one_sided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", "--run", str(one_sided), "--checkpoint", "all", "--json"]) == 0
    assert [list(row["directions"]) for row in json.loads(capsys.readouterr().out)] == [["ab"], ["ab"]]
    assert main(["report", str(one_sided)]) == 0
    assert capsys.readouterr().out == f"{one_sided / 'report.html'}\n"
    page = (one_sided / "report.html").read_text(encoding="utf-8")
    assert "photo → painting" in page
    assert "painting → photo" not in page
    assert main(["runs", str(one_sided.parent), "--json"]) == 0
    (found,) = [run for run in json.loads(capsys.readouterr().out) if run["name"] == "one"]
    assert found["latest"]["score"] is not None
    assert found["method"] == "cut"


def test_a_plan_of_one_side(
    place: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured in this process: one of its own takes seconds to start."""
    monkeypatch.setitem(forecast.forecast.__kwdefaults__, "prober", probing.measure)
    found = []
    for settings in ([*place, "method.name=cut", *SMALL_CONTRAST], place):
        assert main(["plan", "--json", "--seconds", "0.1", *settings, "name=planned", "train.steps=1000"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    one, two = found
    assert set(one["parameters"]) == {"generators", "discriminators"}
    assert two["parameters"]["discriminators"] == 2 * one["parameters"]["discriminators"]
    assert one["disk"]["translators"] * 2 == pytest.approx(two["disk"]["translators"], rel=0.01)
    assert not (runs_of(place) / "planned").exists()


def test_one_and_two_sides_compare(
    one_sided: Path, two_sided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", str(one_sided), str(two_sided), "--output", str(tmp_path)]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "method.weights.cycle_a" in printed.out
    assert Path(printed.out.splitlines()[-1]).is_file()
    # The other way there are the two-sided run's scores and pictures; why not the other's is said.
    assert main([*words, "--to", "photo"]) == 1
    printed = capsys.readouterr()
    assert re.search(r"warning: one is not on the sheet: .* has no translator to photo: use --to painting", printed.err)
    assert re.search(r"kid \(lower is better\) +- +[\d.]+", printed.out)
