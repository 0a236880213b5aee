"""Other people's weight files, opened so that a hostile one can neither run, nor write, nor take the machine's memory.

    with opened("resnet50.pth") as file:
        file.header  # name -> shape and type; nothing is allocated yet
        state = file.load()

Pickles and HDF5 files are read by a child process under tight limits (`sandbox`), never by this one. What it gives
back is checked here again.
"""

import math
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from torch import Tensor

from backbones.weights.formats import MOST
from backbones.weights.header import Entry, entry, not_finite, read_header, read_tensors
from backbones.weights.process import Sandbox

__all__ = ["Entry", "Foreign", "Sandbox", "not_finite", "opened"]

T = TypeVar("T")

SECONDS = 10.0  # to read a file, and in addition the time that its bytes take
BYTES_PER_SECOND = 20 * 2**20
LARGER = 4  # how many times the file's size its tensors may be: many small views of one storage
SQUEEZED = 64  # the same of a compressed HDF5 file,
MOST_SQUEEZED = 8 * 2**30  # up to this many bytes
SLACK = 2**20
PREFIXES = ("module.", "_orig_mod.", "model.")
"""what wrappers (data parallel, compiled, Lightning) put before every name"""


@dataclass(frozen=True)
class Foreign:
    """An opened file: what is in it is known, nothing of it is allocated yet."""

    path: Path
    kind: str
    """safetensors, torch or hdf5"""
    header: Mapping[str, Entry]
    """name -> shape and type; in an HDF5 file the name is the path of the dataset"""
    metadata: Mapping[str, str]
    """of a safetensors file; of an HDF5 file `attributes`, JSON of group -> attribute -> string or strings"""
    notes: tuple[str, ...]
    """what was unwrapped or left out to get there"""
    _load: Callable[[], dict[str, Tensor]] = field(repr=False)

    def load(self) -> dict[str, Tensor]:
        """All tensors, on the CPU, in the order and with the types of the header. Inside the `with` block only."""
        return self._load()


@contextmanager
def opened(path: str | PathLike[str], sandbox: Sandbox | None = None) -> Iterator[Foreign]:
    """Open a safetensors file, a pickle of torch's or an HDF5 file of Keras', told apart by their first bytes.

    Args:
        path: the file
        sandbox: a running one to share; by default a file that needs one gets its own

    Raises:
        FileNotFoundError: no such file
        ValueError: damaged, hostile, or more than tensors
        ImportError: an HDF5 file, and h5py is not installed
        NotImplementedError: a pickle or HDF5 file where processes cannot be forked (Windows)
    """
    path = Path(path)
    kind = _recognise(path)
    if kind == "safetensors":
        header, metadata = read_header(path)
        names, notes = _without_prefix(header)
        yield Foreign(
            path, kind, _named(header, names), metadata, notes, lambda: _named(read_tensors(path, header), names)
        )
        return
    if not hasattr(os, "fork"):
        raise NotImplementedError(
            f"{path}: {kind} files are not read on {sys.platform}; convert it to safetensors on Linux or macOS"
        )
    if kind == "hdf5" and find_spec("h5py") is None:
        raise ImportError(f"{path} is an HDF5 file, which h5py reads; pip install 'backbones[keras]'")
    with ExitStack() as stack:
        box = sandbox or stack.enter_context(Sandbox())
        request = _request(path, kind)
        told = box.ask(request)
        raw = _checked(path, told, request["largest"])
        names, notes = _without_prefix(raw) if kind == "torch" else ({name: name for name in raw}, ())
        notes = (*map(str, told.get("notes", ())), *notes)
        metadata = {str(key): str(value) for key, value in told.get("metadata", {}).items()}
        yield Foreign(
            path, kind, _named(raw, names), metadata, notes, lambda: _named(_load(path, kind, raw, box), names)
        )


def _recognise(path: Path) -> str:
    """The kind of a file. A safetensors file starts with the length of its header, which may look like a pickle's."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is no file; give a safetensors, .pth or .h5 file")
        with open(path, "rb") as file:
            start = file.read(512)
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {str(path)!r}; give a safetensors, .pth or .h5 file") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise ValueError(f"{path} is empty; get it again")
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if start[257:262] == b"ustar":
        raise ValueError(
            f"{path} is a tar file, as torch wrote before version 0.2; re-save its state_dict with safetensors"
        )
    if start.startswith(b"PK\3\4") or (start[:1] == b"\x80" and start[3:9] != b"\0\0\0\0\0{"):
        return "torch"
    if start[8:9] != b"{":
        raise ValueError(f"{path} is not a whole safetensors file, nor one of torch or HDF5; get it again")
    return "safetensors"


def _request(path: Path, kind: str, out: str = "", declared: int = 0) -> dict[str, Any]:
    size = path.stat().st_size
    largest = LARGER * size
    if kind == "hdf5":
        largest = max(largest, min(SQUEEZED * size, MOST_SQUEEZED))
    return {
        "path": str(path.absolute()),
        "kind": kind,
        "out": out,
        "seconds": SECONDS + max(size, declared) / BYTES_PER_SECOND,
        "declared": declared,
        "largest": largest + SLACK,
    }


def _checked(path: Path, told: Mapping[str, Any], largest: int) -> dict[str, Entry]:
    """The header that a worker tells. It has read the file, so its word is checked."""
    try:
        rows = [(str(name), tuple(map(int, shape)), str(dtype)) for name, shape, dtype in told["header"]]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} was not understood by the process that read it; get it again") from None
    header = {name: entry(path, name, shape, dtype) for name, shape, dtype in rows}
    if len(header) > MOST or _nbytes(header) > largest:
        raise ValueError(f"{path} declares {len(header):,} tensors of {_nbytes(header):,} bytes, too many: refused")
    return header


def _nbytes(header: Mapping[str, Entry]) -> int:
    return sum(math.prod(shape) * getattr(torch, dtype).itemsize for shape, dtype in header.values())


def _load(path: Path, kind: str, header: dict[str, Entry], box: Sandbox) -> dict[str, Tensor]:
    with TemporaryDirectory(prefix="backbones-") as folder:
        out = f"{folder}/tensors"
        box.ask(_request(path, kind, out, _nbytes(header)))
        if read_header(out)[0] != header:
            raise ValueError(f"{path} changed while it was read; read it again")
        return read_tensors(out, header)  # mapped: they outlive the folder


def _without_prefix(header: Mapping[str, Entry]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Name in the file -> name without the prefixes that all names share, and what was left out."""
    names, notes = {name: name for name in header}, []
    while left := [p for p in PREFIXES if names and all(n.startswith(p) and n != p for n in names.values())]:
        names = {name: short.removeprefix(left[0]) for name, short in names.items()}
        notes.append(f"prefix {left[0]!r} left out")
    return names, tuple(notes)


def _named(parts: Mapping[str, T], names: Mapping[str, str]) -> dict[str, T]:
    return {short: parts[name] for name, short in names.items()}
