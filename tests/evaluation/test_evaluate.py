"""Which scores an evaluation takes, of what, and that they are those of the functions behind them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cyclestyle.data.fixed import Fixed
from cyclestyle.evaluation import content
from cyclestyle.evaluation.evaluate import Evaluator, Pictures, truth_of
from cyclestyle.evaluation.frechet import frechet_distance_of
from cyclestyle.evaluation.kernel import kernel_distance
from cyclestyle.images import to_tensor


class Colors:
    """An extractor that can be checked by hand: mean and deviation of each channel."""

    name = "colors"
    fingerprint = "colors"
    num_features = 6

    def __init__(self) -> None:
        self.num_seen = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.num_seen += len(images)
        images = images.expand(-1, 3, -1, -1)  # grey three times
        return torch.cat([images.mean((2, 3)), images.std((2, 3))], 1).float()


def pictures(count: int, seed: int, low: int = 0, high: int = 256, dtype: type = np.uint8) -> list[Fixed]:
    random = np.random.default_rng(seed)
    made = [random.integers(low, high, (24, 24, 3)).astype(dtype) for _ in range(count)]
    return [Fixed(Path(f"{seed}/{index}.png"), pixels) for index, pixels in enumerate(made)]


def side(**more: object) -> Pictures:
    given: dict = {
        "direction": "ab", "source": "photo", "target": "painting",
        "sources": pictures(9, 1), "references": pictures(7, 2), "training": pictures(5, 3), **more,
    }  # fmt: skip
    return Pictures(**given)


def invert(direction: str, images: Tensor) -> Tensor:
    return -images


def test_every_score_is_of_the_pictures_it_names() -> None:
    chosen = side()
    row = Evaluator([chosen], Colors(), size=24).evaluate(30, invert).row
    sources = torch.stack([to_tensor(each.pixels) for each in chosen.sources])
    references = Colors()(torch.stack([to_tensor(each.pixels) for each in chosen.references]))
    scores = row["scores"]
    assert scores["kid_ab"] == pytest.approx(kernel_distance(Colors()(-sources), references), rel=1e-5)
    assert scores["fid_ab"] == pytest.approx(frechet_distance_of(Colors()(-sources), references), rel=1e-4)
    assert scores["kid_untranslated_ab"] == pytest.approx(kernel_distance(Colors()(sources), references), rel=1e-5)
    assert scores["luminance_correlation_ab"] == pytest.approx(-1, abs=1e-5)
    assert scores["edge_correlation_ab"] == pytest.approx(1, abs=1e-4)
    assert scores["change_ab"] == pytest.approx(float(content.change(sources, -sources).mean()), rel=1e-5)
    assert scores["diversity_ab"] == pytest.approx(1, rel=1e-3)
    assert {"swd_ab", "swd_24_ab", "memorisation_ab", "kid_std_ab", "kid_error_ab", "ssim_ab"} <= set(scores)
    assert not any(name.startswith(("psnr", "lpips")) for name in scores)  # no truth, no weights
    about = row["directions"]["ab"]
    assert (row["step"], row["size"], row["extractor"]) == (30, 24, "colors")
    assert (about["num_sources"], about["num_references"], about["target"]) == (9, 7, "painting")
    assert [each["file"] for each in about["pictures"]] == [str(each.path) for each in chosen.sources]
    mean = np.mean([each["ssim"] for each in about["pictures"]])
    assert scores["ssim_ab"] == pytest.approx(mean)


def test_each_translation_is_shown_its_nearest_training_picture() -> None:
    training = pictures(5, 3)
    chosen = side(sources=[Fixed(Path("one"), 255 - training[3].pixels), *pictures(3, 8)], training=training)
    first = Evaluator([chosen], Colors(), size=24).evaluate(0, invert).row["directions"]["ab"]["pictures"][0]
    assert first["nearest"] == str(training[3].path)
    assert first["nearest_distance"] == pytest.approx(0, abs=1e-5)


def test_hidden_pairs() -> None:
    sources = pictures(4, 5)
    chosen = side(sources=sources, truths=[255 - each.pixels for each in sources])
    scores = Evaluator([chosen], Colors(), size=24).evaluate(0, invert).scores
    assert scores["ssim_truth_ab"] == pytest.approx(1)
    assert scores["psnr_truth_ab"] > 80  # rounding alone is between them


def test_pictures_that_stay_are_looked_at_once() -> None:
    eye = Colors()
    evaluator = Evaluator([side()], eye, size=24)
    evaluator.evaluate(0, invert)
    assert eye.num_seen == 9 + 9 + 7 + 5
    evaluator.evaluate(1, invert)
    assert eye.num_seen == 9 + 9 + 7 + 5 + 9
    there = side(training=())
    back = side(direction="ba", sources=there.references, references=there.sources, training=())
    eye = Colors()
    Evaluator([there, back], eye, size=24).evaluate(0, invert)
    assert eye.num_seen == 9 + 7 + 9 + 7  # translations of both sides, and what they share


def test_both_directions_and_without_training_pictures() -> None:
    sides = [side(training=()), side(direction="ba", source="painting", target="photo", references=pictures(3, 9))]
    found = Evaluator(sides, Colors(), size=24).evaluate(0, lambda direction, x: x if direction == "ab" else -x)
    assert found.scores["change_ab"] == 0
    assert found.scores["luminance_correlation_ba"] == pytest.approx(-1, abs=1e-5)
    assert "memorisation_ab" not in found.scores
    assert "memorisation_ba" in found.scores
    assert set(found.features) == {"ab", "ba"}
    np.testing.assert_array_equal(found.outputs["ab"][2], sides[0].sources[2].pixels)


def test_sixteen_bits_and_other_channels_stay() -> None:
    deep = [Fixed(each.path, each.pixels[..., :1].astype(np.uint16) * 257) for each in pictures(3, 1)]
    chosen = side(sources=deep, references=deep, training=())
    evaluator = Evaluator([chosen], Colors(), size=24)
    found = evaluator.evaluate(0, lambda direction, images: images)
    assert found.outputs["ab"][0].dtype == np.uint16
    assert found.scores["ssim_ab"] == pytest.approx(1)


def test_global_random_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    Evaluator([side()], Colors(), size=24).evaluate(0, invert)
    assert torch.equal(before, torch.get_rng_state())


def test_truths_have_the_same_name_below_their_folder(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b.png", "truth/a/1.png", "truth/b.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    files = [tmp_path / "a/1.jpg", tmp_path / "a/2.jpg", tmp_path / "b.png"]
    truth = tmp_path / "truth"
    assert truth_of(files, tmp_path, truth) == {files[0]: truth / "a/1.png", files[2]: truth / "b.jpg"}
