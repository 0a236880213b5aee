"""The child process of `sandbox`, as its parent sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

START = 120.0  # seconds that the child may take to import torch
GRACE = 10.0  # seconds that the child may take to answer beyond a worker's time
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # a process with one thread can be forked
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HDF5_PLUGIN_PRELOAD": "::",  # a file cannot ask for a plugin
}


class Sandbox:
    """A child process that reads files; a context manager. One can serve many `opened`, one after another."""

    def __init__(self) -> None:
        self._child: tuple[subprocess.Popen[bytes], socket.socket] | None = None
        self._open, self._lock = False, Lock()
        self.peak = 0
        """most memory that a worker took, in bytes"""

    def __enter__(self) -> "Sandbox":
        self._open = True
        self._child = _start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._open = False
        self._stop()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The child's answer. ValueError with its reason where it refuses, takes too long or dies."""
        if not self._open:
            raise ValueError(f"{request['path']} is closed; load it inside the `with` block")
        with self._lock:
            try:
                told = self._exchange(request)
            except BaseException:
                self._stop()  # also at Ctrl-C: an answer that nobody waits for would be taken for the next one
                raise
        self.peak = max(self.peak, told["peak"])
        if "error" in told:
            raise ValueError(f"{request['path']} {told['error']}")
        return told

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._child = self._child or _start()
        line, seconds = self._child[1], request["seconds"] + START + GRACE
        try:
            line.settimeout(seconds)
            line.sendall(json.dumps(request).encode() + b"\n")
            told: dict[str, Any] = json.loads(_line(line, seconds))
        except (OSError, EOFError):
            how = "it was killed, or could not import torch; try again"
            raise ValueError(f"{request['path']}: no answer from the process that reads files: {how}") from None
        return told

    def _stop(self) -> None:
        if self._child is None:
            return
        (process, line), self._child = self._child, None
        line.close()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # its worker too
        process.wait()


def _start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Our own modules and no others: the child searches the folders that we search, and not the current one."""
    ours, theirs = socket.socketpair()
    kept = {k: v for k, v in os.environ.items() if k == "PYTHONHOME" or not k.startswith(("PYTHON", "TORCH"))}
    folders = [os.path.abspath(folder) for folder in sys.path if folder] + [str(Path(__file__).parents[2])]
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "backbones.weights.sandbox"],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**kept, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(folders)},
            start_new_session=True,  # Ctrl-C reaches us, and we end it
        )
    return process, ours


def _line(line: socket.socket, seconds: float) -> bytes:
    end, said = time.monotonic() + seconds, bytearray()
    while not said.endswith(b"\n"):
        line.settimeout(max(end - time.monotonic(), 0.001))
        if not (more := line.recv(2**16)):
            raise EOFError
        said += more
    return bytes(said)
