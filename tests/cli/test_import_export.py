"""`cyclestyle import` and `cyclestyle export` as people use them: there and back without a change."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cyclestyle.checkpoint import load_translator, save_translator
from cyclestyle.cli import main as cli
from cyclestyle.config.loading import load_config
from cyclestyle.config.schema import GeneratorConfig
from cyclestyle.inference.files import TranslatorSpec, build_translator_network, read_translator
from cyclestyle.networks.build import build_generator
from cyclestyle.training.run import train

from ..inference.legacy_layouts import Resnet, discriminator_state, resnet_state, unet_state

LAYOUTS = {
    "resnet instance": lambda: resnet_state(2),
    "resnet batch dropout": lambda: resnet_state(1, norm="batch", dropout=True),
    "resnet none": lambda: resnet_state(1, norm="none"),
    "u-net instance grey": lambda: unet_state(5, 2, channels=1),
    "u-net batch": lambda: unet_state(6, 1, norm="batch"),
    "u-net none": lambda: unet_state(5, 1, norm="none"),
}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def old_file(folder: Path, state: object = None) -> Path:
    path = folder / "latest_net_G_A.pth"
    torch.save(resnet_state(2) if state is None else state, path)
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = LAYOUTS[layout]()
    old, new, back = old_file(tmp_path, state), tmp_path / "new.safetensors", tmp_path / "back.pth"
    assert cli.main(["import", str(old), "--to", "vangogh", "-o", str(new)]) == 0
    recognised, file = capsys.readouterr().out.splitlines()
    assert file == str(new)
    assert all(
        word in recognised.lower() for word in layout.replace("none", "no norm").replace("grey", "1 channel").split()
    )
    assert cli.main(["export", "--checkpoint", str(new), "--to", "vangogh", "--format", "pth", "-o", str(back)]) == 0
    assert capsys.readouterr().out.startswith("load it with: --netG")
    assert same(torch.load(back, weights_only=True), state)


def test_what_is_imported_says_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--to", "vangogh", "--from", "photo", "--crop-size", "128", "--load-size", "143"]
    assert cli.main(["import", *flags, str(old_file(tmp_path)), "-o", str(tmp_path / "t.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == (
        "recognised: a ResNet generator of 2 blocks, 4 filters, instance norm, 3 channels; photo to vangogh"
    )
    spec, _ = read_translator(tmp_path / "t.safetensors", "vangogh")
    assert spec == TranslatorSpec(
        source="photo", target="vangogh", direction="ab", generator=asdict(GeneratorConfig(filters=4, blocks=2)),
        channels=3, resize="squash", load_size=143, crop_size=128, step=0, scores={},
    )  # fmt: skip


def assert_refused(words: list[str], fragment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert fragment in printed.err
    assert printed.err.count("\n") == 1


def test_an_existing_file_is_kept_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "t.safetensors"
    output.write_text("mine")
    words = ["import", str(old_file(tmp_path)), "--to", "vangogh", "-o", str(output)]
    assert_refused(words, "exists already: choose another -o, or replace it with --overwrite", capsys)
    assert output.read_text() == "mine"
    assert cli.main([*words, "--overwrite"]) == 0
    assert load_translator(output)[1]["target"] == "vangogh"
    capsys.readouterr()
    exported = tmp_path / "g.pth"
    exported.write_text("mine")
    words = ["export", "--checkpoint", str(output), "--format", "pth", "-o", str(exported)]
    assert_refused(words, "exists already", capsys)
    assert cli.main([*words, "--overwrite"]) == 0
    assert same(torch.load(exported, weights_only=True), torch.load(tmp_path / "latest_net_G_A.pth"))


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (["--to", "../up"], "target is '../up', needed is a domain's name"),
        (["--to", "van\ngogh"], r"target is 'van\ngogh'"),
        (["--to", "a", "--from", "b/c"], "source is 'b/c'"),
        (["--to", "a", "--from", "a"], "needed is another name"),
        (["--to", "original"], "needed is another name"),
        (["--to", "a", "--crop-size", "512"], "crop size 512 is more than load size 286"),
        (["--to", "a", "-o", "t.pth"], "needs to end in .safetensors"),
        (["--to", "a", "-o", "absent/t.safetensors"], "cannot be written"),
    ],
)
def test_names_and_sizes_that_cannot_be(
    flags: list[str], fragment: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = [] if "-o" in flags else ["-o", "t.safetensors"]
    assert_refused(["import", str(old_file(tmp_path)), *flags, *output], fragment, capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest_net_G_A.pth"], "nothing is left half written"


def test_other_files_are_not_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--to", "a", "-o", str(tmp_path / "t.safetensors")]
    assert_refused(["import", str(old_file(tmp_path, discriminator_state())), *output], "a discriminator", capsys)
    old, new = old_file(tmp_path), tmp_path / "ours.safetensors"
    assert cli.main(["import", str(old), "--to", "vangogh", "-o", str(new)]) == 0
    capsys.readouterr()
    assert_refused(["import", str(new.rename(tmp_path / "ours.pth")), *output], "is a file of cyclestyle", capsys)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["import", str(old), "--to", "a", "--crop-size", "0", "-o", "x"])
    assert "--crop-size: got '0'" in capsys.readouterr().err


def test_a_trained_run_leaves_for_the_other_tool(
    tiny: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(load_config(None, [*tiny, "train.steps=2"]))
    capsys.readouterr()
    for domain in ("photo", "painting"):
        exported = tmp_path / f"{domain}.pth"
        assert cli.main(["export", "--run", str(run), "--to", domain, "--format", "pth", "-o", str(exported)]) == 0
        assert capsys.readouterr().out.splitlines() == [
            "load it with: --netG ResnetGenerator(n_blocks=1) --norm instance --ngf 4 --input_nc 3 --output_nc 3 "
            "--no_dropout",
            str(exported),
        ]
        theirs = Resnet(1, 4, 3, "instance", dropout=False).eval()
        theirs.load_state_dict(torch.load(exported, weights_only=True))
        images = torch.rand(1, 3, 16, 16)
        spec, weights = read_translator(run, domain)
        ours = build_translator_network(spec, weights, run)
        torch.testing.assert_close(theirs(images), ours(images), rtol=0, atol=1e-5)

    checkpoint, taken = run / "checkpoints" / "step_00000002.pt", tmp_path / "taken.safetensors"
    words = ["export", "--checkpoint", str(checkpoint), "--to", "photo", "--format", "safetensors", "-o", str(taken)]
    assert cli.main(words) == 0
    found, expected = (load_translator(file) for file in (taken, run / "translators" / "painting_to_photo.safetensors"))
    assert same(found[0], expected[0])
    assert found[1] == expected[1]


def test_what_the_other_tool_does_not_have_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, value in {"upsample": "resize", "padding": "zero"}.items():
        config = replace(GeneratorConfig(filters=2, blocks=1), **{option: value})
        spec = TranslatorSpec(
            source="a", target="b", direction="ab", generator=asdict(config), channels=3, resize="none", load_size=16,
            crop_size=16,
        )  # fmt: skip
        save_translator(tmp_path / "t.safetensors", build_generator(config, 3).state_dict(), asdict(spec))
        words = ["export", "--checkpoint", str(tmp_path / "t.safetensors"), "--format", "pth"]
        assert_refused([*words, "-o", str(tmp_path / "g.pth")], f"this one has {value}", capsys)
        assert not (tmp_path / "g.pth").exists()
