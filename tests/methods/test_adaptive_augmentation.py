"""Augmentation whose strength follows what discriminators know by heart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import cyclestyle
from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.loading import load_config
from cyclestyle.errors import ConfigError
from cyclestyle.losses.augmentation import augment
from cyclestyle.methods import adversarial
from cyclestyle.methods.adversarial import AdversarialMethod

from .helpers import ALL_KINDS, EVERY, build, drawn, random_batch, recorded

ADAPTIVE: dict[str, Any] = {"augment": ALL_KINDS, "augment_adaptive": True}
Scores = tuple[float, float, float]


@pytest.fixture
def _as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discriminators see images unchanged, so that their scores are the tests'."""
    monkeypatch.setattr(adversarial, "augment", lambda images, *_: images)


def rate(method: AdversarialMethod, scores: dict[str, Scores], size: int = 2) -> None:
    """One call of `adapt` in which training, held-out images and translations of each domain have these scores."""

    def flat(value: float) -> Tensor:
        return torch.full((size, 3, 4, 4), value, dtype=torch.float64)

    by = {domain: [flat(value) for value in scores.get(domain, (0, 0, 0))] for domain in "ab"}
    batch = UnpairedBatch(by["a"][0], by["b"][0])
    method.adapt(
        batch,
        {direction: by[direction[-1]][2] for direction in method.directions},
        {domain: by[domain][1] for domain in method.held_out_domains()},
    )


def judged(name: str, **disc: Any) -> AdversarialMethod:
    method = build(name, **ADAPTIVE | disc)
    recorded(method)
    return method


def probability(method: AdversarialMethod, domain: str = "b") -> float:
    return method.get_buffer(f"augment_probability_{domain}").item()


BY_HEART, LIKE_TRAINING = (0.9, 0.2, 0.1), (0.9, 0.9, 0.1)


@pytest.mark.usefixtures("_as_they_are")
@EVERY
def test_probability_goes_with_what_is_known_by_heart(name: str) -> None:
    """Each domain by its own images; all of its way in `augment_images` images, four steps a call."""
    method = judged(name, augment_probability=0.5, augment_images=64)
    scores = {"a": LIKE_TRAINING, "b": BY_HEART}
    for call in range(1, 8):
        rate(method, scores, size=2)
        assert probability(method, "b") == pytest.approx(min(1, 0.5 + call * 2 * 4 / 64))
        if name != "cut":
            assert probability(method, "a") == pytest.approx(max(0, 0.5 - call * 2 * 4 / 64))


@pytest.mark.usefixtures("_as_they_are")
def test_it_goes_by_running_means_against_the_target() -> None:
    """Random scores of many calls, against the same written out in plain numbers."""
    method = judged("cut", augment_probability=0.5, augment_images=100, augment_target=0.3)
    random = torch.Generator().manual_seed(1)
    expected, means, weight, path = 0.5, torch.zeros(3, dtype=torch.float64), 0.0, set()
    for _ in range(60):
        readings = torch.rand(3, generator=random).double() + torch.tensor([0.4, 0.3, 0.0])
        rate(method, {"b": tuple(readings.tolist())}, size=1)  # type: ignore[dict-item]
        means, weight = 0.95 * means + 0.05 * readings, 0.95 * weight + 0.05
        train, held, fake = (means / weight).tolist()
        known = train > fake and (train - held) / (train - fake) > 0.3
        path.add(known)
        expected = min(1.0, max(0.0, expected + (0.04 if known else -0.04)))
        assert probability(method) == pytest.approx(expected)
    assert path == {False, True}


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("scores", "rises"),
    [
        ((1.0, 0.6, 0.0), {0.0}),
        ((1.0, 0.4, 0.0), {0.0, 0.5}),
        ((1.0, -0.1, 0.0), {0.0, 0.5, 1.0}),
        ((-2.0, -2.6, -3.0), {0.0, 0.5}),  # scores of any game
        ((1.0, 1.1, 0.0), set()),
    ],
)
def test_target_is_where_held_out_images_are_rated(scores: Scores, rises: set[float], target: float) -> None:
    method = judged("cut", augment_probability=0.5, augment_target=target)
    rate(method, {"b": scores})
    assert (probability(method) > 0.5) == (target in rises)
    assert probability(method) != 0.5


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize(
    "scores", [(0.5, 0.3, 0.6), (0.5, 0.7, 0.6), (0.5, 0.3, 0.5), (0.5, 0.5, 0.5), (0.5, 0.9, 0.6), (0.0, 0.0, 1.0)]
)
def test_a_blind_discriminator_raises_nothing(scores: Scores) -> None:
    """It rates translations no lower than what it trains on."""
    method = judged("cut", augment_probability=0.5)
    for _ in range(3):
        rate(method, {"b": scores})
    assert probability(method) <= 0.5


@pytest.mark.usefixtures("_as_they_are")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_count_for_nothing(bad: float) -> None:
    """As in a step that is skipped: the state stays finite, and the next readings go on from it."""
    method, spared = (judged("cut", augment_probability=0.5, augment_images=80) for _ in range(2))
    for scores in ((bad, 0.2, 0.1), BY_HEART, (0.9, bad, 0.1), LIKE_TRAINING, (0.9, 0.9, bad), BY_HEART):
        rate(method, {"b": scores})
        if all(map(math.isfinite, scores)):
            rate(spared, {"b": scores})
        assert probability(method) == probability(spared)
    assert probability(method) > 0.5
    assert torch.equal(method.augment_scores_b, spared.augment_scores_b)


def test_all_three_sets_are_rated_as_they_would_be_shown() -> None:
    method, again = (build("cyclegan", **ADAPTIVE, augment_probability=0.6, noise=0.1) for _ in range(2))
    batch, fakes, held = random_batch(2), random_batch(2), random_batch(2)
    method.augment_probability_a.fill_(0.9)
    discs = recorded(method)
    method.adapt(batch, {"ab": fakes.real_b, "ba": fakes.real_a}, {"a": held.real_a, "b": held.real_b})
    for domain in "ab":
        draws = again._draw_shown(domain, 6, batch.real_a.shape[1:])
        sets = [getattr(each, f"real_{domain}") for each in (batch, held, fakes)]
        for third, (images, seen) in enumerate(zip(sets, discs[domain].given, strict=True)):
            part = slice(2 * third, 2 * third + 2)
            chance = 0.9 if domain == "a" else 0.6
            expected = augment(images, draws[f"augment_{domain}"][part], ALL_KINDS, chance)
            expected = expected + 0.1 * draws[f"noise_{domain}"][part]
            torch.testing.assert_close(seen, expected, rtol=0, atol=0)


@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize(
    "disc", [{"norm": "batch", "layers": 2}, {"spectral_norm": True}], ids=["batch norm", "spectral norm"]
)
def test_adapting_leaves_discriminators_as_they_are(disc: dict[str, Any], is_training: bool) -> None:
    method = build("cyclegan", **ADAPTIVE, **disc).train(is_training)
    before = {key: value.clone() for key, value in method.disc_b.state_dict().items()}
    assert [key for key in before if key.endswith(("_u", "_v", "running_mean", "running_var"))]
    batch, other, kept = random_batch(2), random_batch(2), []
    method.disc_b.register_forward_hook(lambda _module, _args, maps: kept.append(maps[0].requires_grad))
    method.adapt(batch, {"ab": other.real_b, "ba": other.real_a}, {"a": other.real_a, "b": other.real_b})
    assert kept == [False, False, False]
    assert all(module.training is is_training for module in method.disc_b.modules())
    assert all(torch.equal(value, before[key]) for key, value in method.disc_b.state_dict().items())
    assert (method.augment_scores_b != 0).any()  # it looked
    assert not [key for key, buffer in method.named_buffers() if buffer.requires_grad]
    if is_training:  # a pass as in training would have changed them
        method.disc_b(batch.real_b)
        assert not all(torch.equal(value, before[key]) for key, value in method.disc_b.state_dict().items())


def test_state_dict_goes_on_with_adapting_and_drawing() -> None:
    method, resumed = (build("dclgan", **ADAPTIVE, noise=0.1, augment_probability=0.5) for _ in range(2))

    def look(which: AdversarialMethod, others: UnpairedBatch) -> None:
        which.adapt(others, {"ab": others.real_a, "ba": others.real_b}, {"a": others.real_b, "b": others.real_a})

    for _ in range(3):
        method.draw(random_batch())
        look(method, random_batch())
    state = method.state_dict()
    assert {f"augment_{kind}_{domain}" for kind in ("probability", "scores") for domain in "ab"} <= state.keys()
    resumed.load_state_dict(state)
    assert probability(resumed) == probability(method) != 0.5
    for _ in range(2):
        batch = random_batch()
        expected, found = method.draw(batch), resumed.draw(batch)
        assert {"augment_a", "augment_b", "noise_a", "noise_b"} <= found.keys() == expected.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items())
        look(method, batch)
        look(resumed, batch)
        for key in ("augment_probability_a", "augment_scores_a", "augment_probability_b", "augment_scores_b"):
            assert torch.equal(method.get_buffer(key), resumed.get_buffer(key))


def test_states_of_version_0_1_have_no_state_of_what_is_shown() -> None:
    method = build("cyclegan")
    state = method.state_dict()
    del state["_extra_state"]["showing"]
    method.load_state_dict(state)


@pytest.mark.usefixtures("_as_they_are")
def test_readings_of_all_processes_are_summed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with other images, the second with one more: both come to the means and counts of both."""
    own: tuple[Scores, Scores] = ((0.9, 0.2, 0.1), (0.5, 0.6, 0.3))
    sizes, told = (1, 2), []
    options = {"augment_probability": 0.5, "augment_images": 120, "augment_target": 0.5}
    monkeypatch.setattr(adversarial, "sum_in_place", lambda tensors: told.append([each.clone() for each in tensors]))
    for scores, size in zip(own, sizes, strict=True):
        rate(judged("cut", **options), {"b": scores}, size)
    ends = []
    for rank, (scores, size) in enumerate(zip(own, sizes, strict=True)):

        def add_other(tensors: Sequence[Tensor], others: list[Tensor] = told[1 - rank]) -> None:
            for tensor, other in zip(tensors, others, strict=True):
                tensor.add_(other)

        monkeypatch.setattr(adversarial, "sum_in_place", add_other)
        method = judged("cut", **options)
        rate(method, {"b": scores}, size)
        ends.append(method)
    # (0.7 - 0.4) / (0.7 - 0.2) = 0.6: the first alone is above the target, the second alone below.
    assert probability(ends[0]) == probability(ends[1]) == pytest.approx(0.5 + 3 * 4 / 120)
    scores = ends[0].augment_scores_b
    assert torch.equal(scores, ends[1].augment_scores_b)
    torch.testing.assert_close(scores / scores[0], torch.tensor([1.0, 4 / 7, 2 / 7], dtype=scores.dtype))


@EVERY
def test_what_adapts_is_observed_and_asks_for_held_out_images(name: str) -> None:
    adapting, fixed = build(name, **ADAPTIVE, augment_probability=0.25), build(name, augment=ALL_KINDS)
    domains = ("b",) if name == "cut" else ("a", "b")
    assert adapting.held_out_domains() == domains
    assert (adapting.adapt_every, fixed.adapt_every) == (4, 0)
    assert fixed.held_out_domains() == ()
    outputs = adapting.forward_batch(drawn(adapting, random_batch()))
    observed = adapting.observations(outputs)
    assert {key: value.item() for key, value in observed.items()} == {f"augment_{domain}": 0.25 for domain in domains}
    adapting.augment_probability_b.fill_(0.5)
    assert observed["augment_b"] == 0.25  # of its step, whatever comes after
    assert not [key for key in fixed.observations(outputs) if key.startswith("augment")]


AUGMENTED = ("discriminator.augment=[color,translation,cutout]", "discriminator.augment_adaptive=true")


def test_a_run_adapts_and_writes_it_down(tiny: list[str]) -> None:
    """A quarter a call: as it starts before step 4, a quarter up or down after."""
    more = ("discriminator.augment_probability=0.5", "discriminator.augment_images=16", "train.steps=6")
    less = ("evaluate.every=0", "doctor.every=0", "log.samples_every=6", "train.checkpoint_every=6")
    run = cyclestyle.train(load_config(None, [*tiny, *AUGMENTED, *more, *less]))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for domain in "ab":
        assert [row[f"augment_{domain}"] for row in rows[:2]] == [0.5, 0.5]
        assert rows[2][f"augment_{domain}"] in (0.25, 0.75)
    assert [row["step"] for row in rows] == [2, 4, 6]


@pytest.mark.parametrize("domain", ["a", "b"])
def test_without_test_pictures_there_is_nothing_to_adapt_by(
    tiny: list[str], dataset: Path, tmp_path: Path, domain: str
) -> None:
    folder = dataset / f"test{domain.upper()}"
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"discriminator\.augment_adaptive: .* data\.{domain}\.test"):
        cyclestyle.train(load_config(None, [*tiny, *AUGMENTED, "train.steps=4"]))
    assert not (tmp_path / "runs" / "tiny").exists()


@pytest.mark.parametrize("name", ["cyclegan", "cut"])
def test_adapting_may_be_turned_on_and_off_between_two_starts(name: str) -> None:
    adapting, fixed = build(name, **ADAPTIVE, augment_probability=0.25), build(name, augment=ALL_KINDS)
    for buffer in (adapting.augment_probability_b, adapting.augment_scores_b):
        buffer.fill_(0.75)
    off = build(name, augment=ALL_KINDS)
    off.load_state_dict(adapting.state_dict())
    assert not [key for key in off.state_dict() if key.startswith("augment_")]
    on = build(name, **ADAPTIVE, augment_probability=0.25)
    on.load_state_dict(fixed.state_dict())
    assert (on.augment_probability_b.item(), on.augment_scores_b.tolist()) == (0.25, [0.0] * 3)
    on.load_state_dict(adapting.state_dict())
    assert on.augment_probability_b.item() == 0.75
