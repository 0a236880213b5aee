"""Times of several computations side by side in this process: interleaved rounds, of which disturbed ones are repeated.

No torch here.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

from backbones import machine

ROUNDS, MOST_ROUNDS = 5, 15
"""of undisturbed blocks that each shall have, and of all that are tried for it"""
BLOCK = 0.25
"""seconds of one block, or one run: the system's own account has a grain of some hundredths"""
OTHERS, GRAIN = 0.05, 0.03
"""share of all processors' time in a block that others may use, and seconds that are no more than that grain"""


@dataclass(frozen=True)
class Times:
    """What one of them took, in seconds of one run."""

    blocks: tuple[float, ...]
    """the mean run of each undisturbed block; of all blocks where every one was disturbed"""
    disturbed: int
    """blocks in which other processes computed: repeated, and left out if there are others"""
    believed: bool
    """whether at least one block was not disturbed"""

    @property
    def median(self) -> float:
        return median(self.blocks)

    @property
    def low(self) -> float:
        return min(self.blocks)

    @property
    def high(self) -> float:
        return max(self.blocks)


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    most: int = MOST_ROUNDS,
    block: float = BLOCK,
    until: float | None = None,
) -> dict[str, Times]:
    """A block of each in turn, so that a machine that drifts slows all alike.

    Args:
        runs: what to time, warm already, by name
        rounds: undisturbed blocks of each
        most: blocks that are tried for that
        block: seconds of each block, at least one run
        until: no further round is begun after this moment of time.perf_counter(); one is made in any case
    """
    quiet: dict[str, list[float]] = {name: [] for name in runs}
    disturbed: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(rounds, most)):
        lacking = [name for name in runs if len(quiet[name]) < rounds]
        if not lacking or (turn and until is not None and time.perf_counter() > until):
            break
        for name in lacking:
            seconds, alone = _block(runs[name], block)
            (quiet if alone else disturbed)[name].append(seconds)
    return {
        name: Times(tuple(quiet[name] or disturbed[name]), len(disturbed[name]), bool(quiet[name])) for name in runs
    }


def _block(run: Callable[[], object], least: float) -> tuple[float, bool]:
    """Seconds of the mean run, and whether no process computed meanwhile but this one and those it started."""
    processors = machine.processors()
    count, busy, own, start = 0, machine.busy(processors), machine.own(), time.perf_counter()
    while (wall := time.perf_counter() - start) < least or not count:
        run()
        count += 1
    after = machine.busy(processors)
    if busy is None or after is None:
        return wall / count, True
    others = after - busy - (machine.own() - own)
    return wall / count, others <= max(OTHERS * wall * len(processors), GRAIN)
