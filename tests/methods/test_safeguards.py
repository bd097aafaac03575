"""What discriminators are shown, their penalties, and terms that any generator may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.loading import load_config
from cyclestyle.config.methods import PerceptualConfig, active_terms
from cyclestyle.errors import ConfigError
from cyclestyle.losses import perceptual
from cyclestyle.losses.adversarial import gradient_penalty, r1
from cyclestyle.losses.augmentation import augment
from cyclestyle.losses.regularizers import low_frequency
from cyclestyle.methods import adversarial
from cyclestyle.methods.adversarial import AdversarialMethod
from cyclestyle.methods.build import build_method
from cyclestyle.networks.attention import SelfAttention
from cyclestyle.networks.layers import BatchStatistics, BlurPool, ResizeConv, SubpixelConv
from cyclestyle.networks.vgg import VGG19Features

from .helpers import ALL_KINDS, EVERY, build, drawn, random_batch, recorded, sides

PHOTO2VANGOGH = Path(__file__).parents[2] / "configs" / "photo2vangogh.yaml"

# --------------------------------------------------------------------------------------------------- off by default


def test_the_papers_config_has_no_safeguard_and_no_further_term() -> None:
    config = load_config(PHOTO2VANGOGH, ["generator.name=resnet", "generator.blocks=2", "generator.filters=4"])
    gen, disc, weights = config.generator, config.discriminator, config.method.weights
    assert (gen.upsample, gen.antialias, gen.attention, gen.dropout) == ("transpose", False, False, 0)
    assert (disc.name, disc.spectral_norm, disc.antialias, disc.batch_statistics) == ("patchgan", False, False, False)
    assert (disc.noise, disc.augment, disc.augment_adaptive) == (0, (), False)
    further = {"gradient_penalty", "r1"} | {
        f"{kind}_{direction}"
        for kind in ("consistency", "content", "style", "total_variation")
        for direction in ("ab", "ba")
    }
    of_the_paper = {
        f"{kind}_{side}"
        for kind, names in {"adversarial": ("ab", "ba"), "cycle": "ab", "identity": "ab", "discriminator": "ab"}.items()
        for side in names
    }
    assert {each.name for each in fields(weights)} == further | of_the_paper
    assert all(getattr(weights, name) == 0 for name in further)
    assert set(active_terms(weights)) == of_the_paper

    method = build_method(config.method, gen, replace(disc, filters=4), channels=3, seed=0)
    assert isinstance(method, AdversarialMethod)
    batch = drawn(method, random_batch(1, side=32))
    batch = replace(batch, real_a=batch.real_a.float(), real_b=batch.real_b.float())
    outputs = method.forward_batch(batch)
    terms = {name for player in method.players for name in method.terms(player, batch, outputs)}
    assert terms == of_the_paper
    assert set(batch.draws) == {"pool_a", "pool_b"}
    assert method.vgg is None
    assert method.adapt_every == 0
    assert method.held_out_domains() == ()
    assert not [name for name, _ in method.named_buffers() if name.startswith("augment")]
    foreign = (BatchStatistics, BlurPool, ResizeConv, SubpixelConv, SelfAttention, nn.Dropout)
    assert not [name for name, module in method.named_modules() if isinstance(module, foreign)]
    assert not [name for name, module in method.named_modules() if parametrize.is_parametrized(module)]
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in method.modules()) == 4


# ---------------------------------------------------------------------------------------- what discriminators are shown


def shown(method: AdversarialMethod, domain: str, images: Tensor, draws: Any, third: int) -> Tensor:
    """As `discriminator.augment`, `augment_probability` and `noise` say, by a third of the draws."""
    judge, part = method.judging, slice(third * len(images), (third + 1) * len(images))
    if judge.augment:
        images = augment(images, draws[f"augment_{domain}"][part], judge.augment, judge.augment_probability)
    if judge.noise:
        images = images + judge.noise * draws[f"noise_{domain}"][part]
    return images


SHOWN = pytest.mark.parametrize(
    "disc",
    [
        {"augment": ALL_KINDS, "augment_probability": 0.7},
        {"noise": 0.3},
        {"augment": ("cutout", "color"), "noise": 0.1},
    ],
    ids=["augmented", "noisy", "both"],
)


@SHOWN
@EVERY
def test_real_images_and_translations_are_shown_through_it(name: str, disc: dict[str, Any]) -> None:
    method = build(name, **disc)
    discs, batch = recorded(method), drawn(method, random_batch(3))
    outputs = method.forward_batch(batch)
    method.terms("generators", batch, outputs)
    method.terms("discriminators", batch, outputs)
    assert set(discs) == ({"b"} if name == "cut" else {"a", "b"})
    for domain, seen in discs.items():
        direction, _, real = sides(batch, domain)
        fake = outputs.fakes[direction]
        to_generator, to_discriminator = seen.given
        assert to_generator.requires_grad
        assert not to_discriminator.requires_grad
        torch.testing.assert_close(to_generator, shown(method, domain, fake, batch.draws, 0), rtol=0, atol=0)
        expected = [shown(method, domain, images, batch.draws, third) for third, images in ((1, real), (2, fake))]
        torch.testing.assert_close(to_discriminator, torch.cat(expected), rtol=0, atol=0)
        assert not torch.equal(expected[0], real)


@SHOWN
def test_the_three_sets_and_the_domains_have_draws_of_their_own(disc: dict[str, Any]) -> None:
    """The same image thrice in each domain: it is shown otherwise each time, and otherwise in the next step."""
    method = build("cyclegan", **disc | {"augment_probability": 1.0})
    image = random_batch(1).real_a
    looks = []
    for _ in range(2):
        batch = drawn(method, UnpairedBatch(image, image))
        outputs = method.forward_batch(batch)
        outputs.fakes = {"ab": image, "ba": image}
        discs = recorded(method)
        for player in method.players:
            method.terms(player, batch, outputs)
        looks += [image for seen in discs.values() for images in seen.given for image in images]
    assert len(looks) == 2 * 2 * 3
    assert not any(torch.equal(a, b) for i, a in enumerate(looks) for b in looks[:i])


@SHOWN
def test_gradients_reach_the_generator_through_what_is_shown(disc: dict[str, Any]) -> None:
    method = build("cyclegan", **disc)
    batch = drawn(method, random_batch())
    outputs = method.forward_batch(batch)
    (found,) = torch.autograd.grad(
        method.terms("generators", batch, outputs)["adversarial_ab"], outputs.fakes["ab"], retain_graph=True
    )
    fake = outputs.fakes["ab"].detach().requires_grad_()
    term = (method.disc_b(shown(method, "b", fake, batch.draws, 0))[0] - 1).square().mean()
    torch.testing.assert_close(found, torch.autograd.grad(term, fake)[0])
    assert found.abs().sum() > 0


def test_pools_keep_translations_as_they_are() -> None:
    method = build("cyclegan", options={"pool_size": 4}, augment=ALL_KINDS, noise=0.2)
    batch = drawn(method, random_batch(2))
    outputs = method.forward_batch(batch)
    method.terms("discriminators", batch, outputs)
    torch.testing.assert_close(method.pool_b.images, outputs.fakes["ab"].detach(), rtol=0, atol=0)


def test_noise_is_normal_of_the_given_deviation() -> None:
    """Of each third: mean 0, variance 1, fourth moment 3, no relation to the others, each within four deviations."""
    method = build("cyclegan", noise=0.25)
    discs, batch = recorded(method), random_batch(4)
    outputs = method.forward_batch(batch)
    thirds: list[list[Tensor]] = [[], [], []]
    for _ in range(16):
        batch = drawn(method, batch)
        for player in method.players:
            method.terms(player, batch, outputs)
        to_generator, to_discriminator = discs["b"].given[-2:]
        fake = outputs.fakes["ab"].detach()
        thirds[0].append(to_generator.detach() - fake)
        thirds[1].append(to_discriminator[:4] - batch.real_b)
        thirds[2].append(to_discriminator[4:] - fake)
    z = torch.stack([torch.cat(third).flatten() for third in thirds]) / 0.25
    num = z.shape[1]
    for moment, expected, variance in ((z, 0, 1), (z**2, 1, 2), (z**4, 3, 96)):
        assert (moment.mean(1) - expected).abs().max() < 4 * (variance / num) ** 0.5
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert (z[i] * z[j]).mean().abs() < 4 / num**0.5


@pytest.mark.parametrize("adaptive", [False, True])
def test_as_many_are_augmented_as_the_probability_says(adaptive: bool) -> None:
    """Of each domain by its own buffer, where it adapts."""
    wanted = {"a": 0.2, "b": 0.7 if adaptive else 0.2}
    method = build("cyclegan", augment=("color",), augment_probability=0.2, augment_adaptive=adaptive)
    if adaptive:
        method.augment_probability_b.fill_(0.7)
    batch = random_batch(50, side=8)
    discs, changed, rounds = recorded(method), dict.fromkeys("ab", 0), 4
    outputs = method.forward_batch(batch)
    for _ in range(rounds):
        batch = drawn(method, batch)
        method.terms("discriminators", batch, outputs)
        for domain, seen in discs.items():
            direction, _, real = sides(batch, domain)
            given = torch.cat([real, outputs.fakes[direction]])
            changed[domain] += int((seen.given[-1] != given).flatten(1).any(1).sum())
    num = rounds * 100
    for domain, probability in wanted.items():
        assert abs(changed[domain] - num * probability) < 4 * (num * probability * (1 - probability)) ** 0.5


# ------------------------------------------------------------------------------------------------------------ penalties


@pytest.mark.parametrize("form", ["zero_centered", "one_centered"])
@pytest.mark.parametrize("disc", [{}, {"augment": ALL_KINDS, "noise": 0.2}], ids=["plain", "shown"])
@EVERY
def test_penalties_are_taken_where_the_discriminator_looks(name: str, disc: dict[str, Any], form: str) -> None:
    method = build(name, {"r1": 3.0, "gradient_penalty": 7.0}, options={"gradient_penalty": form}, **disc)
    batch = drawn(method, random_batch())
    outputs = method.forward_batch(batch)
    terms = method.terms("discriminators", batch, outputs)
    kinds = ("discriminator", "r1", "gradient_penalty")
    assert set(terms) == {f"{kind}_{domain}" for kind in kinds for domain in method.judged}
    assert not [term for term in method.terms("generators", batch, outputs) if term.startswith(kinds)]
    for domain in method.judged:
        direction, _, real = sides(batch, domain)
        judge = method.get_submodule(f"disc_{domain}")
        real = shown(method, domain, real, batch.draws, 1)
        fake = shown(method, domain, outputs.fakes[direction].detach(), batch.draws, 2)
        center, mix = float(form == "one_centered"), batch.draws[f"mix_{domain}"]
        assert len(mix) == (len(batch) if center else 1)
        expected = 7 * gradient_penalty(judge, real, fake, center=center, mix=mix)  # type: ignore[arg-type]
        torch.testing.assert_close(terms[f"gradient_penalty_{domain}"], expected)
        torch.testing.assert_close(terms[f"r1_{domain}"], 3 * r1(judge, real))  # type: ignore[arg-type]
        assert min(terms[f"gradient_penalty_{domain}"], terms[f"r1_{domain}"]) > 1e-6
        for kind in ("r1", "gradient_penalty"):
            method.zero_grad(set_to_none=True)
            terms[f"{kind}_{domain}"].backward(retain_graph=True)
            reached = {key.split(".")[0] for key, weight in method.named_parameters() if weight.grad is not None}
            assert reached == {f"disc_{domain}"}


def test_without_a_weight_there_is_no_penalty_and_no_mixing() -> None:
    method = build("cyclegan", {"r1": 1.0})
    batch = drawn(method, random_batch())
    terms = method.terms("discriminators", batch, method.forward_batch(batch))
    assert set(terms) == {"discriminator_a", "discriminator_b", "r1_a", "r1_b"}
    assert set(batch.draws) == {"pool_a", "pool_b"}


# ------------------------------------------------------------------------------------ terms that any generator may have

LOOKS = PerceptualConfig(file="vgg.pth", content_layers=("relu1_2",), style_layers=("relu1_1", "relu1_2", "relu2_1"))
SHAPES = {0: (64, 3), 2: (64, 64), 5: (128, 64)}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, list[str]]]:
    """What VGG19 is loaded from and with, as it is asked for: of random weights, up to relu2_1."""
    random = torch.Generator().manual_seed(0)
    state = {}
    for number, shape in SHAPES.items():
        state[f"features.{number}.weight"] = torch.randn(*shape, 3, 3, generator=random) / 10
        state[f"features.{number}.bias"] = torch.randn(shape[0], generator=random) / 10
    calls: list[tuple[str | None, list[str]]] = []

    def load(file: str | None, layers: Sequence[str]) -> VGG19Features:
        calls.append((file, list(layers)))
        return VGG19Features(state, layers)

    monkeypatch.setattr(adversarial, "load_vgg19", load)
    return calls


def directions_of(name: str) -> tuple[str, ...]:
    return ("ab",) if name == "cut" else ("ab", "ba")


FURTHER = {"consistency": 2.0, "content": 3.0, "style": 5.0, "total_variation": 7.0}


@EVERY
def test_further_terms_are_of_the_right_pair_and_weighted(name: str, asked: list[Any]) -> None:
    weights = {f"{kind}_{to}": weight + (to == "ba") for kind, weight in FURTHER.items() for to in directions_of(name)}
    method = build(name, weights, options={"perceptual": LOOKS})
    assert asked == [("vgg.pth", ["relu1_2", "relu1_1", "relu2_1"])]
    batch = drawn(method, random_batch())
    outputs = method.forward_batch(batch)
    terms = method.terms("generators", batch, outputs)
    assert not [term for term in method.terms("discriminators", batch, outputs) if term in weights]
    for direction in directions_of(name):
        _, source, target = sides(batch, direction[-1])
        fake = outputs.fakes[direction]

        def looks(images: Tensor, layers: Sequence[str]) -> list[Tensor]:
            features = method.vgg(images)
            return [features[layer] for layer in layers]

        expected = {
            "consistency": low_frequency(fake, source, 4),
            "content": perceptual.content(looks(fake, LOOKS.content_layers), looks(source, LOOKS.content_layers)),
            "style": perceptual.style(looks(fake, LOOKS.style_layers), looks(target, LOOKS.style_layers)),
            "total_variation": perceptual.total_variation(fake),
        }
        for kind, value in expected.items():
            term = f"{kind}_{direction}"
            torch.testing.assert_close(terms[term], weights[term] * value, msg=lambda text, term=term: f"{term} {text}")
            assert terms[term] > 1e-6
            # To the generator of this direction, through the translation and no other way.
            method.zero_grad(set_to_none=True)
            terms[term].backward(retain_graph=True)
            reached = {key.split(".")[0] for key, weight in method.named_parameters() if weight.grad is not None}
            assert reached == {f"gen_{direction}"}
    outputs.fakes = {direction: fake.detach() for direction, fake in outputs.fakes.items()}
    terms = method.terms("generators", batch, outputs)
    assert not [term for term in weights if terms[term].requires_grad]


@pytest.mark.parametrize("kind", FURTHER)
@EVERY
def test_a_term_without_weight_is_left_out(name: str, kind: str, asked: list[Any]) -> None:
    """One kind in one direction alone, the last: the others are not there."""
    term = f"{kind}_{directions_of(name)[-1]}"
    method = build(name, {term: 1.0}, options={"perceptual": LOOKS})
    batch = drawn(method, random_batch())
    found = method.terms("generators", batch, method.forward_batch(batch))
    assert {each for each in found if each.startswith(tuple(FURTHER))} == {term}
    layers = {"content": ["relu1_2"], "style": ["relu1_1", "relu1_2", "relu2_1"]}
    assert [each for _, each in asked] == ([layers[kind]] if kind in layers else [])


@EVERY
def test_vgg_is_loaded_only_for_a_weight(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConfigError("no file of weights")

    monkeypatch.setattr(adversarial, "load_vgg19", refuse)
    others = {f"{kind}_{to}": 1.0 for kind in ("consistency", "total_variation") for to in directions_of(name)}
    assert build(name, others | {"r1": 1.0, "gradient_penalty": 1.0}, augment=ALL_KINDS, noise=0.1).vgg is None
    with pytest.raises(ConfigError, match="no file of weights"):
        build(name, {f"style_{directions_of(name)[-1]}": 1e-3})


@pytest.mark.usefixtures("asked")
@EVERY
def test_vgg_is_nobodys_to_train_or_keep(name: str) -> None:
    method = build(name, {"content_ab": 1.0, "style_ab": 1.0}, options={"perceptual": LOOKS})
    bare = build(name)
    assert isinstance(method.vgg, VGG19Features)
    assert method.state_dict().keys() == bare.state_dict().keys()
    assert [key for key, _ in method.named_parameters()] == [key for key, _ in bare.named_parameters()]
    assert all(torch.equal(*pair) for pair in zip(method.parameters(), bare.parameters(), strict=True))
    networks = [network for player in method.players for network in method.networks_of(player)]
    assert not [part for network in networks for part in network.modules() if isinstance(part, VGG19Features)]
    assert all(buffer.dtype == torch.float64 for buffer in method.vgg.buffers())  # `.to` reaches it
    bare.load_state_dict(method.state_dict())


# ----------------------------------------------------------------------------------------------------- batch statistics


@pytest.mark.parametrize(
    ("disc", "joined"),
    [
        ({"batch_statistics": True}, False),
        ({"batch_statistics": True, "name": "multiscale"}, False),
        ({"norm": "batch", "layers": 2}, False),
        ({"norm": "instance", "layers": 2}, True),
    ],
    ids=["statistics", "of scales", "batch norm", "neither"],
)
def test_what_mixes_images_judges_real_and_fake_apart(disc: dict[str, Any], joined: bool) -> None:
    method = build("cyclegan", **disc)
    batch = drawn(method, random_batch(3))
    outputs = method.forward_batch(batch)
    sizes: list[int] = []
    method.disc_b.register_forward_pre_hook(lambda _module, args: sizes.append(len(args[0])))
    term = method.terms("discriminators", batch, outputs)["discriminator_b"]
    assert sizes == ([6] if joined else [3, 3])

    def loss(wanted: float, images: Tensor) -> Tensor:
        return torch.stack([(scores - wanted).square().mean() for scores in method.disc_b(images)]).mean()

    expected = (loss(1, batch.real_b) + loss(0, outputs.fakes["ab"].detach())) / 2
    torch.testing.assert_close(term, expected)


def test_batch_statistics_tell_sets_that_are_all_alike() -> None:
    """The score of an image hangs on the others beside it."""
    judge: Callable[[Tensor], list[Tensor]] = build("cyclegan", batch_statistics=True).disc_b
    images = random_batch(2).real_a
    alike = images[:1].repeat(2, 1, 1, 1)
    assert not torch.allclose(judge(images)[0][:1], judge(alike)[0][:1])
