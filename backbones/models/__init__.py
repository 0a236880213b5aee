"""One file per paper. Importing a family registers its networks; `load` imports them all."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@cache
def load() -> None:
    """Register every network."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
