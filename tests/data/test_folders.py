"""folders.py: which files are found, in which order, and what is said when there are none."""

import os
import random
from pathlib import Path

import pytest

from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.data.folders import find_domain, find_folders, list_images
from cyclestyle.errors import DataError


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def names(folder):
    return [path.relative_to(folder).as_posix() for path in list_images(folder, key="data.root")]


def test_all_suffixes_in_any_case_and_depth(tmp_path):
    wanted = ["a.jpg", "b.JPEG", "c.Png", "d.webp", "e.tif", "f.TIFF", "g.bmp", "h.gif", "i.npy", "sub/deep/er/x.JPG"]
    touch(tmp_path, *wanted, "notes.txt", "x.heic", "jpg", "x.jpg.part")
    assert names(tmp_path) == wanted


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".hidden.png", ".thumbnails/a.jpg", "sub/.x/b.jpg", "sub/._b.jpg")
    assert names(tmp_path) == ["a.jpg"]
    touch(tmp_path / ".cache" / "photos", "a.jpg")
    assert names(tmp_path / ".cache" / "photos") == ["a.jpg"]  # what is named is wanted


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
    touch(tmp_path, "b.jpg", "B.jpg", "a/z.jpg", "a.jpg", "a-1.jpg", "ä.jpg", "10.jpg", "9.jpg")
    expected = ["10.jpg", "9.jpg", "B.jpg", "a-1.jpg", "a.jpg", "a/z.jpg", "b.jpg", "ä.jpg"]
    assert names(tmp_path) == expected
    real = os.scandir

    class Shuffled:
        def __init__(self, path):
            with real(path) as entries:
                self.entries = list(entries)
            random.Random(1).shuffle(self.entries)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert names(tmp_path) == expected


def test_links_are_followed_and_loops_end(tmp_path):
    photos = touch(tmp_path / "photos", "a.jpg", "sub/b.jpg")
    other = touch(tmp_path / "other", "c.jpg", "d.jpg")
    (photos / "linked").symlink_to(other)
    (photos / "file.png").symlink_to(other / "d.jpg")
    (photos / "sub" / "loop").symlink_to(photos)
    (photos / "twice").symlink_to(other)
    (photos / "broken.jpg").symlink_to(tmp_path / "gone")
    assert names(photos) == ["a.jpg", "file.png", "linked/c.jpg", "linked/d.jpg", "sub/b.jpg"]
    (tmp_path / "door").symlink_to(photos)
    assert list_images(tmp_path / "door", key="x")[0] == tmp_path / "door" / "a.jpg"  # as it was spelled


def test_paths_stay_relative(tmp_path, monkeypatch):
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.chdir(tmp_path)
    assert list_images(Path("photos"), key="x") == [Path("photos/a.jpg")]


def refused(work):
    with pytest.raises(DataError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_no_images(tmp_path):
    assert "is empty" in refused(lambda: list_images(tmp_path, key="data.a.train"))
    touch(tmp_path, *(f"{i}.HEIC" for i in range(12)), "a.txt", "b.txt", "LICENSE")
    message = refused(lambda: list_images(tmp_path, key="data.a.train"))
    assert message.startswith(f"data.a.train: {tmp_path} holds no images, but 12 .heic, 2 .txt, 1 files without suffix")
    assert "jpg" in message


def test_no_folder(tmp_path):
    touch(tmp_path, "data/trainA/a.jpg", "data/trainB/b.jpg")
    message = refused(lambda: list_images(tmp_path / "data" / "photos" / "x", key="data.a.train"))
    assert message == (
        f"data.a.train: no folder {tmp_path}/data/photos/x; the path is good as far as {tmp_path}/data, "
        "which holds trainA/, trainB/"
    )
    assert "is a file" in refused(lambda: list_images(tmp_path / "data" / "trainA" / "a.jpg", key="x"))
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "gone, which does not exist" in refused(lambda: list_images(tmp_path / "link", key="x"))


def test_root_holds_four_folders(tmp_path):
    touch(tmp_path, "trainA/a.jpg", "trainB/b1.png", "trainB/b2.png", "testA/t.jpg")
    named = DataConfig(root=str(tmp_path), a=DomainConfig(name="photo"), b=DomainConfig(name="vangogh"))
    a, b = find_folders(named)
    assert (a.name, a.train, a.test) == ("photo", tmp_path / "trainA", tmp_path / "testA")
    assert a.train_files == (tmp_path / "trainA" / "a.jpg",)
    assert a.test_files == (tmp_path / "testA" / "t.jpg",)
    assert (b.name, b.test, b.test_files, len(b.train_files)) == ("vangogh", None, (), 2)


def test_named_folders_override_root(tmp_path):
    touch(tmp_path, "trainA/a.jpg", "trainB/b.jpg", "mine/m.jpg", "mytest/t.jpg")
    domain = DomainConfig(train=str(tmp_path / "mine"), test=str(tmp_path / "mytest"), name="mine")
    found = find_domain(str(tmp_path), domain, "a")
    assert found.train_files == (tmp_path / "mine" / "m.jpg",)
    assert found.test_files == (tmp_path / "mytest" / "t.jpg",)
    missing = DomainConfig(train=str(tmp_path / "nowhere"))
    assert refused(lambda: find_domain(None, missing, "b")).startswith("data.b.train: no folder")
    missing = DomainConfig(train=str(tmp_path / "mine"), test=str(tmp_path / "nowhere"))
    assert refused(lambda: find_domain(None, missing, "b")).startswith("data.b.test: no folder")


def test_home_folder(tmp_path, monkeypatch):
    touch(tmp_path, "photos/a.jpg")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_domain(None, DomainConfig(train="~/photos"), "a").train == tmp_path / "photos"


def test_root_without_what_is_needed(tmp_path):
    touch(tmp_path, "train/a.jpg", "test/b.jpg")
    message = refused(lambda: find_domain(str(tmp_path), DomainConfig(), "a"))
    assert message.startswith(f"data.root: {tmp_path} has no folder trainA; it holds test/, train/.")
    assert "data.a.train" in message
    message = refused(lambda: find_domain(None, DomainConfig(), "b"))
    assert "data.root" in message
    assert "data.b.train" in message
    assert "data.root: no folder" in refused(lambda: find_domain(str(tmp_path / "gone"), DomainConfig(), "a"))


def test_domains_must_not_share_images(tmp_path):
    touch(tmp_path, "photos/a.jpg", "photos/sub/b.jpg", "photos2/c.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    def of(a, b):
        return DataConfig(a=DomainConfig(train=str(tmp_path / a)), b=DomainConfig(train=str(tmp_path / b)))

    assert "both domains train on" in refused(lambda: find_folders(of("photos", "photos")))
    assert "both domains train on" in refused(lambda: find_folders(of("photos", "link")))
    for a, b in (("photos", "photos/sub"), ("photos/sub", "link")):
        message = refused(lambda a=a, b=b: find_folders(of(a, b)))
        assert f"training folder {tmp_path}/photos/sub lies inside" in message
        assert "data.a.train" in message
    find_folders(of("photos", "photos2"))  # a common beginning of the name is no harm
