"""Choosing a network: how fast each one is on this machine. Names are imported on first use; no torch here."""

from importlib import import_module
from typing import Any

_HOMES = {"measure": "measuring", "Latency": "latency", "Failure": "latency", "select": "selecting"}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value
