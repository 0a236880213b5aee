"""Where this library keeps what it may forget: in $XDG_CACHE_HOME/backbones, or ~/.cache/backbones."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Deleting it does no harm."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "backbones"
