"""Strangers' formats: the tensors of torch's pickles and of HDF5 files. Called only by the workers of `sandbox`.

The weights-only loader of torch decides which pickles are read, and its refusal is final.
"""

import json
import math
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from torch import Tensor, nn

from backbones.weights.layout import DTYPES, Held
from backbones.weights.layout import held as held_in_memory

WRAPPERS = ("state_dict_ema", "state_dict", "model_state_dict", "model_ema", "model", "net", "params")
"""keys under which training scripts keep the weights, the best first"""

ATTRIBUTES = re.compile(r"(layer_names|weight_names)\d*|name|keras_version|backend")  # Keras cuts long lists in pieces
MOST_TEXT = 2**20  # characters of attributes
MOST = 100_000  # tensors of a file
SQUEEZED = 64  # how many times its stored size a compressed dataset may be


class Refused(Exception):
    """Why a file is not read; the parent puts its name before the sentence."""


def from_torch(path: str, values: bool) -> tuple[dict[str, Held], dict[str, Any]]:
    """The tensors of a pickle, with their `values` or as shapes, and a note on where they were."""
    with open(path, "rb") as file:
        records = _records(file) if file.read(4) == b"PK\3\4" else None
        tensors, notes = _unwrapped(_load(path, file, "meta", records is not None))
        for name, tensor in tensors.items():
            _check_plain(name, tensor)
            if records is not None:
                _check_stored(name, tensor, records)
        if values:
            tensors, _ = _unwrapped(_load(path, file, "cpu", records is not None))
    held = {name: held_in_memory(t) for name, t in tensors.items()}
    return held, {"notes": notes}


def from_hdf5(path: str, values: bool) -> tuple[dict[str, Held], dict[str, Any]]:
    """The numeric datasets of an HDF5 file by their paths, and the attributes that tell which layer they belong to."""
    import h5py

    file = h5py.File(path, "r")
    if link := file.visititems_links(lambda name, link: None if type(link) is h5py.HardLink else name):
        raise Refused(f"has a link to elsewhere at {_text(link)[:100]!r}: refused")
    held, left_out, texts = {}, [], {"/": _texts(file)}
    for name, part in _parts(file):
        if isinstance(part, h5py.Group):
            texts[name] = _texts(part)
        elif isinstance(part, h5py.Dataset) and part.dtype.newbyteorder("=").name in DTYPES and part.shape is not None:
            _check_dataset(name, part)
            held[name] = Held(part.shape, part.dtype.newbyteorder("=").name, _read(part))
        else:
            left_out.append(name)
    told = {"attributes": json.dumps({group: text for group, text in texts.items() if text})}
    notes = [f"parts without numbers left out: {len(left_out)}"] if left_out else []
    return held, {"notes": notes, "metadata": told}


def _load(path: str, file: BinaryIO, device: str, zipped: bool) -> Any:
    """What the pickle holds. Mapped where it can be; torch takes the suffix of a path, not the file, at its word."""
    file.seek(0)
    mapped = zipped and device == "cpu" and not path.endswith(".safetensors")
    with nullcontext() if zipped or device == "cpu" else torch.serialization.skip_data():
        try:
            return torch.load(path if mapped else file, map_location=device, weights_only=True, mmap=mapped)
        except NotImplementedError:  # a sparse one has indices, which torch would look at
            raise Refused("holds tensors of a special kind, such as sparse ones; only plain ones are read") from None


def _records(file: BinaryIO) -> dict[int, int]:
    """Where the data of each entry of the zip starts -> its length. torch neither compresses nor shares them."""
    file.seek(0, 2)
    size, names = file.tell(), set()
    records: dict[int, int] = {}
    try:
        entries = ZipFile(file).infolist()
    except BadZipFile as error:
        raise Refused(f"is a damaged zip file ({error}); get it again") from None
    for entry in entries:
        if entry.compress_type != ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise Refused("has compressed entries, which torch does not write: refused")
        if entry.filename in names:
            raise Refused(f"has two entries {entry.filename[:100]!r}: refused")
        names.add(entry.filename)
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)
        start = entry.header_offset + 30 + sum(struct.unpack("<HH", lengths)) if len(lengths) == 4 else size
        if start + entry.file_size > size:
            raise Refused("has entries beyond its end; get it again")
        records[start] = max(entry.file_size, records.get(start, 0))
    if sum(entry.file_size for entry in entries) > size:
        raise Refused("has entries that overlap: refused")
    if "model.weights.h5" in names:
        raise Refused("is a .keras file; unzip it and give the model.weights.h5 that is in it")
    return records


def _unwrapped(held: Any) -> tuple[dict[str, Tensor], list[str]]:
    """The dict of tensors, and where it was."""
    if _tensors_only(held):
        return dict(dict.items(held)), []
    parts: dict[Any, Any] = dict(dict.items(held)) if isinstance(held, dict) else {}
    for key in WRAPPERS:
        if _tensors_only(parts.get(key)):
            return dict(dict.items(parts[key])), [f"weights under {key!r}"]
    if not isinstance(held, dict):
        raise Refused(f"holds a {type(held).__name__}, not a dict of tensors; re-save the network's state_dict")
    for where, part in [(f"under {key!r} ", parts.get(key)) for key in WRAPPERS] + [("", held)]:
        if isinstance(part, dict) and any(isinstance(value, Tensor) for value in dict.values(part)):
            key, value = next((key, value) for key, value in dict.items(part) if not _is_entry(key, value))
            kind = type(value).__name__
            raise Refused(f"holds {where}{str(key)[:100]!r} of type {kind} among the tensors; leave it out")
    keys = ", ".join(repr(str(key)[:100]) for key in list(parts)[:20])
    raise Refused(
        f"holds no dict of tensors, but {keys or 'an empty dict'}; looked under {', '.join(WRAPPERS)} as well"
    )


def _tensors_only(part: Any) -> bool:
    return isinstance(part, dict) and len(part) > 0 and all(_is_entry(key, value) for key, value in dict.items(part))


def _is_entry(key: Any, value: Any) -> bool:
    return type(key) is str and type(value) in (Tensor, nn.Parameter)


def _check_plain(name: str, tensor: Tensor) -> None:
    kind = str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")
    if kind not in DTYPES:
        raise Refused(f"holds {name[:100]!r} of type {kind}; the types that are read are {', '.join(DTYPES)}")
    if name == "__metadata__":
        raise Refused(f"has a tensor called {name}, which safetensors keeps for itself; rename it")


def _check_stored(name: str, tensor: Tensor, records: Mapping[int, int]) -> None:
    storage = tensor.untyped_storage()
    if storage.nbytes() > records.get(getattr(storage, "_checkpoint_offset", -1), -1):
        raise Refused(f"holds {name[:100]!r} without all of its values; get it again")


def _parts(file: Any) -> Iterator[tuple[str, Any]]:
    names: list[str] = []

    def note(name: str) -> bool | None:
        names.append(name)
        return True if len(names) > MOST else None  # None goes on; an error in here would crash h5py

    if file.visit(note):
        raise Refused(f"has more than {MOST:,} parts: refused")
    return ((name, file[name]) for name in names)


def _check_dataset(name: str, part: Any) -> None:
    if part.is_virtual or part.external:
        raise Refused(f"keeps the values of {name[:100]!r} in another file: refused")
    most = part.id.get_storage_size() * (SQUEEZED if part.chunks else 1)
    if part.nbytes > most + 2**16:
        raise Refused(
            f"declares {part.nbytes:,} bytes for {name[:100]!r} and has {part.id.get_storage_size():,}: refused"
        )


def _read(part: Any) -> Callable[[], memoryview]:
    native = part.dtype.newbyteorder("=")
    return lambda: memoryview(part.astype(native)[()].reshape(-1).view("uint8"))


def _texts(group: Any) -> dict[str, Any]:
    """The attributes that name layers, weights and Keras itself: strings, or lists of strings, of bounded length."""
    found: dict[str, Any] = {}
    for name in group.attrs:
        kept = group.attrs.get_id(name) if ATTRIBUTES.fullmatch(name) else None
        if kept and kept.dtype.kind in "SO" and math.prod(kept.shape) * max(kept.dtype.itemsize, 1) <= MOST_TEXT:
            value = group.attrs[name]
            found[name] = [_text(one) for one in value.flat] if hasattr(value, "flat") else _text(value)
    if len(json.dumps(found)) > MOST_TEXT:
        raise Refused(f"has more than {MOST_TEXT:,} characters of attributes at {group.name[:100]!r}: refused")
    return found


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
