"""Settings that are allowed and went wrong where they were tried: which, and what did not."""

from __future__ import annotations

from cyclestyle.config.methods import CUTConfig
from cyclestyle.config.schema import Config


def warnings_of(config: Config) -> tuple[str, ...]:
    """One line for each such choice in this config; docs/results.md has what was seen."""
    if isinstance(config.method, CUTConfig) and config.generator.norm == "none":
        return (
            f"method.name={config.method.name} with generator.norm=none may turn all black in its first steps "
            "and stay so; look at the first sample grid, or set generator.norm=instance as configs/cut.yaml does",
        )
    return ()
