"""Our file: one safetensors file whose metadata tells everything it takes to use the network. No pickle.

The metadata holds the checkpoint record as JSON and a digest of it and of every tensor, so that a file that was cut
short, altered or made by something else is told from one of ours.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, uint8

from backbones.records import Checkpoint
from backbones.weights import record
from backbones.weights.header import Entry, read_header, read_tensors, short

FORMAT = "backbones 1"


def write(path: str | PathLike[str], state: Mapping[str, Tensor], told: Checkpoint) -> None:
    """Write to a file beside `path`, flush it to the disk, then put it in place: whole or not at all."""
    told_json = json.dumps(asdict(told), sort_keys=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    metadata = {"format": FORMAT, "checkpoint": told_json, "digest": _digest(state, told_json)}
    with in_place(path) as temporary:
        save_file(state, temporary, metadata)


def describe(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Entry]]:
    """What the file tells, and shape and type of its tensors; none is read yet. ValueError as `read`."""
    told, header, _ = _open(path)
    return told, header


def read(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """What the file tells, and its tensors. ValueError for what is not a whole, unaltered file of ours."""
    told, header, metadata = _open(path)
    state = read_tensors(path, header)
    if metadata.get("digest") != _digest(state, metadata["checkpoint"]):
        raise ValueError(f"{path} was altered after it was written: its digest does not match; use an intact copy")
    return told, state


def _open(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Entry], dict[str, str]]:
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; give a .safetensors file that backbones wrote")
    header, metadata = read_header(path)
    if not metadata.get("format", "").startswith("backbones "):
        raise ValueError(f"{path} is a safetensors file of somebody else: it does not say which network it holds")
    if metadata["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {short(metadata['format'])}, this version reads {FORMAT!r}; update backbones"
        )
    try:
        told = record.parse(
            metadata.get("checkpoint", ""), max((max(e.shape, default=0) for e in header.values()), default=0)
        )
    except ValueError as error:
        raise ValueError(f"{path} does not tell which network it holds ({error}); use an intact copy") from None
    return told, header, metadata


@contextmanager
def in_place(path: str | PathLike[str]) -> Iterator[str]:
    """A temporary file beside `path` that takes its place when the block ends well, and is removed when not."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _digest(state: Mapping[str, Tensor], told_json: str) -> str:
    digest = hashlib.blake2b(told_json.encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()
