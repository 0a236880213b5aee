"""Where every image of a tar file lies: as `backbones data pack` wrote it, or found by reading the headers once."""

import hashlib
import json
import logging
import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np

from backbones.data.checked import replace_whole
from backbones.data.decode import EXTENSIONS
from backbones.data.pack import FORMAT, INDEX
from backbones.data.web import TIMEOUT, read_text
from backbones.places import cache_folder

log = logging.getLogger("backbones")

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


def on_web(name: str) -> bool:
    """Whether this is an address."""
    return name.startswith(("http://", "https://"))


def written(folder: str) -> dict[str, Any] | None:
    """What `backbones data pack` wrote of this folder, if it did."""
    text = _beside(folder, INDEX)
    if text is None:
        return None
    try:
        told: dict[str, Any] = json.loads(text)
        known = told["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise ValueError(f"{folder}/{INDEX} is not what `backbones data pack` writes; remove it or pack anew")
    return told


def of_written(folder: str, part: dict[str, Any], wanted: set[str] | None = None) -> Index:
    """The index of a part, of all its shards or of those that are wanted."""
    shards = [Shard(f"{folder}/{name}", size) for name, size in part["shards"]]
    for shard in shards:
        if not shard.web and not (os.path.isfile(shard.name) and os.path.getsize(shard.name) == shard.size):
            what = "another size" if os.path.exists(shard.name) else "gone"
            raise OSError(f"{shard.name} is {what}, {folder}/{INDEX} says {shard.size:,} bytes; copy it anew")
    samples = [sample for sample in part["samples"] if wanted is None or part["shards"][sample[0]][0] in wanted]
    return Index(shards, samples)


def class_names(folder: str) -> tuple[str, ...] | None:
    """The lines of classes.txt beside the shards, if it is there."""
    text = _beside(folder, CLASSES)
    return None if text is None else tuple(line.strip() for line in text.splitlines() if line.strip())


def by_walking(names: Sequence[str]) -> Index:
    """The images of these tar files, in their order."""
    shards, samples = [], []
    for number, name in enumerate(names):
        size, found = _walk(name)
        shards.append(Shard(name, size))
        samples += [(number, *sample) for sample in found]
    return Index(shards, samples)


def _beside(folder: str, name: str) -> str | None:
    if on_web(folder):
        return read_text(f"{folder}/{name}")
    path = Path(folder) / name
    return path.read_text() if path.is_file() else None


def _walk(name: str) -> tuple[int, list[tuple[int, int, int, str]]]:
    """(bytes, samples as (offset, bytes, label, name)) of a tar file, remembered until it changes."""
    try:
        with _open(name) as file:
            if isinstance(file, HTTPResponse):
                head = file.headers
                size, version = int(head["Content-Length"]), head["ETag"] or head["Last-Modified"]
                key = json.dumps([name, size, version, FORMAT])
            else:
                size, changed = os.fstat(file.fileno()).st_size, os.fstat(file.fileno()).st_mtime_ns
                key = json.dumps([os.path.abspath(name), size, changed, FORMAT])
            memory = cache_folder() / "shards" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
            with suppress(OSError, ValueError):
                return size, [tuple(sample) for sample in json.loads(memory.read_text())]
            log.info("reading the headers of %s, once", name)
            samples = list(_samples(name, file, size))
    except HTTPError as error:
        error.close()
        raise OSError(f"the server answered {error.code} {error.reason} to {name}; check the address") from None
    except (tarfile.TarError, EOFError) as error:
        why = (
            "compressed tar files cannot be read in any order: unpack them to .tar" if ".gz" in name else "copy it anew"
        )
        raise ValueError(f"{name} is not a whole plain tar file ({error}); {why}") from None
    except HTTPException as error:
        raise ConnectionError(f"{name} came cut ({error!r}); try again") from None
    if not samples:
        raise ValueError(f"{name} has no images; remove it")
    with suppress(OSError):
        replace_whole(memory, json.dumps(samples))
    return size, samples


def _open(name: str) -> BinaryIO:
    if on_web(name):
        answer: BinaryIO = urlopen(name, timeout=TIMEOUT)
        return answer
    return open(name, "rb")


def _samples(name: str, file: BinaryIO, size: int) -> Iterator[tuple[int, int, int, str]]:
    """What follows one another in the tar file with the same name up to the first dot is a sample."""
    if not on_web(name):
        file.seek(max(0, size - 2 * tarfile.BLOCKSIZE))
        if any(file.read()):
            raise tarfile.ReadError("its end is missing")
        file.seek(0)
    key, image, label = "", None, None
    with tarfile.open(fileobj=file, mode="r|" if on_web(name) else "r:") as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            if not member.isfile() or not stem or not dot:
                continue
            if f"{folder}/{stem}" != key:
                if key:
                    yield _sample(name, key, image, label)
                key, image, label = f"{folder}/{stem}", None, None
            if f".{ending.lower()}" in EXTENSIONS:
                if image:
                    raise ValueError(
                        f"{name}: {key} has two images, {image[2]} and {member.name}; give each its own name"
                    )
                image = (member.offset_data, member.size, member.name)
            elif ending in ("cls", "json") and label is None:
                content = tar.extractfile(member)
                label = _label(name, member.name, content.read() if content else b"")
    if key:
        yield _sample(name, key, image, label)


def _sample(shard: str, key: str, image: tuple[int, int, str] | None, label: int | None) -> tuple[int, int, int, str]:
    if image is None:
        raise ValueError(f"{shard}: {key} has no image ({', '.join(EXTENSIONS)}); remove it")
    if label is None:
        raise ValueError(
            f"{shard}: {key} has no label; it takes a .cls with the number of the class, or a .json with 'label'"
        )
    return image[0], image[1], label, image[2]


def _label(shard: str, name: str, content: bytes) -> int | None:
    """The number of the class."""
    try:
        if name.endswith(".cls"):
            return _counted(int(content))
        told = json.loads(content)
        label = told.get("label", told.get("cls")) if isinstance(told, dict) else None
        return None if label is None else _counted(int(label))
    except ValueError:
        raise ValueError(f"{shard}: {name} has no number of a class, but {content[:40]!r}; write 0 or more") from None


def _counted(label: int) -> int:
    if label < 0:
        raise ValueError
    return label
