"""When a run is to stop or to be saved: signals and the clock, agreed on by all its processes."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed

AGAIN = 1.0
"""seconds between two signals that are not one, which a terminal and a launcher both passed on"""


PATIENCE = timedelta(days=1)
"""of the collective operations: the watch ends what hangs, far sooner"""


class Stopped(BaseException):
    """A signal asked for the end of the run; what was done is saved when this is raised."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Requests:
    """What this process was asked to do after the step that it is in.

    The same signal a second later ends the process at once, as if this class did not exist.
    """

    def __init__(self, save_minutes: float | None, clock: bool) -> None:
        self.signal, self._heard = 0, 0.0
        self._seconds = 60 * save_minutes if save_minutes and clock else float("inf")
        self._saved = time.monotonic()

    @contextmanager
    def heard(self) -> Iterator[None]:
        """SIGINT and SIGTERM are remembered, not obeyed, within this block; SIGUSR2 too, if somebody listens to it."""
        numbers = [signal.SIGINT, signal.SIGTERM]
        if callable(signal.getsignal(signal.SIGUSR2)):
            numbers.append(signal.SIGUSR2)
        before = {number: signal.signal(number, self._hear) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def saved(self) -> None:
        """A checkpoint was made now."""
        self._saved = time.monotonic()

    @property
    def seconds_since(self) -> float:
        """since the last checkpoint"""
        return time.monotonic() - self._saved

    def told(self) -> tuple[int, int]:
        """(signal number or 0, whether the clock asks for a checkpoint)"""
        return self.signal, int(self.seconds_since > self._seconds)

    def _hear(self, number: int, frame: Any) -> None:
        if self.signal == number and time.monotonic() - self._heard > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        if self.signal != number:
            self.signal, self._heard = number, time.monotonic()


class Agreement:
    """What all processes of a run know together; on the CPU, so that no GPU waits for it."""

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        several = distributed.is_initialized()
        self._group: Any = distributed.new_group(backend="gloo", timeout=PATIENCE) if several else None
        self._asked: tuple[Tensor, Any] | None = None

    def after_step(self) -> tuple[int, int]:
        """What all processes do now: (signal number or 0, whether to save), the largest of what each was asked.

        One step late: the answer is under way while they compute.
        """
        if self._group is None:
            return self.requests.told()
        stop, save = 0, 0
        if self._asked:
            answer, work = self._asked
            work.wait()
            stop, save = answer.tolist()
        answer = torch.tensor(self.requests.told())
        self._asked = answer, distributed.all_reduce(answer, distributed.ReduceOp.MAX, self._group, async_op=True)
        return stop, save

    def total(self, sums: Tensor) -> list[float]:
        """Over all processes."""
        return self.gathered(sums).sum(0).tolist()

    def gathered(self, sums: Tensor) -> Tensor:
        """(...) of every process -> (processes, ...)"""
        if self._group is None:
            return sums[None]
        everyones = [torch.empty_like(sums) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyones, sums, self._group)
        return torch.stack(everyones)

    def first(self, answer: bool) -> bool:
        """That of the first process."""
        return bool(self.gathered(torch.tensor([answer]))[0])
