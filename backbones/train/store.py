"""The state of a run on the disk: written whole beside the training, checked when read, two good generations kept."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backbones.weights.file import commit, read_committed

FORMAT = "backbones run 1"
KEPT = 2
"""good generations; the older one is there for the day on which the newer one is damaged"""
PATTERN = "step-*.safetensors"


def holds_run(folder: Path) -> bool:
    """Whether there is a checkpoint in the folder to go on from."""
    return any(folder.glob(PATTERN))


class Store:
    """The generations in one folder, by the optimiser steps done. One process writes, one file at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last_good: Path | None = None
        """the newest generation that this process has written or read"""
        self.seconds = 0.0
        """that the last generation took to write, beside the training"""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a generation is still being written."""
        return self._pending is not None and not self._pending.done()

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Copy the state now and write it beside what follows. OSError if the one before could not be written."""
        self.wait()
        tensors: dict[str, Tensor] = {}
        told = json.dumps(_pack(state, tensors))
        self._pending = self._writer.submit(self._commit, step, tensors, told)

    def check(self) -> None:
        """OSError if the last generation turned out not to be writable; returns at once."""
        if self._pending and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Return when the last generation is on the disk. OSError if that failed; the ones before are as they were."""
        pending, self._pending = self._pending, None
        if pending:
            pending.result()

    def newest(self) -> tuple[dict[str, Any], list[str]]:
        """The state of the newest generation that is whole, and a sentence for each newer one that is not.

        A damaged file is then set aside under another name. FileNotFoundError where none is whole; OSError where one
        cannot be read, which may pass.
        """
        damaged: dict[Path, str] = {}
        for path in self._generations():
            path.open("rb").close()
            try:
                told, tensors = read_committed(path, FORMAT)
                state = _unpack(json.loads(told), tensors)
            except (ValueError, KeyError, TypeError) as error:
                damaged[path] = str(error)
                continue
            self.last_good = path
            for bad in damaged:
                bad.replace(bad.with_suffix(".damaged"))
            return state, [f"{bad.name} is damaged and set aside ({why})" for bad, why in damaged.items()]
        listed = "".join(f"\n  {bad.name}: {why}" for bad, why in damaged.items())
        raise FileNotFoundError(f"no whole checkpoint in {self.folder}; start the run again in another folder{listed}")

    def _commit(self, step: int, tensors: Mapping[str, Tensor], told: str) -> None:
        path, start = self.folder / PATTERN.replace("*", f"{step:09d}"), time.perf_counter()
        try:
            commit(path, tensors, FORMAT, told)
        except Exception as error:  # the writer of safetensors has errors of its own
            kept = f"{self.last_good.name} is whole" if self.last_good else "none was written before"
            raise OSError(f"the checkpoint of step {step:,} could not be written ({error}); {kept}") from error
        self.last_good = path
        for old in self._generations()[KEPT:]:
            old.unlink()
        self.seconds = time.perf_counter() - start

    def _generations(self) -> list[Path]:
        """Newest first."""
        return sorted(self.folder.glob(PATTERN), reverse=True)


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value for JSON, with copies of its tensors put into `tensors`, whatever the keys of its mappings are."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"the state of a run has a {type(value).__name__}, which a checkpoint cannot hold")


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `_pack` was given; the tensors are clones, so that nothing depends on the file any more."""
    match value:
        case {"tensor": name}:
            return tensors[name].clone()
        case {"dict": items}:
            return {key: _unpack(item, tensors) for key, item in items}
        case {"list": items}:
            return [_unpack(item, tensors) for item in items]
        case {"tuple": items}:
            return tuple(_unpack(item, tensors) for item in items)
    return value
