"""Updates: whose parameters move, by how much, and that parts of a batch add up to the whole."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch

from cyclestyle.batch import UnpairedBatch
from cyclestyle.config.schema import OptimizerConfig
from cyclestyle.devices import Precision
from cyclestyle.training.learning import learn
from cyclestyle.training.optimization import Optimization

from .helpers import Toy, batch_of

CPU = torch.device("cpu")
FP32 = Precision("fp32", "")


def build(config: OptimizerConfig | None = None) -> tuple[Toy, Optimization]:
    torch.manual_seed(1)
    toy = Toy()
    return toy, Optimization(toy, config or OptimizerConfig(schedule="constant"), FP32, CPU, num_steps=10)


def step(toy: Toy, optimization: Optimization, parts: list[UnpairedBatch], number: int = 0) -> dict[str, torch.Tensor]:
    optimization.start_step(number)
    return learn(toy, optimization, FP32, parts).norms


def weights(toy: Toy) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in toy.named_parameters()}


def test_first_adam_step_moves_each_parameter_by_its_learning_rate() -> None:
    toy, optimization = build(OptimizerConfig(schedule="constant", generator_lr=0.01, discriminator_lr=0.001))
    before = weights(toy)
    step(toy, optimization, [batch_of(2)])
    after = weights(toy)
    # Adam's first step is lr * g / (|g| + eps): the learning rate, whatever the gradient.
    torch.testing.assert_close(
        (after["gen_ab.0.weight"] - before["gen_ab.0.weight"]).abs(), torch.full((3, 3, 1, 1), 0.01)
    )
    torch.testing.assert_close(
        (after["disc_b.weight"] - before["disc_b.weight"]).abs(), torch.full((1, 3, 1, 1), 0.001)
    )


def test_only_shields_the_other_player_and_restores_it() -> None:
    toy, optimization = build()
    with optimization.only("generators"):
        assert not toy.disc_b.weight.requires_grad
        assert toy.gen_ab[0].weight.requires_grad
    assert toy.disc_b.weight.requires_grad
    with pytest.raises(RuntimeError, match="stop"), optimization.only("generators"):
        raise RuntimeError("stop")
    assert toy.disc_b.weight.requires_grad


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_parts_are_the_whole_batch(parts: int) -> None:
    batch = batch_of(8)
    whole, optimization = build()
    pieces, accumulating = build(replace(OptimizerConfig(schedule="constant"), accumulation=parts))
    split = [UnpairedBatch(a, b) for a, b in zip(batch.real_a.chunk(parts), batch.real_b.chunk(parts), strict=True)]
    norms = step(whole, optimization, [batch])
    accumulated = step(pieces, accumulating, split)
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(pieces)[name], expected)
    for player in norms:
        torch.testing.assert_close(norms[player], accumulated[player])


def test_clipping_scales_to_the_norm_of_the_whole_player() -> None:
    toy, optimization = build(OptimizerConfig(clip_norm=1e-3, schedule="constant"))
    grads = []

    def look(adam: torch.optim.Optimizer, *_: object) -> None:
        grads.extend(p.grad.norm() for group in adam.param_groups for p in group["params"] if p.grad is not None)

    optimization._optimizers["generators"].register_step_pre_hook(look)
    norms = step(toy, optimization, [batch_of(2)])
    assert norms["generators"] > 1e-3  # measured before clipping
    torch.testing.assert_close(torch.stack(grads).norm(), torch.tensor(1e-3), rtol=1e-3, atol=0)


def test_no_gradient_outlives_its_step() -> None:
    toy, optimization = build()
    step(toy, optimization, [batch_of(2)])
    assert all(parameter.grad is None for parameter in toy.parameters())


def test_learning_rate_of_each_step_reaches_adam() -> None:
    _, optimization = build(OptimizerConfig(schedule="linear", decay_start=0.0, generator_lr=1.0, discriminator_lr=0.5))
    optimization.start_step(5)
    assert optimization.learning_rates(5) == {"generators": 0.5, "discriminators": 0.25}
    assert [optimizer.param_groups[0]["lr"] for optimizer in optimization._optimizers.values()] == [0.5, 0.25]


def test_goes_on_from_its_state_bit_for_bit() -> None:
    toy, optimization = build()
    step(toy, optimization, [batch_of(2)])
    other, resumed = build()
    other.load_state_dict(toy.state_dict())
    # A checkpoint goes through a file; here a copy keeps the two from sharing Adam's moments.
    resumed.load_state_dict(copy.deepcopy(optimization.state_dict()))
    batch = batch_of(2)
    step(toy, optimization, [batch], number=1)
    step(other, resumed, [batch], number=1)
    assert all(torch.equal(weights(toy)[name], value) for name, value in weights(other).items())


@pytest.mark.parametrize(("wrote", "reads"), [("contiguous", "last"), ("last", "contiguous")])
def test_goes_on_from_a_checkpoint_of_another_memory_layout(wrote: str, reads: str) -> None:
    """The fused Adam pairs weights and moments by address: moments of another layout would be mixed up unnoticed."""
    layouts = {"contiguous": torch.contiguous_format, "last": torch.channels_last}
    results = []
    for now in (wrote, reads):
        toy, optimization = wide(layouts[wrote])
        step(toy, optimization, [numbered_batch(0)])
        other, resumed = wide(layouts[now])
        other.load_state_dict(toy.state_dict())
        resumed.load_state_dict(copy.deepcopy(optimization.state_dict()))
        for number in (1, 2):
            step(other, resumed, [numbered_batch(number)], number)
        results.append(weights(other))
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-4, atol=1e-6)


def wide(layout: torch.memory_format) -> tuple[Toy, Optimization]:
    """A toy whose convolutions have a layout (those of 1x1 have none)."""
    torch.manual_seed(1)
    toy = Toy()
    toy.gen_ab[0] = torch.nn.Conv2d(3, 3, 3, padding=1)
    toy.disc_b = torch.nn.Conv2d(3, 4, 3, padding=1)
    toy.to(memory_format=layout)
    return toy, Optimization(toy, OptimizerConfig(schedule="constant"), FP32, CPU, num_steps=10)


def numbered_batch(number: int) -> UnpairedBatch:
    torch.manual_seed(number)
    return batch_of(2)


def test_betas_follow_the_config_after_a_resume() -> None:
    _, before = build(OptimizerConfig(betas=(0.5, 0.999)))
    _, now = build(OptimizerConfig(betas=(0.6, 0.99)))
    now.load_state_dict(before.state_dict())
    assert now._optimizers["generators"].param_groups[0]["betas"] == (0.6, 0.99)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 with a loss scaler needs a CUDA device")
def test_fp16_steps_follow_fp32() -> None:
    device = torch.device("cuda")
    batch = batch_of(2)
    results = []
    for name in ("fp32", "fp16"):
        torch.manual_seed(1)
        toy = Toy().to(device)
        optimization = Optimization(toy, OptimizerConfig(), Precision(name, ""), device, num_steps=10)
        step(toy, optimization, [UnpairedBatch(batch.real_a.to(device), batch.real_b.to(device))])
        results.append(weights(toy))
    for name, expected in results[0].items():
        torch.testing.assert_close(results[1][name], expected, rtol=1e-3, atol=1e-3)


def broken(batch: UnpairedBatch, value: float) -> UnpairedBatch:
    images = batch.real_a.clone()
    images[0, 0, 0, 0] = value
    return replace(batch, real_a=images)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(value: float, clip_norm: float) -> None:
    """1e30: the image is finite, the squares in the loss are not."""
    config = OptimizerConfig(schedule="constant", clip_norm=clip_norm)
    (toy, optimization), (twin, untouched) = build(config), build(config)
    batches = [batch_of(2) for _ in range(4)]
    for number, batch in enumerate(batches):
        step(toy, optimization, [batch], number)
        step(twin, untouched, [batch], number)
        if number < 2:
            before = weights(toy)
            step(toy, optimization, [broken(batch, value)], number)
            assert all(torch.equal(weights(toy)[name], weight) for name, weight in before.items())
            assert int(optimization.streak) == 1
    assert (int(optimization.num_skipped), int(optimization.streak)) == (2, 0)
    # Adam's moments and its count of steps were left alone too: without the skipped steps all is the same, bit for bit.
    for name, weight in weights(twin).items():
        assert torch.equal(weights(toy)[name], weight), name


def test_one_player_may_learn_while_the_other_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    toy, optimization = build()
    before = weights(toy)
    terms = toy.terms
    monkeypatch.setattr(
        toy,
        "terms",
        lambda player, batch, outputs: {
            name: term * (math.nan if player == "generators" else 1)
            for name, term in terms(player, batch, outputs).items()
        },
    )
    step(toy, optimization, [batch_of(2)])
    after = weights(toy)
    assert torch.equal(after["gen_ab.0.weight"], before["gen_ab.0.weight"])
    assert not torch.equal(after["disc_b.weight"], before["disc_b.weight"])
    assert int(optimization.num_skipped) == 1


def test_counts_of_skipped_steps_and_the_scale_of_rates_survive_a_resume() -> None:
    toy, optimization = build()
    step(toy, optimization, [broken(batch_of(2), math.nan)])
    optimization.lr_scale = 0.25
    _, later = build()
    later.load_state_dict(optimization.state_dict())
    assert (int(later.num_skipped), int(later.streak), later.lr_scale) == (1, 1, 0.25)
    assert later.learning_rates(0) == pytest.approx({"generators": 5e-5, "discriminators": 5e-5})
