"""Franca: pretrain, measure and ship vision foundation models."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from franca.hub import load

__all__ = ["load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`franca.load`, with all that it imports, once it is asked for."""
    if name in __all__:
        return getattr(importlib.import_module("franca.hub"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
