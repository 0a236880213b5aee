"""Our file: one safetensors file whose metadata tells everything it takes to use the network. No pickle.

The metadata holds the checkpoint record as JSON and digests of it and of every tensor, so that a file that was cut
short, altered or made by something else is told from one of ours. There are two: `digest` is of every byte, and is
compared when a file is written and when a run resumes; `pages` is of the sums of pages, as fast as memory can be read,
and is compared whenever a network is loaded.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, uint8

from backbones.records import Checkpoint
from backbones.weights import record
from backbones.weights.header import Entry, not_finite, read_header, read_tensors, short
from backbones.weights.layout import held
from backbones.weights.layout import write as write_tensors

log = logging.getLogger("backbones")

FORMAT = "backbones 1"
PAGE = 2**12
"""bytes that one sum is of: what disks and caches lose or exchange is one of these, or more"""


@dataclass(frozen=True)
class Ours:
    """An opened file of ours: what it tells, and shape and type of its tensors; none is read yet."""

    path: Path
    told: Checkpoint
    header: Mapping[str, Entry]
    metadata: Mapping[str, str]

    def tensors(self) -> dict[str, Tensor]:
        """Mapped from the file, which may be removed or replaced meanwhile, but not written into.

        Raises:
            ValueError: the file was altered after it was written
        """
        state = _unaltered(self.path, self.header, self.metadata, "pages" if "pages" in self.metadata else "digest")
        told = self.metadata.get("not_finite")
        if bad := not_finite(state) if told is None else [name for name in told.split("\n") if name in state]:
            log.warning("%s: NaN or infinite values in %s", self.path.name, ", ".join(bad[:8]))
        return state


def write(path: str | PathLike[str], state: Mapping[str, Tensor], told: Checkpoint) -> None:
    """Write the tensors and what is told of them: whole or not at all; see `commit`."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    told_json = _json(told)
    checked = {"pages": _pages(state, told_json), "not_finite": "\n".join(not_finite(state))}
    commit(path, state, FORMAT, told_json, checked)


def commit(
    path: str | PathLike[str], state: Mapping[str, Tensor], form: str, told: str, more: Mapping[str, str] | None = None
) -> None:
    """Write to a file beside `path`, read it back, flush it to the disk, then put it in place: whole or not at all.

    The tensors are contiguous and on the CPU; `form` is the name of the format, `told` goes into the metadata, and
    `more` too.
    """
    metadata = {**(more or {}), "format": form, "checkpoint": told, "digest": _digest(state, told)}
    with in_place(path) as temporary:
        with open(temporary, "wb") as out:
            write_tensors(out, {name: held(tensor) for name, tensor in state.items()}, metadata)
        if _digest(read_tensors(temporary, read_header(temporary)[0]), told) != metadata["digest"]:
            raise OSError(f"what was written to {path} reads back differently; the disk or the memory is failing")


def read_committed(path: str | PathLike[str], form: str) -> tuple[str, dict[str, Tensor]]:
    """What `commit` was told, and the tensors. ValueError for what is not a whole, unaltered file of this format."""
    header, metadata = read_header(path)
    if metadata.get("format") != form:
        raise ValueError(f"{path} has format {short(metadata.get('format'))}, not {form!r}")
    return metadata.get("checkpoint", ""), _unaltered(path, header, metadata, "digest")


def _unaltered(
    path: str | PathLike[str], header: Mapping[str, Entry], metadata: Mapping[str, str], kind: str
) -> dict[str, Tensor]:
    state, digest = read_tensors(path, header), {"digest": _digest, "pages": _pages}[kind]
    if metadata.get(kind) != digest(state, metadata.get("checkpoint", "")):
        raise ValueError(f"{path} was altered after it was written: its digest does not match; use an intact copy")
    return state


def ours(path: str | PathLike[str]) -> Ours:
    """A file of ours, opened. ValueError for what is not a whole file of ours."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {str(path)!r}; give a .safetensors file that backbones wrote")
    return understood(path, *read_header(path))


def read(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """What the file tells, and its tensors. ValueError for what is not a whole, unaltered file of ours."""
    file = ours(path)
    return file.told, file.tensors()


def understood(path: str | PathLike[str], header: Mapping[str, Entry], metadata: Mapping[str, str]) -> Ours:
    """A file of ours whose header was read before."""
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
    return Ours(Path(path), told, header, metadata)


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
    except OSError as error:
        if error.errno and error.filename is None:  # as of a full disk, which does not say what it was for
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
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
    return _hashed(state, told_json, lambda data: [data])


def _pages(state: Mapping[str, Tensor], told_json: str) -> str:
    return _hashed(state, told_json, _in_pages)


def _in_pages(data: NDArray[np.uint8]) -> list[NDArray[Any]]:
    """The sum of each whole page, in 64-bit words, and the bytes after them."""
    if len(data) < PAGE:  # as most tensors are
        return [data]
    whole = len(data) // PAGE * PAGE
    return [data[:whole].view(np.uint64).reshape(-1, PAGE // 8).sum(1), data[whole:]]


Parts = Callable[[NDArray[np.uint8]], list[NDArray[Any]]]


def _hashed(state: Mapping[str, Tensor], told_json: str, parts: Parts) -> str:
    digest = hashlib.blake2b(told_json.encode(), digest_size=16)
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in parts(tensor.reshape(-1).view(uint8).numpy()):
            digest.update(part.data)
    return digest.hexdigest()
