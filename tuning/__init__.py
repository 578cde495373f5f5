"""Instruction tuning and preference optimization: one YAML takes a base checkpoint to a released chat model.

from tuning import load_recipe, run
run(load_recipe("quickstart", ["sft.epochs=1"]))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tuning.config import load_recipe
    from tuning.pipeline import run

__all__ = ["__version__", "load_recipe", "run"]


def __getattr__(name: str) -> Any:
    """Loads `load_recipe` and `run` on first use, so that importing `tuning` imports no torch."""
    if name == "load_recipe":
        from tuning.config import load_recipe

        return load_recipe
    if name == "run":
        from tuning.pipeline import run

        return run
    raise AttributeError(f"module 'tuning' has no attribute {name!r}")
