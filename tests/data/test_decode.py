"""decode.py: every kind of file that people have, pixel by pixel, and every way in which one can be broken."""

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL
import pytest
import tifffile
from PIL import Image

from cyclestyle.data.decode import decode, picture_of, read_header, read_picture, set_largest_image
from cyclestyle.data.metadata import Metadata
from cyclestyle.errors import DataError

RGB = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [255, 255, 255], [0, 0, 0]]], np.uint8)
# 0.299 R + 0.587 G + 0.114 B: 76.2, 149.7, 29.1; 0.299 * 10 + 0.587 * 20 + 0.114 * 30 = 18.15
LUMA = np.array([[[76], [150], [29]], [[18], [255], [0]]], np.uint8)
GREY = np.array([[0, 1, 127], [128, 254, 255]], np.uint8)
DEEP = np.array([[0, 1, 255], [256, 40000, 65535]], np.uint16)
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], axis=2)


def save(path, pixels, mode=None, **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    if mode is not None:
        assert image.mode == mode
    image.save(path, **options)
    return path


def png(path, size, depth, colour_type, rows, *chunks):
    """A PNG written by hand: Pillow cannot write every kind."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    body = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0))
    body += b"".join(chunk(*each) for each in chunks)
    body += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def check(path, channels, expected):
    """Decoded and promised by the header; its own memory."""
    pixels = decode(path, channels)
    np.testing.assert_array_equal(pixels, expected, strict=True)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    header = read_header(path, channels)
    assert (header.height, header.width, header.dtype) == (*expected.shape[:2], expected.dtype)


# ------------------------------------------------------------------------------------------ 8 bits


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif"])
def test_rgb(tmp_path, suffix):
    options = {"webp": {"lossless": True}}.get(suffix, {})
    path = save(tmp_path / f"x.{suffix}", RGB, "RGB", **options)
    check(path, 3, RGB)
    check(path, 1, LUMA)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif"])
def test_grey(tmp_path, suffix):
    path = save(tmp_path / f"x.{suffix}", GREY, "L")
    check(path, 1, GREY[:, :, None])
    check(path, 3, GREY[:, :, None].repeat(3, axis=2))


def test_jpeg(tmp_path):
    flat = np.full((16, 24, 3), (200, 100, 50), np.uint8)
    path = save(tmp_path / "x.JPG", flat, quality=95)
    assert np.abs(decode(path, 3).astype(int) - flat).max() <= 2  # JPEG's own rounding
    assert decode(path, 1).shape == (16, 24, 1)
    grey = save(tmp_path / "grey.jpeg", np.full((16, 24), 200, np.uint8), "L")
    check(grey, 3, np.full((16, 24, 3), 200, np.uint8))


def test_what_counts_is_the_content_not_the_suffix(tmp_path):
    path = tmp_path / "x.jpg"
    save(path, RGB, format="PNG")
    check(path, 3, RGB)


def test_one_bit(tmp_path):
    for suffix in ("png", "tif", "bmp"):
        path = save(tmp_path / f"x.{suffix}", Image.fromarray(GREY > 127), "1")
        check(path, 1, np.where(GREY > 127, 255, 0).astype(np.uint8)[:, :, None])


def test_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 1, 2, 3])
    check(save(tmp_path / "x.png", image, "P"), 3, np.array([[[255, 0, 0], [0, 255, 0], [1, 2, 3]]], np.uint8))


def test_palette_with_transparency(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 0])
    white = [255, 255, 255]
    one = save(tmp_path / "one.png", image, "P", transparency=1)
    check(one, 3, np.array([[[255, 0, 0], white, [0, 0, 0]]], np.uint8))
    # An opacity a palette entry: opaque, none, 51 of 255 (a fifth of black over white: 204).
    each = save(tmp_path / "each.png", image, "P", transparency=bytes([255, 0, 51]))
    check(each, 3, np.array([[[255, 0, 0], white, [204, 204, 204]]], np.uint8))


def test_alpha_lies_over_white(tmp_path):
    # 51 of 255 is a fifth: 100 / 5 + 255 * 4 / 5 = 224; 0 -> 204. 255 - (255 - 100) * 101 / 255 = 193.6, 0 -> 154
    rgba = np.array([[[100, 0, 255, 51], [100, 0, 255, 0], [100, 0, 255, 255], [100, 0, 255, 101]]], np.uint8)
    expected = np.array([[[224, 204, 255], [255, 255, 255], [100, 0, 255], [194, 154, 255]]], np.uint8)
    for suffix in ("png", "tif"):
        check(save(tmp_path / f"x.{suffix}", rgba, "RGBA"), 3, expected)
    la = Image.merge("LA", [Image.fromarray(rgba[:, :, 0]), Image.fromarray(rgba[:, :, 3])])
    check(save(tmp_path / "la.png", la, "LA"), 1, expected[:, :, :1])
    check(save(tmp_path / "la.png", la, "LA"), 3, expected[:, :, :1].repeat(3, axis=2))


def test_transparent_colour_of_rgb_and_grey(tmp_path):
    path = save(tmp_path / "rgb.png", RGB, transparency=(10, 20, 30))
    expected = RGB.copy()
    expected[1, 0] = 255
    check(path, 3, expected)
    grey = save(tmp_path / "grey.png", GREY, transparency=0)
    check(grey, 1, np.where(GREY == 0, 255, GREY)[:, :, None])


def test_cmyk(tmp_path):
    # 255 * (1 - ink) * (1 - black)
    cmyk = Image.fromarray(np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 0, 0, 255]]], np.uint8), "CMYK")
    expected = np.array([[[255, 255, 255], [0, 255, 255], [0, 0, 0]]], np.uint8)
    check(save(tmp_path / "x.tif", cmyk, "CMYK"), 3, expected)
    flat = save(tmp_path / "x.jpg", Image.new("CMYK", (16, 16), (255, 0, 0, 0)), quality=100)
    assert np.abs(decode(flat, 3).astype(int) - (0, 255, 255)).max() <= 2


def test_first_frame(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    red = np.full((3, 4, 3), (255, 0, 0), np.uint8)
    for suffix in ("gif", "webp", "tif", "png"):
        lossless = {"lossless": True} if suffix == "webp" else {}
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
        check(path, 3, red)
    pages = tmp_path / "deep.tif"
    tifffile.imwrite(pages, np.stack([DEEP, DEEP * 0, DEEP * 0]), photometric="minisblack")
    check(pages, 1, DEEP[:, :, None])


# ------------------------------------------------------------------------------------------ orientation


def turned_by_hand(pixels, orientation):
    """What EXIF says of each value: what must be done to the stored pixels so that they stand upright."""
    return {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: np.rot90(p, 2),
        4: lambda p: p[::-1],
        5: lambda p: p.swapaxes(0, 1),
        6: lambda p: np.rot90(p, -1),  # a quarter turn clockwise
        7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
        8: lambda p: np.rot90(p, 1),
    }[orientation](pixels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    check(save(tmp_path / "x.png", RGB, exif=exif), 3, turned_by_hand(RGB, orientation))
    big = np.kron(RGB, np.ones((16, 16, 1), np.uint8))
    jpeg = save(tmp_path / "x.jpg", big, exif=exif, quality=95, subsampling=0)
    upright = decode(jpeg, 3)
    header = read_header(jpeg, 3)
    assert (header.height, header.width) == upright.shape[:2]
    assert np.abs(upright.astype(int) - turned_by_hand(big, orientation)).max() < 12
    flag = (274, "H", 1, orientation, True)
    for pixels in (RGB, DEEP_RGB):
        tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", extratags=[flag])
        check(tmp_path / "x.tif", 3, turned_by_hand(pixels, orientation))
    tifffile.imwrite(tmp_path / "deep.tif", DEEP, extratags=[flag])
    check(tmp_path / "deep.tif", 1, turned_by_hand(DEEP, orientation)[:, :, None])
    five = np.arange(30, dtype=np.uint16).reshape(5, 2, 3)
    tifffile.imwrite(tmp_path / "five.tif", five, photometric="minisblack", planarconfig="separate", extratags=[flag])
    check(tmp_path / "five.tif", 5, turned_by_hand(np.moveaxis(five, 0, -1), orientation))


def test_exif_orientation_of_deep_png(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [row.astype(">u2").tobytes() for row in DEEP_RGB]
    path = png(tmp_path / "x.png", (3, 2), 16, 2, rows, (b"eXIf", exif.tobytes()[6:]))
    check(path, 3, turned_by_hand(DEEP_RGB, 6))


def test_damaged_exif_is_no_reason_to_refuse(tmp_path):
    path = save(tmp_path / "x.png", RGB, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01\x03")
    check(path, 3, RGB)


# ------------------------------------------------------------------------------------------ more than 8 bits


def test_16_bit_grey_stays_16_bit(tmp_path):
    check(save(tmp_path / "x.png", DEEP, "I;16"), 1, DEEP[:, :, None])
    check(save(tmp_path / "x.tif", DEEP, "I;16"), 1, DEEP[:, :, None])
    check(save(tmp_path / "x.png", DEEP, "I;16"), 3, DEEP[:, :, None].repeat(3, axis=2))
    tifffile.imwrite(tmp_path / "big_endian.tif", DEEP, byteorder=">")
    check(tmp_path / "big_endian.tif", 1, DEEP[:, :, None])
    tifffile.imwrite(tmp_path / "white_is_zero.tif", 65535 - DEEP, photometric="miniswhite")
    check(tmp_path / "white_is_zero.tif", 1, DEEP[:, :, None])


def test_16_bit_rgb_png(tmp_path):
    rows = [row.astype(">u2").tobytes() for row in DEEP_RGB]
    path = png(tmp_path / "x.png", (3, 2), 16, 2, rows)
    assert np.asarray(Image.open(path)).dtype == np.uint8  # what Pillow alone would make of it
    check(path, 3, DEEP_RGB)
    weights = np.array([19595, 38470, 7471], np.uint64)  # 65536 * (0.299, 0.587, 0.114)
    luma = ((DEEP_RGB.astype(np.uint64) * weights).sum(axis=2, keepdims=True) + 32768) // 65536
    check(path, 1, luma.astype(np.uint16))


def test_16_bit_png_with_alpha(tmp_path):
    # 13107 is a fifth of 65535: 100 / 5 + 65535 * 4 / 5 = 52448
    rgba = np.array([[[100, 100, 100, 13107], [1, 2, 3, 65535]]], ">u2")
    path = png(tmp_path / "rgba.png", (2, 1), 16, 6, [row.tobytes() for row in rgba])
    check(path, 3, np.array([[[52448, 52448, 52448], [1, 2, 3]]], np.uint16))
    path = png(tmp_path / "la.png", (2, 1), 16, 4, [row[:, 2:].tobytes() for row in rgba])
    check(path, 1, np.array([[[52448], [3]]], np.uint16))


def test_16_bit_rgb_tiff(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP_RGB, photometric="rgb")
    check(path, 3, DEEP_RGB)
    tifffile.imwrite(path, np.moveaxis(DEEP_RGB, 2, 0), photometric="rgb", planarconfig="separate")
    check(path, 3, DEEP_RGB)
    tifffile.imwrite(path, DEEP_RGB, photometric="rgb", compression="zlib", predictor=True)
    check(path, 3, DEEP_RGB)


def test_16_bit_tiff_with_alpha(tmp_path):
    path = tmp_path / "x.tif"
    rgba = np.array([[[100, 100, 100, 13107], [1, 2, 3, 65535]]], np.uint16)
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unassalpha"])
    check(path, 3, np.array([[[52448, 52448, 52448], [1, 2, 3]]], np.uint16))
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["assocalpha"])  # 100 + 65535 - 13107
    check(path, 3, np.array([[[52528, 52528, 52528], [1, 2, 3]]], np.uint16))
    tifffile.imwrite(path, rgba, photometric="rgb", extrasamples=["unspecified"])  # infrared, say: left out
    check(path, 3, rgba[..., :3])


def test_16_bit_tiff_in_a_compression_that_tifffile_needs_help_with(tmp_path):
    import cv2

    ok, data = cv2.imencode(".tif", DEEP_RGB[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])  # LZW
    assert ok
    path = tmp_path / "lzw.tif"
    path.write_bytes(data.tobytes())
    check(path, 3, DEEP_RGB)
    ok, data = cv2.imencode(".tif", DEEP, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    path.write_bytes(data.tobytes())
    check(path, 1, DEEP[:, :, None])
    for orientation in range(1, 9):
        save(path, DEEP, "I;16", compression="tiff_lzw", tiffinfo={274: orientation})
        check(path, 1, turned_by_hand(DEEP, orientation)[:, :, None])
    save(path, 65535 - DEEP, "I;16", compression="tiff_lzw", tiffinfo={262: 0})  # white is zero
    check(path, 1, DEEP[:, :, None])


def test_16_bit_cmyk_tiff(tmp_path):
    ink = np.array([[[0, 0, 0, 0], [65535, 0, 0, 0], [0, 0, 0, 65535]]], np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", ink, photometric="separated")
    expected = np.array([[[65535, 65535, 65535], [0, 65535, 65535], [0, 0, 0]]], np.uint16)
    check(tmp_path / "x.tif", 3, expected)


def test_integers_fill_the_range_of_their_dtype(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, DEEP.astype(np.uint32) * 65537)  # 0xABCD -> 0xABCDABCD
    check(path, 1, DEEP[:, :, None])
    tifffile.imwrite(path, np.array([[0, 2**31 - 1]], np.int32))
    check(path, 1, np.array([[[0], [65535]]], np.uint16))
    tifffile.imwrite(path, np.array([[0, 2**15 - 1]], np.int16))
    check(path, 1, np.array([[[0], [65535]]], np.uint16))
    tifffile.imwrite(path, np.array([[0, 60834]], np.int32))  # 16-bit values in 32: nearly black of that range
    with pytest.raises(DataError, match=r"x.tif: holds int32 up to 60834 only.* save it as 16-bit"):
        decode(path, 1)
    tifffile.imwrite(path, np.array([[0, -1]], np.int16))
    with pytest.raises(DataError, match=r"x.tif: holds negative values \(-1\)"):
        decode(path, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1(tmp_path, dtype):
    path = tmp_path / "x.tif"
    # quarters are exact in every float; times 65535, rounded (half to even)
    tifffile.imwrite(path, np.array([[0, 0.25, 0.5, 1]], dtype))
    check(path, 1, np.array([[[0], [16384], [32768], [65535]]], np.uint16))
    for bad in (1.5, -0.5, np.nan, np.inf):
        tifffile.imwrite(path, np.array([[0, bad]], dtype))
        with pytest.raises(DataError, match=r"floating-point values from .* needed: 0 .black. to 1"):
            decode(path, 1)


# ------------------------------------------------------------------------------------------ many channels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_five_channels_of_tiff(tmp_path, dtype):
    pixels = np.arange(7 * 6 * 5).reshape(7, 6, 5).astype(dtype)
    planes = np.moveaxis(pixels, 2, 0)
    path = tmp_path / "x.tif"
    for array, options in (
        (pixels, {"photometric": "minisblack", "planarconfig": "contig"}),
        (planes, {"photometric": "minisblack", "planarconfig": "separate"}),
        (planes, {"photometric": "minisblack"}),  # a page a channel
        (planes, {"photometric": "minisblack", "metadata": {"axes": "CYX"}}),
        (planes[None, :, None], {"photometric": "minisblack", "imagej": dtype == np.uint8}),  # TZCYX, or not named
    ):
        if options.get("imagej"):
            array = planes[None, None]  # noqa: PLW2901
        tifffile.imwrite(path, array, **options)
        check(path, 5, pixels)
    tifffile.imwrite(path, planes[:, :1], photometric="minisblack")  # one row
    check(path, 5, pixels[:1])
    tifffile.imwrite(path, np.stack([planes, planes]), photometric="minisblack")  # which of the two?
    with pytest.raises(DataError, match=r"holds 2 x 5 x 7 x 6 values, but data.channels is 5"):
        decode(path, 5)


def test_channels_must_be_as_many(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.zeros((8, 9, 4), np.uint8), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(DataError, match=r"x.tif: holds .*4.* data.channels is 5"):
        decode(path, 5)
    with pytest.raises(DataError, match=r"data.channels is 5"):
        read_header(path, 5)
    tifffile.imwrite(path, np.zeros((8, 9, 5), np.uint16), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match=r"has 5 channels, but data.channels is 1 or 3"):
        decode(path, 3)
    with pytest.raises(DataError, match=r"only TIFF and .npy"):
        decode(save(tmp_path / "x.png", np.zeros((8, 9, 4), np.uint8)), 4)
    np.save(tmp_path / "x.npy", np.zeros((8, 9, 4), np.uint8))
    with pytest.raises(DataError, match=r"has 4 channels, but data.channels is 5"):
        decode(tmp_path / "x.npy", 5)


def test_four_channels_are_not_taken_for_alpha(tmp_path):
    rgba = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    tifffile.imwrite(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    check(tmp_path / "x.tif", 4, rgba)


def test_npy(tmp_path):
    path = tmp_path / "x.npy"
    for array, channels, expected in (
        (GREY, 1, GREY[:, :, None]),
        (RGB, 3, RGB),
        (RGB, 1, LUMA),
        (np.asfortranarray(DEEP_RGB), 3, DEEP_RGB),
        (DEEP.astype(">u2"), 1, DEEP[:, :, None]),
        (GREY > 127, 1, np.where(GREY > 127, 255, 0).astype(np.uint8)[:, :, None]),
        (np.array([[0.0, 1.0]]), 1, np.array([[[0], [65535]]], np.uint16)),
        (np.arange(24, dtype=np.uint8).reshape(1, 4, 6), 6, np.arange(24, dtype=np.uint8).reshape(1, 4, 6)),
        (np.array([[[9, 9, 9, 0]]], np.uint8), 3, np.full((1, 1, 3), 255, np.uint8)),
    ):
        np.save(path, array)
        check(path, channels, expected)


def test_npy_that_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    for array, reason in (
        (np.zeros(5), "shape"),
        (np.zeros((0, 4)), "."),
        (np.zeros((1, 2, 3, 4)), "shape"),
        (np.zeros((2, 2), np.complex64), "complex64"),
        (np.array([[{}]], object), "."),
        (np.array([["a"]]), "type"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(DataError, match=rf"x.npy: .*{reason}"):
            decode(path, 1)
    np.save(path, np.zeros((64, 64)))
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"x.npy"):
        read_header(path, 1)  # the header claims more than there is


# ------------------------------------------------------------------------------------------ broken files


def broken(tmp_path, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        decode(path, 3)
    with pytest.raises(DataError) as as_a_picture:
        read_picture(path, 3)
    message = str(caught.value)
    assert str(as_a_picture.value) == message
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) > len(f"{path}: ") + 5
    return message


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "bmp", "gif"])
def test_truncated(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))
    for fraction in (0.9, 0.5, 0.1):
        broken(tmp_path, f"x.{suffix}", buffer.getvalue()[: int(len(buffer.getvalue()) * fraction)])


def test_truncated_deep_files(tmp_path):
    noise = np.random.default_rng(0).integers(0, 65535, (64, 64, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", noise, photometric="rgb")
    broken(tmp_path, "x.tif", (tmp_path / "x.tif").read_bytes()[:9000])
    path = png(tmp_path / "x.png", (64, 64), 16, 2, [row.astype(">u2").tobytes() for row in noise])
    broken(tmp_path, "x.png", path.read_bytes()[:9000])


def test_not_images(tmp_path):
    assert "empty (0 bytes)" in broken(tmp_path, "x.png", b"")
    assert "not an image" in broken(tmp_path, "x.jpg", b"<html>not found</html>")
    assert "HEIC" in broken(tmp_path, "x.jpg", b"\0\0\0\x18ftypheic" + b"\0" * 32)
    broken(tmp_path, "x.tif", b"II*\0" + b"\xff" * 20)
    broken(tmp_path, "x.npy", b"\x93NUMPY\x01\0")
    with pytest.raises(DataError, match=r"No such file"):
        decode(tmp_path / "absent.png", 3)
    with pytest.raises(DataError, match=r"directory"):
        decode(tmp_path, 3)


def test_decompression_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large = np.zeros((15, 15, 3), np.uint8)
    for path in (save(tmp_path / "x.png", large), save(tmp_path / "x.tif", large)):
        with pytest.raises(DataError, match=r"limit of 200"):
            decode(path, 3)
    np.save(tmp_path / "x.npy", large)
    with pytest.raises(DataError, match=r"limit of 200"):
        decode(tmp_path / "x.npy", 3)
    # between the limit and twice the limit Pillow only warns, and we say nothing
    check(save(tmp_path / "fine.png", large[:10, :12]), 3, large[:10, :12])


def test_the_limit_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
    large = np.zeros((1200, 1000, 3), np.uint8)
    paths = [save(tmp_path / f"x.{suffix}", large) for suffix in ("png", "jpg", "tif", "bmp", "webp")]
    np.save(tmp_path / "x.npy", large)
    for path in (*paths, tmp_path / "x.npy"):
        set_largest_image(1.2)
        assert decode(path, 3).shape == large.shape
        set_largest_image(1.19)
        for read in (decode, read_header, read_picture):
            with pytest.raises(DataError, match=r"1200000 pixels exceed the limit of 1190000 .*--max-megapixels 2$"):
                read(path, 3)


# ------------------------------------------------------------------------------------------ pictures to translate


RGBA = np.array([[[100, 0, 255, 51], [100, 0, 255, 0], [100, 0, 255, 255], [100, 7, 255, 101]]], np.uint8)


def check_picture(path, channels, pixels, alpha):
    """Straight colours, and laid over white they are what `decode` returns (for as many channels as the file has)."""
    picture = read_picture(path, channels)
    np.testing.assert_array_equal(picture.pixels, pixels, strict=True)
    assert (picture.alpha is None) == (alpha is None)
    for array in (picture.pixels, *([] if alpha is None else [picture.alpha])):
        assert array.flags.c_contiguous
        assert array.flags.writeable
    laid = pixels
    if alpha is not None:
        np.testing.assert_array_equal(picture.alpha, alpha, strict=True)
        top = np.iinfo(pixels.dtype).max
        opacity = alpha[:, :, None] / top
        laid = np.rint(pixels * opacity + top * (1 - opacity)).astype(pixels.dtype)
    np.testing.assert_array_equal(decode(path, channels), laid)
    return picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_alpha_is_kept_and_turned(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", RGBA, "RGBA", exif=exif, **lossless)
    upright = turned_by_hand(RGBA, orientation)
    picture = check_picture(path, 3, upright[..., :3], upright[..., 3])
    kept = Image.Exif()
    kept.load(picture.metadata.exif or b"")
    assert kept.get(0x0112, 1) == 1


def test_grey_with_alpha(tmp_path):
    la = Image.merge("LA", [Image.fromarray(RGBA[..., 0]), Image.fromarray(RGBA[..., 3])])
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"x.{suffix}", la, "LA")
        check_picture(path, 1, RGBA[..., :1], RGBA[..., 3])
        check_picture(path, 3, RGBA[..., :1].repeat(3, axis=2), RGBA[..., 3])


def test_transparent_colours_become_alpha(tmp_path):
    alpha = np.full((2, 3), 255, np.uint8)
    alpha[1, 0] = 0
    check_picture(save(tmp_path / "rgb.png", RGB, transparency=(10, 20, 30)), 3, RGB, alpha)
    grey = save(tmp_path / "grey.png", GREY, transparency=128)
    check_picture(grey, 1, GREY[:, :, None], alpha)
    one = png(tmp_path / "one.png", (3, 2), 1, 0, [b"\0", b"\xe0"], (b"tRNS", b"\0\1"))
    check_picture(
        one, 1, np.where(GREY > 127, 255, 0).astype(np.uint8)[:, :, None], np.where(GREY > 127, 0, 255).astype(np.uint8)
    )
    nibbles = png(tmp_path / "4_bits.png", (4, 1), 4, 0, [bytes([0x0F, 0x5A])], (b"tRNS", b"\0\5"))
    check_picture(nibbles, 1, np.array([[[0], [255], [85], [170]]], np.uint8), np.array([[255, 255, 0, 255]], np.uint8))
    key = struct.pack(">HHH", *map(int, DEEP_RGB[1, 0]))
    rows = [row.astype(">u2").tobytes() for row in DEEP_RGB]
    deep = png(tmp_path / "deep.png", (3, 2), 16, 2, rows, (b"tRNS", key))
    check_picture(deep, 3, DEEP_RGB, alpha.astype(np.uint16) * 257)
    rows = [row.astype(">u2").tobytes() for row in DEEP]
    deep = png(tmp_path / "deep_grey.png", (3, 2), 16, 0, rows, (b"tRNS", struct.pack(">H", 256)))
    check_picture(deep, 1, DEEP[:, :, None], alpha.astype(np.uint16) * 257)


def test_palette_alpha(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 9])
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 9]]], np.uint8)
    each = save(tmp_path / "each.png", image, "P", transparency=bytes([255, 0, 51]))
    check_picture(each, 3, colours, np.array([[255, 0, 51]], np.uint8))
    one = save(tmp_path / "one.gif", image, "P", transparency=1)
    np.testing.assert_array_equal(read_picture(one, 3).alpha, [[255, 0, 255]])


def test_16_bit_alpha(tmp_path):
    rgba = np.array([[[100, 100, 100, 13107], [1, 2, 3, 65535], [9, 9, 9, 0]]], np.uint16)
    rows = [row.astype(">u2").tobytes() for row in rgba]
    check_picture(png(tmp_path / "rgba.png", (3, 1), 16, 6, rows), 3, rgba[..., :3], rgba[..., 3])
    rows = [row[:, 2:].astype(">u2").tobytes() for row in rgba]
    check_picture(png(tmp_path / "la.png", (3, 1), 16, 4, rows), 1, rgba[..., 2:3], rgba[..., 3])
    tifffile.imwrite(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["unassalpha"])
    check_picture(tmp_path / "x.tif", 3, rgba[..., :3], rgba[..., 3])


def test_multiplied_alpha_is_divided_out(tmp_path):
    # 13107 of 65535 is a fifth; colours above their alpha are not possible, and become white
    rgba = np.array([[[100, 13107, 0, 13107], [1, 2, 3, 65535], [0, 0, 0, 0], [9, 1, 0, 2]]], np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", rgba, photometric="rgb", extrasamples=["assocalpha"])
    picture = read_picture(tmp_path / "x.tif", 3)
    np.testing.assert_array_equal(picture.pixels, [[[500, 65535, 0], [1, 2, 3], [0, 0, 0], [65535, 32768, 0]]])
    np.testing.assert_array_equal(picture.alpha, rgba[..., 3])
    kinds = [(rgba, "rgb"), (rgba[..., 2:], "minisblack")]
    for pixels, photometric in kinds[: 1 if PIL.__version__ < "11" else 2]:  # the latter Pillow 10 does not know
        small = (pixels // 257).astype(np.uint8)
        small[0, 0] = [20] * (small.shape[2] - 1) + [51]
        options = {"photometric": photometric, "planarconfig": "contig", "extrasamples": ["assocalpha"]}
        tifffile.imwrite(tmp_path / "x.tif", small, **options)
        picture = read_picture(tmp_path / "x.tif", small.shape[2] - 1)
        np.testing.assert_array_equal(picture.alpha, small[..., -1])
        np.testing.assert_array_equal(picture.pixels[0, 0], 100)


def test_data_are_not_taken_for_alpha(tmp_path):
    for channels in (2, 4):
        pixels = np.arange(2 * 3 * channels, dtype=np.uint8).reshape(2, 3, channels)
        tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="minisblack", planarconfig="contig")
        np.save(tmp_path / "x.npy", pixels)
        check_picture(tmp_path / "x.tif", channels, pixels, None)
        check_picture(tmp_path / "x.npy", channels, pixels, None)
        check_picture(tmp_path / "x.npy", channels - 1, pixels[..., :-1], pixels[..., -1])


MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV")


def of_mode(mode):
    """A Pillow image of a mode, 7 x 5, with all that the mode can hold."""
    values = np.random.default_rng(0).integers(60, 200, (5, 7, 4), dtype=np.uint8)
    rgba = Image.fromarray(values, "RGBA")
    if mode in ("La", "PA"):
        return rgba.convert("LA" if mode == "La" else "P").convert(mode)
    return rgba.convert(mode) if mode in ("LA", "RGBa") else rgba.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_open_images_of_every_mode(mode):
    image = of_mode(mode)
    assert image.mode == mode
    reference = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}.get(mode, mode)
    straight = image.convert(reference)
    for channels in (1, 3):
        picture = picture_of(image, channels)
        assert picture.pixels.shape == (5, 7, channels)
        assert (picture.alpha is not None) == (mode in ("LA", "La", "PA", "RGBA", "RGBa"))
        if picture.alpha is not None:
            np.testing.assert_array_equal(picture.alpha, np.asarray(straight)[..., -1])
        plain = Image.fromarray(np.asarray(straight)[..., :-1].squeeze()) if picture.alpha is not None else straight
        expected = np.asarray(plain.convert("RGB"))
        if channels == 3 or mode in ("1", "L", "LA", "La"):
            np.testing.assert_array_equal(picture.pixels, expected[..., :channels])
        assert picture.metadata == Metadata() or mode == "LAB"  # to which Pillow adds a profile
        assert picture.num_frames == 1


def test_open_images_of_deep_modes():
    for dtype in ("<u2", ">u2"):
        image = Image.frombytes("I;16" if dtype == "<u2" else "I;16B", (3, 2), DEEP.astype(dtype).tobytes())
        for channels in (1, 3):
            picture = picture_of(image, channels)
            np.testing.assert_array_equal(picture.pixels, DEEP[:, :, None].repeat(channels, 2), strict=True)
    integers = Image.fromarray(np.array([[0, 2**31 - 1]], np.int32))
    np.testing.assert_array_equal(picture_of(integers, 1).pixels, np.array([[[0], [65535]]], np.uint16), strict=True)
    np.testing.assert_array_equal(picture_of(Image.fromarray(np.array([[0.25]], np.float32)), 1).pixels, [[[16384]]])
    with pytest.raises(DataError, match=r"the picture: holds floating-point values from 2"):
        picture_of(Image.fromarray(np.array([[2.0]], np.float32)), 1)


def test_open_images_keep_their_metadata():
    image = Image.fromarray(RGB)
    exif = image.getexif()
    exif[0x0112], exif[315] = 6, "Artist"
    image.info |= {"icc_profile": b"profile", "dpi": (300, 300), "exif": exif.tobytes()}
    picture = picture_of(image, 3)
    np.testing.assert_array_equal(picture.pixels, turned_by_hand(RGB, 6))
    assert (picture.metadata.icc_profile, picture.metadata.dpi) == (b"profile", (300, 300))
    kept = Image.Exif()
    kept.load(picture.metadata.exif)
    assert dict(kept) == {0x0112: 1, 315: "Artist"}


@pytest.mark.parametrize("kind", ["progressive", "grey", "cmyk"])
def test_kinds_of_jpeg(tmp_path, kind):
    mode, colour, expected = {
        "progressive": ("RGB", (200, 100, 50), (200, 100, 50)),
        "grey": ("L", 120, (120, 120, 120)),
        "cmyk": ("CMYK", (255, 0, 0, 51), (0, 204, 204)),  # four fifths of the light of cyan
    }[kind]
    path = save(
        tmp_path / "x.jpg", Image.new(mode, (17, 9), colour), mode, quality=100, progressive=kind == "progressive"
    )
    picture = read_picture(path, 3)
    assert np.abs(picture.pixels.astype(int) - expected).max() <= 2
    assert picture.alpha is None
    data = path.read_bytes()
    if kind == "cmyk":  # of the four inks as luminance and chroma (YCCK): the same file, declared so
        place = data.index(b"Adobe") + 11
        path.write_bytes(data[:place] + b"\2" + data[place + 1 :])
        assert read_picture(path, 3).pixels.shape == (9, 17, 3)


def test_num_frames(tmp_path):
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "lime", "blue")]
    for suffix in ("gif", "webp", "tif", "png"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert read_picture(path, 3).num_frames == 3
        with Image.open(path) as image:
            picture = picture_of(image, 3)
            assert picture.num_frames == 3
            assert np.abs(picture.pixels.astype(int) - (255, 0, 0)).max() <= 3
        frames[0].save(path)
        assert read_picture(path, 3).num_frames == 1
    frames[0].save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=frames[1:2])  # as phones do
    assert read_picture(tmp_path / "x.jpg", 3).num_frames == 1
    tifffile.imwrite(tmp_path / "deep.tif", np.stack([DEEP] * 5), photometric="minisblack")
    assert read_picture(tmp_path / "deep.tif", 1).num_frames == 5
    assert read_picture(tmp_path / "deep.tif", 5).num_frames == 1  # its channels
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(DEEP_RGB, photometric="rgb")
        file.write(DEEP_RGB[:1], photometric="rgb", subfiletype=1)  # the same, smaller
    assert read_picture(tmp_path / "pyramid.tif", 3).num_frames == 1


@pytest.mark.parametrize("suffix", ["gif", "webp", "tif", "png"])
def test_damage_beyond_the_first_frame(tmp_path, suffix):
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (50, 50, 3), dtype=np.uint8)) for _ in range(4)]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if suffix == "webp" else {}))
    first = read_picture(path, 3).pixels
    data = bytearray(path.read_bytes())
    end = len(data) * 7 // 8
    data[end : end + 300] = random.integers(0, 256, 300, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    picture = read_picture(path, 3)
    np.testing.assert_array_equal(picture.pixels, first)
    assert picture.num_frames >= 1


def test_damaged_metadata_is_left_out(tmp_path):
    path = save(
        tmp_path / "x.jpg", np.full((16, 16, 3), 90, np.uint8), exif=b"Exif\0\0II*\0\xff\xff\xff\xff", icc_profile=b"?"
    )
    picture = read_picture(path, 3)
    assert picture.pixels.shape == (16, 16, 3)
    assert picture.metadata.exif is None
    rows = [row.tobytes() for row in RGB]
    path = png(tmp_path / "x.png", (3, 2), 8, 2, rows, (b"iCCP", b"name\0\0not zlib"), (b"eXIf", b"MM"))
    assert check_picture(path, 3, RGB, None).metadata == Metadata()
    large = np.random.default_rng(0).bytes(3_000_000)
    path = png(tmp_path / "x.png", (3, 2), 8, 2, rows, (b"iCCP", b"name\0\0" + zlib.compress(large)))
    assert check_picture(path, 3, RGB, None).metadata.icc_profile == large


# ------------------------------------------------------------------------------------------ threads


def test_threads_leave_the_warning_filters_as_they_were(tmp_path):
    image = Image.fromarray(np.zeros((50, 50), np.uint8)).convert("P")
    paths = [save(tmp_path / f"{i}.png", image, transparency=bytes([0, 255])) for i in range(4)]
    paths += [save(tmp_path / f"rgb{i}.png", RGB) for i in range(4)]
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda path: decode(path, 3).shape, paths * 20))
    assert results == [(50, 50, 3)] * 4 + [(2, 3, 3)] * 4 + results[8:]
    assert warnings.filters == before
