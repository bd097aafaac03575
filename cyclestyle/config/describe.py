"""The page of all options, made from the schema: `python -m cyclestyle.config.describe > docs/options.md`.

What an option means stands once, as the text under its field. Python drops such texts, so they are read from the
source.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
from dataclasses import dataclass

from cyclestyle.config import keys
from cyclestyle.config.keys import Option
from cyclestyle.config.methods import METHODS
from cyclestyle.config.validation import RANGES

_INTRODUCTION = """\
# Options

Every option of a run, made from `cyclestyle/config/schema.py` and `methods.py` by
`python -m cyclestyle.config.describe > docs/options.md`; do not edit this page by hand.

An option is set in a YAML file, nested (`train:` and below it `steps: 10000`), or on the command line with its dotted
key (`train.steps=10000`): defaults < YAML < `key=value`. `cyclestyle config --config FILE.yaml [key=value ...]` prints
what a run would use.
"""


@dataclass(frozen=True)
class Description:
    """One row of the table."""

    key: str
    type: str
    default: str
    text: str


def describe(method: str = keys.DEFAULT_METHOD) -> tuple[Description, ...]:
    """Every option with its type, default and meaning, in the schema's order."""
    return tuple(
        Description(option.key, _type(option), _default(option), field_texts(option.owner)[option.field])
        for option in keys.options_of(method).values()
    )


def field_texts(owner: type) -> dict[str, str]:
    """The text under each field of a dataclass and of those that it extends; a field without one has an empty text."""
    texts: dict[str, str] = {}
    for ancestor in reversed(owner.__mro__):
        if dataclasses.is_dataclass(ancestor):
            texts |= {name: text for name, text in _own_texts(ancestor).items() if text or name not in texts}
    return texts


def _own_texts(owner: type) -> dict[str, str]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    texts: dict[str, str] = {}
    for statement, following in zip(tree.body, [*tree.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        below = following.value if isinstance(following, ast.Expr) else None
        text = below.value if isinstance(below, ast.Constant) and isinstance(below.value, str) else ""
        texts[statement.target.id] = " ".join(text.split())
    return texts


def options_page() -> str:
    """`docs/options.md`, whole."""
    parts = [_INTRODUCTION]
    for method in METHODS:
        rows = describe(method)
        for section, names in keys.sections_of(method).items():
            if method != keys.DEFAULT_METHOD and section.split(".")[0] != "method":
                continue
            inside = [row for row in rows if row.key.rpartition(".")[0] == section]
            title = section or "The run"
            if section.split(".")[0] == "method":
                title += f" (`method.name: {method}`)"
            if inside:
                parts.append(_section(title, _owner(section, names, method), inside))
    return "\n".join(parts)


def _section(title: str, owner: type, rows: list[Description]) -> str:
    lines = [
        f"## {title}",
        "",
        inspect.getdoc(owner) or "",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for row in rows:
        cells = (f"`{row.key}`", row.type, f"`{row.default}`", row.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _owner(section: str, names: tuple[str, ...], method: str) -> type:
    options = keys.options_of(method)
    return next(options[key].owner for key in (f"{section}.{name}".lstrip(".") for name in names) if key in options)


def _default(option: Option) -> str:
    return option.default if isinstance(option.default, str) else keys.shown(option.default)


def _type(option: Option) -> str:
    text = "auto or a whole number" if option.key == "data.num_workers" else keys.spoken(option.type)
    allowed = RANGES.get(option.key)
    return text if allowed is None else f"{text}; {allowed}"


if __name__ == "__main__":
    sys.stdout.write(options_page())
