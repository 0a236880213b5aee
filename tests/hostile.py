"""Pickles that no honest program writes, by hand, in torch's two formats."""

import io
import os
import pickle
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

SLOW = (
    b"\x80\x02})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(80)) + b"Ns."
)  # a key of 2**80 parts that share each other: its hash takes for ever


def zipped(program: bytes, **more: bytes) -> bytes:
    """torch's zip format around this pickle."""
    whole = io.BytesIO()
    with ZipFile(whole, "w") as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", "version": b"3\n", **more}.items():
            file.writestr(f"x/{name}", content)
    return whole.getvalue()


def legacy(program: bytes) -> bytes:
    """torch's format before version 1.6: a row of pickles."""
    info = {"protocol_version": PROTOCOL_VERSION, "little_endian": True, "type_sizes": {}}
    start = b"".join(pickle.dumps(one, protocol=2) for one in (MAGIC_NUMBER, PROTOCOL_VERSION, info))
    return start + program + pickle.dumps([], protocol=2)


class Shell:
    """Makes the marker through the shell, when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


class Opens(Shell):
    """Makes the marker through open()."""

    def __reduce__(self) -> Any:
        return open, (str(self.marker), "w")


class Evaluates(Shell):
    """Makes the marker through eval()."""

    def __reduce__(self) -> Any:
        return eval, (f"open({str(self.marker)!r}, 'w')",)


def saved(held: Any, zip_format: bool = True) -> bytes:
    whole = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):
        torch.save(held, whole, _use_new_zipfile_serialization=zip_format)
    return whole.getvalue()


def quantised() -> torch.Tensor:
    with warnings.catch_warnings(action="ignore"):
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
