"""The files of a run."""

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backbones.records import Options, Recipe
from backbones.weights.file import in_place

SETTINGS_FILE = "recipe.json"
"""all it takes to start the run again"""
METRICS_FILE = "metrics.csv"
"""one row per epoch"""
RESUME_FILE = "last.ckpt"
"""weights, optimiser and progress after the last whole epoch, as Lightning keeps them"""
BEST, LAST = "best.safetensors", "last.safetensors"
"""the network, as `backbones.load` reads it"""


def new_folder(network: str, data: str) -> Path:
    """runs/<network>-<data>-<time>; the other processes of this run are told the same one."""
    readable = "".join(c if c.isalnum() else "-" for c in data)
    name = f"{network}-{readable}-{time.strftime('%Y%m%d-%H%M%S')}"
    return Path(os.environ.setdefault("BACKBONES_RUN", str(Path("runs") / name)))


def write_settings(
    folder: Path, recipe: Recipe, options: Options, notes: Sequence[str], origin: Mapping[str, Any]
) -> None:
    """What the run was asked to do, and with what."""
    told = {
        **origin,
        "recipe": asdict(recipe),
        "options": {**asdict(options), "output": str(folder)},
        "notes": list(notes),
        "versions": {name: version(name) for name in ("backbones", "torch", "torchvision", "lightning")},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
    }
    with in_place(folder / SETTINGS_FILE) as temporary:
        Path(temporary).write_text(json.dumps(told, indent=2) + "\n")
