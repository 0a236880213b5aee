"""Which of several choices no other beats in cost and gain together."""

from collections.abc import Mapping, Sequence
from typing import Any


def pareto(rows: Sequence[Mapping[str, Any]], cost: str = "madds", gain: str = "top1") -> set[int]:
    """The rows that no other beats: none costs as little or less and gains as much or more, one of them strictly."""
    front: set[int] = set()
    best = -float("inf")
    order = sorted(range(len(rows)), key=lambda i: (rows[i][cost], -rows[i][gain]))
    for i in order:
        twin = any(rows[j][cost] == rows[i][cost] and rows[j][gain] == rows[i][gain] for j in front)
        if rows[i][gain] > best or twin:
            front.add(i)
            best = max(best, rows[i][gain])
    return front
