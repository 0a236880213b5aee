"""Places of boxes in rows: short edges straight, long ones in lanes beside the boxes, so that no line crosses a box."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

GAP, LANE, LANE_GAP, FRAME_GAP, ROW = 26.0, 4.0, 15.0, 28.0, 36.0
"""between boxes, width of a lane, between lanes, around groups, between rows"""
SWEEPS, MOVES = 12, 120

Vertex = str | tuple[str, int, int]
"""a node, or the lane of one source in one row: (source, row, group)"""


@dataclass
class Placed:
    """Centres of nodes and the points that each edge passes."""

    centre: dict[str, tuple[float, float]]
    top: dict[int, float]
    """upper and lower edge of each row"""
    bottom: dict[int, float]
    lanes: dict[tuple[str, str], list[tuple[float, float, float]]]
    """edge -> (x, from y, to y) of its lane in each row between its ends"""
    widths: dict[str, float]
    """of the boxes: those in one line are equally wide"""
    width: float = 0
    height: float = 0


@dataclass
class _Net:
    """The graph with a lane's vertex in every row that an edge passes."""

    rows: list[list[Vertex]]
    after: dict[Vertex, list[Vertex]] = field(default_factory=dict)
    before: dict[Vertex, list[Vertex]] = field(default_factory=dict)
    way: dict[tuple[str, str], list[Vertex]] = field(default_factory=dict)
    ways_round: set[Vertex] = field(default_factory=set)
    """lanes of skip connections alone"""


def place(
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[tuple[str, str]],
    row_of: Mapping[str, int],
    group_of: Mapping[str, int],
    skips: set[tuple[str, str]],
    gaps: Mapping[int, float],
    weights: Mapping[Vertex, float],
) -> Placed:
    """`sizes` are (width, height) in the order of execution; groups are contiguous rows of their own.

    `gaps` is more room above some rows. Of two branches that with more `weights` is drawn straight.
    """
    net = _expand(list(sizes), edges, row_of, group_of)
    lanes = {e: {v for v in way if not isinstance(v, str)} for e, way in net.way.items()}
    ways = (lanes[e] for e in edges if e not in skips)
    net.ways_round = set().union(*lanes.values()).difference(*ways)
    _order(net, row_of, group_of, weights)
    width = {v: sizes[v][0] if isinstance(v, str) else LANE for row in net.rows for v in row}
    chains = _chains(net)
    for chain in chains:  # boxes in one line are equally wide
        boxes = [v for v in chain if isinstance(v, str) and v in sizes]
        wide = max((width[v] for v in boxes), default=0.0)
        width.update({v: wide for v in boxes if width[v] > 60 or wide < 60})
    x = _straighten(net, chains, width, {row_of[n] for n in group_of})
    return _measure(net, sizes, edges, x, width, gaps)


def _expand(
    names: Sequence[str],
    edges: Sequence[tuple[str, str]],
    row_of: Mapping[str, int],
    group_of: Mapping[str, int],
) -> _Net:
    net = _Net([[] for _ in range(max(row_of.values()) + 1)])
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
        for a, b in zip(path, path[1:], strict=False):
            if b not in net.after[a]:
                net.after[a].append(b)
                net.before[b].append(a)
    return net


def _order(
    net: _Net, row_of: Mapping[str, int], group_of: Mapping[str, int], weights: Mapping[Vertex, float]
) -> None:
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


def _crossings(net: _Net) -> int:
    total = 0
    for upper, lower in zip(net.rows, net.rows[1:], strict=False):
        at = {v: i for i, v in enumerate(lower)}
        ends = [at[b] for a in upper for b in sorted(net.after[a], key=at.__getitem__)]
        starts = [i for i, a in enumerate(upper) for _ in net.after[a]]
        total += sum(
            starts[i] < starts[j] and ends[i] > ends[j] for i in range(len(ends)) for j in range(i + 1, len(ends))
        )
    return total


def _chains(net: _Net) -> list[list[Vertex]]:
    """Vertices that stand exactly below one another."""
    down: dict[Vertex, Vertex] = {}
    at = {v: i for row in net.rows for i, v in enumerate(row)}

    def main(v: Vertex, neighbours: Sequence[Vertex]) -> Vertex | None:
        """The neighbour to stand in line with: the only or middle one, of two the first box; of four there is none."""
        if v in net.ways_round:
            neighbours = [n for n in neighbours if not isinstance(n, str) and n[0] == v[0]]
        else:
            neighbours = [n for n in neighbours if n not in net.ways_round]
        if len(neighbours) == 2:
            return min(neighbours, key=lambda n: (not isinstance(n, str), at[n]))
        return sorted(neighbours, key=at.__getitem__)[len(neighbours) // 2] if len(neighbours) % 2 else None

    for row in net.rows:
        for v in row:
            child = main(v, net.after[v])
            if child is not None and main(child, net.before[child]) == v:
                down[v] = child
    heads = [v for row in net.rows for v in row if v not in down.values()]
    chains = []
    for v in heads:
        chain = [v]
        while chain[-1] in down:
            chain.append(down[chain[-1]])
        chains.append(chain)
    return chains


def _straighten(
    net: _Net, chains: list[list[Vertex]], width: Mapping[Vertex, float], framed: set[int]
) -> dict[Vertex, float]:
    """x of every vertex: chains as near to what they are joined with as their neighbours in the row allow."""
    chain_of = {v: c for c, chain in enumerate(chains) for v in chain}
    left: list[dict[int, float]] = [{} for _ in chains]
    for number, row in enumerate(net.rows):
        for a, b in zip(row, row[1:], strict=False):
            leaves = number in framed and _within(a) and not _within(b)
            gap = FRAME_GAP if leaves else GAP if isinstance(a, str) and isinstance(b, str) else LANE_GAP
            apart = (width[a] + width[b]) / 2 + gap
            ca, cb = chain_of[a], chain_of[b]
            left[cb][ca] = max(left[cb].get(ca, 0.0), apart)
    right: list[dict[int, float]] = [{} for _ in chains]
    for c, apart_of in enumerate(left):
        for other, apart in apart_of.items():
            right[other][c] = apart
    pulls: list[list[tuple[int, float]]] = [[] for _ in chains]
    for a, others in net.after.items():
        for b in others:
            if (ca := chain_of[a]) != (cb := chain_of[b]):
                weight = 1.0 if net.ways_round.intersection((a, b)) else 4.0
                pulls[ca].append((cb, weight))
                pulls[cb].append((ca, weight))
    x = _leftmost(left)
    for move in range(MOVES):
        order = range(len(chains)) if move % 2 else range(len(chains) - 1, -1, -1)
        for c in order:
            for beside, sign in ((right, 1), (left, -1)):
                _shift(x, c, sign, beside, pulls)
    return {v: x[c] for v, c in chain_of.items()}


def _shift(
    x: list[float],
    c: int,
    sign: int,
    beside: Sequence[Mapping[int, float]],
    pulls: Sequence[Sequence[tuple[int, float]]],
) -> None:
    """Move a chain to one side, with all that it touches on that side, as far as the pulls on them agree."""
    together, waiting = {c}, [c]
    while waiting:
        m = waiting.pop()
        touched = [o for o, apart in beside[m].items() if sign * (x[o] - x[m]) <= apart + 0.01 and o not in together]
        together.update(touched)
        waiting += touched
    outside = [(x[o] - x[m], w) for m in together for o, w in pulls[m] if o not in together]
    if not outside:
        return
    wish = sign * sum(distance * w for distance, w in outside) / sum(w for _, w in outside)
    room = min(
        (sign * (x[o] - x[m]) - apart for m in together for o, apart in beside[m].items() if o not in together),
        default=inf,
    )
    if wish > 0:
        for m in together:
            x[m] += sign * min(wish, room)


def _within(v: Vertex) -> bool:
    """In a row of a group: a box of the group, or a lane of its own."""
    return isinstance(v, str) or v[2] >= 0


def _leftmost(left: Sequence[Mapping[int, float]]) -> list[float]:
    x = [0.0] * len(left)
    for _ in left:
        moved = False
        for c, apart_of in enumerate(left):
            least = max((x[o] + apart for o, apart in apart_of.items()), default=0.0)
            if least > x[c] + 1e-9:
                x[c], moved = least, True
        if not moved:
            break
    return x


def _measure(
    net: _Net,
    sizes: Mapping[str, tuple[float, float]],
    edges: Sequence[tuple[str, str]],
    x: dict[Vertex, float],
    width: Mapping[Vertex, float],
    gaps: Mapping[int, float],
) -> Placed:
    shift = -min(x[v] - width[v] / 2 for row in net.rows for v in row)
    for v in x:
        x[v] += shift
    placed, y = Placed({}, {}, {}, {}, {}), 0.0
    for number, row in enumerate(net.rows):
        if number:
            spread = max((abs(x[a] - x[b]) for b in row for a in net.before[b]), default=0.0)
            y += ROW + min(28.0, 0.07 * spread) + gaps.get(number, 0.0)
        height = max((sizes[v][1] for v in row if isinstance(v, str)), default=0.0)
        placed.top[number], placed.bottom[number] = y, y + height
        placed.centre |= {v: (x[v], y + height / 2) for v in row if isinstance(v, str)}
        y += height
    for edge in edges:
        lanes = [v for v in net.way[edge] if not isinstance(v, str)]
        placed.lanes[edge] = [(x[v], placed.top[v[1]], placed.bottom[v[1]]) for v in lanes]
    placed.width = max(x[v] + width[v] / 2 for row in net.rows for v in row)
    placed.height = y
    placed.widths = {v: width[v] for row in net.rows for v in row if isinstance(v, str)}
    return placed
