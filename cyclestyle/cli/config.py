"""`cyclestyle config`: what a run would use, as YAML on stdout."""

from __future__ import annotations

import argparse
import sys

from cyclestyle.cli.settings import add_config_file, add_settings, load_settings

SUMMARY = "Print the options that a run would use, defaults included"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what the verb takes."""
    add_config_file(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    """Print the resolved config."""
    from cyclestyle.config.loading import to_yaml

    sys.stdout.write(to_yaml(load_settings(args)))
    return 0
