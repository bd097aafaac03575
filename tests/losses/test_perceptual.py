"""Content, style and total variation by hand."""

from __future__ import annotations

import pytest
import torch

from cyclestyle.losses.perceptual import content, gram, style, total_variation


def test_content_is_a_mean_within_a_layer_then_over_layers():
    """Layer 1: (1 + 0 + 0 + 9) / 4 = 2.5; layer 2, a single value: 4."""
    ours = [torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]), torch.tensor([[[[2.0]]]])]
    theirs = [torch.tensor([[[[0.0, 2.0]], [[3.0, 3.0]]]]), torch.tensor([[[[0.0]]]])]
    assert content(ours, theirs).item() == (2.5 + 4) / 2
    assert content(ours, ours).item() == 0


def test_gram_by_hand():
    """Two channels of 1 x 3 pixels: rows (1, 2, 0) and (0, 1, -1), over 2 * 3. And each image has its own."""
    maps = torch.tensor([[[[1.0, 2.0, 0.0]], [[0.0, 1.0, -1.0]]]])
    expected = torch.tensor([[5.0, 2.0], [2.0, 2.0]]) / 6
    both = torch.cat([maps, 2 * maps])
    torch.testing.assert_close(gram(both), torch.stack([expected, 4 * expected]))
    torch.testing.assert_close(gram(both.to(memory_format=torch.channels_last)), gram(both), rtol=0, atol=0)


def test_style_of_constants():
    """One channel of the value v has the Gram matrix v^2, whatever its size: (9 - 1)^2 and (4 - 1)^2; their mean."""
    ours = [torch.full((1, 1, 4, 6), 3.0), torch.full((1, 1, 2, 3), 2.0)]
    theirs = [torch.full((1, 1, 5, 5), 1.0), torch.full((1, 1, 1, 2), -1.0)]
    assert style(ours, theirs).item() == pytest.approx((64 + 9) / 2)


def test_style_is_a_sum_over_the_matrix():
    """Two channels of v: all four entries of the Gram matrix are v^2 / 2."""
    ours, theirs = [torch.full((1, 2, 3, 3), 2.0)], [torch.zeros(1, 2, 3, 3)]
    assert style(ours, theirs).item() == pytest.approx(4 * 2.0**2)


def test_style_knows_no_places():
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 5)
    moved = maps.flatten(2)[:, :, torch.randperm(20)].view(2, 3, 5, 4)
    assert style([maps], [moved]).item() == pytest.approx(0, abs=1e-12)
    assert style([maps], [moved + 1]).item() > 0.01


def test_pictures_of_style_are_compared_one_by_one_or_one_with_all():
    ours = [torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 3, 3)]
    theirs = [torch.tensor([2.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 4, 4)]
    assert style(ours, theirs).item() == pytest.approx(((1 - 4) ** 2 + (4 - 9) ** 2) / 2)
    assert style(ours, [theirs[0][:1]]).item() == pytest.approx(((1 - 4) ** 2 + (4 - 4) ** 2) / 2)
    with pytest.raises(AssertionError, match="2 pictures of style for 1 translations"):
        style([ours[0][:1]], theirs)


@pytest.mark.parametrize("loss", [content, style])
def test_gradients_reach_the_translation_alone(loss):
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 1, 3, 4, 4).unbind()
    ours.requires_grad_(True)
    theirs.requires_grad_(True)
    loss([ours], [theirs]).backward()
    assert theirs.grad is None
    assert (ours.grad.abs() > 0).all()


def test_gradients_are_right_numerically():
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 2, 3, 4, 5, dtype=torch.float64).unbind()
    ours.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: content([x, x[:, :1]], [theirs, theirs[:, :1]]), ours)
    assert torch.autograd.gradcheck(lambda x: style([x, x[:, :1]], [theirs, theirs[:, :1]]), ours)
    assert torch.autograd.gradcheck(total_variation, ours)


@pytest.mark.parametrize("loss", [content, style])
def test_half_precision_features_are_compared_in_fp32(loss):
    """700 values near 100: squares and their sums in bf16 would be off by a hundredth, in fp16 beyond its range."""
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        ours, theirs = (100 + torch.randn(2, 1, 7, 10, 10)).to(dtype).unbind()
        ours.requires_grad_(True)
        with torch.autocast("cpu", torch.bfloat16):
            value = loss([ours], [theirs])
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(loss([ours.double()], [theirs.double()]).item(), rel=1e-3)
        value.backward()
        assert ours.grad.dtype == dtype


def test_total_variation_of_ramps():
    """Slope s along x and t along y: |s| + |t|, whatever the size."""
    y, x = torch.meshgrid(torch.arange(5.0), torch.arange(7.0), indexing="ij")
    ramp = (0.125 * x - 0.25 * y)[None, None]
    assert total_variation(ramp).item() == 0.375
    assert total_variation(ramp.mT).item() == 0.375
    assert total_variation(ramp[..., :4, :2].expand(2, 3, -1, -1)).item() == 0.375
    assert total_variation(torch.full((1, 3, 4, 5), 0.5)).item() == 0


def test_total_variation_by_hand():
    """Along x |2|, |-1|, |0|, |4|, mean 1.75; along y |1|, |-1|, |4|, mean 2."""
    image = torch.tensor([[[[0.0, 2.0, 1.0], [1.0, 1.0, 5.0]]]])
    assert total_variation(image).item() == 3.75
    board = torch.ones(4, 4)
    board[::2, ::2] = board[1::2, 1::2] = -1
    assert total_variation(board[None, None]).item() == 4  # the most there is


def test_total_variation_in_half_precision():
    """1600 steps of 2^-7, one bf16 step below 1, twice: summed in bf16 they would end at 2."""
    stripes = torch.ones(1, 1, 40, 41, dtype=torch.bfloat16)
    stripes[..., ::2] = 1 - 2**-7
    with torch.autocast("cpu", torch.bfloat16):
        value = total_variation(stripes)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(2**-7, rel=1e-6)
