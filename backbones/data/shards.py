"""WebDataset shards, here or on a web server, read in any order: an index says where each image lies."""

import glob
import os
import re
import tarfile
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from backbones.data.parts import Found, StoredPart
from backbones.data.shard_index import (
    Index,
    Shard,
    by_walking,
    class_names,
    of_written,
    written,
)
from backbones.data.shard_walk import Header, on_web
from backbones.data.web import read_range

FORM = (
    "wds:DIR with train-*.tar and perhaps val-*.tar and test-*.tar, or a pattern for the training shards such as "
    "'wds:photos/train-{000000..000099}.tar' (also https://..., with braces only)"
)

LABEL = 3
"""the column of an index"""


class ShardPart(StoredPart):
    """Images in tar files, each read by itself.

    Args:
        index: where the images lie, and their labels
        channels: what the images are converted to, 1 or 3
        numbers: of the images in the index; all if not given
    """

    def __init__(self, index: Index, channels: int, numbers: Sequence[int] | NDArray[np.int64] | None = None) -> None:
        self.index, self.channels = index, channels
        self.numbers = np.arange(len(index.table)) if numbers is None else np.array(numbers)
        self.labels = index.table[self.numbers, LABEL].tolist()

    def source(self, index: int) -> bytes:
        shard, offset, size = self._place(index)
        start, count = offset - tarfile.BLOCKSIZE, size + tarfile.BLOCKSIZE  # with the header, which must be the one
        content = read_range(shard.name, start, count, shard.size) if shard.web else _read(shard, start, count)
        try:
            header = Header.frombuf(content[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        except tarfile.TarError:
            header = Header()
        if header.size != size or len(content) != count or not header.may_be(self.index.name(self.numbers[index])):
            raise OSError(f"{self.where(index)} is not at byte {offset:,} as the index says; make the index anew")
        return content[tarfile.BLOCKSIZE :]

    def stamp(self, index: int) -> tuple[str, int, int] | None:
        shard, offset, _ = self._place(index)
        if shard.web:
            return None
        found = os.stat(shard.name)
        return f"{os.path.abspath(shard.name)}@{offset}", found.st_size, found.st_mtime_ns

    def where(self, index: int) -> str:
        return f"{self._place(index)[0].name}: {self.index.name(self.numbers[index])}"

    def take(self, indices: Sequence[int]) -> "ShardPart":
        return ShardPart(self.index, self.channels, self.numbers[list(indices)])

    def _place(self, index: int) -> tuple[Shard, int, int]:
        """(shard, offset, bytes)"""
        number, offset, size, _ = self.index.table[self.numbers[index]].tolist()
        return self.index.shards[number], offset, size


def _read(shard: Shard, start: int, count: int) -> bytes:
    """A piece of a local file, which may not have changed its size."""
    try:
        with open(shard.name, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != shard.size:
                raise OSError(f"{shard.name} no longer has the {shard.size:,} bytes of its index; make the index anew")
            content = b""
            while piece := os.pread(file.fileno(), count - len(content), start + len(content)):
                content += piece
            return content
    except FileNotFoundError:
        raise OSError(f"the shard {shard.name} is gone; put it back") from None


def open_shards(pattern: str, channels: int, val_split: float, whole: bool) -> Found:
    """The images of the shards that a folder or a pattern names."""
    if not on_web(pattern):
        pattern = os.path.expanduser(pattern)
    folder = pattern.rstrip("/") if _is_folder(pattern) else _path(pattern).rpartition("/")[0] or "."
    told = written(folder)
    indices = _of_folder(folder, told) if _is_folder(pattern) else {"train": _of_pattern(pattern, folder, told)}
    highest = max(int(index.table[:, LABEL].max()) for index in indices.values())
    classes = tuple(told["classes"]) if told else class_names(folder) or tuple(map(str, range(highest + 1)))
    if highest >= len(classes):
        raise ValueError(f"{pattern} has a label {highest}, but only {len(classes)} classes are named, from 0 on")
    if list(indices) == ["train"] and not val_split and not whole:
        raise ValueError(
            f"{pattern} has no val part; add --val-split 0.2 to hold out a fifth of the images for validation, "
            "or put val-*.tar beside train-*.tar and give the folder"
        )
    parts: dict[str, Any] = {name: ShardPart(index, channels) for name, index in indices.items()}
    if list(parts) == ["train"] and whole:
        parts["val"] = parts["train"]
    shards = sum(len(index.shards) for index in indices.values())
    return Found(
        name=folder.rpartition("/")[2] or "shards",
        classes=classes,
        channels=channels,
        size=None,
        mirror=True,
        split=f"as {shards} shards have them: {', '.join(indices)}",
        **parts,
    )


def _is_folder(pattern: str) -> bool:
    return not _path(pattern).endswith(".tar") and (on_web(pattern) or os.path.isdir(pattern))


def _path(pattern: str) -> str:
    """Without what an address has after its path, such as a signature."""
    return urlsplit(pattern)._replace(query="", fragment="").geturl() if on_web(pattern) else pattern


def _of_folder(folder: str, told: dict[str, Any] | None) -> dict[str, Index]:
    """Part -> its images."""
    if told:
        return {name: of_written(folder, part) for name, part in told["parts"].items()}
    if on_web(folder):
        raise ValueError(f"{folder} has no index.json, and a web server lists no files; name the shards: {FORM}")
    names = {part: sorted(glob.glob(f"{glob.escape(folder)}/{part}-*.tar")) for part in ("train", "val", "test")}
    if not names["train"]:
        raise FileNotFoundError(f"no train-*.tar in {folder}; expected {FORM}")
    return {part: by_walking(shards) for part, shards in names.items() if shards}


def _of_pattern(pattern: str, folder: str, told: dict[str, Any] | None) -> Index:
    names = [name for one in expand(pattern) for name in ([one] if on_web(one) else sorted(glob.glob(one)) or [one])]
    if not names:
        raise ValueError(f"{pattern} names no shard; numbers in braces go up, as in {{000..099}}")
    if missing := [name for name in names if not on_web(name) and not os.path.isfile(name)]:
        raise FileNotFoundError(f"no shard {missing[0]} ({len(missing):,} of {len(names):,} missing); expected {FORM}")
    wanted = {name.rpartition("/")[2] for name in names}
    for part in told["parts"].values() if told else ():
        if wanted <= {name for name, _ in part["shards"]}:
            return of_written(folder, part, wanted)
    return by_walking(names)


def expand(pattern: str) -> list[str]:
    """With braces written out: {a,b} is both, {000..012} all numbers between, with as many digits."""
    if not (found := re.search(r"\{([^{}]*)\}", pattern)):
        return [pattern]
    inside = found[1]
    if counted := re.fullmatch(r"(\d+)\.\.(\d+)", inside):
        first, last = counted[1], counted[2]
        words = [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    else:
        words = inside.split(",")
    return [full for word in words for full in expand(pattern[: found.start()] + word + pattern[found.end() :])]
