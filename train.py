"""Train: `python train.py [--config FILE.yaml] [--resume RUN] [key=value ...]`; without a config, the quickstart."""

import sys
from pathlib import Path

from cyclestyle.cli.main import main

QUICKSTART = Path(__file__).resolve().parent / "configs" / "quickstart.yaml"

# The guard matters: worker processes import this file again where they are spawned (Windows, macOS).
if __name__ == "__main__":
    words = sys.argv[1:]
    if not any(word.split("=")[0] in ("--config", "--resume") for word in words):
        words = ["--config", str(QUICKSTART), *words]
    sys.exit(main(["train", *words]))
