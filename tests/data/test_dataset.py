"""dataset.py and check.py: what a position shows, the cache, broken files."""

import logging
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle import devices, images
from cyclestyle.config.schema import DataConfig
from cyclestyle.data import check as check_module
from cyclestyle.data.check import check_images, fits_in_memory, read_images
from cyclestyle.data.dataset import ImageCache, UnpairedDataset, stored_bytes
from cyclestyle.data.sampling import index_at, sample_seed
from cyclestyle.data.transforms import build_augment, build_resize
from cyclestyle.errors import DataError

CONFIG = DataConfig(load_size=20, crop_size=16, max_bad_fraction=0.5)


def make_images(folder, count, seed=0):
    """PNGs of noise, of different sizes, every third with 16 bits."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    files = []
    for i in range(count):
        size = (18 + 3 * i, 40 - 2 * i)
        pixels = rng.integers(0, 65535, size, np.uint16) if i % 3 == 2 else rng.integers(0, 255, (*size, 3), np.uint8)
        files.append(folder / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])


@pytest.fixture
def files(tmp_path):
    return make_images(tmp_path / "a", 5, seed=1), make_images(tmp_path / "b", 7, seed=2)


# ------------------------------------------------------------------------------------------ dataset


def test_a_position_shows_what_sampling_and_transforms_say(files):
    dataset = UnpairedDataset(*files, CONFIG, seed=4)
    resize, augment = build_resize(CONFIG), build_augment(CONFIG)
    for position in (0, 3, 11, 10**6):
        for domain, real in zip("ab", dataset[position], strict=True):
            names = files["ab".index(domain)]
            path = names[index_at(position, num_images=len(names), seed=4, domain=domain)]
            with Image.open(path) as image:
                pixels = np.asarray(image)
            pixels = pixels if pixels.ndim == 3 else pixels[:, :, None].repeat(3, axis=2)
            expected = images.to_tensor(augment(resize(pixels), sample_seed(4, domain, position)))
            torch.testing.assert_close(real, expected, rtol=0, atol=0)
            assert real.shape == (3, 16, 16)
            assert real.dtype == torch.float32


def test_seeds_differ_and_positions_do_not_depend_on_what_came_before(files):
    one, other = UnpairedDataset(*files, CONFIG, seed=4), UnpairedDataset(*files, CONFIG, seed=4)
    third = one[3]
    other[9], other[0]
    assert all(torch.equal(x, y) for x, y in zip(other[3], third, strict=True))
    assert not torch.equal(UnpairedDataset(*files, CONFIG, seed=5)[3][0], third[0])
    assert all(torch.equal(x, y) for x, y in zip(pickle.loads(pickle.dumps(one))[3], third, strict=True))


def cached(files, config=CONFIG):
    checked = [read_images(check_images(names, config, "x", "k"), config, "x", "k") for names in files]
    return checked, UnpairedDataset(
        *files,
        config,
        4,
        cache_a=checked[0].cache,
        cache_b=checked[1].cache,
        bad_a=checked[0].bad,
        bad_b=checked[1].bad,
    )


def test_the_cache_changes_nothing(files):
    plain, (_, kept) = UnpairedDataset(*files, CONFIG, seed=4), cached(files)
    for path in [*files[0], *files[1]]:
        path.unlink()  # and is really used
    with pytest.raises(DataError, match=r"no image of domain a can be read any more"):
        plain[0]
    first = [kept[position] for position in range(20)]
    for names, seed in zip(files, (1, 2), strict=True):
        names[0].parent.rmdir()
        make_images(names[0].parent, len(names), seed)
    for position in range(20):
        assert all(torch.equal(x, y) for x, y in zip(plain[position], first[position], strict=True))


def test_the_cache_is_not_written_to(files):
    dark = DataConfig(load_size=16, crop_size=16, augment=({"name": "InvertImg", "p": 1.0},))
    _, kept = cached(files, dark)
    before = kept[0]
    for position in range(35):
        kept[position]
    assert all(torch.equal(x, y) for x, y in zip(kept[0], before, strict=True))


def test_a_file_that_breaks_is_replaced_by_the_next_with_and_without_cache(files):
    a, b = files
    intact = UnpairedDataset(a, b, CONFIG, seed=4)
    broken = [2, 3]
    for index in broken:
        truncate(a[index])
    plain, (checked, kept) = UnpairedDataset(a, b, CONFIG, seed=4), cached(files)
    assert list(checked[0].bad) == broken
    stand_in = {2: 4, 3: 4}
    by_index = {}
    for position in range(10):
        index = index_at(position, num_images=5, seed=4, domain="a")
        sample, from_memory = plain.load(position), kept.load(position)
        assert torch.equal(sample.real_a, from_memory.real_a)
        assert torch.equal(sample.real_b, intact[position][1])  # the other domain does not notice
        assert from_memory.failures == ()
        expected = [a[i] for i in range(index, stand_in.get(index, index))]
        assert [bad.path for bad in sample.failures] == expected
        by_index[index] = sample.real_a
    assert set(by_index) == set(range(5))


# ------------------------------------------------------------------------------------------ cache


DEPTHS = (((3, 5, 1), np.uint8), ((7, 3, 3), np.uint16), ((1, 1, 5), np.uint8), ((2, 2, 2), np.uint16))


def test_cache_holds_images_of_both_depths():
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 200, shape).astype(dtype) for shape, dtype in DEPTHS]
    cache = ImageCache([each.shape for each in pixels], [each.dtype for each in pixels])
    for i in (2, 0, 3, 1):
        cache.put(i, pixels[i])
    cache.share()
    for i, expected in enumerate(pixels):
        np.testing.assert_array_equal(cache.get(i), expected, strict=True)
        cache.get(i)[:] = 0
        np.testing.assert_array_equal(cache.get(i), expected)
    assert cache.num_bytes == sum(stored_bytes(each.shape, each.dtype) for each in pixels) == 4 * 64 + 64
    with pytest.raises(DataError, match=r"header promises"):
        cache.put(0, pixels[1])


def test_memory_decides(monkeypatch):
    monkeypatch.setattr(check_module, "free_memory", lambda: 4 * 2**30)
    auto = DataConfig(cache_limit_gb=0.5)
    assert fits_in_memory(2**29, auto)
    assert not fits_in_memory(2**29 + 1, auto)  # over cache_limit_gb
    assert fits_in_memory(2**30, DataConfig(cache_limit_gb=8))
    assert not fits_in_memory(2**30 + 1, DataConfig(cache_limit_gb=8))  # over a quarter of what is free
    assert fits_in_memory(2**40, DataConfig(cache="on"))
    assert not fits_in_memory(0, DataConfig(cache="off"))


def test_free_memory_of_machine_and_container(monkeypatch):
    assert 2**20 < devices.free_memory() < 2**50
    monkeypatch.setattr(devices, "_free_of_container", lambda: 12345)
    assert devices.free_memory() == 12345
    monkeypatch.setattr(devices, "_free_of_container", lambda: None)
    monkeypatch.setattr(devices, "_free_of_machine", lambda: None)
    assert devices.free_memory() == 2**30  # a system that tells nothing


# ------------------------------------------------------------------------------------------ check


def test_shapes_come_from_headers_and_hold(files):
    checked, _ = cached(files)
    for domain, names in zip(checked, files, strict=True):
        assert domain.files == tuple(names)
        assert domain.cache.num_bytes == domain.cache_bytes
        assert [dtype.itemsize for dtype in domain.dtypes] == [2 if i % 3 == 2 else 1 for i in range(len(names))]
        assert all(min(shape[:2]) == 20 and shape[2] == 3 for shape in domain.shapes)


def test_broken_headers_are_found_without_decoding(files, caplog):
    a = files[0]
    a[1].write_bytes(b"")
    a[3].write_text("not an image")
    truncate(a[4])
    with caplog.at_level(logging.WARNING, logger="cyclestyle"):
        checked = check_images(a, CONFIG, "photo", "data.root")
    assert list(checked.bad) == [1, 3]
    assert [record.getMessage() for record in caplog.records] == [
        f"skipped, {bad.reason}" for bad in checked.bad.values()
    ]
    assert str(a[1]) in caplog.text
    caplog.clear()
    some = DataConfig(load_size=20, crop_size=16, max_bad_fraction=0.6)
    assert list(read_images(checked, some, "photo", "data.root").bad) == [1, 3, 4]
    assert len(caplog.records) == 1  # only what is new
    assert str(a[4]) in caplog.text


def test_too_many_broken_files_end_the_start(tmp_path):
    files = make_images(tmp_path / "a", 6) * 5
    for path in files[:3]:
        path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        check_images(files, DataConfig(max_bad_fraction=0.49), "photo", "data.a.train")
    message = str(caught.value)
    assert message.startswith(
        "data.a.train: 15 of 30 images of photo cannot be used, more than data.max_bad_fraction (0.49)"
    )
    assert message.count("empty (0 bytes)") == 10
    assert message.endswith("; and 5 more")
    assert len(check_images(files, DataConfig(max_bad_fraction=0.5), "photo", "k").bad) == 15
    with pytest.raises(DataError, match=r"3 of 3"):
        check_images(files[:3], DataConfig(max_bad_fraction=1.0), "photo", "k")
    truncate(files[3])
    truncate(files[4])
    with pytest.raises(DataError, match=r"2 of 3 images"):
        read_images(check_images(files[3:6], CONFIG, "photo", "k"), CONFIG, "photo", "k")


def test_an_image_that_would_fill_the_memory_is_a_bad_one(tmp_path):
    files = make_images(tmp_path / "a", 3)
    Image.new("L", (9000, 2)).save(files[0])
    assert "would become 90000 x 20" in check_images(files, CONFIG, "x", "k").bad[0].reason


# ------------------------------------------------------------------------------------------ files that change


def test_a_file_may_become_another_of_any_size_mode_and_depth(files):
    """Named nowhere, since nothing is wrong with it: what is shown is what lies there now."""
    a, b = files
    rng = np.random.default_rng(3)
    others = [
        Image.fromarray(rng.integers(0, 255, (1, 1), np.uint8)),  # a single grey pixel
        Image.fromarray(rng.integers(0, 65535, (90, 21), np.uint16)),
        Image.fromarray(rng.integers(0, 255, (5, 300, 4), np.uint8)),  # with alpha
        Image.fromarray(rng.integers(0, 255, (30, 30, 3), np.uint8)).convert("P"),
        Image.fromarray(rng.integers(0, 2, (16, 16), np.uint8) * 255).convert("1"),
    ]
    dataset = UnpairedDataset(a, b, CONFIG, seed=4)
    before = [dataset.load(position) for position in range(5)]
    for path, other in zip(a, others, strict=True):
        other.save(path)
    for position in range(5):
        sample = dataset.load(position)
        assert sample.failures == ()
        assert sample.real_a.shape == (3, 16, 16)
        assert sample.real_a.isfinite().all()
        assert not torch.equal(sample.real_a, before[position].real_a)
        assert torch.equal(sample.real_b, before[position].real_b)


def test_a_file_that_becomes_what_cannot_be_shown_is_replaced(files):
    a, b = files
    a[0].unlink()
    a[0].mkdir()
    np.save(a[1].with_suffix(".npy"), np.zeros((20, 20, 7), np.uint8))  # too many channels
    a[1].with_suffix(".npy").rename(a[1])
    Image.fromarray(np.zeros((2, 9000), np.uint8)).save(a[2])  # resized, it would fill the memory
    a[3].unlink()
    dataset = UnpairedDataset(a, b, CONFIG, seed=4)
    named = {}
    for position in range(5):
        sample = dataset.load(position)
        named |= {bad.path: bad.reason for bad in sample.failures}
    assert set(named) == set(a[:4])
    for path, words in zip(a, ("Is a directory", "7 channels", "would become", "No such file"), strict=False):
        assert str(path) in named[path]
        assert words in named[path]


def test_a_file_on_which_augmentation_fails_is_replaced(files):
    """It was tried on the depths that there were at the start (`check_augment`); a file may have got another since."""
    a, b = files
    a, b = a[:2], b[:2]  # of 8 bits
    eight = DataConfig(load_size=20, crop_size=16, augment=({"name": "ColorJitter", "p": 1.0},))
    dataset = UnpairedDataset(a, b, eight, seed=4)
    before = {index_at(position, num_images=2, seed=4, domain="a"): dataset.load(position) for position in range(2)}
    assert not any(sample.failures for sample in before.values())
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(a[1])
    for position in range(2):
        sample = dataset.load(position)
        assert sample.real_a.shape == (3, 16, 16)
        if index_at(position, num_images=2, seed=4, domain="a") == 1:
            (bad,) = sample.failures
            assert bad.path == a[1]
            assert bad.reason.startswith(f"{a[1]}: data.augment fails on its 20 x 20 uint16 pixels (")
            assert "\n" not in bad.reason
    Image.fromarray(np.zeros((30, 30), np.uint16)).save(a[0])
    with pytest.raises(DataError, match=r"no image of domain a can be read any more; the last: .*augment fails"):
        dataset.load(0)
