"""A worker as its parent sees it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

COMMAND = [sys.executable, "-P", "-m", "backbones.choose.worker"]
KILLED = -9
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}
"""glibc gives freed memory back, or not, by the chance of what lies above it: MobileNet v2 then takes 18 ms or 13."""


class Failed(ChildProcessError):
    """What a worker could not do, and why."""


class Worker:
    """A fresh process that computes on so many threads."""

    def __init__(self, threads: int) -> None:
        folders = [os.path.abspath(folder) for folder in sys.path if folder] + [str(Path(__file__).parents[2])]
        threading = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **KEEP_MEMORY, **threading, "PYTHONPATH": os.pathsep.join(folders)},
            start_new_session=True,  # Ctrl-C reaches us, and we end it
        )
        self._requests, self._answers = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a request. Failed with the reason where the worker could not, or died."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Ask without waiting for the answer."""
        with suppress(OSError):  # that it has died is told where the answer is missing
            self._requests.write(json.dumps({"do": do, **arguments}) + "\n")
            self._requests.flush()

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent."""
        line = self._answers.readline()
        if not line:
            code = self._process.wait()
            why = "was killed, as systems do when memory runs out" if code == KILLED else f"ended with code {code}"
            raise Failed(f"its process {why}")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise Failed(told["error"])
        return told

    def close(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers):
            with suppress(OSError):  # what was not sent any more
                pipe.close()
