"""Places of boxes in rows: short edges straight, long ones in lanes beside the boxes, so that no line crosses a box."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backbones.plots.diagram.columns import chains_of, straighten
from backbones.plots.diagram.rows import Net, Vertex, expand, order

LANE, ROW = 4.0, 36.0
"""width of a lane, room between rows"""


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
    net = expand(list(sizes), edges, row_of, group_of)
    straight: set[Vertex] = {v for edge, way in net.way.items() if edge not in skips for v in way}
    lanes: set[Vertex] = {v for way in net.way.values() for v in way if not isinstance(v, str)}
    net.ways_round = lanes - straight
    order(net, row_of, group_of, weights)
    width = {v: sizes[v][0] if isinstance(v, str) else LANE for row in net.rows for v in row}
    chains = chains_of(net)
    for chain in chains:  # boxes in one line are equally wide
        boxes = [v for v in chain if isinstance(v, str) and v in sizes]
        wide = max((width[v] for v in boxes), default=0.0)
        width.update({v: wide for v in boxes if width[v] > 60 or wide < 60})
    x = straighten(net, chains, width, {row_of[n] for n in group_of})
    return _measure(net, sizes, edges, x, width, gaps)


def _measure(
    net: Net,
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
