"""How long each tensor lives: born when an operator allocates it, dead when nobody holds it any more."""

import weakref
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from torch import Tensor


@dataclass(slots=True)
class Life:
    """One piece of memory."""

    operator: int
    """which operator allocated it, -1 for what was there before"""
    bytes: int
    last: int | None = None
    """the last operator during which it was alive; None while it is"""


class Storages:
    """Notes every storage that operators allocate. Views and changes in place allocate nothing.

    What is alive is what Python and autograd still hold while the network runs on the meta device: the same as
    when it runs with values.
    """

    def __init__(self) -> None:
        self.step = -1
        """the operator that runs now"""
        self.lives: list[Life] = []
        self._alive: dict[int, tuple[Any, Life | None]] = {}

    def ignore(self, x: Tensor) -> None:
        """Parameters and buffers are there anyway."""
        storage = x.untyped_storage()
        self._alive[storage._cdata] = (storage, None)

    def knows(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self._alive

    def note(self, x: Tensor) -> bool:
        """If its memory is new, it was born now. Whether it is."""
        storage = x.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return False
        life = Life(self.step, storage.nbytes())
        self.lives.append(life)

        def died(_: Any) -> None:
            life.last = self.step
            del self._alive[key]

        self._alive[key] = (weakref.ref(storage, died), life)
        return True

    @property
    def alive(self) -> int:
        """Bytes alive now."""
        return sum(life.bytes for _, life in self._alive.values() if life)

    def curve(self, steps: int) -> list[int]:
        """Bytes alive during each of the first `steps` operators."""
        change = [0] * (steps + 1)
        for life in self.lives:
            change[max(life.operator, 0)] += life.bytes
            if life.last is not None:
                change[max(life.last, 0) + 1] -= life.bytes
        return list(accumulate(change[:steps]))
