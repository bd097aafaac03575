"""Whole folders: mirrored, complete, accounted for, resumed; every option, through files on the disk."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

import cyclestyle
from cyclestyle.config.loading import load_config
from cyclestyle.data.decode import set_largest_image
from cyclestyle.errors import CheckpointError, ConfigError, DataError
from cyclestyle.inference import one_file, share
from cyclestyle.inference.folder import Options, Result, iterate_folder, translate_folder
from cyclestyle.inference.manifest import Row
from cyclestyle.inference.pipeline import Threads
from cyclestyle.inference.translator import Translator

from .bulk import Invert, inverter, load, noise, save, start, tiny_translator, tree


def rows(output: Path) -> list[Row]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def statuses(output: Path) -> dict[str, str]:
    found = rows(output)
    assert len({row["input"] for row in found}) == len(found)
    return {row["output"]: row["status"] for row in found}


def results(input: Path, output: Path, translator: Translator | None = None, **options: object) -> list[Result]:
    return list(iterate_folder(translator or inverter(), input, output, Options(**options)))  # type: ignore[arg-type]


def counted(found: list[Result]) -> dict[str, int]:
    return dict(Counter(result.status for result in found))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three good pictures, one deep in the tree."""
    for seed, name in enumerate(("a.png", "deep/er/a.png", "b.png")):
        save(noise(17 + seed, 21, seed=seed), tmp_path / "in" / name)
    return tmp_path / "in"


@pytest.fixture
def run(tiny: list[str]) -> Path:
    return cyclestyle.train(load_config(None, [*tiny, "train.steps=1"]))


# ---------------------------------------------------------------------------------------------------- the account


def test_mirrored_tree_summary_and_manifest(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    photos = tmp_path / "photos"
    sizes = {
        "a.jpg": (31, 17),
        "c.gif": (18, 20),
        "c.png": (19, 21),
        "deep/a.png": (16, 40),
        "deep/er/b.WEBP": (23, 23),
    }
    for name, (width, height) in sizes.items():
        save(noise(height, width), photos / name)
    (photos / "broken.jpg").write_bytes((photos / "a.jpg").read_bytes()[:200])
    (photos / "empty.png").write_bytes(b"")
    (photos / "notes.txt").write_text("no picture")
    capsys.readouterr()
    assert translate_folder(run=run, to="painting", input=photos, output=tmp_path / "out") == 1
    out = capsys.readouterr().out.splitlines()
    assert out == ["translated: 5 of 7, failed: 2, skipped: 0", str(tmp_path / "out")]
    assert caplog.text.count("broken.jpg") == caplog.text.count("empty.png") == 1
    assert "passed over: 1 .txt" in caplog.text
    expected = {name: [*size] for name, size in sizes.items()}
    expected["c.gif.png"] = expected.pop("c.gif")  # c.png is taken
    found = rows(tmp_path / "out")
    assert [row["input"] for row in found] == [
        str(photos / name)
        for name in ("a.jpg", "broken.jpg", "c.gif", "c.png", "deep/a.png", "deep/er/b.WEBP", "empty.png")
    ]
    for row in found:
        source = Path(row["input"])
        assert (row["bytes"], row["mtime"]) == (source.stat().st_size, source.stat().st_mtime)
        if row["output"] in expected:
            assert (row["status"], row["error"]) == ("translated", None)
            assert row["input_size"] == row["output_size"] == expected.pop(row["output"])
            with Image.open(tmp_path / "out" / row["output"]) as image:
                assert [*image.size] == row["output_size"]
            assert row["seconds"] > 0
        else:
            assert (row["status"], row["output_size"], row["job"]) == ("failed", None, None)
            assert str(source) in row["error"]
    assert not expected
    assert len(tree(tmp_path / "out")) == 5


def test_python_gives_a_result_an_input_in_order(photos: Path, tmp_path: Path) -> None:
    (photos / "broken.png").write_bytes(b"\x89PNG")
    found = list(inverter().folder(photos, tmp_path / "out"))
    assert [(result.input, result.output, result.status) for result in found] == [
        (photos / "a.png", tmp_path / "out" / "a.png", "translated"),
        (photos / "b.png", tmp_path / "out" / "b.png", "translated"),
        (photos / "broken.png", tmp_path / "out" / "broken.png", "failed"),
        (photos / "deep/er/a.png", tmp_path / "out" / "deep/er/a.png", "translated"),
    ]
    assert [result.error is None for result in found] == [True, True, False, True]
    for result in found:
        if result.status == "translated":
            np.testing.assert_array_equal(load(result.output), 255 - load(result.input))


def test_leaving_early_keeps_what_is_done(photos: Path, tmp_path: Path) -> None:
    found = inverter().folder(photos, tmp_path / "out")
    assert next(iter(found)).output.name == "a.png"
    found.close()  # type: ignore[attr-defined]
    kept = statuses(tmp_path / "out")
    assert set(kept) == set(tree(tmp_path / "out"))
    assert kept["a.png"] == "translated"
    assert counted(results(photos, tmp_path / "out")) == {
        "skipped": len(kept),
        **({"translated": 3 - len(kept)} if len(kept) < 3 else {}),
    }


def test_a_list_names_what_cannot_be_tried(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    save(noise(8, 9), photos / "odd.png").rename(photos / "odd.scan")
    (photos / "text.doc").write_text("no picture")
    names = ["a.png", "absent.png", "deep", "odd.scan", "text.doc", "a.png"]
    (tmp_path / "list.txt").write_text("\n".join(str(photos / name) for name in names))
    found = {result.output.name: result for result in results(tmp_path / "list.txt", tmp_path / "out")}
    assert {name: result.status for name, result in found.items()} == {
        "a.png": "translated", "absent.png": "failed", "deep.png": "failed", "odd.png": "translated",
        "text.png": "failed",
    }  # fmt: skip
    assert "No such file" in str(found["absent.png"].error)
    assert "is a folder" in str(found["deep.png"].error)
    assert "named twice in the list, translated once: 1" in caplog.text


def test_one_picture_without_memory_fails_alone(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Translator.pixels

    def short_of_memory(self: Translator, pixels: np.ndarray, *args: object, **kwargs: object) -> np.ndarray:
        if len(pixels) == 18:
            raise MemoryError
        if len(pixels) == 19:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nTrace")
        return plain(self, pixels, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Translator, "pixels", short_of_memory)
    found = results(photos, tmp_path / "out")
    assert counted(found) == {"translated": 1, "failed": 2}
    errors = {result.input.name: result.error for result in found if result.error}
    assert str(photos / "b.png") in str(errors["b.png"])
    assert "MemoryError" in str(errors["a.png"]) + str(errors["b.png"])


def test_a_picture_of_too_many_pixels_fails_alone(photos: Path, tmp_path: Path) -> None:
    save(noise(50, 60), photos / "huge.png")
    try:
        found = results(photos, tmp_path / "out", max_megapixels=0.001)
    finally:
        set_largest_image(178.9)
    assert counted(found) == {"translated": 3, "failed": 1}
    assert "huge.png" in str(found[3].error)


@pytest.mark.parametrize("number", [errno.ENOSPC, None])
def test_a_full_disk_stops_with_one_line(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """Also where the library does not pass the number on, as Pillow's encoders do."""
    plain, calls = one_file.write_picture, []

    def write(path: Path, *args: object, **kwargs: object) -> list[str]:
        calls.append(path)
        if len(calls) < 2:
            return plain(path, *args, **kwargs)  # type: ignore[arg-type]
        path.write_bytes(b"half")
        try:
            raise OSError(number, "No space left") if number else OSError("encoder error -2")
        except OSError as error:
            raise DataError(f"{path}: no space") from error

    monkeypatch.setattr(one_file, "write_picture", write)
    monkeypatch.setattr(share.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 400}))
    with pytest.raises(DataError, match=r"is full: stopped after 1 translations of 3 inputs; free some space"):
        results(photos, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"a.png"}
    kept = rows(tmp_path / "out")
    assert kept[1]["status"] == "failed"
    assert kept[1]["error"] == f"{photos / 'b.png'}: {tmp_path / 'out' / 'b.png'}: no space"
    monkeypatch.setattr(one_file, "write_picture", plain)
    assert counted(results(photos, tmp_path / "out")) == {"skipped": 1, "translated": 2}


def test_a_broken_picture_is_no_full_disk(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = (photos / "a.png").read_bytes()
    (photos / "a.png").write_bytes(whole[: len(whole) // 2])  # Pillow's error has no number
    monkeypatch.setattr(share.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
    assert counted(results(photos, tmp_path / "out")) == {"translated": 2, "failed": 1}


def test_long_names_and_strange_ones(tmp_path: Path) -> None:
    names = ["n" * 251 + ".png", "é" * 125 + ".png", "-.png", " a b .png", "%s{}.png", "new\nline.png", "\udce9.png"]
    for name in names:
        save(noise(5, 6), tmp_path / "in" / name)
    assert counted(results(tmp_path / "in", tmp_path / "out")) == {"translated": len(names)}
    assert set(os.listdir(tmp_path / "out")) == {*names, "manifest.jsonl"}


# ---------------------------------------------------------------------------------------------------- again


def test_the_same_again_skips_all_and_touches_nothing(photos: Path, tmp_path: Path) -> None:
    results(photos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    first = rows(tmp_path / "out")
    assert counted(results(photos, tmp_path / "out")) == {"skipped": 3}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for old, new in zip(first, rows(tmp_path / "out"), strict=True):
        assert {**new, "status": old["status"], "seconds": old["seconds"]} == old
    assert {row["status"] for row in rows(tmp_path / "out")} == {"skipped"}
    photos.rename(tmp_path / "moved")
    assert counted(results(tmp_path / "moved", tmp_path / "out")) == {"skipped": 3}
    assert len(rows(tmp_path / "out")) == 3


def test_what_is_missing_is_done(photos: Path, tmp_path: Path) -> None:
    results(photos, tmp_path / "out")
    (tmp_path / "out" / "b.png").unlink()
    save(noise(9, 9), photos / "c.png")
    assert [result.status for result in results(photos, tmp_path / "out")] == [
        "skipped", "translated", "translated", "skipped",
    ]  # fmt: skip


def spoil_settings(photos: Path, output: Path) -> dict[str, object]:
    return {"strength": 0.5}


def spoil_input(photos: Path, output: Path) -> dict[str, object]:
    save(noise(40, 50), photos / "b.png")
    return {}


def spoil_manifest(photos: Path, output: Path) -> dict[str, object]:
    (output / "manifest.jsonl").unlink()
    return {}


@pytest.mark.parametrize(
    ("spoil", "kept", "words"),
    [
        (spoil_settings, 3, "3 outputs exist and were not replaced (3 x made with other settings): use --overwrite"),
        (spoil_input, 1, "1 outputs exist and were not replaced (1 x the input has changed since): use --overwrite"),
        (spoil_manifest, 3, "(3 x of unknown origin)"),
    ],
)
def test_another_output_is_kept_unless_told(
    photos: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    spoil: Callable[[Path, Path], dict[str, object]],
    kept: int,
    words: str,
) -> None:
    results(photos, tmp_path / "out")
    before = tree(tmp_path / "out")
    options = spoil(photos, tmp_path / "out")
    for _ in range(2):  # the account of it does not change what is known of the output
        caplog.clear()
        assert counted(results(photos, tmp_path / "out", **options)) == {"skipped": 3}
        assert tree(tmp_path / "out") == before
        assert words in caplog.text
        assert caplog.text.count("not replaced") == 1
        notes = [row["warnings"] for row in rows(tmp_path / "out")]
        assert sum(bool(note) for note in notes) == kept
    caplog.clear()
    assert counted(results(photos, tmp_path / "out", **options, overwrite=True)) == {"translated": 3}
    assert tree(tmp_path / "out") != before or spoil is spoil_manifest
    assert counted(results(photos, tmp_path / "out", **options)) == {"skipped": 3}
    assert caplog.text == ""


def test_back_to_the_first_settings_is_complete(photos: Path, tmp_path: Path) -> None:
    results(photos, tmp_path / "out")
    results(photos, tmp_path / "out", strength=0.5)
    results(photos, tmp_path / "out")
    assert all(not row["warnings"] for row in rows(tmp_path / "out"))


def test_a_failed_second_attempt_does_not_forget_what_stands_there(photos: Path, tmp_path: Path) -> None:
    results(photos, tmp_path / "out")
    whole = (photos / "b.png").read_bytes()
    times = (photos / "b.png").stat()
    (photos / "b.png").write_bytes(whole[:50])
    assert counted(results(photos, tmp_path / "out", overwrite=True)) == {"translated": 2, "failed": 1}
    (photos / "b.png").write_bytes(whole)
    os.utime(photos / "b.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert counted(results(photos, tmp_path / "out")) == {"skipped": 3}
    assert rows(tmp_path / "out")[1]["warnings"] == []


def test_two_inputs_into_one_output_folder(photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(noise(9, 9, seed=7), tmp_path / "other" / "b.png")
    save(noise(9, 9, seed=8), tmp_path / "other" / "z.png")
    results(photos, tmp_path / "out")
    before = (tmp_path / "out" / "b.png").read_bytes()
    assert [result.status for result in results(tmp_path / "other", tmp_path / "out")] == ["skipped", "translated"]
    assert "of another input" in caplog.text
    assert (tmp_path / "out" / "b.png").read_bytes() == before
    assert len(rows(tmp_path / "out")) == 5
    assert counted(results(photos, tmp_path / "out")) == {"skipped": 3}
    results(tmp_path / "other", tmp_path / "out", overwrite=True)
    assert [row["output"] for row in rows(tmp_path / "out")] == ["a.png", "deep/er/a.png", "b.png", "z.png"]


def test_quality_and_masks_are_settings_where_they_count(photos: Path, tmp_path: Path) -> None:
    results(photos, tmp_path / "out", quality=90)
    assert all(not row["warnings"] for row in rows(tmp_path / "out"))
    results(photos, tmp_path / "out", quality=50)
    assert all(not row["warnings"] for row in rows(tmp_path / "out"))  # PNG has none
    for name in ("a", "b", "deep/er/a"):
        save(np.full((4, 4), 255, np.uint8), tmp_path / "masks" / f"{name}.png")
    results(photos, tmp_path / "out2", format="jpg", mask=tmp_path / "masks")
    save(np.zeros((4, 4), np.uint8), tmp_path / "masks" / "b.png")
    results(photos, tmp_path / "out2", format="jpg", mask=tmp_path / "masks")
    assert [bool(row["warnings"]) for row in rows(tmp_path / "out2")] == [False, True, False]
    results(photos, tmp_path / "out2", format="jpg", mask=tmp_path / "masks", quality=80)
    assert all(row["warnings"] for row in rows(tmp_path / "out2"))


# ---------------------------------------------------------------------------------------------------- looks and files


def test_a_mask_translates_inside_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels = noise(40, 60)
    save(pixels, tmp_path / "in" / "a.png")
    save(pixels, tmp_path / "in" / "b.png")
    mask = np.zeros((40, 60), np.uint8)
    mask[:, 30:] = 255
    save(mask, tmp_path / "masks" / "a.webp", lossless=True)
    found = results(tmp_path / "in", tmp_path / "out", mask=tmp_path / "masks")
    assert [result.status for result in found] == ["translated", "failed"]
    assert f"no mask {tmp_path / 'masks' / 'b.*'}" in str(found[1].error)
    out = load(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(out[:, :30], pixels[:, :30])
    np.testing.assert_array_equal(out[:, 32:], 255 - pixels[:, 32:])
    half = (pixels[:, 30].astype(float) + (255 - pixels[:, 30])) / 2  # weight 1/2: one pixel from the edge, feather 2
    assert np.abs(out[:, 30] - half).max() <= 1
    with pytest.raises(DataError, match="--mask: no folder"):
        results(tmp_path / "in", tmp_path / "out", mask=tmp_path / "absent")


def test_alpha_is_kept_and_colours_under_it(tmp_path: Path) -> None:
    pixels = noise(20, 30, 4)
    pixels[..., 3] |= 1
    pixels[:, :10, 3] = 0
    save(pixels, tmp_path / "in" / "a.png")
    results(tmp_path / "in", tmp_path / "half", strength=0.0)
    np.testing.assert_array_equal(load(tmp_path / "half" / "a.png"), pixels)
    results(tmp_path / "in", tmp_path / "out")
    out = load(tmp_path / "out" / "a.png")
    np.testing.assert_array_equal(out[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(out[:, 10:, :3], 255 - pixels[:, 10:, :3])


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".npy", ".webp"])
def test_256_grey_values_come_through_unharmed(tmp_path: Path, suffix: str) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    (tmp_path / "in").mkdir()
    if suffix == ".npy":
        np.save(tmp_path / "in" / "ramp.npy", ramp)
    else:
        save(ramp, tmp_path / "in" / f"ramp{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
    for channels in (1, 3):
        output = tmp_path / f"out{channels}"
        assert counted(results(tmp_path / "in", output, inverter(channels), strength=0.0, quality=100)) == {
            "translated": 1
        }
        path = output / f"ramp{suffix}"
        found = np.load(path) if suffix == ".npy" else load(path)
        found = found.reshape(16, 16, -1)
        np.testing.assert_array_equal(found, np.broadcast_to(ramp[..., None], found.shape))


def test_65536_values_come_through_unharmed(tmp_path: Path) -> None:
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    save(ramp, tmp_path / "in" / "ramp.png")
    tifffile.imwrite(tmp_path / "in" / "ramp.tif", ramp)
    results(tmp_path / "in", tmp_path / "out", inverter(1), strength=0.0)
    np.testing.assert_array_equal(load(tmp_path / "out" / "ramp.png"), ramp)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "ramp.tif"), ramp)
    results(tmp_path / "in", tmp_path / "negative", inverter(1))
    np.testing.assert_array_equal(load(tmp_path / "negative" / "ramp.png"), 65535 - ramp)


@pytest.mark.parametrize(
    ("format", "name"), [("png", "a.png"), ("jpg", "a.jpg"), ("webp", "a.webp"), ("tiff", "a.tiff")]
)
def test_formats(tmp_path: Path, format: str, name: str) -> None:
    save(noise(8, 9), tmp_path / "in" / "a.bmp")
    results(tmp_path / "in", tmp_path / "out", format=format)
    assert list(tree(tmp_path / "out")) == [name]
    assert load(tmp_path / "out" / name).shape == (8, 9, 3)


def test_side_by_side(tmp_path: Path) -> None:
    pixels = noise(8, 9)
    save(pixels, tmp_path / "in" / "a.png")
    results(tmp_path / "in", tmp_path / "out", side_by_side=True)
    np.testing.assert_array_equal(load(tmp_path / "out" / "a.png"), np.concatenate([pixels, 255 - pixels], axis=1))
    (row,) = rows(tmp_path / "out")
    assert (row["input_size"], row["output_size"]) == ([9, 8], [18, 8])


def test_one_line_for_what_formats_cannot_hold(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for seed in range(3):
        save(noise(8, 9, 4, seed=seed), tmp_path / "in" / f"{seed}.png")
    frames = [Image.fromarray(noise(8, 9, seed=seed)) for seed in range(2)]
    frames[0].save(tmp_path / "in" / "film.gif", save_all=True, append_images=frames[1:])
    results(tmp_path / "in", tmp_path / "out", format="jpg")
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 1
    assert "3 x alpha" in lines[0]
    assert "1 x only the first of 2 frames was translated" in lines[0]
    assert rows(tmp_path / "out")[3]["warnings"] == ["only the first of 2 frames was translated"]


def test_one_warning_of_scale(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, side in (("a.png", 40), ("b.png", 41), ("c.png", 50)):
        save(noise(side, 60), tmp_path / "in" / name)
    results(tmp_path / "in", tmp_path / "out", inverter(load_size=20))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "b.png is 60 x 41, more than twice the training scale (20 pixels on the shorter side)" in line
    assert "--work-size 20" in line
    for translator, options in (
        (inverter(load_size=20), {"work_size": 40}),
        (inverter(resize="none", load_size=20, crop_size=25), {}),
    ):
        caplog.clear()
        results(tmp_path / "in", tmp_path / "out", translator, overwrite=True, **options)
        assert not caplog.records


def test_equal_sizes_are_translated_together_where_there_is_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way that CUDA takes, on the CPU: batches, in order, the same pictures."""
    sizes = [(12, 16), (20, 8)]
    for number in range(20):
        height, width = sizes[number % 2]
        save(noise(height, width, seed=number), tmp_path / "in" / f"{number:02d}.png")
    hidden = noise(12, 16, 4)
    hidden[:6, :, 3] = 0
    save(hidden, tmp_path / "in" / "30.png")
    results(tmp_path / "in", tmp_path / "one")
    monkeypatch.setattr(Threads, "dividing", lambda cores, has_gpu: Threads(3, 3, 8))
    translator = inverter()
    found = results(tmp_path / "in", tmp_path / "many", translator)
    assert [result.input.name for result in found] == sorted(os.listdir(tmp_path / "in"))
    assert tree(tmp_path / "many") == tree(tmp_path / "one")
    (network,) = translator._networks.values()
    assert isinstance(network, Invert)
    assert sorted(network.batches) == [1, 2, 2, 4, 4, 4, 4]


def test_a_batch_without_memory_goes_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of memory")

    for number in range(5):
        save(noise(12, 16, seed=number), tmp_path / "in" / f"{number}.png")
    monkeypatch.setattr(Threads, "dividing", lambda cores, has_gpu: Threads(3, 3, 8))
    monkeypatch.setattr(Translator, "batch", fail)
    assert counted(results(tmp_path / "in", tmp_path / "out")) == {"translated": 5}


# ---------------------------------------------------------------------------------------------------- starting


def test_default_input_and_output(
    run: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    capsys.readouterr()
    assert translate_folder(run=run) == 0
    assert capsys.readouterr().out.startswith("translated: 2 of 2")
    assert len(tree(run / "translated" / "photo_to_painting")) == 2
    assert translate_folder(run=run, to="photo") == 0
    assert len(tree(run / "translated" / "painting_to_photo")) == 2
    file = run / "translators" / "photo_to_painting.safetensors"
    assert translate_folder(checkpoint=file, input=dataset / "testA") == 0
    assert capsys.readouterr().out.splitlines()[-2] == "translated: 0 of 2, failed: 0, skipped: 2"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.rename("lone.safetensors")
    assert translate_folder(checkpoint=Path("lone.safetensors"), input=dataset / "testA") == 0
    assert len(tree(tmp_path / "elsewhere" / "translated" / "photo_to_painting")) == 2
    with pytest.raises(DataError, match="--checkpoint was given without --input"):
        translate_folder(checkpoint=Path("lone.safetensors"))
    with pytest.raises(CheckpointError, match="no trained run in"):
        translate_folder()


def test_one_file_beside_its_output(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    before = Path("a.png").read_bytes()
    assert counted(results(Path("a.png"), Path("translated"))) == {"translated": 1}
    assert Path("translated/a.png").is_file()
    with pytest.raises(DataError, match="would replace an input"):
        results(Path("a.png"), Path())
    with pytest.raises(DataError, match="lies in the input"):
        iterate_folder(inverter(), photos, photos / "out")  # at once, before the first result is asked for
    assert Path("a.png").read_bytes() == before
    assert not Path("out").exists()


@pytest.mark.parametrize("wrong", [{"format": "gif"}, {"quality": 0}, {"strength": -0.1}, {"work_size": 0}])
def test_options_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="was given, needed is"):
        Options(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Options(strenght=1)  # type: ignore[call-arg]


# ---------------------------------------------------------------------------------------------------- killed


def wait_for_outputs(output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(output.glob("[!.]*.png"))) < count:
        assert time.monotonic() < deadline, "nothing was translated"
        time.sleep(0.01)


def test_killed_in_the_middle_and_started_again_equals_uninterrupted(tmp_path: Path) -> None:
    for number in range(12):
        save(noise(40, 50, seed=number), tmp_path / "in" / f"{number:02d}.png")
    words = ["--checkpoint", tiny_translator(tmp_path / "t.safetensors"), "--input", tmp_path / "in", "--output"]
    killed = start(*words, tmp_path / "out", SLOW="0.1")
    wait_for_outputs(tmp_path / "out", 3)
    killed.kill()
    killed.communicate()
    done = len(list((tmp_path / "out").glob("[!.]*.png")))
    assert 3 <= done < 12
    assert translate(words, tmp_path / "out") == (0, 12, 12)
    assert translate(words, tmp_path / "whole") == (0, 12, 12)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert list(statuses(tmp_path / "out").values()) == ["skipped"] * done + ["translated"] * (12 - done)
    assert len(list((tmp_path / "out").iterdir())) == 13  # the manifest; nothing of the killed one


def translate(words: list[str | Path], output: Path) -> tuple[int, int, int]:
    """Exit code, rows of the manifest, files."""
    code = translate_folder(
        checkpoint=Path(words[1]), input=Path(words[3]), output=output, device="cpu", precision="fp32"
    )
    return code, len(rows(output)), len(tree(output))


@pytest.mark.parametrize(("number", "stop"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_stopped_by_a_signal(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, number: signal.Signals, stop: type[BaseException]
) -> None:
    """What is computed is written and accounted for, nothing is left over; the exit code is the shell's."""
    file, plain, calls = tiny_translator(tmp_path / "t.safetensors"), Translator.pixels, []

    def interrupted(self: Translator, *args: object, **kwargs: object) -> np.ndarray:
        calls.append(args)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
            time.sleep(5)  # handlers run at once
        return plain(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Translator, "pixels", interrupted)
    inherited = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with it ignored
    before = signal.getsignal(number)
    try:
        with pytest.raises(stop) as raised:
            translate_folder(checkpoint=file, input=photos, output=tmp_path / "out", device="cpu")
        assert signal.getsignal(number) == before
    finally:
        signal.signal(signal.SIGINT, inherited)
    if stop is SystemExit:
        assert raised.value.code == 143  # type: ignore[attr-defined]
    assert statuses(tmp_path / "out") == {"a.png": "translated", "b.png": "translated"}
    assert set(tree(tmp_path / "out")) == {"a.png", "b.png"}
