"""encode.py: what is written is read again, value by value and tag by tag, by us and by other programs."""

import io
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from cyclestyle.data import pixels as arithmetic
from cyclestyle.data import tiff
from cyclestyle.data.decode import decode, read_header, read_picture
from cyclestyle.data.encode import WRITABLE, write_picture
from cyclestyle.data.metadata import Metadata
from cyclestyle.errors import DataError

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
GRAY_PROFILE = RGB_PROFILE[:16] + b"GRAY" + RGB_PROFILE[20:]
CMYK_PROFILE = RGB_PROFILE[:16] + b"CMYK" + RGB_PROFILE[20:]


def camera_exif(**main):
    """What a camera writes: main directory, Exif, GPS."""
    exif = Image.Exif()
    exif[271], exif[315], exif[33432], exif[306] = "Maker", "Artist", "Copyright of someone", "2024:05:06 07:08:09"
    for tag, value in main.items():
        exif[int(tag[1:])] = value
    exif[0x8769] = {0x829A: 0.005, 0x9003: "2024:05:06 07:08:09", 0xA434: "Lens", 0x927C: b"\1\2\3\4\5\6\7"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.5)}
    return exif.tobytes()


def everything(profile=RGB_PROFILE):
    return Metadata(icc_profile=profile, exif=camera_exif(), dpi=(300.0, 150.0))


def every_value(dtype, channels, alpha):
    """A picture in which each channel takes every value of `dtype`, each in another order; alpha as well."""
    top, side = np.iinfo(dtype).max, 16 if dtype == np.uint8 else 256
    ramp = np.arange(top + 1).reshape(side, side)
    planes = np.stack([ramp, ramp[::-1], ramp.T], axis=2)[:, :, :channels].astype(dtype)
    return np.ascontiguousarray(planes), ramp[:, ::-1].astype(dtype) if alpha else None


def check(path, pixels, alpha):
    picture = read_picture(path, pixels.shape[2])
    np.testing.assert_array_equal(picture.pixels, pixels, strict=True)
    if alpha is None:
        assert picture.alpha is None
    else:
        np.testing.assert_array_equal(picture.alpha, alpha, strict=True)
    assert picture.num_frames == 1
    return picture.metadata


# ------------------------------------------------------------------------------------------ every value


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "webp", "npy", "PNG"])
def test_all_of_8_bits(tmp_path, suffix, channels, alpha):
    pixels, opacity = every_value(np.uint8, channels, alpha)
    path = tmp_path / f"x.{suffix}"
    lost = write_picture(path, pixels, alpha=opacity, quality=100)
    if suffix == "bmp" and alpha:
        assert lost == ["alpha (laid over white)"]
        write_picture(tmp_path / "reference.png", pixels, alpha=opacity)
        expected = decode(tmp_path / "reference.png", channels)
        np.testing.assert_array_equal(decode(path, channels), expected)
    else:
        assert lost == []
        check(path, pixels, opacity)
    if suffix != "npy":
        with Image.open(path) as image:  # grey stays grey, but for WebP, which has none
            name = "RGB" if channels == 3 or suffix == "webp" else "L"
            assert image.mode.rstrip("AX") == name or image.mode == "P"


@pytest.mark.parametrize("alpha", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_all_of_16_bits(tmp_path, suffix, channels, alpha):
    pixels, opacity = every_value(np.uint16, channels, alpha)
    path = tmp_path / f"x.{suffix}"
    assert write_picture(path, pixels, alpha=opacity) == []
    check(path, pixels, opacity)
    together = pixels if opacity is None else np.dstack([pixels, opacity])
    if suffix == "tif":
        np.testing.assert_array_equal(tifffile.imread(path).reshape(together.shape), together)
    if suffix == "png" and together.shape[2] != 2:  # OpenCV reads grey with alpha as colour
        order = [2, 1, 0, 3][: together.shape[2]] if channels == 3 else [0]
        read = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(read.reshape(together.shape)[:, :, order], together)


def test_16_bit_png_in_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "_BLOCK", 5000)  # 13 rows of 384 at once
    pixels = np.random.default_rng(0).integers(0, 65536, (101, 128, 3), dtype=np.uint16)
    write_picture(tmp_path / "x.png", pixels)
    assert (tmp_path / "x.png").read_bytes().count(b"IDAT") == 9
    check(tmp_path / "x.png", pixels, None)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
@pytest.mark.parametrize("suffix", ["png", "tif", "npy"])
def test_small_pictures(tmp_path, suffix, size, dtype):
    for channels in (1, 3):
        pixels, opacity = np.full((*size, channels), 77, dtype), np.full(size, 3, dtype)
        for alpha in (None, opacity):
            write_picture(tmp_path / f"x.{suffix}", pixels, alpha=alpha)
            check(tmp_path / f"x.{suffix}", pixels, alpha)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp"])
def test_16_bits_become_the_nearest_8(tmp_path, suffix):
    # 65535 = 257 * 255; halfway between 100 and 101 lies 25828.5
    pixels = np.array([0, 128, 129, 25828, 25829, 65535], np.uint16)[None, :, None]
    path = tmp_path / f"x.{suffix}"
    alpha = np.full((1, 6), 65535, np.uint16) if suffix == "webp" else None
    lost = write_picture(
        path, pixels.repeat(8, axis=1), alpha=alpha if alpha is None else alpha.repeat(8, 1), quality=100
    )
    assert lost == ["16 bits (became 8)"]
    expected = np.array([0, 0, 1, 100, 101, 255]).repeat(8)
    assert np.abs(decode(path, 1)[0, :, 0].astype(int) - expected).max() <= (1 if suffix == "jpg" else 0)


def test_jpeg_is_not_subsampled_and_heeds_the_quality(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    sizes = []
    for quality in (50, 95, 100):
        write_picture(tmp_path / "x.jpg", noise, quality=quality)
        sizes.append((tmp_path / "x.jpg").stat().st_size)
        with Image.open(tmp_path / "x.jpg") as image:
            assert [part[1:3] for part in image.layer] == [(1, 1)] * 3
    assert sizes == sorted(sizes)
    assert np.abs(decode(tmp_path / "x.jpg", 3).astype(int) - noise).max() <= 5
    write_picture(tmp_path / "x.webp", noise, quality=20)
    assert (tmp_path / "x.webp").stat().st_size < sizes[0]


def test_colours_under_full_transparency_stay(tmp_path):
    pixels, opacity = every_value(np.uint8, 3, True)
    for suffix in ("png", "webp", "tif"):
        write_picture(tmp_path / f"x.{suffix}", pixels, alpha=opacity * 0, quality=100)
        check(tmp_path / f"x.{suffix}", pixels, opacity * 0)


# ------------------------------------------------------------------------------------------ metadata


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_metadata_goes_along(tmp_path, suffix, channels, dtype):
    pixels = np.full((5, 9, channels), 200, dtype)
    given = everything(GRAY_PROFILE if channels == 1 and suffix != "webp" else RGB_PROFILE)
    path = tmp_path / f"x.{suffix}"
    lost = write_picture(path, pixels, metadata=given)
    assert [line for line in lost if "16 bits" not in line] == (
        ["the resolution (WebP holds none)"] if suffix == "webp" else []
    )
    with Image.open(path) as image:  # as another program sees it
        image.load()
        exif = image.getexif()
        assert (exif[271], exif[315], exif[33432], exif[306]) == (
            "Maker",
            "Artist",
            "Copyright of someone",
            "2024:05:06 07:08:09",
        )
        below, gps = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
        assert (float(below[0x829A]), below[0x9003], below[0xA434]) == (0.005, "2024:05:06 07:08:09", "Lens")
        assert (below[0xA002], below[0xA003]) == (9, 5)
        assert bytes(below[0x927C]) == b"\1\2\3\4\5\6\7"
        assert (gps[1], tuple(map(float, gps[2]))) == ("N", (48.0, 12.0, 30.5))
        assert image.info["icc_profile"] == given.icc_profile
        if suffix != "webp":
            np.testing.assert_allclose(np.array(image.info["dpi"], float), (300, 150), rtol=1e-4)
    first = read_picture(path, channels)
    assert first.metadata.icc_profile == given.icc_profile
    write_picture(tmp_path / f"again.{suffix}", first.pixels, metadata=first.metadata)
    again = read_picture(tmp_path / f"again.{suffix}", channels).metadata
    assert (again.icc_profile, again.exif) == (first.metadata.icc_profile, first.metadata.exif)
    if suffix != "webp":
        np.testing.assert_allclose(again.dpi, (300, 150), rtol=1e-4)


def test_what_does_not_fit_is_named(tmp_path):
    grey, colour = np.zeros((4, 5, 1), np.uint8), np.zeros((4, 5, 3), np.uint8)

    def lost(suffix, pixels, profile):
        metadata = Metadata(icc_profile=profile)
        names = write_picture(tmp_path / f"x.{suffix}", pixels, metadata=metadata)
        stored = read_picture(tmp_path / f"x.{suffix}", pixels.shape[2]).metadata.icc_profile
        assert stored == (None if names else profile)
        return names

    for suffix in ("jpg", "png", "tif", "webp"):
        assert lost(suffix, colour, CMYK_PROFILE) == ["the ICC profile (it is for CMYK)"]
        assert lost(suffix, colour, GRAY_PROFILE) == ["the ICC profile (it is for GRAY)"]
        assert lost(suffix, colour, b"\0" * 200) == ["the ICC profile (it is damaged)"]
        assert lost(suffix, colour, RGB_PROFILE) == []
    assert lost("png", grey, RGB_PROFILE) == ["the ICC profile (it is for RGB)"]
    assert lost("webp", grey, GRAY_PROFILE) == ["the ICC profile (it is for GRAY)"]
    assert lost("webp", grey, RGB_PROFILE) == []
    assert write_picture(tmp_path / "x.bmp", colour, metadata=everything()) == [
        "the ICC profile (BMP holds none)",
        "EXIF (BMP holds none)",
    ]
    np.testing.assert_allclose(read_picture(tmp_path / "x.bmp", 3).metadata.dpi, (300, 150), rtol=1e-3)
    assert len(write_picture(tmp_path / "x.npy", colour, metadata=everything())) == 3
    assert write_picture(tmp_path / "x.png", colour, metadata=Metadata(exif=b"Exif\0\0rubbish")) == ["EXIF (damaged)"]
    five = np.zeros((4, 5, 5), np.uint8)
    assert write_picture(tmp_path / "x.tif", five, metadata=everything()) == [
        "the ICC profile (it is not for 5 channels)"
    ]


def test_exif_too_long_for_jpeg(tmp_path):
    exif = camera_exif(_37510=b"x" * 70000)
    metadata = Metadata(exif=exif)
    colour = np.zeros((4, 5, 3), np.uint8)
    assert write_picture(tmp_path / "x.jpg", colour, metadata=metadata) == ["EXIF (too long for JPEG)"]
    assert write_picture(tmp_path / "x.png", colour, metadata=metadata) == []


@pytest.mark.parametrize("big", [False, True])
def test_bigtiff(tmp_path, monkeypatch, big):
    if big:
        monkeypatch.setattr(tiff, "_LARGEST", 100)
    pixels, opacity = every_value(np.uint8, 3, True)
    path = tmp_path / "x.tif"
    write_picture(path, pixels, alpha=opacity, metadata=everything())
    assert path.read_bytes()[:4] == (b"II+\0" if big else b"II*\0")
    metadata = check(path, pixels, opacity)
    assert metadata.icc_profile == RGB_PROFILE
    exif = Image.Exif()
    exif.load(metadata.exif)
    assert exif.get_ifd(0x8769)[0xA434] == "Lens"
    with tifffile.TiffFile(path) as file:  # as another program sees it
        tags = file.pages[0].tags
        assert tags[34665].value["LensModel"] == "Lens"
        assert tags[34853].value["GPSLatitudeRef"] == "N"
        assert (tags[315].value, tags[282].value, tags[296].value) == ("Artist", (300, 1), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
def test_pictures_stay_upright(tmp_path, suffix, orientation):
    """What was turned by EXIF is stored upright, and is not turned again."""
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif.load(camera_exif(_274=orientation))
    source = tmp_path / f"x.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(noise).save(source, exif=exif, **options)
    picture = read_picture(source, 3)
    assert picture.pixels.shape == ((24, 16, 3) if orientation >= 5 else (16, 24, 3))
    exif.load(picture.metadata.exif)
    assert (exif.get_ifd(0x8769)[0xA003], exif.get_ifd(0x8769)[0xA002]) == picture.pixels.shape[:2]
    write_picture(tmp_path / f"y.{suffix}", picture.pixels, metadata=picture.metadata, quality=100)
    with Image.open(tmp_path / f"y.{suffix}") as image:
        assert image.getexif().get(274, 1) == 1
        below = image.getexif().get_ifd(0x8769)
        assert (below[0xA003], below[0xA002]) == picture.pixels.shape[:2]
    again = read_picture(tmp_path / f"y.{suffix}", 3).pixels
    assert np.abs(again.astype(int) - picture.pixels).max() <= (3 if suffix == "jpg" else 0)


# ------------------------------------------------------------------------------------------ many channels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize("suffix", ["tif", "npy"])
def test_many_channels(tmp_path, suffix, channels, dtype):
    for height, width in ((7, 6), (1, 1), (3, 3), (channels, channels)):
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(dtype)
        path = tmp_path / f"x.{suffix}"
        assert write_picture(path, pixels) == []
        check(path, pixels, None)
        header = read_header(path, channels)
        assert (header.height, header.width, header.dtype) == (height, width, dtype)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_other_formats_have_no_many_channels(tmp_path, suffix):
    with pytest.raises(DataError, match=r"cannot hold 4 channels; use --format tiff or --format npy"):
        write_picture(tmp_path / f"x.{suffix}", np.zeros((4, 4, 4), np.uint8))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------ refusals, threads, size


def test_refusals(tmp_path):
    pixels = np.zeros((1, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"x.gif: files of this kind are not written; needed: one of \.jpg"):
        write_picture(tmp_path / "x.gif", pixels)
    for suffix, width in (("jpg", 70000), ("webp", 17000)):
        with pytest.raises(DataError) as caught:
            write_picture(tmp_path / f"x.{suffix}", np.zeros((1, width, 3), np.uint8))
        assert "\n" not in str(caught.value)
    for suffix in WRITABLE:
        with pytest.raises(DataError, match=r"x\..*No such file or directory"):
            write_picture(tmp_path / "absent" / f"x{suffix}", pixels)


def test_threads(tmp_path):
    pixels, opacity = every_value(np.uint16, 3, True)
    small, small_alpha = pixels[:20, :30], np.ascontiguousarray(opacity[:20, :30])

    def there_and_back(number):
        suffix = ("png", "tif", "npy", "webp", "jpg")[number % 5]
        path = tmp_path / f"{number}.{suffix}"
        write_picture(path, small, alpha=small_alpha, metadata=everything())
        picture = read_picture(path, 3)
        return suffix in ("webp", "jpg") or (
            np.array_equal(picture.pixels, small) and np.array_equal(picture.alpha, small_alpha)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(there_and_back, range(60)))


def test_pixels_need_not_be_contiguous(tmp_path):
    pixels, opacity = every_value(np.uint8, 3, True)
    for suffix in ("png", "tif", "npy", "bmp"):
        for dtype in (np.uint8,) if suffix == "bmp" else (np.uint8, np.uint16):
            view = pixels.astype(dtype)[::-1, ::2]
            write_picture(tmp_path / f"x.{suffix}", view)
            np.testing.assert_array_equal(decode(tmp_path / f"x.{suffix}", 3), view, strict=True)
            if suffix in ("png", "tif"):
                write_picture(tmp_path / f"x.{suffix}", view, alpha=opacity.astype(dtype)[::-1, ::2])
                check(tmp_path / f"x.{suffix}", view, opacity.astype(dtype)[::-1, ::2])


def test_deep_png_is_compressed(tmp_path):
    smooth = np.arange(200, dtype=np.uint16)[None, :, None].repeat(100, axis=0) * np.uint16(300)
    write_picture(tmp_path / "x.png", smooth)
    assert (tmp_path / "x.png").stat().st_size < len(zlib.compress(smooth.tobytes(), 1)) < smooth.nbytes / 5
    buffer = io.BytesIO((tmp_path / "x.png").read_bytes())
    with Image.open(buffer) as image:
        image.verify()
