"""The files of a run."""

import hashlib
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

import torch
from filelock import FileLock, Timeout

from backbones.data import Part
from backbones.records import Options, Recipe
from backbones.weights.file import in_place

SETTINGS_FILE = "recipe.json"
"""all it takes to start the run again"""
METRICS_FILE = "metrics.csv"
"""one row per epoch"""
CHECKPOINTS = "checkpoints"
"""where the run stands, to go on from: see `Store`"""
REPORT_FILE = "report.md"
"""what came of the run, for people"""
BAD_IMAGES = "bad_images.csv"
"""images that could not be read and were left out"""
BEGAN = ("images", "left_out", "threads", "here")
"""of the settings: with what a run began, and goes on"""
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


def read_beginning(folder: Path) -> dict[str, Any]:
    """With what the run in the folder began. ValueError where it does not say."""
    told = json.loads((folder / SETTINGS_FILE).read_text())
    if lacking := [key for key in BEGAN if key not in told]:
        raise ValueError(
            f"{folder / SETTINGS_FILE} does not say with what the run began ({', '.join(lacking)}): an earlier version "
            "wrote it, or somebody changed it; start a new run, with --weights if its network is to be the start"
        )
    return {key: told[key] for key in BEGAN}


def write_settings(
    folder: Path,
    recipe: Recipe,
    options: Options,
    notes: Sequence[str],
    origin: Mapping[str, Any],
    began: Mapping[str, Any],
) -> None:
    """What the run was asked to do; `began` is with what it was started, which stays as it was when a run goes on."""
    told = {
        **origin,
        **began,
        "recipe": asdict(recipe),
        "options": {**asdict(options), "output": str(folder)},
        "notes": list(notes),
    }
    with in_place(folder / SETTINGS_FILE) as temporary:
        Path(temporary).write_text(json.dumps(told, indent=2) + "\n")


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written, and nothing else that is hidden; for who holds the lock."""
    for name in (
        BEST,
        LAST,
        SETTINGS_FILE,
        METRICS_FILE,
        BAD_IMAGES,
        REPORT_FILE,
        "snapshot-*",
        f"{CHECKPOINTS}/step-*",
    ):
        place, _, file = name.rpartition("/")
        for path in (folder / place).glob(f".{file}.*"):
            path.unlink()


def images_of(part: Part) -> dict[str, Any]:
    """What tells whether the images of a part are those that they were, wherever they lie now."""
    told = hashlib.blake2b(digest_size=16)
    for index, label in enumerate(part.labels):
        told.update(f"{label} {Path(part.where(index)).name}\n".encode())
    return {"number": len(part), "digest": told.hexdigest()}


def check_images(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """ValueError where a run is to go on with other training images than it began with."""
    if before != now:
        how = f"{before['number']:,} and {now['number']:,}" if before["number"] != now["number"] else "the same number"
        raise ValueError(
            f"the training images are not those with which this run began ({how}); put back what is missing or was "
            "changed, or start a new run"
        )


def here(processes: int) -> dict[str, Any]:
    """What the last bits of a run depend on, beside its settings."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    versions = {name: version(name) for name in ("backbones", "torch", "torchvision", "lightning")}
    return {**versions, "python": platform.python_version(), "device": device, "processes": processes}


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What `here` says otherwise than when the run was started; "" if nothing."""
    return ", ".join(f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key])
