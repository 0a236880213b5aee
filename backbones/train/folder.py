"""The files of a run."""

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from backbones.records import Options, Recipe
from backbones.weights.file import in_place

SETTINGS_FILE = "recipe.json"
"""all it takes to start the run again"""
METRICS_FILE = "metrics.csv"
"""one row per epoch"""
CHECKPOINTS = "checkpoints"
"""where the run stands, to go on from: see `Store`"""
BAD_IMAGES = "bad_images.csv"
"""images that could not be read and were left out"""
BEST, LAST = "best.safetensors", "last.safetensors"
"""the network, as `backbones.load` reads it"""


def is_first_process() -> bool:
    """Whether this process prints and writes; the others of a run only compute."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "SLURM_PROCID"))


def new_folder(network: str, data: str) -> Path:
    """A folder runs/<network>-<data>-<time> that no other run has."""
    readable = "".join(c if c.isalnum() else "-" for c in data)
    name = f"{network}-{readable}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 0
    while True:
        number += 1
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """No second run works in the folder within this block, on this machine or on another that shares its disk."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(f"another process trains in {folder}; wait for it, or give another --output") from None
    try:
        yield
    finally:
        lock.release()


def log_of(folder: Path, rank: int) -> Path:
    """Where a process other than the first writes what it has to say."""
    return folder / "logs" / f"process-{rank}.log"


def write_to_log(path: Path) -> int:
    """What this process prints goes to the file from here on. A handle to what was its standard error."""
    path.parent.mkdir(exist_ok=True)
    before = os.dup(2)
    with open(path, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    return before


def write_settings(
    folder: Path, recipe: Recipe, options: Options, notes: Sequence[str], origin: Mapping[str, Any], images: int
) -> None:
    """What the run was asked to do, and with what; `images` is how many it trains on."""
    told = {
        **origin,
        "images": images,
        "recipe": asdict(recipe),
        "options": {**asdict(options), "output": str(folder)},
        "notes": list(notes),
        **_here(),
    }
    with in_place(folder / SETTINGS_FILE) as temporary:
        Path(temporary).write_text(json.dumps(told, indent=2) + "\n")


def check_images(folder: Path, images: int) -> None:
    """ValueError where a run is to go on with another number of training images than it began with."""
    before = json.loads((folder / SETTINGS_FILE).read_text()).get("images", images)
    if before != images:
        raise ValueError(
            f"the run in {folder} was started with {before:,} training images and there are {images:,} now; put back "
            "what is missing, or start a new run"
        )


def differences(folder: Path) -> str:
    """What its figures depend on and is not as it was when the run was started; "" if all is."""
    told, now = json.loads((folder / SETTINGS_FILE).read_text()), _here()
    before = {**told.get("versions", {}), "machine": told.get("machine")}
    after = {**now["versions"], "machine": now["machine"]}
    return ", ".join(
        f"{key} was {before.get(key)} and is {after[key]}" for key in after if before.get(key) != after[key]
    )


def _here() -> dict[str, Any]:
    return {
        "versions": {name: version(name) for name in ("backbones", "torch", "torchvision", "lightning")},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, Python {platform.python_version()}",
    }
