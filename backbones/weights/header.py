"""The header of a safetensors file, checked before anything that it declares is allocated."""

import os
import struct
from collections.abc import Mapping
from os import PathLike
from reprlib import Repr
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.weights.formats import DTYPES

LONGEST = 16 * 2**20  # bytes of a header
MOST = 100_000  # tensors of a file
DEEPEST = 16  # dimensions of a tensor
NAMES = {code: name for name, code in DTYPES.items()}

_repr = Repr()
_repr.maxstring = 100
short = _repr.repr
"""repr for what a file says of itself: never long"""


class Entry(NamedTuple):
    """One tensor of a file: its shape, and its type as torch prints it, without `torch.`."""

    shape: tuple[int, ...]
    dtype: str


def read_header(path: str | PathLike[str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """Shape and type of every tensor, and the metadata. ValueError for what is not a whole safetensors file."""
    _check_length(path)
    header = {}
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()
            if len(names) > MOST:
                raise ValueError(f"{path} declares {len(names):,} tensors; at most {MOST:,} are read")
            for name in names:
                part = file.get_slice(name)
                header[name] = _entry(path, name, part.get_shape(), part.get_dtype())
            return header, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, str(error)) from None


def read_tensors(path: str | PathLike[str], header: Mapping[str, Entry]) -> dict[str, Tensor]:
    """The tensors of these names, mapped from the file; ValueError where they are not as the header said."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in header}
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, str(error)) from None
    if {name: describe(tensor) for name, tensor in tensors.items()} != header:
        raise ValueError(f"{path} changed while it was read; read it again")
    return tensors


def describe(tensor: Tensor) -> Entry:
    """What a header says of this tensor."""
    return Entry(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))


def _check_length(path: str | PathLike[str]) -> None:
    """The first eight bytes are the length of the header; the library would allow 100 MB."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(8)
    if len(start) < 8:
        raise _not_whole(path, f"it has {size} bytes")
    (length,) = struct.unpack("<Q", start)
    if length > LONGEST or length > size - 8:
        raise _not_whole(path, f"a header of {length:,} bytes in a file of {size:,}, at most {LONGEST:,} are read")


def _entry(path: str | PathLike[str], name: str, shape: list[int], code: str) -> Entry:
    if code not in NAMES:
        raise ValueError(f"{path}: {short(name)} is of type {code}; the types that are read are {', '.join(NAMES)}")
    if len(shape) > DEEPEST or any(side > max(os.path.getsize(path), 1) for side in shape):
        raise ValueError(f"{path}: {short(name)} has the shape {short(shape)}, which no weight has")
    return Entry(tuple(shape), NAMES[code])


def _not_whole(path: str | PathLike[str], reason: str) -> ValueError:
    return ValueError(f"{path} is not a whole safetensors file ({reason[:200]}); get it again")
