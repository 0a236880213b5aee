"""How a safetensors file lies on the disk, so that what is mapped from it is where torch would have put it."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""torch's name -> safetensors' name of every type that is read"""

ALIGNED = 64
"""bytes; torch begins a tensor at a multiple of it. Elsewhere, the last bits of a product may be others."""


class Held(NamedTuple):
    """One tensor of a file, and how to get its bytes."""

    shape: tuple[int, ...]
    dtype: str
    content: Callable[[], memoryview]

    @property
    def itemsize(self) -> int:
        size: int = getattr(torch, self.dtype).itemsize
        return size

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize


def held(tensor: Tensor) -> Held:
    """A tensor in memory; its bytes are taken when they are written."""

    def content() -> memoryview:
        return tensor.detach().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy().data

    return Held(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), content)


def write(out: BinaryIO, tensors: Mapping[str, Held], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file of these tensors, one at a time in memory. First those that leave the next one aligned."""

    def place(name: str) -> tuple[bool, int]:
        return tensors[name].nbytes % ALIGNED != 0, -tensors[name].itemsize

    order = sorted(tensors, key=place)
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name in order:
        end = start + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": tensors[name].shape,
            "data_offsets": (start, end),
        }
        start = end
    told = json.dumps(header).encode()
    told += b" " * (-(8 + len(told)) % ALIGNED)
    out.write(struct.pack("<Q", len(told)) + told)
    for name in order:
        out.write(tensors[name].content())
