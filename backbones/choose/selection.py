"""What `select` answers: candidates, every figure with where it comes from, and why one of them is recommended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backbones.pareto import pareto

Tag = Literal["paper", "publisher", "analytic", "measured here", "predicted"]
Sort = Literal["top1", "latency", "madds", "params", "memory"]


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    tag: Tag
    low: float | None = None
    """nine of ten predictions lie from here; of what is measured, half of the runs take no longer than this"""
    high: float | None = None
    """to here; of what is measured, what it may be when the machine drifts by less than is flagged"""
    source: str = ""
    """table of the paper, weights of the publisher, or what is to be said against a measurement"""
    at: str = ""
    """when it was measured, UTC: the machine may be faster or slower by now"""


@dataclass(frozen=True)
class Candidate:
    """One network at one size of images."""

    network: str
    img_size: int
    year: int
    params: Figure
    madds: Figure
    """of one image"""
    memory: Figure
    """bytes of weights, maps and working copies at the worst moment of inference on the CPU, for the batch"""
    top1: Figure | None
    """in percent, under the protocol of the selection; None where nobody states it"""
    latency: Figure | None = None
    """milliseconds of a batch that nine of ten runs do not exceed"""

    def asdict(self) -> dict[str, Any]:
        """One column per figure, and one for where it comes from."""
        row: dict[str, Any] = {"network": self.network, "img_size": self.img_size, "year": self.year}
        for what in ("top1", "params", "madds", "memory", "latency"):
            figure: Figure | None = getattr(self, what)
            row |= {what: figure and figure.value, f"{what}_from": figure and figure.tag}
            if what == "top1":
                row["top1_source"] = figure and figure.source
            if what == "latency":
                row["latency_at"] = figure and figure.at
                row |= {"latency_low": figure and figure.low, "latency_high": figure and figure.high}
        return row


@dataclass(frozen=True)
class Limit:
    """One constraint of the question."""

    what: str
    most: float
    shown: Callable[[float], str]

    def excess(self, candidate: Candidate) -> float:
        """How many times too much; up to 1 is within. What was measured keeps room for what the machine may drift."""
        figure: Figure = getattr(candidate, self.what)
        measured = figure.tag == "measured here" and figure.high
        return (measured or figure.value) / self.most


@dataclass(frozen=True)
class Miss:
    """A network that one constraint alone keeps out, though it is better than the one recommended."""

    candidate: Candidate
    limit: Limit
    remedy: str
    """what would make it fit, or nothing"""

    def __str__(self) -> str:
        figure: Figure = getattr(self.candidate, self.limit.what)
        shown = self.limit.shown
        spread = f" {shown(figure.low)} to {shown(figure.high)}" if figure.low and figure.high else ""
        spread = spread if figure.tag == "predicted" else ""
        needs = f"{self.limit.what} {shown(figure.value)} ({figure.tag}{spread}), allowed {shown(self.limit.most)}"
        return f"{self.candidate.network}: {needs}{'; ' if self.remedy else ''}{self.remedy}"


@dataclass(frozen=True)
class Selection:
    """The answer."""

    feasible: tuple[Candidate, ...]
    """all that fit, best first; a latency is measured or predicted as it says"""
    front: tuple[str, ...]
    """those of them that no other beats in accuracy and cost together"""
    recommended: Candidate
    reason: str
    misses: tuple[Miss, ...]
    protocol: str
    """how all accuracies were taken"""
    silent: tuple[str, ...]
    """networks left out because nobody states their accuracy so, at their own image size"""
    failed: tuple[str, ...]
    """networks that could not be measured, and why"""
    how: str
    """what the latencies hold for"""

    def asdict(self) -> dict[str, Any]:
        return {
            "recommended": self.recommended.asdict(),
            "reason": self.reason,
            "protocol": self.protocol,
            "front": list(self.front),
            "feasible": [c.asdict() for c in self.feasible],
            "misses": [str(m) for m in self.misses],
            "silent": list(self.silent),
            "failed": list(self.failed),
            "how": self.how,
        }


def key(sort: Sort) -> Callable[[Candidate], tuple[float, float]]:
    """Best first; of equals, the one with fewer multiply-adds."""

    def best(candidate: Candidate) -> tuple[float, float]:
        figure: Figure | None = getattr(candidate, sort)
        if figure is None:
            return float("inf"), candidate.madds.value
        return (-figure.value if sort == "top1" else figure.value), candidate.madds.value

    return best


def front(candidates: Sequence[Candidate], cost: str) -> tuple[str, ...]:
    """Those that no other beats, cheapest first."""
    rows = [
        {"network": c.network, "top1": c.top1.value, "cost": getattr(c, cost).value}
        for c in candidates
        if c.top1 and getattr(c, cost)
    ]
    return tuple(row["network"] for row in sorted((rows[i] for i in pareto(rows, "cost")), key=lambda row: row["cost"]))
