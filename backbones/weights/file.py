"""Our file: one safetensors file whose metadata tells everything it takes to use the network. No pickle.

The metadata holds the checkpoint record as JSON and a digest of it and of every tensor, so that a file that was cut
short, altered or made by something else is told from one of ours.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from os import PathLike
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, uint8

from backbones.records import Checkpoint
from backbones.weights import record
from backbones.weights.header import Entry, read_header, read_tensors, short

FORMAT = "backbones 1"


def write(path: str | PathLike[str], state: Mapping[str, Tensor], told: Checkpoint) -> None:
    """Write the tensors and what is told of them: whole or not at all; see `commit`."""
    commit(path, {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}, FORMAT, _json(told))


def commit(path: str | PathLike[str], state: Mapping[str, Tensor], form: str, told: str) -> None:
    """Write to a file beside `path`, read it back, flush it to the disk, then put it in place: whole or not at all.

    The tensors are contiguous and on the CPU; `form` is the name of the format, `told` goes into the metadata.
    """
    metadata = {"format": form, "checkpoint": told, "digest": _digest(state, told)}
    with in_place(path) as temporary:
        try:
            save_file(dict(state), temporary, metadata)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from None
        if _digest(read_tensors(temporary, read_header(temporary)[0]), told) != metadata["digest"]:
            raise OSError(f"what was written to {path} reads back differently; the disk or the memory is failing")


def describe(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Entry]]:
    """What the file tells, and shape and type of its tensors; none is read yet. ValueError as `read`."""
    told, header, _ = _open(path)
    return told, header


def read(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """What the file tells, and its tensors. ValueError for what is not a whole, unaltered file of ours."""
    told, header, metadata = _open(path)
    return told, _unaltered(path, header, metadata)


def read_committed(path: str | PathLike[str], form: str) -> tuple[str, dict[str, Tensor]]:
    """What `commit` was told, and the tensors. ValueError for what is not a whole, unaltered file of this format."""
    header, metadata = read_header(path)
    if metadata.get("format") != form:
        raise ValueError(f"{path} has format {short(metadata.get('format'))}, not {form!r}")
    return metadata.get("checkpoint", ""), _unaltered(path, header, metadata)


def _unaltered(
    path: str | PathLike[str], header: Mapping[str, Entry], metadata: Mapping[str, str]
) -> dict[str, Tensor]:
    state = read_tensors(path, header)
    if metadata.get("digest") != _digest(state, metadata.get("checkpoint", "")):
        raise ValueError(f"{path} was altered after it was written: its digest does not match; use an intact copy")
    return state


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
    """A temporary file beside `path` that takes its place when the block ends well, and is removed when not.

    The file is on the disk before it takes the place, and the folder's new entry before the block is left.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.close(handle)
        yield temporary
        _flush(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with suppress(OSError):  # what went wrong before matters more
            os.unlink(temporary)


def _flush(path: str | PathLike[str]) -> None:
    """Wait until the disk has the file, or the folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _json(told: Checkpoint) -> str:
    return json.dumps(asdict(told), sort_keys=True)


def _digest(state: Mapping[str, Tensor], told_json: str) -> str:
    digest = hashlib.blake2b(told_json.encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()
