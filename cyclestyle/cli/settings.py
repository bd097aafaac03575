"""What the verbs that read a config share: `--config FILE.yaml [key=value ...]`, and warnings on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cyclestyle.errors import ConfigError

if TYPE_CHECKING:
    from cyclestyle.config.schema import Config


def add_settings(parser: argparse.ArgumentParser) -> None:
    """The `key=value` arguments, wherever they stand among the flags."""
    parser.add_argument(
        "settings",
        metavar="key=value",
        nargs="*",
        help="options by dotted key, such as train.steps=1000; they win over the file (docs/options.md lists them all)",
    )


def settings_of(args: argparse.Namespace) -> list[str]:
    """The `key=value` arguments; a stray word is refused with the flag it may have wanted."""
    for word in args.settings:
        if "=" not in word:
            hint = f"; a config file is given as --config {word}" if word.endswith((".yaml", ".yml")) else ""
            raise ConfigError(
                f"stray argument {word!r}: settings are written key=value, such as train.steps=1000{hint}"
            )
    return list(args.settings)


def load_settings(args: argparse.Namespace) -> Config:
    """The config that the arguments describe; settings without effect are named on stderr."""
    from cyclestyle.config.loading import load_with_warnings

    config, warnings = load_with_warnings(args.config, settings_of(args))
    if os.environ.get("RANK", "0") == "0":  # of several processes of torchrun one is enough
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
    return config


def add_config_file(parser: argparse._ActionsContainer) -> None:
    """The `--config` flag."""
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="options of the run in YAML; see configs/")
