"""images.py: integers survive the way into tensors and back, in every layout."""

import numpy as np
import pytest
import torch

from cyclestyle import images


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_survives(dtype):
    top = np.iinfo(dtype).max
    pixels = np.arange(top + 1, dtype=dtype).reshape(16, -1, 1)
    tensor = images.to_tensor(pixels)
    assert tensor.dtype == torch.float32
    assert tensor.min() == -1.0
    assert tensor.max() == 1.0
    np.testing.assert_array_equal(images.to_pixels(tensor, dtype), pixels)


def test_grey_values_stand_where_they_should():
    # v / 127.5 - 1; 51 is a fifth of 255, so exactly at -0.6
    tensor = images.to_tensor(np.array([[[0], [51], [255]]], np.uint8))
    torch.testing.assert_close(tensor, torch.tensor([[[-1.0, -0.6, 1.0]]]))


def test_layouts():
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)  # N x H x W x C
    batch = images.to_tensor(pixels)
    assert batch.shape == (2, 5, 3, 4)
    assert batch.is_contiguous()
    torch.testing.assert_close(images.to_tensor(pixels[1]), batch[1], rtol=0, atol=0)
    for layout in (torch.contiguous_format, torch.channels_last):
        back = images.to_pixels(batch.contiguous(memory_format=layout))
        np.testing.assert_array_equal(back, pixels)
        assert back.flags.c_contiguous
    np.testing.assert_array_equal(images.to_pixels(batch[0]), pixels[0])


def test_pixels_in_odd_memory():
    pixels = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    for view in (pixels[::-1], pixels[:, ::-2], pixels[..., ::-1], pixels.swapaxes(0, 1)):
        np.testing.assert_array_equal(images.to_pixels(images.to_tensor(view)), view)


def test_the_tensor_has_its_own_memory():
    pixels = np.zeros((2, 2, 1), np.uint8)
    tensor = images.to_tensor(pixels)
    pixels[:] = 255
    assert (tensor == -1).all()


def test_values_are_rounded_and_clipped():
    # 127.5 * (x + 1): -0.001 -> 127.37, 0.003 -> 127.88; outside -> the ends
    tensor = torch.tensor([[[-7.0, -0.001, 0.003, 1.5]]])
    assert images.to_pixels(tensor).ravel().tolist() == [0, 127, 128, 255]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_floating_types(dtype):
    tensor = torch.tensor([[[-1.0, 1.0]]], dtype=dtype, requires_grad=True)
    assert images.to_pixels(tensor).ravel().tolist() == [0, 255]
    assert images.to_pixels(tensor, np.uint16).ravel().tolist() == [0, 65535]


def test_other_pixels_are_our_mistake():
    with pytest.raises(AssertionError, match="HWC"):
        images.to_tensor(np.zeros((4, 4), np.uint8))
    with pytest.raises(KeyError):
        images.to_tensor(np.zeros((4, 4, 3), np.int32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_go_from_0_to_1_and_are_not_rounded(dtype):
    pixels = np.array([[[0.0], [0.25], [0.3], [1.0]]], dtype)
    tensor = images.to_tensor(pixels)
    torch.testing.assert_close(tensor, torch.tensor([[[-1.0, -0.5, -0.4, 1.0]]]), rtol=0, atol=1e-3)
    back = images.to_pixels(tensor, dtype)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, pixels, atol=1e-7)
    assert pixels[0, 0, 0] == 0.0  # the caller's array is untouched
