"""Translate: `python test.py [--run RUN | --checkpoint FILE] [--to DOMAIN] [--input FOLDER] [--output FOLDER]`."""

import sys

from cyclestyle.cli.main import main

# The guard matters: worker processes import this file again where they are spawned (Windows, macOS).
if __name__ == "__main__":
    sys.exit(main(["translate", *sys.argv[1:]]))
