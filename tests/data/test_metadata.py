"""metadata.py: EXIF taken apart and put together, tag by tag; damage of every kind."""

import struct
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

from cyclestyle.data.decode import read_picture
from cyclestyle.data.encode import write_picture
from cyclestyle.data.metadata import EXIF_PREFIX, Metadata, clean_exif, colour_space, metadata_of

THUMBNAIL = b"\xff\xd8 a small JPEG \xff\xd9"
MAKER_NOTE = b"\0\1private bytes"


def by_hand(order):
    """EXIF put together with nothing but `struct`: main directory, Exif, GPS, thumbnail."""

    def entry(tag, kind, count, value):
        return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")

    def number(value, layout="I"):
        return struct.pack(order + layout, value)

    main, below, gps, small, values = 8, 100, 200, 250, 300
    body = bytearray(500)

    def directory(place, *entries, after=0):
        data = struct.pack(order + "H", len(entries)) + b"".join(entries) + number(after)
        body[place : place + len(data)] = data

    body[:8] = (b"II" if order == "<" else b"MM") + number(42, "H") + number(main)
    directory(
        main,
        entry(0x010F, 2, 6, number(values)),  # Make
        entry(0x0112, 3, 1, number(6, "H")),
        entry(0x011A, 5, 1, number(values + 8)),
        entry(0x8769, 4, 1, number(below)),
        entry(0x8825, 4, 1, number(gps)),
        after=small,
    )
    directory(
        below,
        entry(0x9000, 7, 4, b"0232"),
        entry(0x9204, 10, 1, number(values + 16)),  # exposure bias, of which the sign matters
        entry(0x927C, 7, len(MAKER_NOTE), number(values + 24)),
        entry(0xA002, 3, 1, number(4000, "H")),
        entry(0xA003, 3, 1, number(3000, "H")),
    )
    directory(gps, entry(1, 2, 2, b"S\0"), entry(5, 1, 1, b"\1"))
    directory(small, entry(0x0201, 4, 1, number(400)), entry(0x0202, 4, 1, number(len(THUMBNAIL))))
    body[values : values + 6] = b"Maker\0"
    body[values + 8 : values + 24] = struct.pack(order + "IIii", 300, 1, -2, 3)
    body[values + 24 : values + 24 + len(MAKER_NOTE)] = MAKER_NOTE
    body[400 : 400 + len(THUMBNAIL)] = THUMBNAIL
    return bytes(body)


def kinds(exif):
    """Type and stored bytes of each tag, read with `struct` alone."""
    data = exif.removeprefix(EXIF_PREFIX)
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    found = {}

    def walk(place):
        (count,) = struct.unpack_from(order + "H", data, place)
        tags = []
        for i in range(count):
            tag, kind, number, value = struct.unpack_from(order + "HHI4s", data, place + 2 + 12 * i)
            size = number * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 10: 8}[kind]
            (offset,) = struct.unpack(order + "I", value)
            tags.append(tag)
            assert size <= 4 or offset % 2 == 0
            found[tag] = kind, number, value[:size] if size <= 4 else data[offset : offset + size]
            if tag in (0x8769, 0x8825):
                assert walk(offset) == 0
        assert tags == sorted(tags)
        return struct.unpack_from(order + "I", data, place + 2 + 12 * count)[0]

    assert walk(struct.unpack_from(order + "I", data, 4)[0]) == 0, "a thumbnail's directory follows"
    return found


@pytest.mark.parametrize("prefix", [b"", EXIF_PREFIX])
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_tag_keeps_its_type_and_bytes(order, prefix):
    cleaned = clean_exif(prefix + by_hand(order), 40, 30)
    assert cleaned.startswith(EXIF_PREFIX + (b"II" if order == "<" else b"MM"))
    assert kinds(cleaned) == {
        0x010F: (2, 6, b"Maker\0"),
        0x0112: (3, 1, struct.pack(order + "H", 1)),
        0x011A: (5, 1, struct.pack(order + "II", 300, 1)),
        0x8769: (4, 1, kinds(cleaned)[0x8769][2]),
        0x8825: (4, 1, kinds(cleaned)[0x8825][2]),
        0x9000: (7, 4, b"0232"),
        0x9204: (10, 1, struct.pack(order + "ii", -2, 3)),
        0x927C: (7, len(MAKER_NOTE), MAKER_NOTE),
        0xA002: (4, 1, struct.pack(order + "I", 30)),
        0xA003: (4, 1, struct.pack(order + "I", 40)),
        1: (2, 2, b"S\0"),
        5: (1, 1, b"\1"),
    }
    assert THUMBNAIL not in cleaned
    assert clean_exif(cleaned, 40, 30) == cleaned
    exif = Image.Exif()
    exif.load(cleaned)  # as another program sees it
    assert float(exif.get_ifd(0x8769)[0x9204]) == pytest.approx(-2 / 3)


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_of_either_byte_order_in_tiff(tmp_path, order):
    exif = clean_exif(by_hand(order), 4, 6)
    write_picture(tmp_path / "x.tif", np.zeros((4, 6, 3), np.uint8), metadata=Metadata(exif=exif))
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        tags = file.pages[0].tags
        assert tags[0x010F].value == "Maker"
        below = tags[0x8769].value
        assert (below["ExposureBiasValue"], below["MakerNote"]) == ((-2, 3), MAKER_NOTE)
        assert (below["PixelXDimension"], below["PixelYDimension"]) == (6, 4)
        assert tags[0x8825].value["GPSLatitudeRef"] == "S"
        assert 0x0112 not in tags or tags[0x0112].value == 1
    again = kinds(read_picture(tmp_path / "x.tif", 3).metadata.exif)
    assert again[0x927C] == (7, len(MAKER_NOTE), MAKER_NOTE)
    assert again[0x9204] == (10, 1, struct.pack("<ii", -2, 3))
    assert not set(again) & {256, 257, 258, 259, 262, 273, 277, 278, 279}  # how a TIFF is stored is not EXIF


def test_damaged_exif_never_fails():
    whole = by_hand(">")
    for length in range(0, len(whole), 3):
        clean_exif(whole[:length], 4, 6)
    random = np.random.default_rng(0)
    some = 0
    for _ in range(3000):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[random.integers(0, 330, 3)] = random.integers(0, 256, 3)
        cleaned = clean_exif(damaged.tobytes(), 4, 6)
        some += cleaned is not None
        assert cleaned is None or clean_exif(cleaned, 4, 6) == cleaned
    assert some > 1000


def test_directories_in_a_ring_and_tags_of_gigabytes():
    ring = bytearray(by_hand("<"))
    place = ring.index(struct.pack("<HHI", 0x8769, 4, 1)) + 8
    ring[place : place + 4] = struct.pack("<I", 8)  # Exif's directory is the main one
    start = time.perf_counter()
    assert clean_exif(bytes(ring), 4, 6) is not None
    many = struct.pack("<2sHIH", b"II", 42, 8, 65535) + struct.pack("<HHII", 0x010F, 5, 2**32 - 1, 8) * 65535
    assert clean_exif(many, 4, 6) is None
    all_tags = b"".join(
        struct.pack("<HHII", tag, 7, 700_000, 8) for tag in range(65535)
    )  # the same bytes again and again
    assert len(clean_exif(struct.pack("<2sHIH", b"II", 42, 8, 65535) + all_tags, 4, 6)) < 1_700_000
    assert time.perf_counter() - start < 2


def test_nothing_to_carry():
    assert clean_exif(b"", 4, 6) is None
    assert clean_exif(b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", 4, 6) is None
    assert metadata_of(Image.new("RGB", (6, 4)), 4, 6) == Metadata()


def test_colour_space():
    assert colour_space(bytes(16) + b"RGB " + bytes(108)) == "RGB"
    assert colour_space(bytes(16) + b"GRAY" + bytes(108)) == "GRAY"
    for damaged in (b"", b"RGB ", bytes(128), b"\xff" * 128):
        assert colour_space(damaged) == ""


@pytest.mark.parametrize(
    ("dpi", "expected"),
    [
        ((300, 150.5), (300.0, 150.5)),
        ((0, 0), None),
        ((72,), None),
        ("ab", None),
        ((1, float("nan")), None),
        (72, None),
    ],
)
def test_resolution_of_an_open_image(dpi, expected):
    image = Image.new("RGB", (6, 4))
    image.info["dpi"] = dpi
    assert metadata_of(image, 4, 6).dpi == expected


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("unit", "resolution", "expected"),
    [
        ("INCH", (300, 150), (300, 150)),
        ("CENTIMETER", (100, 50), (254, 127)),
        ("NONE", (2, 1), None),  # only the shape of a pixel
        ("INCH", (0, 1), None),
    ],
)
def test_resolution_of_tiff(tmp_path, unit, resolution, expected, order):
    pixels = np.zeros((3, 4, 3), np.uint16)
    options = {"resolution": resolution, "resolutionunit": unit, "byteorder": order}
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb", **options)
    dpi = read_picture(tmp_path / "x.tif", 3).metadata.dpi
    assert dpi == (None if expected is None else pytest.approx(expected))


def test_metadata_of_tiff_as_other_programs_write_it(tmp_path):
    exif = Image.Exif()
    exif[315], exif[270] = "Artist", "Description"
    exif[0x8769], exif[0x8825] = {0x9003: "2024:05:06 07:08:09"}, {1: "N"}
    for mode in ("RGB", "I;16"):
        Image.new(mode, (6, 4)).save(tmp_path / "x.tif", exif=exif.tobytes(), icc_profile=b"profile", dpi=(200, 100))
        metadata = read_picture(tmp_path / "x.tif", 1).metadata
        assert (metadata.icc_profile, metadata.dpi) == (b"profile", (200, 100))
        found = kinds(metadata.exif)
        assert set(found) == {270, 315, 0x8769, 0x8825, 1, 0x9003, 0xA002, 0xA003}
        assert found[315] == (2, 7, b"Artist\0")
        with Image.open(tmp_path / "x.tif") as image:
            assert set(kinds(metadata_of(image, 4, 6).exif)) == set(found)
