"""Where in its row everything stands: lines straight where they can be, branches centred under what they leave."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import inf

from backbones.plots.diagram.rows import Net, Vertex

GAP, LANE_GAP, FRAME_GAP = 26.0, 15.0, 28.0
"""between boxes, between lanes, around groups"""
MOVES = 120


def chains_of(net: Net) -> list[list[Vertex]]:
    """Vertices that stand exactly below one another."""
    down: dict[Vertex, Vertex] = {}
    at = {v: i for row in net.rows for i, v in enumerate(row)}

    def main(v: Vertex, neighbours: Sequence[Vertex]) -> Vertex | None:
        """The neighbour to stand in line with: the only or middle one, the first box of two; none of four."""
        if v in net.ways_round:
            neighbours = [n for n in neighbours if not isinstance(n, str) and n[0] == v[0]]
        else:
            neighbours = [n for n in neighbours if n not in net.ways_round]
        if len(neighbours) == 2:
            return min(neighbours, key=lambda n: (not isinstance(n, str), at[n]))
        return sorted(neighbours, key=at.__getitem__)[len(neighbours) // 2] if len(neighbours) % 2 else None

    for row in net.rows:
        pairs = [(v, c) for v in row if (c := main(v, net.after[v])) and main(c, net.before[c]) == v]
        kept = list[tuple[int, int]]()
        for v, child in sorted(pairs, key=lambda pair: isinstance(pair[0], str) + isinstance(pair[1], str)):
            if all((at[v] - i) * (at[child] - j) > 0 for i, j in kept):  # lines that cross cannot both be straight
                kept.append((at[v], at[child]))
                down[v] = child
    heads = [v for row in net.rows for v in row if v not in down.values()]
    chains = []
    for v in heads:
        chain = [v]
        while chain[-1] in down:
            chain.append(down[chain[-1]])
        chains.append(chain)
    return chains


def straighten(
    net: Net, chains: list[list[Vertex]], width: Mapping[Vertex, float], framed: set[int]
) -> dict[Vertex, float]:
    """x of every vertex: chains as near to what they are joined with as their neighbours in the row allow."""
    chain_of = {v: c for c, chain in enumerate(chains) for v in chain}
    left: list[dict[int, float]] = [{} for _ in chains]
    for number, row in enumerate(net.rows):
        for a, b in pairwise(row):
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
