"""The few pictures that stay the same: which, cut how, and past broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cyclestyle.config.schema import DataConfig
from cyclestyle.data.fixed import load_fixed


def test_fixed_images_are_spread_over_the_list(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [tmp_path / f"{number}.png" for number in range(10)]
    for number, file in enumerate(files):
        noise = np.random.default_rng(number).integers(0, 256, (30, 18, 3), dtype=np.uint8)
        Image.fromarray(noise).save(file)
    config = DataConfig(load_size=18)  # what the shorter side has already
    assert [path for path, _ in load_fixed(files, config, 3, 16)] == [files[0], files[3], files[6]]
    path, pixels = load_fixed(files, config, 3, 16)[0]
    with Image.open(path) as image:
        np.testing.assert_array_equal(pixels, np.asarray(image)[7:23, 1:17])
    files[3].write_bytes(files[3].read_bytes()[:100])
    assert [path for path, _ in load_fixed(files, config, 3, 16)] == [files[0], files[4], files[6]]
    assert files[3].name in caplog.text
    assert len(load_fixed(files, config, 99, 16)) == 9
    assert load_fixed([], config, 4, 16) == []
