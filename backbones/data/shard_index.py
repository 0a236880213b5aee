"""Where every image of tar files lies: as `backbones data pack` wrote it, or found by walking through them once."""

import json
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from backbones.data.pack import FORMAT, INDEX
from backbones.data.shard_walk import on_web, walk
from backbones.data.web import read_text

CLASSES = "classes.txt"
"""beside shards that others wrote: the name of every class, one per line"""


class Shard(NamedTuple):
    """A tar file: its path or its address, and its bytes."""

    name: str
    size: int

    @property
    def web(self) -> bool:
        """Whether it is on a web server."""
        return on_web(self.name)


class Index:
    """The images of some shards, in few pieces of memory, which worker processes then share.

    Args:
        shards: the tar files
        samples: of every image the number of its shard, its offset and bytes there, its label and its name
    """

    def __init__(self, shards: Sequence[Shard], samples: Sequence[tuple[int, int, int, int, str]]) -> None:
        self.shards = shards
        self.table = np.array([sample[:4] for sample in samples], np.int64)
        names = [sample[4].encode(errors="surrogateescape") for sample in samples]
        self._names, self._ends = b"".join(names), np.cumsum([0, *map(len, names)])

    def name(self, number: int) -> str:
        """Of an image, in its tar file."""
        return self._names[self._ends[number] : self._ends[number + 1]].decode(errors="surrogateescape")


def written(folder: str) -> dict[str, Any] | None:
    """What `backbones data pack` wrote of this folder, if it did."""
    text = _beside(folder, INDEX)
    if text is None:
        return None
    try:
        told: dict[str, Any] = json.loads(text)
        known = told["format"] == FORMAT
    except (ValueError, KeyError, TypeError, RecursionError):
        known = False
    fault = _fault(told) if known else ""
    if not known or fault:
        why = f" ({fault})" if fault else ""
        raise ValueError(f"{folder}/{INDEX} is not what `backbones data pack` writes{why}; remove it or pack anew")
    return told


def _fault(told: dict[str, Any]) -> str:
    """What an index says that cannot be; "" if all can."""
    classes, parts = told.get("classes"), told.get("parts")
    if not (isinstance(classes, list) and classes and all(isinstance(name, str) for name in classes)):
        return "it names no classes"
    if not (isinstance(parts, dict) and "train" in parts and parts.keys() <= {"train", "val", "test"}):
        return "its parts are not train and perhaps val and test"
    for name, part in parts.items():
        try:
            if fault := _fault_of_part(part["shards"], part["samples"], len(classes)):
                return f"{name}: {fault}"
        except (KeyError, TypeError, ValueError, IndexError):
            return f"{name} lacks its shards or its images"
    return ""


def _fault_of_part(shards: list[Any], samples: list[Any], classes: int) -> str:
    for name, size in shards:
        if type(name) is not str or name != os.path.basename(name) or type(size) is not int or not 0 < size < 1 << 53:
            return f"the shard {name!r} of {size!r} bytes"
    if odd := next((one for one in samples if len(one) != 5 or [*map(type, one)] != [int] * 4 + [str]), None):
        return f"the image {odd!r} is not (shard, offset, bytes, label, name)"
    shard, offset, size, label = np.array([one[:4] for one in samples]).T
    sizes = np.array([size for _, size in shards])[shard.clip(0, len(shards) - 1)]
    wrong = (shard < 0) | (shard >= len(shards)) | (label < 0) | (label >= classes)
    wrong |= (offset < tarfile.BLOCKSIZE) | (size < 0) | (size > sizes) | (offset > sizes - size)
    if wrong.any():
        return f"the image {samples[int(wrong.argmax())]!r} is in no shard or of no class"
    return ""


def of_written(folder: str, part: dict[str, Any], wanted: set[str] | None = None) -> Index:
    """The index of a part, of all its shards or of those that are wanted."""
    shards = [Shard(f"{folder}/{name}", size) for name, size in part["shards"]]
    for shard in shards:
        if not shard.web and not (os.path.isfile(shard.name) and os.path.getsize(shard.name) == shard.size):
            what = "another size" if os.path.exists(shard.name) else "gone"
            raise OSError(f"{shard.name} is {what}, {folder}/{INDEX} says {shard.size:,} bytes; copy it anew")
    samples = [sample for sample in part["samples"] if wanted is None or part["shards"][sample[0]][0] in wanted]
    if not samples:
        raise ValueError(f"{folder}/{INDEX} has no images in these shards; give others")
    return Index(shards, samples)


def class_names(folder: str) -> tuple[str, ...] | None:
    """The lines of classes.txt beside the shards, if it is there."""
    text = _beside(folder, CLASSES)
    if text is None:
        return None
    names = tuple(line.strip() for line in text.rstrip().splitlines())
    if "" in names:
        raise ValueError(f"{folder}/{CLASSES}: line {names.index('') + 1} is empty; give every class a line")
    return names


def by_walking(names: Sequence[str]) -> Index:
    """The images of these tar files, in their order."""
    shards, samples = [], []
    for number, name in enumerate(names):
        size, found = walk(name)
        shards.append(Shard(name, size))
        samples += [(number, *sample) for sample in found]
    return Index(shards, samples)


def _beside(folder: str, name: str) -> str | None:
    if on_web(folder):
        return read_text(f"{folder}/{name}")
    path = Path(folder) / name
    return path.read_text() if path.is_file() else None
