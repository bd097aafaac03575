"""held_out.py: test images as discriminators would see them in training."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle import images
from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.data import held_out as held_out_module
from cyclestyle.data.loader import build_data
from cyclestyle.data.sampling import index_at, sample_seed
from cyclestyle.data.transforms import build_augment, build_resize
from cyclestyle.errors import ConfigError, DataError

COUNTS = {"trainA": 4, "trainB": 3, "testA": 5, "testB": 7}


@pytest.fixture
def config(tmp_path):
    rng = np.random.default_rng(0)
    for folder, count in COUNTS.items():
        (tmp_path / folder).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 255, (18 + i, 30 - i, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{i}.png")
    return DataConfig(
        root=str(tmp_path),
        a=DomainConfig(name="photo"),
        b=DomainConfig(name="vangogh"),
        load_size=18,
        crop_size=16,
        num_workers=0,
        augment=({"name": "InvertImg", "p": 0.5},),
    )


def build(config, seed=1):
    return build_data(config, seed=seed, device_type="cpu")


def test_a_position_shows_what_sampling_and_training_transforms_say(config, tmp_path):
    held_out = build(config).held_out(("a", "b"))
    resize, augment = build_resize(config), build_augment(config)
    for position in (0, 6, 10**6):
        shown = held_out.images(position, 3)
        assert list(shown) == ["a", "b"]
        for domain, folder in (("a", "testA"), ("b", "testB")):
            assert shown[domain].shape == (3, 3, 16, 16)
            assert shown[domain].dtype == torch.float32
            for place, image in enumerate(shown[domain]):
                label = f"{domain} (held out)"
                index = index_at(position + place, num_images=COUNTS[folder], seed=1, domain=label)
                with Image.open(tmp_path / folder / f"{index}.png") as opened:
                    pixels = augment(resize(np.asarray(opened)), sample_seed(1, label, position + place))
                assert torch.equal(image, images.to_tensor(pixels))


def test_crops_and_order_are_not_those_of_training(config, tmp_path):
    """The same files on both sides: what is shown at a position has nothing to do with what training shows there."""
    folder_a, folder_b = str(tmp_path / "trainA"), str(tmp_path / "trainB")
    a, b = DomainConfig(train=folder_a, test=folder_a), DomainConfig(train=folder_b, test=folder_b)
    data = build(replace(config, a=a, b=b))
    trained = next(data.batches(0, 1, 12))
    held = data.held_out(("a", "b")).images(0, 12)
    for domain, real in (("a", trained.real_a), ("b", trained.real_b)):
        equal = [torch.equal(one, other) for one, other in zip(real, held[domain], strict=True)]
        assert sum(equal) < 6, domain


def test_a_pure_function_of_position_and_seed(config):
    held_out = build(config).held_out(("a", "b"))
    whole = held_out.images(0, 20)
    fresh = build(config).held_out(("a",))
    for position in (17, 3, 11):  # in no order
        assert torch.equal(fresh.images(position, 3)["a"], whole["a"][position : position + 3])
        assert torch.equal(held_out.images(position, 3)["b"], whole["b"][position : position + 3])
    assert not torch.equal(build(config, seed=2).held_out(("a",)).images(0, 20)["a"], whole["a"])


def test_pictures_are_read_once_and_only_when_asked_for(config, tmp_path):
    data = build(config)
    held_out = data.held_out(("a", "b"))
    for path in (tmp_path / "testA").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"^no image of domain a \(held out\) can be read any more; the last: .*$"):
        held_out.images(0, 1)
    held_out = data.held_out(("b",))
    first = held_out.images(0, 21)["b"]
    for path in (tmp_path / "testB").iterdir():
        path.unlink()
    assert torch.equal(held_out.images(0, 21)["b"], first)  # from memory


def test_what_is_kept_is_not_written_into(config):
    source = build(config).held_out(("b",))._sources["b"]
    first = source._pixels(1)
    expected = first.copy()
    for pixels in (first, source._pixels(1)):  # newly read, and kept
        pixels[...] = 0
        np.testing.assert_array_equal(source._pixels(1), expected)


def test_memory_is_limited_and_changes_nothing(config, tmp_path, monkeypatch):
    whole = build(config).held_out(("b",)).images(0, 21)["b"]
    monkeypatch.setattr(held_out_module, "_MOST_KEPT", 2 * 18 * 30 * 3)  # two pictures, they are at most so large
    held_out = build(config).held_out(("b",))
    assert torch.equal(held_out.images(0, 21)["b"], whole)
    source = held_out._sources["b"]
    assert 2 <= len(source._kept) < 4
    assert sum(pixels.nbytes for pixels in source._kept.values()) <= 2 * 18 * 30 * 3
    assert torch.equal(held_out.images(0, 21)["b"], whole)


def test_a_domain_without_test_files(config, tmp_path):
    for path in (tmp_path / "testA").iterdir():
        path.unlink()
    (tmp_path / "testA").rmdir()
    data = build(config)
    assert list(data.held_out(("b",)).images(0, 2)) == ["b"]  # a one-sided method does not look at A
    for domains in (("a",), ("b", "a")):
        with pytest.raises(ConfigError) as caught:
            data.held_out(domains)
        assert str(caught.value) == (
            "discriminator.augment_adaptive: got true, but photo (domain a) has no test images to try its "
            "discriminator on; set data.a.test to a folder of them, or put a folder testA into "
            f"{tmp_path} (data.root), or discriminator.augment_adaptive=false"
        )
    folders = {x: DomainConfig(name=x, train=str(tmp_path / f"train{x.upper()}")) for x in "ab"}
    with pytest.raises(ConfigError, match=r"set data.b.test to a folder of them, or discriminator.augment_adaptive"):
        build(replace(config, root=None, **folders)).held_out(("b",))


def test_broken_files_are_named_once_and_passed_over(config, tmp_path, caplog):
    intact = build(config).held_out(("a", "b")).images(0, 15)
    Path(tmp_path / "testA" / "2.png").write_bytes(b"")
    data = build(config)
    with caplog.at_level(logging.WARNING, logger="cyclestyle"):
        held_out = data.held_out(("a", "b"))
        assert caplog.records == []
        shown = held_out.images(0, 15)
        held_out.images(0, 15)
    (record,) = caplog.records
    assert record.getMessage().startswith("skipped, another image takes its place: ")
    assert "testA/2.png" in record.getMessage()
    assert [bad.path.name for bad in data.bad_files] == ["2.png"]
    assert torch.equal(shown["b"], intact["b"])
    for place in range(15):
        is_broken = index_at(place, num_images=5, seed=1, domain="a (held out)") == 2
        assert torch.equal(shown["a"][place], intact["a"][place]) is not is_broken


def test_training_and_the_global_generators_are_left_alone(config):
    expected = list(build(config).batches(0, 6, 2))
    data = build(config)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    held_out = data.held_out(("a", "b"))
    for number, batch in enumerate(data.batches(0, 6, 2)):
        held_out.images(2 * number, 3)
        assert torch.equal(batch.real_a, expected[number].real_a)
        assert torch.equal(batch.real_b, expected[number].real_b)
    assert torch.equal(torch.get_rng_state(), states[0])
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])
