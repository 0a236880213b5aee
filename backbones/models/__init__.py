"""One file per paper. Importing a family registers its networks; `load` imports them all."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from backbones.records import Paper


@cache
def load() -> Mapping[Paper, str]:
    """Register every network. The paper of each family -> its module."""
    return {import_module(f"{__name__}.{module.name}").PAPER: module.name for module in iter_modules(__path__)}
