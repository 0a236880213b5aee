"""Several processes watch each other: when one dies, fails or hangs, the others say which, and end."""

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import distributed
from torch.distributed import distributed_c10d

BEAT = 2.0
"""seconds between two signs of life"""
SILENT = 20.0
"""seconds without one, after which a process counts as dead"""
FIRST_STEP = 600.0
"""seconds that the first step of a process may take, in which libraries compile and connect"""
TAIL = 30
"""lines of a log that are shown"""
PHASES = ("checkpoint", "validation", "loading images", "forward pass", "backward pass", "update")
"""of a step, in their order: of several processes that stand still, the one furthest behind holds up the others"""
RETRY = 75
"""exit code of a process that ends because another one did: the run can go on from its last checkpoint"""


class Sign(NamedTuple):
    """A sign of life."""

    beat: int
    step: int
    phase: int
    still: float
    """seconds in this phase"""
    pid: int
    host: str
    end: str
    """why the process has ended, where it has; `done` if all went well"""


class Watch:
    """Does nothing where there is one process.

    Args:
        hang_seconds: without progress, after which a process counts as hanging; 5 times as long as anything took so
            far, if that is more. What is done before the first step may take as long as it does
        tell: shows the user a message, also from a process whose own output goes to its log
        log: of each process
    """

    def __init__(self, hang_seconds: float, tell: Callable[[str], None], log: Callable[[int], Path]) -> None:
        self._least, self.tell, self._log = hang_seconds, tell, log
        self._step, self._phase, self._since, self._longest, self._end = -1, 0, time.monotonic(), 0.0, ""
        self._steps = 0  # of this process
        self._others: dict[int, Sign] = {}
        self._heard: dict[int, float] = {}  # when the sign of each process was last a new one
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._rank, self._of = distributed.get_rank(), distributed.get_world_size()
            self._store: Any = distributed_c10d._get_default_store().clone()
            self._beat = 0
            self._say()
            distributed.barrier()  # from here on every sign is there to be read
            self._thread = threading.Thread(target=self._keep_watch, name="watch", daemon=True)
            self._thread.start()

    def at(self, step: int, phase: str) -> None:
        """This process has come so far."""
        now = time.monotonic()
        if self._steps > 1:  # what a first step takes says nothing of the others
            self._longest = max(self._longest, now - self._since)
        self._steps += step != self._step
        self._step, self._phase, self._since = step, PHASES.index(phase), now

    def close(self, why: str = "done") -> None:
        """This process has no more part in the run."""
        self._end = why
        self._over.set()
        if self._thread:
            self._thread.join()
            self._say()

    def culprit(self) -> str | None:
        """Who broke a connection that this process had: the first of the others to fail, or to fall silent."""
        if not self._thread:
            return None
        self._over.set()
        self._thread.join()
        before = {rank: sign.beat for rank, sign in self._read().items()}
        for _ in range(4):
            time.sleep(BEAT)
            self._say()
            signs = self._read()
            for rank, sign in signs.items():
                if sign.end not in ("", "done"):
                    return self._told(rank, sign, f"failed: {sign.end}")
        for rank, sign in signs.items():
            if sign.beat == before[rank] and not sign.end:
                return self._told(rank, sign, "is gone")
        return None

    def _keep_watch(self) -> None:
        try:
            while not self._over.wait(BEAT):
                self._say()
                signs = self._read()
                if found := self._found(signs):
                    rank, why = found
                    self._leave(rank, signs[rank], why, signs)
        except Exception as error:  # the store is gone, and with it the process that kept it
            if not self._over.is_set():
                self.tell(f"process {self._rank} lost the others ({error}); ending. Go on with --resume")
                os._exit(RETRY)

    def _found(self, signs: dict[int, Sign]) -> tuple[int, str] | None:
        """A process that failed, died or hangs, and which of these."""
        now = time.monotonic()
        for rank, sign in signs.items():
            if sign.end not in ("", "done"):
                return rank, f"failed: {sign.end}"
            if self._others.get(rank) is None or self._others[rank].beat != sign.beat:
                self._heard[rank] = now
            if not sign.end and now - self._heard[rank] > SILENT:
                return rank, f"gave no sign of life for {SILENT:.0f} s"
        self._others = signs
        limit = max(self._least, 5 * self._longest if self._steps > 1 else FIRST_STEP)
        living = {rank: sign for rank, sign in signs.items() if not sign.end}
        if self._steps and living and all(sign.still > limit for sign in living.values()):
            behind = min(living, key=lambda rank: (living[rank].step, living[rank].phase))
            return behind, f"has not gone on for {living[behind].still:.0f} s"
        return None

    def _leave(self, rank: int, sign: Sign, why: str, signs: dict[int, Sign]) -> None:
        """End this process, and the culprit with it where that can be done; the first of the living tells why."""
        if rank == self._rank:  # it is me who hangs: my log shows where
            faulthandler.dump_traceback(sys.stderr)
            sys.stderr.flush()
            os._exit(RETRY)
        time.sleep(1)  # for the culprit to write where it hangs
        first = min(r for r, s in signs.items() if r != rank and not s.end)
        if self._rank == first:
            self.tell(self._told(rank, sign, why))
        if sign.host == socket.gethostname():
            with suppress(OSError):
                os.kill(sign.pid, signal.SIGKILL)
        os._exit(RETRY)

    def _told(self, rank: int, sign: Sign, why: str) -> str:
        lines = [
            f"process {rank} of {self._of} (pid {sign.pid} on {sign.host}) {why}; it was last seen in step "
            f"{max(sign.step, 0) + 1}, {PHASES[sign.phase]}. The others end; go on with --resume"
        ]
        log = self._log(rank)
        if log.is_file():
            tail = log.read_text(errors="replace").splitlines()[-TAIL:]
            lines += [f"the end of {log}:", *(f"  {line}" for line in tail)]
        return "\n".join(lines)

    def _say(self) -> None:
        self._beat += 1
        still = time.monotonic() - self._since
        sign = Sign(self._beat, self._step, self._phase, still, os.getpid(), socket.gethostname(), self._end)
        self._store.set(f"watch/{self._rank}", json.dumps(sign))

    def _read(self) -> dict[int, Sign]:
        """Of every process, this one included."""
        told = self._store.multi_get([f"watch/{rank}" for rank in range(self._of)])
        return {rank: Sign(*json.loads(sign)) for rank, sign in enumerate(told)}
