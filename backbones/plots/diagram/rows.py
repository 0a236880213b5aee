"""The rows of a layered drawing: a lane for every edge that passes one, and the order from left to right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 12

Vertex = str | tuple[str, int, int]
"""a node, or the lane of one source in one row: (source, row, group)"""


@dataclass
class Net:
    """The graph with a lane's vertex in every row that an edge passes."""

    rows: list[list[Vertex]]
    after: dict[Vertex, list[Vertex]] = field(default_factory=dict)
    before: dict[Vertex, list[Vertex]] = field(default_factory=dict)
    way: dict[tuple[str, str], list[Vertex]] = field(default_factory=dict)
    ways_round: set[Vertex] = field(default_factory=set)
    """lanes of skip connections alone"""


def expand(
    names: Sequence[str],
    edges: Sequence[tuple[str, str]],
    row_of: Mapping[str, int],
    group_of: Mapping[str, int],
) -> Net:
    net = Net([[] for _ in range(max(row_of.values()) + 1)])
    group_rows = {row_of[n]: g for n, g in group_of.items()}
    for name in names:
        net.rows[row_of[name]].append(name)
        net.after[name], net.before[name] = [], []
    for source, target in edges:
        path: list[Vertex] = [source]
        for row in range(row_of[source] + 1, row_of[target]):
            group = group_rows.get(row, -1)
            inside = group if group in (group_of.get(source, -2), group_of.get(target, -2)) else -1
            lane = (source, row, inside)
            if lane not in net.after:
                net.after[lane], net.before[lane] = [], []
                net.rows[row].append(lane)
            path.append(lane)
        path.append(target)
        net.way[source, target] = path
        for a, b in pairwise(path):
            if b not in net.after[a]:
                net.after[a].append(b)
                net.before[b].append(a)
    return net


def order(net: Net, row_of: Mapping[str, int], group_of: Mapping[str, int], weights: Mapping[Vertex, float]) -> None:
    """Left to right in every row: first branches as they ran, then whatever has fewer crossings."""
    depth: dict[Vertex, float] = {}
    for row in reversed(net.rows):
        for v in row:
            boxes = [b for b in net.after[v] if isinstance(b, str)]
            depth[v] = weights.get(v, 1.0) + max((depth[b] for b in boxes), default=0) if isinstance(v, str) else 0
    seen: dict[Vertex, int] = {}

    def visit(v: Vertex) -> None:
        stack = [v]
        while stack:
            v = stack.pop()
            if v in seen:
                continue
            seen[v] = len(seen)
            boxes = [b for b in net.after[v] if isinstance(b, str)]
            if len(boxes) == 2:
                boxes.sort(key=lambda b: -depth[b])
            lanes = [b for b in net.after[v] if not isinstance(b, str)]
            stack += reversed([*boxes, *lanes])

    for row in net.rows:
        for v in row:
            if not net.before[v]:
                visit(v)
    group_rows = {row_of[n]: g for n, g in group_of.items()}

    def passes(v: Vertex, row: int) -> bool:
        """Whether it is a lane past the group in this row: those run on the right of it."""
        return row in group_rows and not isinstance(v, str) and v[2] != group_rows[row]

    rank: dict[Vertex, float] = dict(seen)
    for number, row in enumerate(net.rows):
        row.sort(key=lambda v: (passes(v, number), rank[v]))
    best, least = [list(row) for row in net.rows], _crossings(net)
    for sweep in range(SWEEPS):
        if not least:
            break
        down = sweep % 2 == 0
        numbers = range(1, len(net.rows)) if down else range(len(net.rows) - 2, -1, -1)
        for number in numbers:
            near = net.rows[number - 1 if down else number + 1]
            at = {v: i for i, v in enumerate(near)}
            row = net.rows[number]
            own = {v: i for i, v in enumerate(row)}
            beside = net.before if down else net.after
            mean = {v: _mean([at[n] for n in beside[v]], own[v]) for v in row}
            row.sort(key=lambda v: (passes(v, number), mean[v], own[v]))
        if (now := _crossings(net)) < least:
            best, least = [list(row) for row in net.rows], now
    net.rows[:] = best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(net: Net) -> int:
    total = 0
    for upper, lower in zip(net.rows, net.rows[1:], strict=False):
        at = {v: i for i, v in enumerate(lower)}
        ends = [at[b] for a in upper for b in sorted(net.after[a], key=at.__getitem__)]
        starts = [i for i, a in enumerate(upper) for _ in net.after[a]]
        total += sum(
            starts[i] < starts[j] and ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends))
        )
    return total
