"""A folder of images into WebDataset shards, with an index of where each image lies in them."""

import json
import logging
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from backbones.data.folder import open_folder
from backbones.data.parts import Part
from backbones.data.survey import check_all, told

log = logging.getLogger("backbones")

INDEX = "index.json"
FORMAT = "backbones shards 1"


def pack(folder: Path, out: Path, shard_size: int, processes: int = 0) -> dict[str, tuple[int, int]]:
    """Write OUT/train-000000.tar and so on, and the index. Part -> (number of shards, number of images).

    The images are copied byte for byte, in the order of the folder, so that training on either is the same. `out`
    appears whole or not at all.

    Args:
        folder: as `open_data("folder:...")` takes it; without parts, all of it becomes `train`
        out: a folder that does not exist
        shard_size: bytes after which the next shard begins
        processes: that decode every image first; ValueError with a list of those that cannot be used
    """
    if shard_size <= 0:
        raise ValueError(f"a shard of {shard_size:,} bytes holds no image; give --shard-size in megabytes, such as 256")
    if os.path.lexists(out):
        raise FileExistsError(f"{out} is there already, and nothing is overwritten; give another name or remove it")
    if out.resolve().is_relative_to(folder.expanduser().resolve()):
        raise ValueError(f"{out} lies in {folder}, which it would change; give a place outside of it")
    found = open_folder(str(folder), 3, 0.0, whole=True)
    parts = {name: part for name, part in found.parts.items() if name == "train" or part is not found.train}
    if bad := [one for part in parts.values() for one in check_all(part, processes)]:
        images = sum(map(len, parts.values()))
        raise ValueError(f"{told(bad, images)}\nall are listed by: backbones data check {folder}")
    _tell_links(folder.expanduser(), [part.where(i) for part in parts.values() for i in range(len(part))])
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        packed = {name: _pack_part(part, name, found.classes, unfinished, shard_size) for name, part in parts.items()}
        index = {"format": FORMAT, "classes": found.classes, "parts": packed}
        with open(unfinished / INDEX, "w") as file:
            json.dump(index, file)
            _flush(file)
        unfinished.chmod(0o755)
        os.rename(unfinished, out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return {name: (len(one["shards"]), len(one["samples"])) for name, one in packed.items()}


def _tell_links(folder: Path, paths: list[str]) -> None:
    """Say which images lie elsewhere: whoever gets the shards gets them too."""
    root = os.path.realpath(folder) + os.sep
    if outside := [path for path in paths if not os.path.realpath(path).startswith(root)]:
        some = ", ".join(outside[:10]) + (", ..." if len(outside) > 10 else "")
        log.warning("%s images are copied from outside of %s, where links lead: %s", len(outside), folder, some)


def _pack_part(part: Part, name: str, classes: tuple[str, ...], out: Path, shard_size: int) -> dict[str, list[Any]]:
    """What the index tells of a part: shards as (name, bytes), samples as (shard, offset, bytes, label, name)."""
    shards: list[tuple[str, int]] = []
    samples: list[tuple[int, int, int, int, str]] = []
    keys: set[str] = set()
    number = 0
    while number < len(part):
        shard = f"{name}-{len(shards):06}.tar"
        with open(out / shard, "wb") as file:
            while number < len(part) and file.tell() < shard_size:
                path, label = Path(part.where(number)), part.labels[number]
                key = _key(f"{classes[label]}/{path.stem}", keys)
                member, content = key + path.suffix.lower(), path.read_bytes()
                offset = _add(file, member, content)
                _add(file, f"{key}.cls", str(label).encode())
                samples.append((len(shards), offset, len(content), label, member))
                number += 1
            file.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar file
            shards.append((shard, file.tell()))
            _flush(file)
    return {"shards": shards, "samples": samples}


def _key(path: str, taken: set[str]) -> str:
    """A name that no other sample has; what follows the first dot of a file name is its kind to WebDataset."""
    folder, _, stem = path.rpartition("/")
    first = key = f"{folder}/{stem.replace('.', '_')}"
    for again in range(2, len(taken) + 3):
        if key not in taken:
            break
        key = f"{first}-{again}"
    taken.add(key)
    return key


def _add(file: Any, name: str, content: bytes) -> int:
    """Append a member, the same for the same content whenever it is written; the offset of its content."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    file.write(member.tobuf(tarfile.PAX_FORMAT))
    offset = int(file.tell())
    file.write(content + bytes(-len(content) % tarfile.BLOCKSIZE))
    return offset


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
