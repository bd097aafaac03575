"""Contrastive losses against a loop over images and places in float64, and in closed form."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cyclestyle.losses.contrastive import hdce, info_nce, src

TEMPERATURE, HARDNESS = 0.2, 0.5

LOSSES = {
    "nce": partial(info_nce, temperature=TEMPERATURE),
    "hdce": partial(hdce, temperature=TEMPERATURE, hardness=HARDNESS),
    "src": src,
}


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def dots(left: list[list[float]], right: list[list[float]]) -> list[list[float]]:
    return [[sum(a * b for a, b in zip(row, other, strict=True)) for other in right] for row in left]


def nce_of_image(q: list[list[float]], k: list[list[float]]) -> list[float]:
    return [-math.log(softmax([s / TEMPERATURE for s in row])[i]) for i, row in enumerate(dots(q, k))]


def hdce_of_image(q: list[list[float]], k: list[list[float]]) -> list[float]:
    """As the paper has it: softmax over the other places, then over the row's largest."""
    losses = []
    between, among = dots(q, k), dots(k, k)
    for i, row in enumerate(between):
        others = [j for j in range(len(row)) if j != i]
        weights = softmax([among[i][j] / HARDNESS for j in others])
        weights = [weight / max(weights) for weight in weights]
        weighted = [weight * row[j] for weight, j in zip(weights, others, strict=True)]
        losses.append(math.log(sum(math.exp((s - row[i]) / TEMPERATURE) for s in weighted)))
    return losses


def src_of_image(q: list[list[float]], k: list[list[float]]) -> list[float]:
    losses = []
    for ours, theirs in zip(dots(q, q), dots(k, k), strict=True):
        p, r = softmax(ours), softmax(theirs)
        middle = [(a + b) / 2 for a, b in zip(p, r, strict=True)]
        losses.append(sum(a * math.log(a / m) + b * math.log(b / m) for a, b, m in zip(p, r, middle, strict=True)) / 2)
    return losses


LOOPS = {"nce": nce_of_image, "hdce": hdce_of_image, "src": src_of_image}


def by_loop(name: str, q: Tensor, k: Tensor) -> float:
    """Mean over all images and places."""
    losses = [loss for ours, theirs in zip(q, k, strict=True) for loss in LOOPS[name](ours.tolist(), theirs.tolist())]
    return sum(losses) / len(losses)


def features(num_images: int, num_places: int, width: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(num_places)
    shape = (num_images, num_places, width)
    k = torch.randn(shape, dtype=torch.float64)
    q = k + torch.randn(shape, dtype=torch.float64)
    return F.normalize(q, dim=2).to(dtype), F.normalize(k, dim=2).to(dtype)


def strided(x: Tensor) -> Tensor:
    """The same values, places beside each other in memory, with gaps."""
    apart = torch.full((*x.mT.shape, 2), math.nan, dtype=x.dtype)
    apart[..., 0] = x.mT
    return apart[..., 0].mT


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("layout", ["contiguous", "strided"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 1e-5)]
)
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 7, 5), (3, 2, 8), (1, 64, 4)])
def test_losses_are_those_of_a_loop(name, layout, dtype, tolerance, shape):
    """Half precision: of the rounded features, with everything after in fp32, under autocast too."""
    q, k = features(*shape, dtype)
    expected = by_loop(name, q, k)
    if layout == "strided":
        q, k = strided(q), strided(k)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](q, k)
    assert loss.shape == ()
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert loss.item() == pytest.approx(expected, rel=tolerance, abs=tolerance / 10)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_the_translation_alone(name):
    q, k = features(2, 5, 4, torch.float32)
    q.requires_grad_(True)
    k.requires_grad_(True)
    LOSSES[name](q, k).backward()
    assert k.grad is None
    assert (q.grad.abs().sum(2) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_right_numerically(name):
    q, k = features(2, 5, 4)
    assert torch.autograd.gradcheck(lambda q: LOSSES[name](q, k), q.requires_grad_(True))


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_has_the_gradients_of_fp32(name):
    """The gradient of a bf16 feature is that of the same feature in float64, rounded once (2^-9), with 2^-8 allowed."""
    q, k = features(2, 5, 4, torch.bfloat16)
    exact = q.double().requires_grad_(True)
    (expected,) = torch.autograd.grad(LOSSES[name](exact, k.double()), exact)
    q.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](q, k)
    (gradient,) = torch.autograd.grad(loss, q)
    assert gradient.dtype == torch.bfloat16
    torch.testing.assert_close(gradient.double(), expected, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("num_places", [1, 2, 7])
def test_nce_of_places_that_have_nothing_in_common(num_places):
    """Similarity 1 to itself, 0 to P - 1 others: log(1 + (P - 1) exp(-1 / T))."""
    basis = torch.eye(7, dtype=torch.float64)[:num_places].expand(2, -1, -1)
    expected = math.log1p((num_places - 1) * math.exp(-1 / TEMPERATURE))
    assert info_nce(basis, basis, TEMPERATURE).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("num_places", [2, 7])
def test_places_that_all_look_alike(num_places):
    """A guess among P for NCE, log P; among the P - 1 wrong ones for hDCE, log (P - 1), all of weight 1."""
    same = F.normalize(torch.ones(2, num_places, 3, dtype=torch.float64), dim=2)
    assert info_nce(same, same, TEMPERATURE).item() == pytest.approx(math.log(num_places), rel=1e-12)
    assert hdce(same, same, TEMPERATURE, HARDNESS).item() == pytest.approx(math.log(num_places - 1), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_one_place_costs_nothing_and_can_be_learned_from(name):
    """A 1 x 1 feature map, the deepest of a U-Net: nothing to be told from."""
    q, k = features(2, 1, 4, torch.float32)
    loss = LOSSES[name](q.requires_grad_(True), k)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert q.grad.abs().max() < 1e-6


@pytest.mark.parametrize("name", ["nce", "hdce"])
def test_low_temperatures_do_not_overflow(name):
    """Exponents of 20,000: opposite places, T = 1e-4."""
    k = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    q = (-k).requires_grad_(True)
    loss = info_nce(q, k, 1e-4) if name == "nce" else hdce(q, k, 1e-4, 1e-4)
    (gradient,) = torch.autograd.grad(loss, q)
    assert loss.item() == pytest.approx(2e4, rel=1e-6)
    assert gradient.isfinite().all()


def test_hdce_at_great_hardness_is_the_decoupled_loss():
    """Yeh et al. 2022: the right place is left out below the fraction, all others count alike."""
    q, k = features(2, 7, 4)
    logits = q @ k.mT / TEMPERATURE
    wrong = logits[:, ~torch.eye(7, dtype=torch.bool)].view(2, 7, 6)
    expected = (wrong.logsumexp(2) - logits.diagonal(dim1=1, dim2=2)).mean()
    assert hdce(q, k, TEMPERATURE, 1e9).item() == pytest.approx(expected.item(), rel=1e-8)
    assert hdce(q, k, TEMPERATURE, 0.1).item() != pytest.approx(expected.item(), rel=1e-2)


def test_hdce_at_little_hardness_leaves_the_nearest_place():
    """Weight 1 for the one wrong place that is most alike in the source, 0 for others, whose term is exp(-s_ii / T)."""
    q, k = features(1, 5, 4)
    among = (k @ k.mT)[0].fill_diagonal_(-math.inf)
    nearest = among.argmax(1)
    between = (q @ k.mT)[0]
    right = between.diagonal()
    terms = ((between[torch.arange(5), nearest] - right) / TEMPERATURE).exp() + 3 * (-right / TEMPERATURE).exp()
    assert hdce(q, k, TEMPERATURE, 1e-5).item() == pytest.approx(terms.log().mean().item(), rel=1e-9)


def test_src_is_nothing_where_relations_agree():
    """Equal features, and features turned together: similarities are the same."""
    _, k = features(3, 7, 4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    assert src(k, k).item() == pytest.approx(0, abs=1e-15)
    assert src(k @ turn, k).item() == pytest.approx(0, abs=1e-15)
    assert info_nce(k @ turn, k, TEMPERATURE) > info_nce(k, k, TEMPERATURE) + 0.1  # which is more than SRC asks


def test_src_does_not_change_when_features_turn():
    q, k = features(3, 7, 4)
    turn, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    assert src(q @ turn, k).item() == pytest.approx(src(q, k).item(), rel=1e-9)
    assert src(q, k).item() > 1e-3


def test_src_is_at_most_log_2():
    """Reached where all are like place 0 in the one, like place 1 in the other: vectors as long as no caller has."""
    q = 10 * torch.tensor([[[2.0, 0.0], [1.0, 0.0]]])
    assert src(q, q.flip(1)).item() == pytest.approx(math.log(2), rel=1e-6)
    for seed in range(5):
        torch.manual_seed(seed)
        wild = src(100 * torch.randn(2, 6, 3), 100 * torch.randn(2, 6, 3))
        assert 0 < wild.item() <= math.log(2) + 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_other_places_than_the_keys_are_refused(name):
    q, k = features(1, 4, 3)
    with pytest.raises(AssertionError, match="places of translation and source"):
        LOSSES[name](q, k[:, :3])
