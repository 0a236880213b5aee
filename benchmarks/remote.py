"""A computation in a process of its own."""

import atexit
import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from benchmarks.shown import resident

Run = Callable[[], object]


def serve(pipe: Connection, make: Callable[..., Run], arguments: tuple[Any, ...], threads: int) -> None:
    """In a process of its own: one run for every message."""
    torch.set_num_threads(threads)
    run = make(*arguments)
    with suppress(EOFError):  # nobody asks any more
        while True:
            pipe.recv()
            run()
            pipe.send(resident())


class Remote:
    """What `make(*arguments)` returns, in a process of its own, so that no setting of one reaches another.

    Calling it waits for one run there.
    """

    def __init__(self, make: Callable[..., Run], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        threads = torch.get_num_threads()
        self.process = context.Process(target=serve, args=(other, make, arguments, threads))
        self.process.start()
        other.close()
        atexit.register(self.pipe.close)  # an error here ends it too
        self.memory = 0.0

    def __call__(self) -> None:
        self.pipe.send(None)
        self.memory = self.pipe.recv()

    def close(self) -> None:
        self.pipe.close()
        self.process.join()
