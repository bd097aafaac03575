"""The errors that are a user's to cure: each message is one line.

It names what was given, what is needed and the key or flag to turn. `cyclestyle.cli` prints it without a traceback and
exits with 2; mistakes of our own stay `AssertionError` and friends.
"""

from __future__ import annotations


class CyclestyleError(Exception):
    """Base of every error that the person at the keyboard can cure; `str(error)` is one readable line."""


class ConfigError(CyclestyleError):
    """A config file, a `key=value` or a combination of them that cannot work."""


class DataError(CyclestyleError):
    """Folders or images that are missing, empty, broken or not what the config says."""


class CheckpointError(CyclestyleError):
    """A run folder, checkpoint or translator file that is missing, damaged or of another kind."""
