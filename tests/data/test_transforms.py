"""transforms.py: sizes, kinds of pixels, seeds, and which augmentations are refused at the start."""

import pickle
import time
import warnings

import albumentations
import numpy as np
import pytest

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.transforms import build_augment, build_center_crop, build_resize, check_augment
from cyclestyle.errors import ConfigError, DataError

KINDS = [(dtype, channels) for dtype in (np.uint8, np.uint16) for channels in (1, 2, 3, 4, 5, 9)]


def noise(shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def config(**settings):
    return DataConfig(**{"load_size": 24, "crop_size": 16, **settings})


# ------------------------------------------------------------------------------------------ resize


@pytest.mark.parametrize(
    ("mode", "size", "expected"),
    [
        ("shorter", (48, 96), (24, 48)),
        ("shorter", (96, 48), (48, 24)),
        ("shorter", (24, 24), (24, 24)),
        ("shorter", (7, 10), (24, 34)),  # 10 * 24 / 7 = 34.3
        ("shorter", (10, 15), (24, 36)),
        ("shorter", (16, 17), (24, 26)),  # 25.5, half up
        ("squash", (48, 96), (24, 24)),
        ("squash", (12, 96), (24, 24)),
        ("none", (5, 96), (5, 96)),
    ],
)
def test_sizes(mode, size, expected):
    resize = build_resize(config(resize=mode))
    assert resize.shape(*size) == expected
    assert resize(noise((*size, 3))).shape == (*expected, 3)


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_resize_keeps_dtype_channels_and_range(dtype, channels):
    top = np.iinfo(dtype).max
    for size in ((60, 100), (5, 7), (60, 7)):
        for mode in ("shorter", "squash"):
            white = np.full((*size, channels), top, dtype)
            resized = build_resize(config(resize=mode))(white)
            assert resized.dtype == dtype
            assert (resized == top).all()


def test_shrinking_averages():
    # each 2 x 2 block: (0 + 100 + 100 + 200) / 4 = 100; picking pixels would give 0 or 200
    block = np.array([[0, 100], [100, 200]], np.uint8)[:, :, None]
    assert (build_resize(config())(np.tile(block, (24, 24, 1))) == 100).all()
    # 16 bits are averaged as 16 bits
    deep = block.astype(np.uint16) * 300 + 1
    assert (build_resize(config())(np.tile(deep, (24, 24, 1))) == 30001).all()


def test_growing_is_smooth():
    ramp = np.arange(0, 120, 10, dtype=np.uint8)[None, :, None].repeat(12, axis=0)
    steps = np.diff(build_resize(config())(ramp)[0, 4:-4, 0].astype(int))
    assert set(steps) <= {4, 5, 6}  # half of 10 a pixel, rounded twice; nearest-neighbour would give 0 and 10


def test_every_channel_for_itself():
    many = noise((50, 70, 7), np.uint16)
    resize = build_resize(config())
    one_by_one = np.concatenate([resize(many[:, :, i : i + 1]) for i in range(7)], axis=2)
    np.testing.assert_array_equal(resize(many), one_by_one)


def test_a_thread_of_pixels_is_refused():
    with pytest.raises(DataError, match=r"5000 x 1 pixels would become 120000 x 24; .*data.resize: squash"):
        build_resize(config())(noise((1, 5000, 3)))
    assert build_resize(config(resize="squash"))(noise((1, 5000, 3))).shape == (24, 24, 3)


# ------------------------------------------------------------------------------------------ crop and flip


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
def test_result_is_a_crop_of_the_image_perhaps_mirrored(dtype, channels):
    pixels = noise((24, 30, channels), dtype)
    before = pixels.copy()
    augment = build_augment(config())
    windows = np.lib.stride_tricks.sliding_window_view(pixels, (16, 16), axis=(0, 1))[..., :, :]
    for seed in range(10):
        crop = augment(pixels, seed)
        assert (crop.shape, crop.dtype) == ((16, 16, channels), dtype)
        found = [(windows == np.moveaxis(each, 2, 0)).all(axis=(2, 3, 4)).any() for each in (crop, crop[:, ::-1])]
        assert any(found)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize(("dtype", "channels"), KINDS)
@pytest.mark.parametrize("size", [(10, 30), (30, 10), (5, 5), (1, 1)])
def test_small_images_are_continued_by_reflection(dtype, channels, size):
    pixels = noise((*size, channels), dtype)
    for crop in (build_augment(config())(pixels, 0), build_center_crop(16)(pixels)):
        assert (crop.shape, crop.dtype) == ((16, 16, channels), dtype)
        assert set(np.unique(crop)) <= set(np.unique(pixels))
    # No edge that was not there: without padding values or jumps, neighbours differ as in the ramp.
    ramp = np.arange(10, dtype=dtype)[:, None, None].repeat(20, axis=1)
    assert np.abs(np.diff(build_augment(config())(ramp, 3).astype(int), axis=0)).max() == 1


def test_center_crop():
    pixels = noise((20, 30, 3))
    np.testing.assert_array_equal(build_center_crop(16)(pixels), pixels[2:18, 7:23])


def test_a_pure_function_of_pixels_and_seed():
    settings = config(augment=({"name": "ColorJitter", "p": 0.5}, {"name": "GaussNoise", "p": 0.5}))
    pixels = noise((24, 30, 3))
    one, other = build_augment(settings), build_augment(settings)
    forward = [one(pixels, seed) for seed in range(20)]
    np.random.seed(5)
    backward = [other(pixels, seed) for seed in reversed(range(20))]
    np.testing.assert_array_equal(forward, backward[::-1])
    assert len({each.tobytes() for each in forward}) == 20
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(one))(pixels, 7), forward[7])


def test_every_crop_and_both_directions_appear():
    # 9 rows x 5 columns x 2 directions
    pixels = np.arange(24 * 20, dtype=np.uint16).reshape(24, 20, 1)
    augment = build_augment(config())
    corners = [
        (int(crop[0].min()), bool(crop[0, 0] > crop[0, 1])) for crop in (augment(pixels, s) for s in range(2000))
    ]
    assert len(set(corners)) == 90
    mirrored = np.mean([direction for _, direction in corners])
    assert abs(mirrored - 0.5) < 5 * 0.5 / 2000**0.5
    still = build_augment(config(flip=False))
    assert not any(still(pixels, seed)[0, 0] > still(pixels, seed)[0, 1] for seed in range(50))


def test_transforms_draw_independently():
    # Compose.set_random_seed gives each transform the same numbers; two of p=0.5 would then fire always together.
    half = ({"name": "VerticalFlip", "p": 0.5}, {"name": "InvertImg", "p": 0.5})
    pixels = (np.arange(16, dtype=np.uint8) * 5)[:, None, None].repeat(16, axis=1)
    augment = build_augment(config(flip=False, augment=half))

    def fired(crop):
        inverted = bool(crop.max() > 127)
        upright = 255 - crop if inverted else crop
        return bool(upright[0, 0, 0] > upright[1, 0, 0]), inverted

    counts = [fired(augment(pixels, seed)) for seed in range(400)]
    for combination in ((False, False), (False, True), (True, False), (True, True)):
        assert counts.count(combination) > 60  # 100 expected, standard deviation 8.7

    naive = albumentations.Compose([albumentations.VerticalFlip(p=0.5), albumentations.InvertImg(p=0.5)])
    together = set()
    for seed in range(50):
        naive.set_random_seed(seed)
        together.add(fired(naive(image=pixels)["image"]))
    assert together == {(False, False), (True, True)}


def test_fast_enough():
    augment, pixels = build_augment(DataConfig()), noise((286, 400, 3))
    augment(pixels, 0)
    times = []
    for seed in range(50):
        start = time.perf_counter()
        augment(pixels, seed)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.002  # measured: 0.04 ms; room for a busy machine


# ------------------------------------------------------------------------------------------ data.augment


def refused(entry, dtypes=(np.uint8,), **settings):
    with pytest.raises(ConfigError) as caught:
        check_augment(config(augment=(entry,), **settings), [np.dtype(dtype) for dtype in dtypes])
    assert str(caught.value).startswith("data.augment: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_transforms_pass():
    good = ({"name": "ColorJitter", "p": 0.1, "brightness": [0.9, 1.1]}, {"name": "RandomRotate90"})
    check_augment(config(augment=good), [np.dtype(np.uint8)])
    check_augment(config(augment=good), [])
    check_augment(config(), [np.dtype(np.uint16)])
    assert build_augment(config(augment=good))(noise((24, 24, 3)), 0).shape == (16, 16, 3)


def test_unknown_names_and_arguments():
    assert "no transform 'Colorjiter'; did you mean ColorJitter?" in refused({"name": "Colorjiter"})
    assert "no transform 'xyzzy'" in refused({"name": "xyzzy"}, dtypes=())
    assert "no transform 'Compose'" in refused({"name": "Compose"})
    assert "strength" in refused({"name": "ColorJitter", "strength": 3})
    assert "brightness" in refused({"name": "ColorJitter", "brightness": -3}, dtypes=())
    assert "needs a name" in refused({"p": 0.3})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as outside of tests: albumentations itself would only warn
        with pytest.raises(ConfigError, match=r"strength"):
            build_augment(config(augment=({"name": "ColorJitter", "strength": 3},)))


def test_transforms_that_break_the_contract():
    assert "changes 16 x 16 x 3 (height x width x channels) to 8 x 8 x 3" in refused(
        {"name": "RandomCrop", "height": 8, "width": 8, "p": 0.01}
    )
    assert "changes 16 x 16 x 3" in refused({"name": "RandomScale", "scale_limit": 0.5})
    assert "into float32" in refused({"name": "Normalize", "p": 0.01})
    assert "into Tensor" in refused({"name": "ToTensorV2"})
    assert "does not work on uint8 images with 3 channels" in refused({"name": "FDA"})


def test_only_what_the_data_needs_is_asked_of_a_transform():
    jitter = {"name": "ColorJitter", "p": 0.3}
    check_augment(config(augment=(jitter,)), [np.dtype(np.uint8)])
    assert "ColorJitter does not work on uint16 images with 3 channels" in refused(jitter, (np.uint8, np.uint16))
    assert "on uint8 images with 5 channels" in refused(jitter, channels=5)
    check_augment(config(augment=({"name": "GaussianBlur"},), channels=5), [np.dtype(np.uint16)])
