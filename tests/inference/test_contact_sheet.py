"""Contact sheets: which pairs, how large, in which order, under which names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclestyle.inference import contact_sheet
from cyclestyle.inference.contact_sheet import thumbnail, write_contact_sheets
from cyclestyle.inference.folder import Options, iterate_folder

from .bulk import inverter, load, noise, save


def flat(colour: tuple[int, ...], width: int = 40, height: int = 20) -> np.ndarray:
    return np.full((height, width, len(colour)), colour, np.uint8)


def sheets(output: Path) -> list[str]:
    return sorted(path.name for path in output.glob("contact_sheet*"))


def translate(tmp_path: Path, **options: object) -> Path:
    chosen = Options(contact_sheet=True, **options)  # type: ignore[arg-type]
    list(iterate_folder(inverter(), tmp_path / "in", tmp_path / "out", chosen))
    return tmp_path / "out"


@pytest.mark.parametrize("options", [{}, {"side_by_side": True}])
def test_pairs_stand_in_order_before_and_after(tmp_path: Path, options: dict[str, object]) -> None:
    """14 pictures of known colours: pages of 12 and 2, each pair beside the other, in the listing's order."""
    for number in range(14):
        save(flat((number * 10, 100, 200), 400, 200), tmp_path / "in" / f"{number:02d}.png")
    output = translate(tmp_path, **options)
    assert sheets(output) == ["contact_sheet_001.png", "contact_sheet_002.png"]
    first, second = (load(output / name) for name in sheets(output))
    pair, row = 2 * 256 + 6 + 12, 256 + 20 + 12
    assert first.shape == (4 * row + 12, 3 * pair + 12, 3)
    assert second.shape == (row + 12, 2 * pair + 12, 3)
    for number in range(14):
        page, place = (first, number) if number < 12 else (second, number - 12)
        x, y = 12 + place % 3 * pair + 128, 12 + place // 3 * row + 128
        assert tuple(page[y, x]) == (number * 10, 100, 200)
        assert tuple(page[y, x + 256 + 6]) == (255 - number * 10, 155, 55)
        assert tuple(page[y + 70, x]) == (255, 255, 255)  # 256 x 128: the aspect is kept
        label = page[12 + place // 3 * row + 256 : 12 + place // 3 * row + 276, x - 128 : x + 100]
        assert label.min() < 100  # a name stands there


def test_only_what_is_there_is_shown(tmp_path: Path) -> None:
    save(noise(8, 8), tmp_path / "in" / "a.png")
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    output = translate(tmp_path)
    assert load(output / "contact_sheet_001.png").shape[1] == 2 * 256 + 6 + 2 * 12
    (output / "contact_sheet_001.png").unlink()
    assert sheets(translate(tmp_path)) == ["contact_sheet_001.png"]  # also of what was skipped
    assert write_contact_sheets([], output) == []


def test_an_input_of_that_name_keeps_it(tmp_path: Path) -> None:
    pixels = noise(8, 8)
    save(pixels, tmp_path / "in" / "contact_sheet_001.png")
    save(pixels, tmp_path / "in" / "Contact_Sheet_2_007.png")
    output = translate(tmp_path)
    np.testing.assert_array_equal(load(output / "contact_sheet_001.png"), 255 - pixels)
    assert "contact_sheet_3_001.png" in sheets(output)


def test_thumbnails_of_every_kind(tmp_path: Path) -> None:
    deep = save(np.full((300, 600), 257 * 77, np.uint16), tmp_path / "deep.png")
    assert thumbnail(deep).size == (256, 128)
    assert thumbnail(deep).getpixel((5, 5)) == (77, 77, 77)
    half = np.dstack([flat((0, 0, 0)), np.full((20, 40), 51, np.uint8)])  # a fifth of black over white
    assert thumbnail(save(half, tmp_path / "alpha.png")).getpixel((5, 5)) == (204, 204, 204)
    np.save(tmp_path / "many.npy", np.full((30, 20, 7), 90, np.uint8))
    assert thumbnail(tmp_path / "many.npy").getpixel((5, 5)) == (90, 90, 90)
    assert thumbnail(tmp_path / "absent.png").getpixel((5, 5)) == (225, 225, 225)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = save(flat((10, 20, 30), 800, 400), tmp_path / "turned.jpg", exif=exif)
    assert thumbnail(turned).size == (128, 256)


def test_a_large_jpeg_is_decoded_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large = save(flat((10, 200, 30), 4096, 2048), tmp_path / "large.jpg")
    decoded = []
    plain = contact_sheet.ImageOps.exif_transpose
    monkeypatch.setattr(
        contact_sheet.ImageOps, "exif_transpose", lambda image: decoded.append(image.size) or plain(image)
    )
    found = thumbnail(large)
    assert (found.size, decoded) == ((256, 128), [(1024, 512)])  # the least of 1/8 ... 1 that is 512 x 512 or more
    np.testing.assert_allclose(np.asarray(found), np.broadcast_to([10, 200, 30], (128, 256, 3)), atol=2)
