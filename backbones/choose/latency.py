"""What a measurement asks and answers: records, and the arithmetic from blocks of runs to percentiles."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from backbones.machine import Machine

MOST_DRIFT = 0.05
"""of the calibration kernel, beyond which a latency is flagged"""
MOST_OTHERS = 0.05
"""share of our processors' time that others may use in a block"""
TICKS = 0.03
"""seconds of others that are no more than the grain of the system's own account"""


@dataclass(frozen=True)
class Setting:
    """What is asked: one network under one way of running it, in float32."""

    network: str
    img_size: int
    batch_size: int
    threads: int
    device: str


@dataclass(frozen=True)
class Latency:
    """How long one network takes for one batch on this machine, as measured."""

    setting: Setting
    p50: float
    """milliseconds of one batch: half of the runs took no longer"""
    p90: float
    p99: float
    runs: int
    peak_memory: int | None
    """most memory that its process held, python and torch included, in bytes"""
    drift: float
    """relative change of the calibration kernel from before to after; the part of it that changed most"""
    calibration_ms: Mapping[str, float]
    """what the parts of the calibration kernel took before: the state of the machine"""
    load: float | None
    """mean number of processes that wanted to run in the minute before (the system's load average)"""
    others: float | None
    """share of the time of its processors that other processes used meanwhile"""
    flags: tuple[str, ...]
    """why not to trust it, if anything"""
    measured_at: str
    """UTC"""
    machine: Machine
    versions: Mapping[str, str]

    @property
    def network(self) -> str:
        return self.setting.network

    @property
    def throughput(self) -> float:
        """Images per second."""
        return 1000 * self.setting.batch_size / self.p50


@dataclass(frozen=True)
class Failure:
    """Why a network could not be measured."""

    setting: Setting
    reason: str


class Block(NamedTuple):
    """A few runs of one network, one after another."""

    seconds: list[float]
    """of each run"""
    others: float | None
    """share of the time of its processors that others used meanwhile; None where the system does not tell"""
    disturbed: bool

    @classmethod
    def seen(cls, seconds: list[float], wall: float, others: float | None, threads: int) -> "Block":
        """A block of so many seconds in all, in which others computed for `others` seconds on its processors."""
        if others is None:
            return cls(seconds, None, False)
        share = max(others, 0.0) / (wall * threads)
        return cls(seconds, share, share > MOST_OTHERS and others > TICKS)


def percentile(values: Sequence[float], percent: float) -> float:
    """With linear interpolation between the two nearest values."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def drift(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The relative change of the part that changed most."""
    return max((after[part] / before[part] - 1 for part in before), key=abs)


def quietest(blocks: Sequence[Block], count: int) -> list[Block]:
    """The blocks in which others used least."""
    return sorted(blocks, key=lambda block: block.others or 0.0)[:count]


def flags(change: float, blocks: Sequence[Block], runs: int, settled: bool) -> tuple[str, ...]:
    """What is to be said against a latency."""
    disturbed = [block for block in blocks if block.disturbed]
    said = []
    if abs(change) > MOST_DRIFT:
        said.append(f"the machine drifted by {change:+.0%}")
    if disturbed:
        worst = max(block.others or 0.0 for block in disturbed)
        said.append(f"others used {worst:.0%} of its processors in {len(disturbed)} of {len(blocks)} blocks")
    if (few := sum(len(block.seconds) for block in blocks)) < runs:
        said.append(f"only {few} of {runs} runs")
    if not settled:
        said.append("the warm-up did not settle")
    return tuple(said)
