"""Which files a folder, glob, list or file means, in which order, and what is said of the rest."""

from __future__ import annotations

import io
import os
import types
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from cyclestyle.errors import DataError
from cyclestyle.inference.inputs import Listing, list_inputs


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def places(listing: Listing) -> list[str]:
    return [str(entry.place) for entry in listing.entries]


def errors(listing: Listing) -> dict[str, str]:
    return {str(entry.place): entry.error for entry in listing.entries if entry.error}


def test_a_folder_with_all_below_it_in_the_order_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "b.PNG", "a/z.jpg", "a/b/c.tiff", "a.jpg", "notes.txt", "x.heic", "y.heic", "README", ".hidden.png")
    touch(tmp_path, ".cache/d.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)  # a loop
    (tmp_path / "dangling.png").symlink_to(tmp_path / "absent.png")
    listing = list_inputs(tmp_path)
    assert places(listing) == ["a.jpg", "a/b/c.tiff", "a/z.jpg", "b.PNG"]
    assert [entry.path for entry in listing.entries] == [tmp_path / place for place in places(listing)]
    assert listing.passed_over == Counter({".heic": 2, ".txt": 1, "files without suffix": 1})
    assert (listing.kind, listing.root, errors(listing)) == ("folder", tmp_path, {})


def test_an_unreadable_sub_folder_is_one_failed_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.png", "closed/b.png", "open/c.png")
    real = os.scandir

    def scandir(path: Path) -> object:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_inputs(tmp_path)
    assert places(listing) == ["a.png", "closed", "open/c.png"]
    assert errors(listing) == {"closed": f"{tmp_path / 'closed'}: cannot read this folder: Permission denied"}
    with pytest.raises(DataError, match=r"cannot read .*closed: Permission denied"):
        list_inputs(tmp_path / "closed")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("in/*.jpg", ["a.jpg", "c.jpg"]),
        ("in/**/*.jpg", ["a.jpg", "c.jpg", "deep/a.jpg", "deep/er/a.jpg"]),
        ("in/*/a.*", ["deep/a.jpg"]),
        ("in/deep/*", ["a.jpg"]),
        ("i[mn]/a.jpg", ["in/a.jpg"]),
        ("./in/[ac].jpg", ["a.jpg", "c.jpg"]),
    ],
)
def test_a_glob_is_relative_to_what_stands_before_its_first_wildcard(
    pattern: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "in/a.jpg", "in/c.jpg", "in/b.png", "in/deep/a.jpg", "in/deep/er/a.jpg", "in/.h.jpg")
    monkeypatch.chdir(tmp_path)
    assert places(list_inputs(Path(pattern))) == expected
    assert places(list_inputs(str(tmp_path / pattern))) == expected
    assert all(entry.path.is_file() for entry in list_inputs(pattern).entries)


def test_a_glob_meets_each_file_once_through_links_that_lead_back(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/deep/b.jpg", "in/deep/b.txt")
    (tmp_path / "in" / "deep" / "up").symlink_to(tmp_path / "in")
    listing = list_inputs(tmp_path / "in" / "**" / "*")
    assert places(listing) == ["a.jpg", "deep/b.jpg"]
    assert listing.passed_over == Counter({".txt": 1})


def test_a_name_with_brackets_is_a_file_where_there_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "[a].jpg", "a.jpg")
    assert places(list_inputs(tmp_path / "[a].jpg")) == ["[a].jpg"]


def test_a_list_keeps_the_tree_below_the_common_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "x/a.jpg", "x/deep/b.weird", "y/a.jpg", "y/folder.png/c.jpg")
    lines = [
        "\ufeff# holiday",
        "",
        "x/a.jpg",
        "  x/deep/b.weird\r",
        str(tmp_path / "y" / "a.jpg"),
        "x/../x/a.jpg",
        "y/folder.png",
        "y/absent.jpg",
        "y/zero\0.jpg",
    ]
    Path("list.TXT").write_text("\n".join(lines), encoding="utf-8")
    listing = list_inputs(Path("list.TXT"))
    assert places(listing) == ["x/a.jpg", "x/deep/b.weird", "y/a.jpg", "y/absent.jpg", "y/folder.png", "y/zero?.jpg"]
    assert listing.entries[0].path == Path("x/a.jpg")
    assert listing.repeated == 1
    assert errors(listing) == {
        "y/absent.jpg": "y/absent.jpg: cannot be read (No such file or directory)",
        "y/folder.png": "y/folder.png: is a folder; a list names files",
        "y/zero?.jpg": "y/zero\0.jpg: cannot be read (embedded null byte)",
    }


def test_a_list_cannot_lead_out_of_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    touch(tmp_path, "a.jpg", "here/b.jpg", "here/c/d.jpg")
    Path("list.txt").write_text("../a.jpg\n./b.jpg\nc/../c/d.jpg\n")
    assert places(list_inputs("list.txt")) == ["a.jpg", "here/b.jpg", "here/c/d.jpg"]
    Path("one.txt").write_text("../a.jpg\n")
    assert places(list_inputs("one.txt")) == ["a.jpg"]


def test_standard_input_is_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    text = f"{tmp_path}/b.jpg\n{tmp_path}/a.jpg\n".encode()
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(text)))
    assert places(list_inputs("-")) == ["a.jpg", "b.jpg"]


def test_one_file_of_any_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "scan.raw")
    listing = list_inputs(tmp_path / "scan.raw")
    assert (places(listing), listing.root) == (["scan.raw"], tmp_path)


def make_empty(tmp_path: Path) -> Iterable[tuple[str, str]]:
    touch(tmp_path, "texts/a.txt", "texts/b.txt", "texts/c.heic", "texts/empty.txt")
    (tmp_path / "none").mkdir()
    (tmp_path / "texts" / "empty.txt").write_text("\n# only this\n")
    yield "none", "holds no images; needed: bmp gif"
    yield "texts", "holds no images, but 3 .txt, 1 .heic; needed"
    yield "texts/*", "no image matches .*, but 3 .txt, 1 .heic; needed"
    yield "absent/*.jpg", "no image matches .*absent/.*; needed"
    yield "texts/empty.txt", "empty.txt names no files"
    yield "absent.jpg", "absent.jpg does not exist; needed: a file, a folder, a quoted pattern"
    yield "*/../a.jpg", "has .. after a wildcard"


def test_nothing_to_translate_is_refused_with_what_there_is(tmp_path: Path) -> None:
    for name, words in make_empty(tmp_path):
        with pytest.raises(DataError, match=words):
            list_inputs(tmp_path / name)
