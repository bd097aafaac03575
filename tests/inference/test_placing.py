"""Where translations go: names that never meet, suffixes, and outputs that are refused."""

from __future__ import annotations

import random
from pathlib import Path, PurePosixPath

import pytest

from cyclestyle.errors import DataError
from cyclestyle.inference.inputs import list_inputs
from cyclestyle.inference.placing import check_output, output_places


def placed(names: list[str], format: str = "keep") -> list[str]:
    return [str(place) for place in output_places([PurePosixPath(name) for name in names], format)]


@pytest.mark.parametrize(
    ("format", "names", "expected"),
    [
        ("keep", ["a.JPG", "b/c.tif", "d.webp", "e.npy", "f.bmp"], ["a.JPG", "b/c.tif", "d.webp", "e.npy", "f.bmp"]),
        ("keep", ["a.gif", "b.heic", "c"], ["a.png", "b.png", "c.png"]),
        # whose own name it is has it, wherever it stands; others keep their suffix inside; then numbers
        ("keep", ["x.gif", "x.png"], ["x.gif.png", "x.png"]),
        ("keep", ["x.gif", "x.gif.png", "x.png"], ["x.gif.2.png", "x.gif.png", "x.png"]),
        ("keep", ["x.avif", "x.gif"], ["x.png", "x.gif.png"]),
        ("keep", ["a/x.gif", "b/x.png"], ["a/x.png", "b/x.png"]),
        ("keep", ["x.gif", "x.png/y.jpg"], ["x.gif.png", "x.png/y.jpg"]),  # a folder of that name
        ("png", ["a.jpg", "b.PNG", "c.gif"], ["a.png", "b.PNG", "c.png"]),
        ("jpg", ["a.jpeg", "a.jpg", "a.png"], ["a.jpeg", "a.jpg", "a.png.jpg"]),
        ("webp", ["a.b.jpg", "a.tif"], ["a.b.webp", "a.webp"]),
        ("tiff", ["a.tif", "b.tiff", "c.jpg"], ["a.tif", "b.tiff", "c.tiff"]),
    ],
)
def test_names(format: str, names: list[str], expected: list[str]) -> None:
    assert placed(names, format) == expected


@pytest.mark.parametrize("format", ["keep", "png", "jpg"])
def test_names_never_meet_and_stay_where_they_are(format: str) -> None:
    source = random.Random(0)
    for _ in range(200):
        parts = ["x", ".gif", ".png", ".2", ".jpg", ".GIF"]
        names = sorted({"x" + "".join(source.choices(parts, k=source.randint(1, 3))) for _ in range(8)})
        found = placed(names, format)
        assert len(set(found)) == len(names)
        assert placed(names, format) == found
        for name, place in zip(names, found, strict=True):
            assert place.startswith(PurePosixPath(name).stem)


def check(input: Path | str, output: Path) -> None:
    listing = list_inputs(input)
    check_output(listing, output, [output / entry.place for entry in listing.entries])


def test_outputs_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.jpg", "in/deep/b.jpg", "out/old.jpg", "away/deep/keep.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("in")
    for output in ("in", "in/out", "in/deep/../new", "link", "link/new", str(tmp_path / "in" / "x")):
        with pytest.raises(DataError, match="lies in the input in: choose another --output"):
            check("in", Path(output))
    with pytest.raises(DataError, match="lies in the input"):
        check("link", Path("in/out"))
    with pytest.raises(DataError, match="lies in the input"):
        check("in/**/*.jpg", Path("in/out"))
    with pytest.raises(DataError, match="is a file, needed is a folder"):
        check("in", Path("out/old.jpg"))
    with pytest.raises(DataError, match=r"would replace an input, in/a.jpg"):
        check("in/a.jpg", Path("link"))
    for pattern, output, held in (("in/*.jpg", "in", "in/a.jpg"), ("*/*.jpg", "out", "out/old.jpg")):
        with pytest.raises(DataError, match=f"the output folder {output} holds the input {held}"):
            check(pattern, Path(output))
    # a link inside the output that leads into the input
    Path("away/deep").rename("away/other")
    Path("away/deep").symlink_to(tmp_path / "in" / "deep")
    with pytest.raises(DataError, match="would replace an input"):
        check("in", Path("away"))
    for input, output in (("in", "out"), ("in", "absent/out"), ("in/*.jpg", "in/out"), ("in/a.jpg", "."), ("in", ".")):
        check(input, Path(output))
