"""Operator calls timed one by one, in a worker: what a network's time is made of."""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from backbones.cost.calls import made

WEIGHTS = 1 << 27
"""values from which weights are cut, one behind the other: more than caches hold, as when a network comes round"""
MAPS = 1 << 25
FIRST = 0.6
"""share of the time for the first pass over as many calls as it takes"""
ROUNDS = 7
"""more of them, in another order each time, where time is left"""
MODULES = 1000


class Prober:
    """Makes calls on tensors cut from two long ones: weights not in the caches, maps just written."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._weights = torch.empty(WEIGHTS, device=device).uniform_(0, 0.1)
        self._maps = torch.empty(MAPS, device=device).uniform_()
        self._at = self._used = 0
        self._written: list[Tensor] = []

    def times(self, calls: Sequence[str], seconds: float, alive: Callable[[], None]) -> list[float | None]:
        """Seconds of each call, the median of its runs; None for those that fail, and those there was no time for.

        `alive` is asked between calls, and may end it all.
        """
        seen: list[list[float]] = [[] for _ in calls]
        start, generator = time.perf_counter(), random.Random(0)

        def round_of(order: Iterable[int], until: float) -> None:
            for i in order:
                alive()
                if time.perf_counter() - start > until:
                    return
                seen[i] += self._timed(calls[i])

        round_of(range(len(calls)), FIRST * seconds)
        order = [i for i, own in enumerate(seen) if own]
        for _ in range(ROUNDS):
            generator.shuffle(order)
            round_of(order, seconds)
        return [median(own) if own else None for own in seen]

    def _timed(self, call: str) -> list[float]:
        """Two runs after one that lets the library prepare itself; none where the call fails."""
        try:
            self._ready(call)()
        except RuntimeError:  # out of memory, or not there on this device
            return []
        times = []
        for _ in range(2):
            run = self._ready(call)
            for x in self._written:
                x.mul_(1.0)
            self._finish()
            before = time.perf_counter()
            run()
            self._finish()
            times.append(time.perf_counter() - before)
        return times

    def _finish(self) -> None:
        if self._device != "cpu":
            torch.accelerator.synchronize(self._device)

    def _ready(self, call: str) -> Callable[[], Any]:
        self._used, self._written = 0, []
        return made(call, self._tensor)

    def _tensor(self, shape: list[int], strides: list[int], dtype: torch.dtype, weight: bool) -> Tensor:
        count = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if dtype != torch.float32 or count > (WEIGHTS if weight else MAPS):
            return torch.zeros(shape, dtype=dtype, device=self._device)
        if weight:
            self._at = 0 if self._at + count > WEIGHTS else self._at
            self._at += count
            return self._weights[self._at - count : self._at].as_strided(shape, strides)
        if self._used + count > MAPS:
            return torch.rand(count, device=self._device).as_strided(shape, strides)
        self._used += count
        part = self._maps[self._used - count : self._used].as_strided(shape, strides)
        self._written.append(part)
        return part


def module_seconds() -> float:
    """What calling one module takes, beyond what it computes."""
    chain, x = nn.Sequential(*(nn.Identity() for _ in range(MODULES))), torch.zeros(1)
    times = []
    for _ in range(50):
        before = time.perf_counter()
        chain(x)
        times.append(time.perf_counter() - before)
    return median(times) / (MODULES + 1)
