"""Translators: from every kind of source, on every kind of picture, the same size back."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cyclestyle
from cyclestyle.checkpoint import load_checkpoint, save_translator
from cyclestyle.config.loading import load_config
from cyclestyle.data.decode import read_picture
from cyclestyle.devices import Precision
from cyclestyle.errors import CheckpointError, ConfigError, DataError
from cyclestyle.images import to_pixels, to_tensor
from cyclestyle.inference.arrays import as_picture
from cyclestyle.inference.files import TranslatorSpec
from cyclestyle.inference.options import Look
from cyclestyle.inference.translator import Translator


class Invert(nn.Module):
    """A generator whose answer is known: x -> -x, that is 255 - v; refuses sizes that are no multiple of 4."""

    stride = 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[-1] % 4 == 0
        assert images.shape[-2] % 4 == 0
        return -images


def inverter(channels: int = 3) -> Translator:
    spec = TranslatorSpec(
        source="photo", target="negative", direction="ab", generator={}, channels=channels,
        resize="shorter", load_size=20, crop_size=16,
    )  # fmt: skip
    return Translator(spec, Invert(), torch.device("cpu"), Precision("fp32", ""))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (16, 16), (17, 33), (101, 4)])
def test_arrays_keep_size_dtype_and_every_value(dtype: type, size: tuple[int, int]) -> None:
    top = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, top, (*size, 3), dtype=dtype, endpoint=True)
    found = inverter()(pixels)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, top - pixels)


def test_grey_arrays_keep_their_axes() -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    np.testing.assert_array_equal(inverter(1)(pixels), 255 - pixels)
    np.testing.assert_array_equal(inverter(1)(pixels[..., None]), 255 - pixels[..., None])


def test_grey_arrays_become_colour_where_the_translator_has_it() -> None:
    pixels = np.arange(30, dtype=np.uint8).reshape(5, 6)
    np.testing.assert_array_equal(inverter(3)(pixels), (255 - pixels)[..., None].repeat(3, -1))


def test_masks_of_another_shape_and_tiny_tiles_are_refused(run: Path) -> None:
    with pytest.raises(DataError, match=r"a mask of shape \(3, 3\) was given.*5 x 6"):
        inverter().pixels(np.zeros((5, 6, 3), np.uint8), mask=np.ones((3, 3)))
    with pytest.raises(ConfigError, match="a tile of 3"):
        Translator.load(run, tile=3)
    with pytest.raises(ConfigError, match=r"a tile of 'off' was given, needed is at least .*'auto' or None"):
        Translator.load(run, tile="off")  # type: ignore[arg-type]  # the command's word for None


def test_pil_images_and_lists() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8))
    first, second = inverter()([image, image])
    assert (first.size, first.mode) == (image.size, "RGB")
    np.testing.assert_array_equal(np.asarray(second), 255 - np.asarray(image))
    assert inverter(1)(image).mode == "L"


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(4, np.uint8), "height x width x 3"),
        (np.zeros((4, 4, 4), np.uint8), "height x width x 3"),
        (np.zeros((4, 4, 3), np.int32), "int32"),
        (np.full((4, 4, 3), 1.5), "float64 outside 0..1"),
        (np.full((4, 4, 3), np.nan), "float64 outside 0..1"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8"),
        (torch.zeros(3, 4, 4), r"shape \(3, 4, 4\)"),
        (torch.zeros(1, 1, 4, 4), "batch x 3 x height x width"),
        (torch.zeros(1, 3, 0, 4), "at least one image and pixel"),
        (np.zeros((0, 4, 3), np.uint8), "4 x 0 pixels"),
        ("photo.png", "str was given, needed is a PIL image"),
        (None, "NoneType was given"),
    ],
)
def test_other_arrays_are_refused(array: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        inverter()(array)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_arrays_come_back_as_such(dtype: type) -> None:
    pixels = np.linspace(0, 1, 5 * 6 * 3).reshape(5, 6, 3).astype(dtype)
    before = pixels.copy()
    found = inverter()(pixels)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, 1 - pixels, atol=1e-3 if dtype == np.float16 else 1e-6)
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_batches_of_any_size(dtype: torch.dtype) -> None:
    images = (torch.rand(2, 3, 17, 33) * 2 - 1).to(dtype)
    found = inverter()(images)
    assert (found.dtype, found.shape) == (dtype, images.shape)
    torch.testing.assert_close(found, -images)


def test_a_torch_batch_is_translated_as_its_images_are(run: Path) -> None:
    translator = Translator.load(run, precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 21, 18, 3), dtype=np.uint8)
    together = translator(to_tensor(pixels))
    for one, image in zip(together, pixels, strict=True):
        np.testing.assert_array_equal(to_pixels(one), translator(image))
    for one, image in zip(translator.batch(list(pixels)), pixels, strict=True):
        np.testing.assert_array_equal(one, translator(image))


def test_alpha_is_carried_and_hidden_colours_stay() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 4), dtype=np.uint8)
    pixels[:3, :, 3] = 0
    found = np.asarray(inverter()(Image.fromarray(pixels)))
    np.testing.assert_array_equal(found[..., 3], pixels[..., 3])
    seen = pixels[..., 3] > 0
    np.testing.assert_array_equal(found[seen][:, :3], 255 - pixels[seen][:, :3])
    np.testing.assert_array_equal(found[:3], pixels[:3])
    grey = Image.fromarray(pixels[..., [0, 3]])
    assert inverter(1)(grey).mode == "LA"


def test_hidden_colours_do_not_reach_the_generator(run: Path) -> None:
    translator = Translator.load(run)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 24, 4), dtype=np.uint8)
    pixels[:12, :12, 3] = 0
    other = pixels.copy()
    other[:12, :12, :3] = random.integers(0, 256, (12, 12, 3))
    seen = pixels[..., 3] > 0
    one, two = (np.asarray(translator(Image.fromarray(each))) for each in (pixels, other))
    np.testing.assert_array_equal(one[seen], two[seen])


def test_looks_and_masks_reach_the_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(inverter().pixels(pixels, Look(strength=0.0)), pixels)
    half = inverter().pixels(pixels, Look(strength=0.5))
    np.testing.assert_array_equal(half, np.full_like(pixels, 128))  # 127.5 to even
    mask = np.zeros((10, 12))
    mask[:, 6:] = 1
    found = inverter().pixels(pixels, mask=mask)
    np.testing.assert_array_equal(found[:, :6], pixels[:, :6])
    np.testing.assert_array_equal(found[:, 6:], 255 - pixels[:, 6:])


def test_work_size_is_where_the_generator_works_and_not_the_size_of_the_result() -> None:
    seen: list[torch.Size] = []

    class Recording(Invert):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images.shape)
            return super().forward(images)

    translator = inverter()
    translator._generator = Recording()
    smooth = np.linspace(40, 200, 64).astype(np.uint8)[None, :, None].repeat(96, 0).repeat(3, 2)
    found = translator.pixels(smooth, Look(work_size=32))
    assert seen == [(1, 3, 48, 32)]
    assert found.shape == smooth.shape
    assert np.abs(found[:, 4:-4].astype(int) - (255 - smooth[:, 4:-4].astype(int))).max() <= 3


def test_several_threads_at_once(run: Path) -> None:
    translator = Translator.load(run, precision="bf16")
    pictures = [np.random.default_rng(i).integers(0, 256, (20 + i, 18, 3), dtype=np.uint8) for i in range(8)]
    expected = [Translator.load(run, precision="bf16")(picture) for picture in pictures]
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(translator, pictures), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)
    assert len(translator._networks) == 1


def test_out_of_memory_falls_back_to_tiles(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    translator = Translator.load(run, precision="fp32")
    pixels = np.random.default_rng(0).integers(0, 256, (260, 300, 3), dtype=np.uint8)
    expected = translator(pixels)
    tried: list[int | None] = []
    plain = Translator._run_padded

    def short_of_memory(self: Translator, *args: Any) -> None:
        tried.append(args[-1])
        if args[-1] is None or args[-1] > 128:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 123 bytes")
        plain(self, *args)

    monkeypatch.setattr(Translator, "_run_padded", short_of_memory)
    found = translator(pixels)
    assert tried == [None, 256, 128]
    assert np.abs(found.astype(int) - expected).max() <= 1
    monkeypatch.setattr(translator, "tile", None)  # whole, as asked for
    with pytest.raises(RuntimeError, match="allocate memory"):
        translator(pixels)


def test_the_fingerprint_tells_weights_and_precision_apart(run: Path) -> None:
    one, same = Translator.load(run, precision="fp32"), Translator.load(run, precision="fp32")
    assert one.fingerprint == same.fingerprint
    other = [Translator.load(run, "photo", precision="fp32"), Translator.load(run, precision="bf16")]
    next(same._generator.parameters())[0, 0, 0, 0] += 1e-3
    same.__dict__.pop("fingerprint")
    assert len({one.fingerprint, same.fingerprint, *(each.fingerprint for each in other)}) == 4


@pytest.fixture
def run(tiny: list[str]) -> Path:
    return cyclestyle.train(load_config(None, [*tiny, "train.steps=4"]))


def test_run_checkpoint_and_file_give_the_same_averaged_generator(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step_00000004.pt"
    picture = np.random.default_rng(0).integers(0, 256, (21, 18, 3), dtype=np.uint8)
    sources = {
        "run": Translator.load(run, "painting"),
        "checkpoint": Translator.load(checkpoint, "painting"),
        "file": Translator.load(run / "translators" / "photo_to_painting.safetensors"),
        "no direction": Translator.load(str(run)),
    }
    results = {name: translator(picture) for name, translator in sources.items()}
    for name, result in results.items():
        np.testing.assert_array_equal(result, results["run"], err_msg=name)
    averages = load_checkpoint(checkpoint)["averages"]["gen_ab"]
    loaded = sources["file"]._generator.state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in averages.items())
    assert sources["file"].spec.step == 4
    backwards = Translator.load(run, "photo")
    assert (backwards.spec.source, backwards.spec.target) == ("painting", "photo")
    assert not np.array_equal(backwards(picture), results["run"])


def test_padding_does_not_change_sizes_that_fit(run: Path) -> None:
    translator = Translator.load(run, precision="fp32")
    picture = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    plain = translator._generator(to_tensor(picture)[None])[0]
    expected = ((plain.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).numpy().astype(np.uint8)
    # channels_last against contiguous: a value on the edge between two integers may fall the other way
    assert np.abs(translator(picture).astype(int) - expected).max() <= 1


def test_refusals_name_what_there_is(run: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no translator to monet: use --to painting or photo"):
        Translator.load(run, "monet")
    with pytest.raises(CheckpointError, match="translates to painting, not to photo"):
        Translator.load(run / "translators" / "photo_to_painting.safetensors", "photo")
    with pytest.raises(CheckpointError, match="no translators in"):
        Translator.load(tmp_path)
    with pytest.raises(CheckpointError, match="no file"):
        Translator.load(tmp_path / "absent.safetensors")
    save_translator(tmp_path / "t.safetensors", {"w": torch.zeros(1)}, {"source": "photo"})
    with pytest.raises(CheckpointError, match="does not describe its translator"):
        Translator.load(tmp_path / "t.safetensors")


def test_weights_of_another_architecture_are_refused(run: Path, tmp_path: Path) -> None:
    spec = Translator.load(run).spec
    save_translator(tmp_path / "t.safetensors", {"w": torch.zeros(1)}, {**vars(spec)})
    with pytest.raises(CheckpointError, match="do not fit"):
        Translator.load(tmp_path / "t.safetensors")


def test_pil_images_are_taken_as_files_are(run: Path, tmp_path: Path) -> None:
    """Turned upright, alpha, 16 bits: the same pixels by both ways."""
    random = np.random.default_rng(0)
    turned = Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(random.integers(0, 256, (20, 30, 4), dtype=np.uint8)).save(tmp_path / "alpha.png")
    Image.fromarray(random.integers(0, 65536, (20, 30), dtype=np.uint16)).save(tmp_path / "deep.png")
    translator = Translator.load(run)
    for name in ("turned", "alpha", "deep"):
        with Image.open(tmp_path / f"{name}.png") as image:
            translated = translator(image)
        picture = read_picture(tmp_path / f"{name}.png", 3)
        expected = as_picture(translator.pixels(picture.pixels, alpha=picture.alpha), picture.alpha)
        np.testing.assert_array_equal(np.asarray(translated), np.asarray(expected), err_msg=name)
        assert translated.size == ((20, 30) if name == "turned" else (30, 20))


def test_16_bits_are_computed_in_fp32(run: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64, 1).repeat(3, axis=-1)
    exact, rounded = (Translator.load(run, precision=name)(ramp) for name in ("fp32", "bf16"))
    np.testing.assert_array_equal(exact, rounded)


def test_translating_needs_no_training_code(run: Path, tmp_path: Path) -> None:
    """In a process of its own: neither the training loop nor TensorBoard nor albumentations is imported."""
    script = (
        "import sys, json, numpy, cyclestyle\n"
        f"t = cyclestyle.Translator.load({str(run)!r}, to='painting')\n"
        "t(numpy.zeros((16, 16, 3), numpy.uint8))\n"
        "print(json.dumps([m for m in sys.modules if m.startswith(('cyclestyle.training', 'cyclestyle.methods',"
        " 'tensorboard', 'albumentations'))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("tile", [None, 32])
def test_batches_are_translated_image_by_image_in_tiles_too(run: Path, tile: int | None) -> None:
    images = torch.rand(2, 3, 50, 66) * 2 - 1
    images[1] *= 0.1  # statistics that must not meet the first's
    expected = torch.cat([Translator.load(run, precision="fp32", tile=None)(each) for each in images.split(1)])
    found = Translator.load(run, precision="fp32", tile=tile)(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_translated_batches_can_be_trained_on() -> None:
    weight = torch.ones(1, requires_grad=True)
    (inverter()(torch.rand(1, 3, 8, 8)) * weight).sum().backward()
    assert weight.grad is not None
