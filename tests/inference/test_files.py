"""Every file that can hold a translator, told by its content; what descriptions may say; networks built from them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from cyclestyle.checkpoint import save_checkpoint, save_translator
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.errors import CheckpointError
from cyclestyle.inference.files import (
    TranslatorSpec,
    build_translator_network,
    describe,
    read_translator,
    read_translators,
)
from cyclestyle.networks.build import build_generator

from .legacy_layouts import resnet_state

CONFIG = GeneratorConfig(filters=2, blocks=1, dropout=0.5)


def description(**changes: object) -> dict[str, object]:
    spec = TranslatorSpec(
        source="photo", target="vangogh", direction="ab", generator=asdict(CONFIG), channels=3, resize="shorter",
        load_size=20, crop_size=16, step=7,
    )  # fmt: skip
    return {**asdict(spec), **changes}


def weights_of(seed: int = 0, config: GeneratorConfig = CONFIG) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return build_generator(config, 3).state_dict()


def translator(path: Path, weights: dict[str, Tensor] | None = None, **changes: object) -> Path:
    save_translator(path, weights_of() if weights is None else weights, description(**changes))
    return path


def checkpoint(path: Path, **changes: object) -> Path:
    """A checkpoint with both directions; the weights that learn are others than their averages."""
    state = {
        "step": 9,
        "method": {"gen_ab.model.1.weight": torch.zeros(1)},
        "translators": {
            "gen_ab": description(),
            "gen_ba": description(source="vangogh", target="photo", direction="ba"),
        },
        "averages": {"gen_ab": weights_of(0), "gen_ba": weights_of(1)},
    }
    save_checkpoint(path, {**state, **changes})
    return path


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


# ---------------------------------------------------------------------------------------------------- kinds


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.pth", "x.bin", "x"])
def test_kinds_are_told_by_content(tmp_path: Path, name: str) -> None:
    if name.endswith(".safetensors"):  # the suffix alone decides only where it names a translator
        spec, weights = read_translator(translator(tmp_path / name), None)
        assert (spec.step, same(weights, weights_of())) == (7, True)
        return
    spec, weights = read_translator(translator(tmp_path / "t.safetensors").rename(tmp_path / name), "vangogh")
    assert (spec.step, same(weights, weights_of())) == (7, True)
    spec, weights = read_translator(checkpoint(tmp_path / name), "photo")
    assert (spec.source, spec.step, same(weights, weights_of(1))) == ("vangogh", 9, True)
    torch.save(resnet_state(1), tmp_path / name)
    assert read_translator(tmp_path / name, "vangogh")[0].source == "original"


def test_a_run_folder_gives_either_direction(tmp_path: Path) -> None:
    (tmp_path / "translators").mkdir()
    translator(tmp_path / "translators" / "b.safetensors")
    reverse = {"source": "vangogh", "target": "photo", "direction": "ba"}
    translator(tmp_path / "translators" / "a.safetensors", weights_of(1), **reverse)
    for to, seed in ((None, 0), ("vangogh", 0), ("photo", 1)):
        assert same(read_translator(tmp_path, to)[1], weights_of(seed))
    with pytest.raises(CheckpointError, match="no translator to monet: use --to photo or vangogh"):
        read_translator(tmp_path, "monet")
    assert [spec.direction for spec, _ in read_translators(tmp_path)] == ["ba", "ab"]


def test_all_of_each_kind(tmp_path: Path) -> None:
    found = read_translators(checkpoint(tmp_path / "c.pt"))
    assert [(spec.target, same(weights, weights_of(seed))) for seed, (spec, weights) in enumerate(found)] == [
        ("vangogh", True),
        ("photo", True),
    ]
    assert len(read_translators(translator(tmp_path / "t.safetensors"))) == 1
    torch.save(resnet_state(1), tmp_path / "g.pth")
    assert len(read_translators(tmp_path / "g.pth")) == 1


def test_folders_without_translators_say_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="needed is a run folder"):
        read_translator(tmp_path, None)
    (tmp_path / "latest_net_G_A.pth").touch()
    with pytest.raises(CheckpointError, match=r"give one file of that folder, such as .*latest_net_G_A\.pth"):
        read_translator(tmp_path, None)
    with pytest.raises(CheckpointError, match="no file"):
        read_translator(tmp_path / "absent", None)


def test_scores_come_along_and_older_files_have_none(tmp_path: Path) -> None:
    spec, _ = read_translator(translator(tmp_path / "t.safetensors", scores={"kid": 0.031, "fid": 12}), None)
    assert spec.scores == {"kid": 0.031, "fid": 12}
    older = {key: value for key, value in description(future="unknown").items() if key != "scores"}
    save_translator(tmp_path / "older.safetensors", weights_of(), older)
    assert read_translator(tmp_path / "older.safetensors", None)[0].scores == {}
    assert describe(spec) == "photo to vangogh, 3 channels, trained 7 steps on 16 px crops"


# ---------------------------------------------------------------------------------------------------- damage


def old_layout(path: Path) -> Path:
    torch.save(resnet_state(1), path, _use_new_zipfile_serialization=False)
    return path


def new_layout(path: Path) -> Path:
    torch.save(resnet_state(1), path)
    return path


@pytest.mark.parametrize("make", [translator, checkpoint, old_layout, new_layout])
def test_cut_files_are_refused_in_one_line(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    whole = make(tmp_path / f"whole{'.safetensors' if make is translator else '.pth'}")
    data, cut = whole.read_bytes(), tmp_path / f"cut{whole.suffix}"
    read_translator(whole, None)
    for length in (0, 1, 7, 9, 64, 500, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"cut\.\w+ cannot be read") as refusal:
            read_translator(cut, None)
        assert str(refusal.value).isprintable()


def test_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Once upon a time there was a file.\n" * 50)
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        archive.writestr("letter.txt", "dear all")
    (tmp_path / "png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (tmp_path / "zeros").write_bytes(bytes(1000))
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "st")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match=rf"{path.name} (cannot be read|is a safetensors file)") as refusal:
            read_translator(path, None)
        assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"translators": {}}, "checkpoint without translators"),
        ({"translators": 3}, "checkpoint without translators"),
        ({"averages": []}, "checkpoint without translators"),
        ({"translators": {"gen_ab": 3}}, "without proper names"),
        ({"averages": {}}, "does not describe its translator fully"),
        ({"averages": {"gen_ab": {"w": 3}, "gen_ba": {}}}, "no weights"),
        ({"step": "many"}, "at which step it was saved"),
        ({"averages": {"gen_ab": {**weights_of(), "w": torch.zeros(1).expand(10**9)}, "gen_ba": {}}}, "made wrongly"),
    ],
)
def test_checkpoints_made_up_are_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        read_translator(checkpoint(tmp_path / "c.pt", **changes), "vangogh")


@pytest.mark.parametrize(
    "weights",
    [
        {1: torch.zeros(2)},
        {("a",): torch.zeros(2)},
        {"w": torch.zeros(2, dtype=torch.int32)},
        {"w": torch.zeros(2, dtype=torch.complex64)},
        {"w": torch.empty(2, dtype=torch.float4_e2m1fn_x2)}
        if hasattr(torch, "float4_e2m1fn_x2")
        else {"w": torch.zeros(0)},
        {"w": torch.zeros(3, 0)},
    ],
    ids=lambda weights: f"{next(iter(weights))}-{next(iter(weights.values())).dtype}",
)
def test_averages_that_are_no_weights_are_refused(tmp_path: Path, weights: dict[object, Tensor]) -> None:
    with pytest.raises(CheckpointError, match="is no weight of a network"):
        read_translator(checkpoint(tmp_path / "c.pt", averages={"gen_ab": weights, "gen_ba": weights}), None)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    weights = weights_of()
    weights["model.4.bias"][1] = value
    with pytest.raises(CheckpointError, match=r"model\.4\.bias has values that are not finite"):
        read_translator(translator(tmp_path / "t.safetensors", weights), None)
    with pytest.raises(CheckpointError, match="not finite"):
        read_translator(checkpoint(tmp_path / "c.pt", averages={"gen_ab": weights, "gen_ba": weights}), None)


# ---------------------------------------------------------------------------------------------------- descriptions


def generator(**changes: object) -> dict[str, object]:
    return {"generator": {**asdict(CONFIG), **changes}}


HOSTILE = {
    "slash": ({"target": "../../etc"}, "target is '../../etc', needed is a domain's name"),
    "dots": ({"source": ".."}, r"source is '\.\.'"),
    "control": ({"target": "van\x1b[31mgogh\n"}, r"target is 'van\\x1b\[31mgogh\\n'"),
    "long": ({"target": "a" * 201}, "target is 'aaa"),
    "no name": ({"target": None}, "target is null"),
    "same": ({"source": "vangogh"}, "needed is another name"),
    "direction": ({"direction": "up"}, "direction is 'up', needed is one of ab, ba"),
    "resize": ({"resize": ["squash"]}, "resize is list"),
    "channels": ({"channels": -1}, "channels is -1"),
    "true": ({"channels": True}, "channels is true"),
    "fraction": ({"crop_size": 16.5}, "crop_size is 16.5, needed is a whole number of at least 1"),
    "zero": ({"load_size": 0}, "load_size is 0"),
    "past": ({"step": -1}, "step is -1"),
    "digits": ({"step": 10**400}, "step is a huge number"),
    "scores": ({"scores": {"kid": "good"}}, "scores is dict, needed is a number by each name"),
    "score name": ({"scores": {"\x1b[0m": 1.0}}, "scores is dict"),
    "section": ({"generator": "resnet"}, "generator is 'resnet'"),
    "no switch": (generator(antialias=1), r"generator\.antialias is 1, needed is true or false"),
    "unknown": (generator(flash=True), r"generator\.'flash' is unknown here; update cyclestyle"),
    "name": (generator(name="gan"), "generator.name is 'gan', needed is one of resnet"),
    "list": (generator(norm=["batch"]), "generator.norm is list"),
    "text": (generator(filters="64"), "generator.filters is '64', needed is a whole number"),
    "half": (generator(blocks=1.5), "generator.blocks is 1.5, needed is a whole number or null"),
    "negative": (generator(filters=-64), "generator.filters is -64, needed is at least 1"),
    "deep": (generator(name="unet", depth=200), "generator.depth is 200, needed is at least 2 and at most 16"),
    "dropout": (generator(dropout=float("nan")), "generator.dropout is nan"),
    "no filters": (generator(filters=None), "generator.filters is null"),
    "googol": (generator(filters=10**100), "generator.filters is a huge number"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_descriptions_are_checked_value_by_value(tmp_path: Path, case: str) -> None:
    changes, words = HOSTILE[case]
    with pytest.raises(CheckpointError, match=words) as refusal:
        read_translator(translator(tmp_path / "t.safetensors", **changes), None)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 500 + len(str(tmp_path))


@pytest.mark.parametrize(
    "metadata",
    ["[]", "3", "{}", '{"format": 1}', '{"format": "1"}', "{", '{"format": 1, "generator":' * 5000, "[" * 10**5],
)
def test_metadata_of_any_kind_is_refused(tmp_path: Path, metadata: str) -> None:
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "t.safetensors", metadata={"cyclestyle": metadata})
    with pytest.raises(CheckpointError, match=r"no translator of cyclestyle|fully|format"):
        read_translator(tmp_path / "t.safetensors", None)


def test_values_nested_too_deep_to_print_are_refused(tmp_path: Path) -> None:
    text = json.dumps({"format": 1, **description()}).replace('"scores": {}', '"scores": ' + "[" * 900 + "]" * 900)
    safetensors.torch.save_file({"w": torch.zeros(1)}, tmp_path / "t.safetensors", metadata={"cyclestyle": text})
    with pytest.raises(CheckpointError, match=r"scores is list|no translator"):
        read_translator(tmp_path / "t.safetensors", None)


# ---------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "options",
    [{}, {"norm": "batch"}, {"upsample": "subpixel", "padding": "zero"}, {"init": "orthogonal"},
     {"name": "unet", "blocks": None, "depth": 3}],
)  # fmt: skip
def test_the_network_has_the_weights_and_nothing_else(options: dict[str, object]) -> None:
    config = GeneratorConfig(**{"filters": 2, "blocks": 2, "dropout": 0.5, **options})
    plain = build_generator(config, 3)
    weights = {name: w.half() if w.is_floating_point() else w for name, w in plain.state_dict().items()}
    spec = TranslatorSpec(**description(generator=asdict(config)))
    before = torch.get_rng_state()
    network = build_translator_network(spec, weights, Path("t"))
    assert torch.equal(torch.get_rng_state(), before), "nothing was drawn"
    assert not network.training
    assert not any(value.requires_grad for value in network.parameters())
    assert {value.device.type for value in (*network.parameters(), *network.buffers())} == {"cpu"}
    assert {value.dtype for value in network.parameters()} == {torch.float32}
    plain.load_state_dict(weights)
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(images), plain.eval()(images))


def test_building_does_not_import_the_compiler(tmp_path: Path) -> None:
    """As torch does to draw numbers on the meta device: seconds before the first picture."""
    path = translator(tmp_path / "t.safetensors")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from cyclestyle.inference.files import build_translator_network, read_translator\n"
        f"path = Path({str(path)!r})\n"
        "before = set(sys.modules)\n"
        "build_translator_network(*read_translator(path, None), path)\n"
        "print(len([name for name in set(sys.modules) - before if name.startswith(('torch._', 'sympy'))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 20


def test_weights_are_taken_without_a_copy() -> None:
    weights = weights_of()
    network = build_translator_network(TranslatorSpec(**description()), weights, Path("t"))
    assert network.get_parameter("model.4.weight").data_ptr() == weights["model.4.weight"].data_ptr()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            generator(filters=3),
            r"first difference: model\.1\.weight has shape \(2, 3, 7, 7\), needed is \(3, 3, 7, 7\)",
        ),
        (generator(dropout=0.0), r"model\.10\.conv_block\.5\.weight is missing"),
        (generator(norm="batch"), r"model\.2\.weight is missing"),
        (generator(filters=4096), "filters is 4096, the weights have at most 8"),
        (generator(blocks=1000), "blocks is 1000, the weights have at most 16"),
        (generator(name="unet", depth=16), "first difference"),
        ({"channels": 4096}, "channels is 4096"),
        ({"channels": 1}, r"needed is \(2, 1, 7, 7\)"),
    ],
)
def test_misfits_are_named_at_once(changes: dict[str, object], words: str) -> None:
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=words) as refusal:
        build_translator_network(TranslatorSpec(**description(**changes)), weights_of(), Path("t.safetensors"))
    assert "the weights do not fit the generator that it describes" in str(refusal.value)
    assert time.perf_counter() - started < 5  # a loop over a billion blocks takes hours


@pytest.mark.parametrize(
    "changes", [generator(filters=10**12), generator(blocks=10**9), {"channels": 10**12}, {"crop_size": 10**9}]
)
def test_a_description_beyond_all_measure_is_refused_before_anything_is_made(changes: dict[str, object]) -> None:
    """Weights whose sides say that such filters may be: a shape without a single number in it."""
    weights = {**weights_of(), "huge": torch.empty(10**12, 0)}
    with pytest.raises(CheckpointError, match="and at most"):
        build_translator_network(TranslatorSpec(**description(**changes)), weights, Path("t"))


def test_specs_made_by_hand_are_checked_too() -> None:
    with pytest.raises(CheckpointError, match=r"generator\.blocks is -1"):
        build_translator_network(TranslatorSpec(**description(**generator(blocks=-1))), weights_of(), Path("t"))
