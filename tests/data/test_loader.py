"""loader.py: one stream of batches, whatever prepares it."""

import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cyclestyle.config.schema import DataConfig, DomainConfig
from cyclestyle.data import loader as loader_module
from cyclestyle.data.dataset import ImageCache
from cyclestyle.data.loader import build_data
from cyclestyle.errors import ConfigError, DataError


def make_set(root, num_a=5, num_b=7, num_test=0):
    rng = np.random.default_rng(0)
    for folder, count in (("trainA", num_a), ("trainB", num_b), ("testA", num_test)):
        for i in range(count):
            (root / folder).mkdir(exist_ok=True)
            pixels = rng.integers(0, 255, (18 + i, 30 - i, 3), np.uint8)
            Image.fromarray(pixels).save(root / folder / f"{i}.png")
    return DataConfig(
        root=str(root),
        a=DomainConfig(name="photo"),
        b=DomainConfig(name="vangogh"),
        load_size=18,
        crop_size=16,
        cache="on",
        num_workers=0,
        max_bad_fraction=0.5,
        augment=({"name": "GaussNoise", "p": 0.5},),
    )


def truncate(path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])


def stream(config, start=0, num_batches=8, batch_size=2, seed=1, **options):
    data = build_data(config, seed=seed, device_type="cpu", **options)
    batches = list(data.batches(start, num_batches, batch_size))
    return torch.stack([torch.cat([batch.real_a, batch.real_b]) for batch in batches])


def test_what_is_built(tmp_path):
    data = build_data(make_set(tmp_path, num_test=2), seed=0, device_type="cpu")
    assert (data.num_images_a, data.num_images_b, data.epoch_images, data.channels) == (5, 7, 7, 3)
    assert [folder.name for folder in data.folders] == ["photo", "vangogh"]
    assert [len(folder.test_files) for folder in data.folders] == [2, 0]
    assert data.bad_files == []
    batch = next(data.batches(0, 1, 3))
    assert len(batch) == 3
    for real in (batch.real_a, batch.real_b):
        assert real.shape == (3, 3, 16, 16)
        assert real.dtype == torch.float32
        assert real.abs().max() <= 1


@pytest.mark.parametrize("broken", [False, True])
def test_workers_and_cache_never_change_the_stream(tmp_path, broken):
    config = make_set(tmp_path)
    if broken:
        truncate(tmp_path / "trainA" / "3.png")
        truncate(tmp_path / "trainB" / "6.png")
    whole = stream(config)
    for cache in ("on", "off"):
        for num_workers in (0, 2):
            settings = replace(config, cache=cache, num_workers=num_workers)
            assert torch.equal(stream(settings), whole)
            # a start in the middle: batches 3 and on begin at position 6
            assert torch.equal(stream(settings, start=6, num_batches=5), whole[3:])
    assert not torch.equal(stream(config, seed=2), whole)


def test_batches_are_cut_from_one_line_of_positions(tmp_path):
    config = make_set(tmp_path)
    by_two = stream(config, num_batches=6, batch_size=2)  # 6 x (2 of A, then 2 of B) x ...
    by_three = stream(config, num_batches=4, batch_size=3)
    assert torch.equal(by_two[:, :2].flatten(0, 1), by_three[:, :3].flatten(0, 1))
    assert torch.equal(by_two[:, 2:].flatten(0, 1), by_three[:, 3:].flatten(0, 1))


def test_spawned_workers(tmp_path, monkeypatch):
    config = make_set(tmp_path)
    shared = []
    monkeypatch.setattr(ImageCache, "share", lambda cache: shared.append(cache._memory.share_memory_()))
    two = replace(config, num_workers=1)
    assert torch.equal(stream(two, num_batches=2, start_method="spawn"), stream(config, num_batches=2))
    assert len(shared) == 2


def test_a_batch_is_copied_before_its_memory_is_written_again(tmp_path, monkeypatch):
    config = make_set(tmp_path)
    whole = stream(config)
    clone = torch.Tensor.clone

    def slow_clone(images):
        time.sleep(0.05)  # for the worker many batches long
        return clone(images)

    monkeypatch.setattr(torch.Tensor, "clone", slow_clone)
    assert torch.equal(stream(replace(config, num_workers=1)), whole)


def test_the_global_generator_is_left_alone(tmp_path):
    data = build_data(make_set(tmp_path), seed=0, device_type="cpu")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(data.batches(0, 2, 1))
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_files_that_break_during_a_run_are_named_once(tmp_path, caplog, num_workers):
    data = build_data(replace(make_set(tmp_path), cache="off", num_workers=num_workers), seed=0, device_type="cpu")
    truncate(tmp_path / "trainB" / "2.png")
    with caplog.at_level(logging.WARNING, logger="cyclestyle"):
        batches = list(data.batches(0, 21, 1))  # three epochs of B
    assert len(batches) == 21
    assert [bad.path.name for bad in data.bad_files] == ["2.png"]
    assert len(caplog.records) == 1
    assert "trainB/2.png" in caplog.text


@pytest.mark.parametrize("num_workers", [0, 1])
def test_when_nothing_can_be_read_any_more(tmp_path, num_workers):
    data = build_data(replace(make_set(tmp_path), cache="off", num_workers=num_workers), seed=0, device_type="cpu")
    for path in (tmp_path / "trainA").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"^no image of domain a can be read any more.*No such file.*$") as caught:
        list(data.batches(0, 1, 1))
    assert "\n" not in str(caught.value)  # no traceback of a worker


def test_how_many_workers(tmp_path, monkeypatch):
    config = make_set(tmp_path)

    def chosen(device_type, **settings):
        return build_data(replace(config, **settings), seed=0, device_type=device_type).num_workers

    monkeypatch.setattr(loader_module, "num_cores", lambda: 6)
    assert chosen("cpu", num_workers="auto") == 0
    assert chosen("cuda", num_workers="auto") == 5
    assert chosen("cpu", num_workers="auto", cache="off") == 5
    assert chosen("cpu", num_workers="3", cache="off") == 3
    monkeypatch.setattr(loader_module, "num_cores", lambda: 64)
    assert chosen("cuda", num_workers="auto") == 8
    monkeypatch.setattr(loader_module, "num_cores", lambda: 1)
    assert chosen("cuda", num_workers="auto", cache="off") == 1
    for wrong in ("many", -1):
        with pytest.raises(ConfigError, match=r"data.num_workers: got .*needed: auto or a number"):
            chosen("cpu", num_workers=wrong)


def test_too_little_shared_memory(tmp_path, monkeypatch, caplog):
    class Room:
        free = 100

    monkeypatch.setattr(loader_module.shutil, "disk_usage", lambda _: Room)
    monkeypatch.setattr(sys, "platform", "linux")
    config = replace(make_set(tmp_path), num_workers=2)
    assert build_data(config, seed=0, device_type="cpu", start_method="spawn").num_workers == 0
    assert "/dev/shm" in caplog.text
    assert build_data(config, seed=0, device_type="cpu", start_method="fork").num_workers == 2
    caplog.clear()
    whole = stream(replace(config, num_workers=0))
    assert torch.equal(stream(replace(config, cache="off"), start_method="spawn"), whole)
    assert "/dev/shm has 0 MB free and the batches need" in caplog.text
    caplog.clear()
    assert torch.equal(stream(replace(config, cache="off"), start_method="fork"), whole)
    assert caplog.text == ""


def test_what_cannot_be_trained_on_is_refused_before_reading(tmp_path, monkeypatch):
    config = make_set(tmp_path)
    monkeypatch.setattr(loader_module, "find_folders", lambda _: pytest.fail("looked at folders first"))
    with pytest.raises(ConfigError, match=r"data.augment"):
        build_data(replace(config, augment=({"name": "Nonsense"},)), seed=0, device_type="cpu")


def test_augmentation_is_tried_on_the_kind_of_images_there_are(tmp_path):
    config = replace(make_set(tmp_path), augment=({"name": "ColorJitter"},))
    build_data(config, seed=0, device_type="cpu")
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "trainA" / "deep.png")
    with pytest.raises(ConfigError, match=r"ColorJitter does not work on uint16"):
        build_data(config, seed=0, device_type="cpu")


def test_errors_name_the_key(tmp_path):
    config = make_set(tmp_path)
    for path in (tmp_path / "trainB").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"data.root: 7 of 7 images of vangogh"):
        build_data(config, seed=0, device_type="cpu")
    named = replace(config, b=DomainConfig(name="vangogh", train=str(tmp_path / "trainB")))
    with pytest.raises(DataError, match=r"data.b.train: 7 of 7 images of vangogh"):
        build_data(named, seed=0, device_type="cpu")


CHILD = """
import sys
from pathlib import Path
from cyclestyle.config.schema import DataConfig
from cyclestyle.data.loader import build_data
import torch.multiprocessing as mp
data = build_data(DataConfig(root=sys.argv[1], load_size=18, crop_size=16, num_workers=2), seed=0, device_type="cpu")
batches = data.batches(0, 10**6, 1)
next(batches), next(batches)  # one of each worker: both are up
print(*[child.pid for child in mp.active_children()], flush=True)
for batch in batches:
    if Path(sys.argv[1], "stop").exists():
        print("stopped", flush=True)
        kept = iter(batches)  # still open at exit: multiprocessing ends the workers with SIGTERM and waits
        break
"""


def start_child(root):
    make_set(root)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root)], stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=environment, stderr=subprocess.PIPE,
    )  # fmt: skip
    workers = [int(pid) for pid in child.stdout.readline().split()]
    assert len(workers) == 2, child.stderr.read()
    return child, workers


def gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_leave_signals_to_the_main_process_and_end_with_it(tmp_path):
    child, workers = start_child(tmp_path)
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert not any(gone(pid) for pid in workers)
    (tmp_path / "stop").touch()  # and batches still come
    out, err = child.communicate(timeout=20)
    assert out == "stopped\n"
    assert err == ""
    assert all(gone(pid) for pid in workers)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_die_when_the_main_process_is_killed(tmp_path):
    child, workers = start_child(tmp_path)
    child.kill()
    child.communicate()
    deadline = time.monotonic() + 20  # they look every five seconds
    while not all(gone(pid) for pid in workers):
        assert time.monotonic() < deadline, "workers live on without a main process"
        time.sleep(0.1)
