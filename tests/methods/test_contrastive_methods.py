"""CUT, FastCUT and DCLGAN: whole steps against ones written out here, and what their gradients reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.methods import (
    ContrastConfig,
    CUTConfig,
    CUTWeights,
    DCLGANConfig,
    DCLGANWeights,
    MethodConfig,
)
from cyclestyle.config.schema import DiscriminatorConfig, GeneratorConfig, OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.methods.adversarial import AdversarialMethod
from cyclestyle.methods.build import build_method
from cyclestyle.methods.cut import CUT
from cyclestyle.methods.dclgan import DCLGAN
from cyclestyle.networks.recomputing import recompute_activations
from cyclestyle.training.learning import learn
from cyclestyle.training.optimization import Optimization

from .helpers import drawn, random_batch

CPU, FP32 = torch.device("cpu"), Precision("fp32", "")
LAYERS = ("image", "down_1", "down_2", "block_1")
CONTRAST = ContrastConfig(layers=LAYERS, num_places=9, width=24)
GENERATOR = GeneratorConfig(filters=4, blocks=2, init="xavier", init_gain=1.0, upsample="resize")
DISCRIMINATOR = DiscriminatorConfig(filters=4, layers=1, init_gain=0.2)

METHODS: dict[str, MethodConfig] = {
    "cut": CUTConfig(contrast=CONTRAST),
    "fastcut": CUTConfig(
        contrast=CONTRAST, flip_equivariance=True, weights=CUTWeights(nce_ab=10.0, nce_identity_b=0.0)
    ),
    "flipped with identity": CUTConfig(contrast=CONTRAST, flip_equivariance=True),
    "src": CUTConfig(contrast=CONTRAST, weights=CUTWeights(src_ab=3.0)),
    "dclgan": DCLGANConfig(contrast=CONTRAST, weights=DCLGANWeights(src_ba=2.0), pool_size=0),
}
BOTH_WAYS = ("dclgan",)
EVERY = pytest.mark.parametrize("name", METHODS)


def build(name: str, *, norm: str = "instance", antialias: bool = False) -> AdversarialMethod:
    torch.manual_seed(3)
    generator = replace(GENERATOR, norm=norm, antialias=antialias)
    method = build_method(METHODS[name], generator, replace(DISCRIMINATOR, norm=norm), channels=3, seed=0).double()
    assert isinstance(method, AdversarialMethod)
    return method


# ------------------------------------------------------------------------------- the methods, written out plainly


def plain_features(generator: nn.Module, images: Tensor) -> list[Tensor]:
    """The image, both strided convolutions before their norm, the first block: by the layers' places in the paper."""
    found = [images]
    for number, layer in enumerate(generator.model):  # type: ignore[union-attr,arg-type]
        images = layer(images)
        if number in (4, 7, 10):
            found.append(images)
    return found


def plain_embedding(embed: nn.Module, features: Sequence[Tensor], places: Sequence[Tensor], image: int) -> list[Tensor]:
    """Vectors of one image's places, a layer each."""
    rows = []
    for network, maps, where in zip(embed.networks.values(), features, places, strict=True):  # type: ignore[operator,union-attr]
        width = maps.shape[3]
        pixels = torch.stack([maps[image, :, int(place) // width, int(place) % width] for place in where])
        vectors = network(pixels)
        rows.append(vectors / vectors.norm(dim=1, keepdim=True))
    return rows


def plain_nce(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """Equation 3 for one image, mean over layers."""
    losses = []
    for q, k in zip(queries, keys, strict=True):
        logits = torch.tensor(0.0, dtype=q.dtype) + (q @ k.detach().T) / 0.07
        losses.append(F.cross_entropy(logits, torch.arange(len(q))))
    return torch.stack(losses).mean()


def plain_src(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    losses = []
    for q, k in zip(queries, keys, strict=True):
        p, r = (q @ q.T).softmax(1), (k.detach() @ k.detach().T).softmax(1)
        m = (p + r) / 2
        divergence = (p * (p / m).log() + r * (r / m).log()).sum(1) / 2
        losses.append(divergence.mean())
    return torch.stack(losses).mean()


Compare = Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def mirrored(x: Tensor, flip: Tensor | None) -> Tensor:
    """Those images that the draw says, one by one."""
    if flip is None:
        return x
    return torch.stack([each.flip(2) if bool(turn) else each for each, turn in zip(x, flip.flatten(), strict=True)])


def plain_terms(method: Any, batch: UnpairedBatch) -> dict[str, Tensor]:
    """Every term of the method, pass by pass."""
    if isinstance(method, DCLGAN):
        return plain_dclgan(method, batch)
    assert isinstance(method, CUT)
    flip, places = batch.draws.get("flip"), [batch.draws[f"places_{name}"] for name in LAYERS]
    fake_b, idt_b = (mirrored(method.gen_ab(mirrored(x, flip)), flip) for x in (batch.real_a, batch.real_b))

    def contrast(compare: Compare, made: Tensor, source: Tensor) -> Tensor:
        seen = [mirrored(maps, flip) for maps in plain_features(method.gen_ab, mirrored(made, flip))]
        known = plain_features(method.gen_ab, source)
        pairs = [
            [plain_embedding(method.embed_ab, maps, places, image) for maps in (seen, known)]
            for image in range(len(made))
        ]
        return torch.stack([compare(*pair) for pair in pairs]).mean()

    weights = METHODS_OF[id(method.config)]
    terms = {
        "discriminator_b": plain_judgement(method.disc_b, batch.real_b, fake_b),
        "adversarial_ab": ((method.disc_b(fake_b)[0] - 1) ** 2).mean(),
        "nce_ab": weights.nce_ab * contrast(plain_nce, fake_b, batch.real_a),
    }
    if weights.nce_identity_b:
        terms["nce_identity_b"] = weights.nce_identity_b * contrast(plain_nce, idt_b, batch.real_b)
    if weights.src_ab:
        terms["src_ab"] = weights.src_ab * contrast(plain_src, fake_b, batch.real_a)
    return terms


def plain_dclgan(method: DCLGAN, batch: UnpairedBatch) -> dict[str, Tensor]:
    places = [batch.draws[f"places_{name}"] for name in LAYERS]
    fake_b, fake_a = method.gen_ab(batch.real_a), method.gen_ba(batch.real_b)

    def contrast(compare: Compare, made: Tensor, seen_by: Any, source: Tensor, known_by: Any) -> Tensor:
        (see, embed_seen), (know, embed_known) = seen_by, known_by
        seen, known = plain_features(see, made), plain_features(know, source)
        return torch.stack([
            compare(plain_embedding(embed_seen, seen, places, i), plain_embedding(embed_known, known, places, i))
            for i in range(len(made))
        ]).mean()  # fmt: skip

    ab, ba = (method.gen_ab, method.embed_ab), (method.gen_ba, method.embed_ba)
    return {
        "discriminator_a": plain_judgement(method.disc_a, batch.real_a, fake_a),
        "discriminator_b": plain_judgement(method.disc_b, batch.real_b, fake_b),
        "adversarial_ab": ((method.disc_b(fake_b)[0] - 1) ** 2).mean(),
        "adversarial_ba": ((method.disc_a(fake_a)[0] - 1) ** 2).mean(),
        "nce_ab": 2 * contrast(plain_nce, fake_b, ba, batch.real_a, ab),
        "nce_ba": 2 * contrast(plain_nce, fake_a, ab, batch.real_b, ba),
        "src_ba": 2 * contrast(plain_src, fake_a, ab, batch.real_b, ba),
        "identity_a": (method.gen_ba(batch.real_a) - batch.real_a).abs().mean(),
        "identity_b": (method.gen_ab(batch.real_b) - batch.real_b).abs().mean(),
    }


def plain_judgement(disc: Any, real: Tensor, fake: Tensor) -> Tensor:
    return (((disc(real)[0] - 1) ** 2).mean() + (disc(fake.detach())[0] ** 2).mean()) / 2


METHODS_OF = {id(config): config.weights for config in METHODS.values()}


def all_terms(method: AdversarialMethod, batch: UnpairedBatch) -> dict[str, Tensor]:
    outputs = method.forward_batch(batch)
    return {name: term for player in method.players for name, term in method.terms(player, batch, outputs).items()}


# ------------------------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("size", [1, 3])
@EVERY
def test_terms_are_those_of_the_paper_pass_by_pass(name: str, size: int) -> None:
    """Joined passes, keys from the translation's own pass, places by index: the same numbers as without any of it."""
    method = build(name)
    batch = drawn(method, random_batch(size))
    found, expected = all_terms(method, batch), plain_terms(method, batch)
    assert set(found) == set(expected)
    for term, value in expected.items():
        # places' vectors are scaled by length + 1e-7
        torch.testing.assert_close(
            found[term], value, rtol=1e-5, atol=1e-9, msg=lambda text, term=term: f"{term}: {text}"
        )


@EVERY
def test_steps_follow_an_independent_plain_step(name: str) -> None:
    """The discriminators first, then the generators with the networks on patches against the newer discriminators."""
    method, plain = build(name), build(name)
    optimization = Optimization(method, OptimizerConfig(schedule="constant"), FP32, CPU, num_steps=1000)
    players = {player: plain.networks_of(player) for player in plain.players}
    adams = {
        player: torch.optim.Adam([p for net in nets for p in net.parameters()], lr=2e-4, betas=(0.5, 0.999))
        for player, nets in players.items()
    }
    for step in range(6):
        batch = drawn(method, random_batch(2))
        optimization.start_step(step)
        (found,) = learn(method, optimization, FP32, [batch]).scalars
        for player in ("discriminators", "generators"):
            expected = plain_terms(plain, batch)
            mine = {key: value for key, value in expected.items() if key.startswith("disc") == (player[0] == "d")}
            plain.zero_grad()
            torch.stack(list(mine.values())).sum().backward()
            adams[player].step()
            for term, value in mine.items():
                torch.testing.assert_close(found[term], value, rtol=2e-4, atol=1e-8)


@EVERY
def test_each_player_reaches_exactly_its_own_parameters(name: str) -> None:
    """The contrastive terms reach the networks on patches and the generators, never a discriminator."""
    method = build(name, norm="none")
    batch = drawn(method, random_batch())
    outputs = method.forward_batch(batch)
    optimization = Optimization(method, OptimizerConfig(), FP32, CPU, num_steps=10)
    owned = [id(p) for player in method.players for net in method.networks_of(player) for p in net.parameters()]
    assert sorted(owned) == sorted(id(p) for p in method.parameters())  # each parameter has one owner
    for player in method.players:
        method.zero_grad(set_to_none=True)
        with optimization.only(player):
            sum(method.terms(player, batch, outputs).values()).backward(retain_graph=True)
        own = {id(p) for net in method.networks_of(player) for p in net.parameters()}
        assert {id(p) for p in method.parameters() if p.grad is not None} == own


@EVERY
def test_keys_are_given_no_gradient(name: str) -> None:
    """With the translation held fast, what is left of the term's gradient is that of the queries alone."""
    method = build(name)
    batch = drawn(method, random_batch())
    outputs = method.forward_batch(batch)
    keys = outputs.keys.values() if isinstance(outputs.keys, dict) else [outputs.keys]
    assert all(not key.requires_grad for layers in keys for key in layers)
    outputs.fakes = {direction: fake.detach() for direction, fake in outputs.fakes.items()}
    method.own_terms(batch, outputs)["nce_ab"].backward()
    encoder, other = (method.gen_ba, method.gen_ab) if name in BOTH_WAYS else (method.gen_ab, None)
    assert encoder.model[1].weight.grad.abs().sum() > 0  # type: ignore[union-attr,index]
    if other is not None:  # the source's encoder and its network on patches make keys, and keys alone
        assert all(p.grad is None for p in (*other.parameters(), *method.embed_ab.parameters()))  # type: ignore[union-attr]


@pytest.mark.parametrize("antialias", [False, True])
@EVERY
def test_recomputed_activations_change_nothing(name: str, antialias: bool) -> None:
    method, again = build(name, antialias=antialias), build(name, antialias=antialias)
    for generator in again.generators:
        recompute_activations(again.get_submodule(generator))
    batch = drawn(method, random_batch())
    torch.testing.assert_close(all_terms(again, batch), all_terms(method, batch), rtol=1e-12, atol=1e-12)


def test_a_mirrored_image_is_translated_in_the_mirror() -> None:
    """fake_b lies over real_a, whatever the draw was."""
    method = build("fastcut")
    batch = drawn(method, random_batch(2))
    batch = replace(batch, draws={**batch.draws, "flip": torch.tensor([True, False]).reshape(2, 1, 1, 1)})
    fakes = method.translations(method.forward_batch(batch))["ab"]
    torch.testing.assert_close(fakes[:1], method.gen_ab(batch.real_a[:1].flip(3)).flip(3))
    torch.testing.assert_close(fakes[1:], method.gen_ab(batch.real_a[1:]))


def test_half_of_the_images_are_mirrored() -> None:
    method, batch = build("fastcut"), random_batch(4)
    turned = sum(int(method.draw(batch)["flip"].sum()) for _ in range(200))
    assert abs(turned - 400) < 4 * 14.1  # Binomial(800, 1/2)


@EVERY
def test_state_dict_holds_what_is_drawn(name: str) -> None:
    method, resumed = build(name), build(name)
    for _ in range(3):
        method.draw(random_batch())
    resumed.load_state_dict(method.state_dict())
    expected, found = method.draw(batch := random_batch()), resumed.draw(batch)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@EVERY
def test_bf16_terms_are_near_and_fp32_themselves(name: str) -> None:
    method = build(name).float()
    batch = drawn(method, random_batch())
    batch = replace(batch, real_a=batch.real_a.float(), real_b=batch.real_b.float())
    expected = all_terms(method, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = all_terms(method, batch)
    for term, value in expected.items():
        assert found[term].dtype == torch.float32
        # bf16 has 8 bits; similarities are divided by 0.07, so that their rounding counts fourteenfold
        torch.testing.assert_close(found[term], value, rtol=0.15, atol=0.02)


def test_hdce_is_taken_where_it_is_asked_for() -> None:
    torch.manual_seed(3)
    config = replace(METHODS["cut"], contrast=replace(CONTRAST, loss="hdce", hardness=0.3))
    method = build_method(config, GENERATOR, DISCRIMINATOR, channels=3, seed=0).double()
    batch = drawn(method, random_batch(1))  # type: ignore[arg-type]
    places = [batch.draws[f"places_{name}"] for name in LAYERS]
    seen, known = (plain_features(method.gen_ab, x) for x in (method.gen_ab(batch.real_a), batch.real_a))
    losses = []
    for q, k in zip(*(plain_embedding(method.embed_ab, maps, places, 0) for maps in (seen, known)), strict=True):
        same = torch.eye(len(q), dtype=torch.bool)
        weights = (k @ k.T / 0.3).masked_fill(same, -torch.inf).softmax(1)
        weights = weights / weights.amax(1, keepdim=True)
        logits = (weights * (q @ k.T) - (q * k).sum(1, keepdim=True)) / 0.07
        losses.append(logits.masked_fill(same, -torch.inf).logsumexp(1).mean())
    found = all_terms(method, batch)["nce_ab"]  # type: ignore[arg-type]
    torch.testing.assert_close(found, 0.5 * torch.stack(losses).mean(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("name", ["cut", "dclgan"])
def test_any_channels_and_norms_train(name: str, norm: str, channels: int) -> None:
    generator = replace(GENERATOR, norm=norm)
    method = build_method(METHODS[name], generator, DISCRIMINATOR, channels=channels, seed=0)
    optimization = Optimization(method, OptimizerConfig(), FP32, CPU, num_steps=10)
    images = torch.rand(2, 2, channels, 16, 16) * 2 - 1
    batch = UnpairedBatch(images[0], images[1])
    optimization.start_step(0)
    learned = learn(method, optimization, FP32, [replace(batch, draws=method.draw(batch))])
    assert all(value.isfinite() for value in learned.scalars[0].values())
    assert int(optimization.num_skipped) == 0


def test_a_unet_is_compared_at_its_halvings() -> None:
    config = CUTConfig(contrast=replace(CONTRAST, layers=("image", "down_1", "down_3")))
    method = build_method(config, GeneratorConfig(name="unet", depth=3, filters=4), DISCRIMINATOR, channels=3, seed=0)
    images = torch.rand(2, 1, 3, 16, 16) * 2 - 1
    batch = UnpairedBatch(images[0], images[1])
    batch = replace(batch, draws=method.draw(batch))
    assert [len(batch.draws[f"places_{name}"]) for name in ("image", "down_1", "down_3")] == [9, 9, 4]
    outputs = method.forward_batch(batch)
    assert [tuple(key.shape) for key in outputs.keys] == [(2, 3, 16, 16), (2, 4, 8, 8), (2, 16, 2, 2)]
    assert method.terms("generators", batch, outputs)["nce_ab"].isfinite()


def test_without_weights_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is CUT's without its contrast, and the features of the translation are not even taken."""
    config = replace(METHODS["cut"], weights=CUTWeights(nce_ab=0.0, nce_identity_b=0.0))
    method = build_method(config, GENERATOR, DISCRIMINATOR, channels=3, seed=0).double()
    monkeypatch.setattr(method.gen_ab, "encode", lambda *_: pytest.fail("features of the translation"))
    optimization = Optimization(method, OptimizerConfig(), FP32, CPU, num_steps=10)
    optimization.start_step(0)
    (found,) = learn(method, optimization, FP32, [drawn(method, random_batch())]).scalars  # type: ignore[arg-type]
    assert "adversarial_ab" in found
    assert not [name for name in found if name.startswith(("nce_", "src_"))]
    assert int(optimization.num_skipped) == 0
