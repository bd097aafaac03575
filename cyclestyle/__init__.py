"""cyclestyle learns to turn pictures of one kind into another from two unpaired folders of images.

From Python: `cyclestyle.train(config)` and `cyclestyle.Translator.load(run_or_file, to="vangogh")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclestyle.inference.options import Look
    from cyclestyle.inference.translator import Translator
    from cyclestyle.training.run import train

__all__ = ["Look", "Translator", "__version__", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Lazily, so that `cyclestyle --help` does not wait for torch.
    if name == "Translator":
        from cyclestyle.inference.translator import Translator

        return Translator
    if name == "Look":
        from cyclestyle.inference.options import Look

        return Look
    if name == "train":
        from cyclestyle.training.run import train

        return train
    raise AttributeError(f"module 'cyclestyle' has no attribute {name!r}")
