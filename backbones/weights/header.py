"""The header of a safetensors file, checked before anything that it declares is allocated."""

import math
import os
import struct
from collections.abc import Mapping, Sequence
from os import PathLike
from reprlib import Repr
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from backbones.weights.formats import MOST
from backbones.weights.layout import ALIGNED, DTYPES

LONGEST = 16 * 2**20  # bytes of a header
DEEPEST = 16  # dimensions of a tensor
LARGEST = 2**40  # elements of a tensor, were it not empty
NAMES = {code: name for name, code in DTYPES.items()}

_repr = Repr()
_repr.maxstring = 100
short = _repr.repr
"""repr for what a file says of itself: never long"""


class Entry(NamedTuple):
    """One tensor of a file: its shape, and its type as torch prints it, without `torch.`."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


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
                header[name] = entry(path, name, part.get_shape(), NAMES.get(code := part.get_dtype(), code))
            return header, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, str(error)) from None


def entry(path: str | PathLike[str], name: str, shape: Sequence[int], dtype: str) -> Entry:
    """The entry of this name. ValueError for a name that cannot be printed, a type or a shape that no weight has."""
    if not name.isprintable():
        raise ValueError(f"{path} has a tensor called {short(name)}, which cannot be printed: refused")
    if dtype not in DTYPES:
        raise ValueError(f"{path}: {short(name)} is of type {dtype}; {', '.join(DTYPES)} are read")
    if min(shape, default=0) < 0 or len(shape) > DEEPEST or math.prod(max(side, 1) for side in shape) > LARGEST:
        raise ValueError(f"{path}: {short(name)} has the shape {short(shape)}, which no weight has")
    return Entry(tuple(shape), dtype)


def read_tensors(path: str | PathLike[str], header: Mapping[str, Entry]) -> dict[str, Tensor]:
    """The tensors of these names, mapped from the file; ValueError where they are not as the header said.

    One that does not lie as torch would lay it is copied, so that a network computes the same bits from a file.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in header}
    except (SafetensorError, OSError) as error:
        raise _not_whole(path, str(error)) from None
    if {name: describe(tensor) for name, tensor in tensors.items()} != header:
        raise ValueError(f"{path} changed while it was read; read it again")
    return {name: tensor.clone() if tensor.data_ptr() % ALIGNED else tensor for name, tensor in tensors.items()}


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""

    def finite(tensor: Tensor) -> bool:  # a sum is soon made, and overflows in rare cases only
        return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())

    return [name for name, tensor in tensors.items() if tensor.is_floating_point() and not finite(tensor)]


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


def _not_whole(path: str | PathLike[str], reason: str) -> ValueError:
    return ValueError(f"{path} is not a whole safetensors file ({reason[:200]}); get it again")
