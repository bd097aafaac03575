"""The rows of the house: who may import whom (docs/architecture.md), and packages that one file alone may import."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cyclestyle"

ROWS = (
    ("errors", "batch", "distributed", "losses"),
    ("config", "images", "devices", "run_index", "pickles"),
    ("data", "networks", "checkpoint"),
    ("methods", "evaluation", "inference", "stylize"),
    ("training",),
    ("reports",),
    ("cli",),
)
ROW_OF = {part: row for row, parts in enumerate(ROWS) for part in parts}

ONE_FILE_EACH = {
    "albumentations": "data/transforms.py",
    "tifffile": "data/tiff.py",
    "torch.utils.tensorboard": "training/tracker.py",
    "tensorboard": "training/tracker.py",
    "torch_fidelity": "evaluation/inception.py",
    "lpips": "evaluation/perceptual.py",
    "jinja2": "reports/report.py",
}

SEES_THE_WHOLE_CONFIG = {
    "training/run.py", "training/assembly.py", "training/learner.py",  # put a run together
    "training/forecast.py", "training/probing.py",  # the same, to see what it takes
    "inference/folder.py",  # reads the config of a run folder to find its test images
}  # fmt: skip
"""Outside config and cli."""


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def part_of(module: str) -> str:
    return module.split(".")[1]


def imports(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full (from cyclestyle.{path.parent.name} import ...)"
            yield node.module or ""
            # `from cyclestyle.config import rules` imports cyclestyle.config.rules
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_the_rows(path: Path) -> None:
    own = path.relative_to(PACKAGE).with_suffix("").parts[0]
    assert own in ROW_OF, f"{own} has no row yet: give it one here and in docs/architecture.md"
    for module in imports(path):
        if not module.startswith("cyclestyle.") or (other := part_of(module)) == own or other == "__version__":
            continue
        assert ROW_OF[other] < ROW_OF[own], (
            f"{path.relative_to(ROOT)} imports {module}: row {ROW_OF[own]} may only import from lower rows. "
            f"Move what you need down, or hand it in as an argument."
        )


@pytest.mark.parametrize("package", ONE_FILE_EACH)
def test_some_packages_are_imported_by_one_file(package: str) -> None:
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in sources()
        if any(module == package or module.startswith(package + ".") for module in imports(path))
    }
    assert users <= {ONE_FILE_EACH[package]}, (
        f"only {ONE_FILE_EACH[package]} may import {package}: ask it for what you need"
    )


def test_components_are_handed_their_own_section() -> None:
    """Only what puts runs together and the command line name the whole config."""
    for path in sources():
        name = path.relative_to(PACKAGE).as_posix()
        if name.startswith(("config/", "cli/")) or name in SEES_THE_WHOLE_CONFIG:
            continue
        found = set(imports(path)) & {"cyclestyle.config.schema.Config", "cyclestyle.config.loading"}
        assert not found, f"{name} imports {found}: take the section that it needs as an argument"


def test_every_module_says_what_it_owns() -> None:
    for path in (*sources(), PACKAGE / "__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} opens without a docstring"


def test_no_path_of_one_machine_is_written_down() -> None:
    for path in (*sources(), *ROOT.glob("configs/*.yaml"), *ROOT.glob("docs/*.md"), *ROOT.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        for root in ("/home/", "/root/", "/Users/"):
            assert root not in text, f"{path} names {root}"
