"""Every alarm provoked and ended, silence where all is well, and the same alarms after a resume."""

from __future__ import annotations

import io
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.keys import options_of
from cyclestyle.config.methods import METHODS, CycleGANConfig, CycleGANWeights
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig, OptimizerConfig
from cyclestyle.devices import choose_precision
from cyclestyle.methods.cyclegan import CycleGAN
from cyclestyle.training import continuation
from cyclestyle.training.doctor import AILMENTS, Change, Doctor
from cyclestyle.training.learning import learn
from cyclestyle.training.optimization import Optimization

NAMES = ("photo", "painting")
Translate = Callable[[Tensor, int], Tensor]
Row = Callable[[int], Mapping[str, float]]

_SIZE = 32


def pictures() -> Tensor:
    """32 smooth pictures, N x 3 x 32 x 32 in [-1, 1], some lighter and some darker."""
    noise = torch.randn(32, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(0.4 * noise, size=_SIZE, mode="bicubic").clamp(-1, 1)


PICTURES = pictures()


def batch_at(step: int) -> UnpairedBatch:
    return UnpairedBatch(PICTURES[step // 10 % 32][None], PICTURES[step // 10 * 7 % 32][None])


def painted(real: Tensor, step: int) -> Tensor:
    """A healthy translation: other colours, the same scene."""
    return 0.8 * real + 0.15


def healthy_row(step: int) -> dict[str, float]:
    """A row as a healthy run writes it; scalars wander as they do there (gradients of single steps most)."""
    wander = random.Random(step)
    return {
        "cycle_a": 3 * math.exp(-step / 500) + wander.uniform(0.3, 0.6),
        "adversarial_ab": wander.uniform(0.2, 0.6),
        "discriminator_b": wander.uniform(0.1, 0.3),
        "score_real_b": wander.uniform(0.6, 0.8),
        "score_fake_b": wander.uniform(0.2, 0.4),
        "accuracy_b": wander.uniform(0.7, 0.9),
        "accuracy_a": wander.uniform(0.5, 0.6),
        "score_real_a": wander.uniform(0.5, 0.55),
        "score_fake_a": wander.uniform(0.42, 0.5),
        "grad_norm_generators": wander.uniform(10, 40),
        "grad_norm_discriminators": wander.choice([3, 4, 5, 6, 8, 10, 30]),
        "data_wait": wander.uniform(0, 0.1),
        "lr_generators": 0.0002,
        "seconds_per_step": wander.uniform(0.1, 0.5),
    }


def doctor(upsample: str = "transpose", method: str = "cyclegan", **settings: Any) -> Doctor:
    options = {key: option.default for key, option in options_of(method).items()}
    return Doctor(every=10, names=NAMES, options={**options, "generator.upsample": upsample, **settings})


def drive(
    patient: Doctor,
    steps: range,
    *,
    ab: Translate = painted,
    ba: Translate = painted,
    row: Row = healthy_row,
    scores: Row | None = None,
    looks: bool = True,
) -> list[tuple[int, Change]]:
    """What the doctor says between two steps of a run that logs every 20 steps and is scored every 200."""
    said = []
    for step in steps:
        if looks and patient.is_due(step):
            batch = batch_at(step)
            patient.look(step, batch, {"ab": ab(batch.real_a, step), "ba": ba(batch.real_b, step)})
        if step % 20 == 0:
            said += [(step, change) for change in patient.log(step, row(step))[1]]
        if scores is not None and step % 200 == 0:
            said += [(step, change) for change in patient.judged(step, scores(step))]
    return said


def names(said: list[tuple[int, Change]]) -> list[tuple[str, bool]]:
    return [(change.name, change.started) for _, change in said]


# ---------------------------------------------------------------------------------------------- healthy


def test_a_healthy_run_is_silent() -> None:
    patient = doctor()
    assert drive(patient, range(1, 2001), scores=lambda step: {"memorisation_ab": 0.9, "kid_ab": 0.1}) == []
    assert patient.active == {}


def test_a_fresh_run_is_silent() -> None:
    """Fresh generators give noise or grey, and fresh discriminators are blind: nothing to say of the first steps."""
    noise = torch.Generator().manual_seed(1)

    def fresh(real: Tensor, step: int) -> Tensor:
        if step > 250:
            return painted(real, step)
        return -0.1 * real + 0.2 * torch.randn(real.shape, generator=noise)

    def row(step: int) -> dict[str, float]:
        return {**healthy_row(step), **({"accuracy_a": 0.5, "accuracy_b": 0.5} if step <= 250 else {})}

    assert drive(doctor(), range(1, 1001), ab=fresh, ba=fresh, row=row) == []


def test_what_is_logged() -> None:
    patient = doctor()
    drive(patient, range(1, 200))
    scalars, _ = patient.log(200, healthy_row(200))
    measures = {"luminance_correlation", "change", "variation", "checkerboard"}
    expected = {f"doctor_{measure}_{direction}" for measure in measures for direction in ("ab", "ba")} | {
        "doctor_accuracy_a", "doctor_accuracy_b", "doctor_data_wait",
        "doctor_surge_losses", "doctor_surge_generators", "doctor_surge_discriminators",
    }  # fmt: skip
    assert set(scalars) == expected
    assert all(isinstance(value, float) and math.isfinite(value) for value in scalars.values())
    assert scalars["doctor_luminance_correlation_ab"] == pytest.approx(1, abs=1e-3)
    assert scalars["doctor_variation_ab"] == pytest.approx(0.8, abs=0.1)


def test_is_due_every_so_many_steps() -> None:
    assert [step for step in range(1, 41) if doctor().is_due(step)] == [10, 20, 30, 40]
    assert not any(Doctor(every=0, names=NAMES, options={}).is_due(step) for step in range(1, 41))


# ---------------------------------------------------------------------------------------------- each alarm


def between(bad: Translate, first: int = 500, last: int = 1200) -> Translate:
    """A translation that is bad for a while."""
    return lambda real, step: bad(real, step) if first <= step < last else painted(real, step)


def inverted(real: Tensor, step: int) -> Tensor:
    return -real


def unchanged(real: Tensor, step: int) -> Tensor:
    return real + 0.01


def collapsed(real: Tensor, step: int) -> Tensor:
    return PICTURES[3][None] + 0.1 * real


def gridded(real: Tensor, step: int) -> Tensor:
    line = 0.08 * (-1.0) ** torch.arange(_SIZE)
    return painted(real, step) + line[:, None] + line[None] + line[:, None] * line[None] / 0.08


@pytest.mark.parametrize(
    ("name", "bad", "figure", "knob"),
    [
        ("color_inversion", inverted, r"correlation -?0\.\d\d", "method.weights.identity_b"),
        ("does_nothing", unchanged, r"change \d\.\d%", "method.weights.adversarial_ab"),
        ("mode_collapse", collapsed, r"0\.\d\d times", "method.weights.cycle_a"),
        ("checkerboard", gridded, r"\d+\.\d dB", "generator.upsample=resize"),
    ],
)
def test_alarms_over_translations(name: str, bad: Translate, figure: str, knob: str) -> None:
    """Each is raised once, for its own direction, within 500 steps, and ends once within 500 steps of the cure."""
    patient = doctor()
    said = drive(patient, range(1, 1201), ab=between(bad))
    assert names(said) == [(f"{name}_ab", True)]
    (step, change), line = said[0], patient.active[f"{name}_ab"]
    assert 500 < step < 1100
    assert change.line == line
    assert re.search(figure, line), line
    assert re.search(r"since step (\d+)", line), line
    assert knob in line
    assert "photo" in line
    assert "painting" in line

    said = drive(patient, range(1201, 2000), ab=between(bad))
    assert names(said) == [(f"{name}_ab", False)]
    assert said[0][0] < 1700
    assert "is over" in said[0][1].line
    assert patient.active == {}


def test_the_other_direction_has_its_own_knob() -> None:
    patient = doctor()
    assert names(drive(patient, range(1, 1200), ba=between(inverted))) == [("color_inversion_ba", True)]
    assert "method.weights.identity_a" in patient.active["color_inversion_ba"]


def test_near_zero_correlation_is_an_inversion_too() -> None:
    other = between(lambda real, step: PICTURES[(step // 10 * 11 + 5) % 32][None])
    assert ("color_inversion_ab", True) in names(drive(doctor(), range(1, 1200), ab=other))


def test_who_has_resize_already_is_told_something_else() -> None:
    patient = doctor("resize")
    drive(patient, range(1, 1200), ab=between(gridded))
    line = patient.active["checkerboard_ab"]
    assert "generator.upsample" not in line
    assert line.endswith(": lower optimizer.generator_lr, or raise ema.decay")


def scalar(**bad: float) -> Row:
    """Rows with scalars that are off from step 500 to 1500."""
    return lambda step: {**healthy_row(step), **(bad if 500 <= step < 1500 else {})}


@pytest.mark.parametrize(
    ("name", "row", "knob"),
    [
        ("discriminator_wins_b", scalar(accuracy_b=0.999), "discriminator.spectral_norm=true"),
        (
            "discriminator_blind_a",
            scalar(accuracy_a=0.5, score_real_a=0.5, score_fake_a=0.5),
            "optimizer.discriminator_lr",
        ),
        ("starving", scalar(data_wait=0.6), "data.num_workers"),
        ("exploding", scalar(cycle_a=1000.0), "optimizer.clip_norm=1"),
        ("exploding", scalar(grad_norm_generators=1e5), "optimizer.clip_norm=1"),
        ("non_finite", scalar(cycle_a=math.nan), "train.precision=fp32"),
        ("non_finite", scalar(grad_norm_generators=math.inf), "optimizer.clip_norm=1"),
    ],
)
def test_alarms_over_scalars(name: str, row: Row, knob: str) -> None:
    patient = doctor()
    said = drive(patient, range(1, 1500), row=row, looks=False)
    assert names(said) == [(name, True)]
    assert said[0][0] >= 500
    assert knob in patient.active[name]
    said = drive(patient, range(1500, 2200), row=row, looks=False)
    assert names(said) == [(name, False)]
    assert patient.active == {}


def test_broken_values_are_told_at_once_and_by_name() -> None:
    ((step, change),) = drive(
        doctor(), range(1, 520), row=scalar(cycle_a=math.nan, adversarial_ab=math.inf), looks=False
    )
    assert step == 500
    assert "cycle_a" in change.line
    assert "adversarial_ab" in change.line


def test_broken_translations_are_told_and_leave_the_means_alone() -> None:
    """One look with NaN must not stay in a running mean for ever."""
    patient, untouched = doctor(), doctor()
    broken = between(lambda real, step: real * math.nan, 500, 540)
    said = drive(patient, range(1, 1001), ab=broken)
    assert names(said) == [("non_finite", True), ("non_finite", False)]
    assert said[0][0] == 500
    drive(untouched, range(1, 1001))
    ours, theirs = patient.log(1020, healthy_row(1020))[0], untouched.log(1020, healthy_row(1020))[0]
    assert ours["doctor_luminance_correlation_ab"] == pytest.approx(theirs["doctor_luminance_correlation_ab"], abs=1e-3)


def test_memorisation_is_judged_by_evaluations() -> None:
    patient = doctor()
    copies: Row = lambda step: {"memorisation_ab": 0.1 if step < 1000 else 0.9, "memorisation_ba": math.nan}  # noqa: E731
    said = drive(patient, range(1, 1400), scores=copies, looks=False)
    assert names(said) == [("memorisation_ab", True), ("memorisation_ab", False)]
    assert [step for step, _ in said] == [200, 1000]


def test_biased_discriminators_are_not_blind() -> None:
    """All scores below the boundary, those of real images less so: half of its decisions are right, yet it can tell."""
    row = scalar(accuracy_a=0.5, score_real_a=0.45, score_fake_a=0.2)
    assert drive(doctor(), range(1, 1500), row=row, looks=False) == []


def test_methods_may_say_less() -> None:
    """One direction, no accuracy (WGAN), no gradient norms: what is there is judged."""
    patient = doctor()
    said = []
    for step in range(10, 1200, 10):
        batch = batch_at(step)
        patient.look(step, batch, {"ab": -batch.real_a})
        said += patient.log(step, {"adversarial_ab": 0.3})[1]
    assert [change.name for change in said] == ["color_inversion_ab"]


def test_nothing_is_said_without_looks() -> None:
    assert doctor().log(1000, {})[1] == []
    assert doctor().log(1000, healthy_row(1000))[1] == []


# ---------------------------------------------------------------------------------------------- steadiness


def test_short_trouble_is_no_alarm() -> None:
    """Forty steps of inversion, of a discriminator that wins, a spike of gradients: training is a rough ride."""
    row: Row = lambda step: {  # noqa: E731
        **healthy_row(step),
        **({"accuracy_b": 1.0} if 600 <= step < 700 else {}),
        **({"grad_norm_generators": 3000.0} if step % 400 == 0 else {}),
        **({"data_wait": 0.9} if step in (20, 800) else {}),  # workers start; the disk was busy
    }
    assert drive(doctor(), range(1, 2000), ab=between(inverted, 600, 640), row=row) == []


@pytest.mark.parametrize("level", [0.0, 0.1, 0.175, 0.25])
def test_alarms_do_not_flap(level: float) -> None:
    """Correlations that wander around any level between the thresholds and beyond: at most one alarm, raised once."""
    wander = random.Random(2)

    def translate(real: Tensor, step: int) -> Tensor:
        correlation = max(-1.0, min(1.0, level + wander.uniform(-0.2, 0.2)))
        other = PICTURES[(step // 10 * 11 + 5) % 32][None]
        mixed = correlation * real + math.sqrt(1 - correlation**2) * other
        return mixed.clamp(-1, 1)

    assert len(drive(doctor(), range(1, 3000), ab=translate)) <= 1


ROW = scalar(accuracy_b=0.999, grad_norm_generators=1e5)
TRANSLATIONS = {"ab": between(inverted), "ba": between(collapsed)}


@pytest.fixture(scope="module")
def whole() -> tuple[Doctor, list[tuple[int, Change]]]:
    """A doctor after an uninterrupted run, and what it said."""
    patient = doctor()
    return patient, drive(patient, range(1, 2001), row=ROW, **TRANSLATIONS)


@pytest.mark.parametrize("cut", [130, 640, 955, 1330])
def test_a_resumed_run_says_the_same_at_the_same_steps(
    cut: int, whole: tuple[Doctor, list[tuple[int, Change]]]
) -> None:
    uninterrupted, expected = whole
    assert len(expected) == 8  # four alarms, each raised and over

    first = doctor()
    said = drive(first, range(1, cut), row=ROW, **TRANSLATIONS)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = doctor()
    second.load_state_dict(torch.load(file, weights_only=True))
    assert second.active == first.active
    said += drive(second, range(cut, 2001), row=ROW, **TRANSLATIONS)
    assert said == expected
    ours, theirs = second.state_dict(), uninterrupted.state_dict()
    assert torch.equal(ours["looks"].pop("sums"), theirs["looks"].pop("sums"))
    assert ours == theirs


def test_broken_translations_are_not_told_again_after_a_resume() -> None:
    first, second = doctor(), doctor()
    drive(first, range(1, 601), ab=between(lambda real, step: real * math.nan, 500, 540))
    second.load_state_dict(first.state_dict())
    assert drive(second, range(601, 800)) == []


def test_a_saved_state_does_not_change_afterwards() -> None:
    patient = doctor()
    drive(patient, range(1, 800), ab=between(inverted))
    state = patient.state_dict()
    sums, alarms = state["looks"]["sums"].clone(), dict(state["alarms"])
    drive(patient, range(800, 1000), ab=between(inverted))
    assert torch.equal(state["looks"]["sums"], sums)
    assert state["alarms"] == alarms


def test_random_states_and_images_are_left_alone() -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    before = PICTURES.clone()
    drive(doctor(), range(1, 400))
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]
    assert torch.equal(before, PICTURES)


# ---------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("kind", AILMENTS)
def test_knobs_name_real_options(kind: str) -> None:
    """Each an option of some method, and for every method something is left to do."""
    ailment = AILMENTS[kind]
    said = (*ailment.knobs, *ailment.otherwise)
    knobs = [knob.format(x="a", y="b", source="photo", target="painting") for knob in said]
    named = {knob: set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", knob)) for knob in knobs}
    assert any(named.values())
    everything = set().union(*(options_of(method) for method in METHODS))
    for keys in named.values():
        assert keys <= everything
    for method in METHODS:
        assert any(keys and keys <= set(options_of(method)) for keys in named.values()), method


@pytest.mark.parametrize(
    ("method", "said", "unsaid"),
    [("cyclegan", "cycle_a", "nce_ab"), ("cut", "nce_ab", "cycle_a"), ("dclgan", "nce_ab", "cycle_a")],
)
def test_only_knobs_of_the_method_are_named(method: str, said: str, unsaid: str) -> None:
    patient = doctor(method=method)
    drive(patient, range(1, 1200), ab=between(unchanged))
    line = patient.active["does_nothing_ab"]
    assert f"method.weights.{said}" in line
    assert unsaid not in line
    assert ", or raise method.weights.adversarial_ab" in line


def advice(settings: dict[str, Any], **bad: float) -> str:
    patient = doctor(**settings)
    drive(patient, range(1, 1500), row=scalar(**bad), looks=False)
    (line,) = patient.active.values()
    return line.rpartition("): ")[2]


def test_knobs_that_would_turn_nothing_are_not_named() -> None:
    """Nothing is set that is so already, and nothing lowered that is 0."""
    wins, blind = {"accuracy_b": 0.999}, {"accuracy_a": 0.5, "score_real_a": 0.5, "score_fake_a": 0.5}
    assert advice({}, **wins) == (
        "lower optimizer.discriminator_lr, set method.weights.gradient_penalty=0.1, start anew with "
        "discriminator.spectral_norm=true, or where pictures are few set "
        "discriminator.augment=[color,translation,cutout]"
    )
    done = {
        "method.weights.gradient_penalty": 0.1,
        "discriminator.spectral_norm": True,
        "discriminator.augment": ["color", "translation", "cutout"],
    }
    assert advice(done, **wins) == "lower optimizer.discriminator_lr"
    assert "lower" not in advice({}, **blind)
    assert advice({"discriminator.noise": 0.1}, **blind).endswith(", or lower discriminator.noise")


def test_advice_that_a_going_run_refuses_says_start_anew() -> None:
    """`--resume` takes no setting that the form of a network rests on."""
    for ailment in AILMENTS.values():
        for knob in ailment.knobs:
            keys = set(re.findall(r"[a-z_]+(?:\.[a-z_]+)+", knob)) - set(continuation._NO_SHAPES)
            if any(key.startswith(("generator.", "discriminator.")) for key in keys):
                assert knob.startswith("start anew with ")


# ---------------------------------------------------------------------------------------------- real networks


def train(method: CycleGAN, optimizer: OptimizerConfig, last: int, stride: int) -> list[str]:
    """Names of the alarms of a tiny real training; each of its steps counts as `stride`, to pass grace quickly."""
    device = torch.device("cpu")
    precision = choose_precision("fp32", device)
    optimization = Optimization(method, optimizer, precision, device, last)
    patient = doctor()
    said = []
    for step in range(stride, last + 1, stride):
        batch = batch_at(step)
        optimization.start_step(0)
        learned = learn(method, optimization, precision, [replace(batch, draws=method.draw(batch))])
        row = {name: value.item() for name, value in learned.scalars[0].items()}
        row |= {f"grad_norm_{player}": norm.item() for player, norm in learned.norms.items()}
        patient.look(step, batch, learned.translations)
        said += patient.log(step, row)[1]
    return [change.name for change in said if change.started]


def cyclegan(upsample: str = "resize", **weights: float) -> CycleGAN:
    torch.manual_seed(0)
    return CycleGAN(
        CycleGANConfig(weights=CycleGANWeights(**weights)),
        GeneratorConfig(filters=4, blocks=1, norm="none", upsample=upsample, init="xavier", init_gain=1.0),  # type: ignore[arg-type]
        DiscriminatorConfig(filters=4, layers=1, norm="none"),
        channels=3,
        seed=0,
    )


class Fixed(nn.Module):
    """A generator that has come to a stop: it scales and lightens, and should it learn, hardly notices."""

    def __init__(self, factor: float, shift: float) -> None:
        super().__init__()
        self.factor, self.shift = nn.Parameter(torch.tensor(factor)), shift

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * images + self.shift


def test_generators_that_do_nothing() -> None:
    method = cyclegan()
    method.gen_ab, method.gen_ba = Fixed(1.0, 0.0), Fixed(1.0, 0.0)
    said = train(method, OptimizerConfig(), 1000, 40)
    assert {"does_nothing_ab", "does_nothing_ba"} <= set(said)
    assert not any(name.startswith(("color_inversion", "mode_collapse", "checkerboard")) for name in said)


def test_discriminators_that_see_nothing_are_blind() -> None:
    method = cyclegan()
    for disc in (method.disc_a, method.disc_b):
        nn.init.zeros_(list(disc.parameters())[-2])  # the weight of the last layer: one score for all
    said = train(method, OptimizerConfig(discriminator_lr=1e-12), 1200, 40)
    assert {"discriminator_blind_a", "discriminator_blind_b"} <= set(said)


def test_a_discriminator_wins_against_a_generator_that_stands_still() -> None:
    method = cyclegan()
    method.gen_ab, method.gen_ba = Fixed(0.3, 1.0), Fixed(1.0, 0.0)
    said = train(method, OptimizerConfig(generator_lr=1e-12, discriminator_lr=0.003), 2000, 20)
    assert "discriminator_wins_b" in said


def test_fresh_transposed_convolutions_leave_a_grid() -> None:
    said = train(cyclegan("transpose"), OptimizerConfig(generator_lr=1e-12), 800, 40)
    assert {"checkerboard_ab", "checkerboard_ba"} <= set(said)
