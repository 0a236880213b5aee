"""A network at a glance: its parts, what they repeat, their share of the cost."""

from collections import Counter
from collections.abc import Sequence

from backbones.cost.anatomy import Anatomy, Block, Part
from backbones.cost.grouping import Unit
from backbones.cost.naming import ACTIVATIONS, NORMS, spaced
from backbones.plots.diagram.graph import Edge, Graph, Node, size, skips
from backbones.units import si

MOST_LINES = 4
SMALL = frozenset((*NORMS.values(), *ACTIVATIONS.values()))
"""not worth a line"""
INDENT = "\N{EM SPACE}"
"""before the lines of what repeats"""


def overview(anatomy: Anatomy, title: str) -> Graph:
    """The parts in a row."""
    parts = anatomy.parts
    place = {unit: index for index, part in enumerate(parts) for unit in part.units}
    names = [f"part{i}" for i in range(len(parts))]
    nodes, edges = list[Node](), dict[tuple[str, str], str]()
    nodes.append(Node("in", "end", "image", shape=anatomy.image))
    for name, part in zip(names, parts, strict=True):
        units = [anatomy.units[i] for i in part.units]
        nodes.append(_node(anatomy, name, part, units))
        for unit in units:
            for source in unit.reads:
                origin = "in" if source < 0 else names[place[source]]
                if origin != name:
                    shape = nodes[0].shape if source < 0 else anatomy.units[source].shape
                    edges.setdefault((origin, name), size(shape))
    nodes.append(Node("out", "end", "output"))
    edges[names[-1], "out"] = size(anatomy.units[-1].shape)
    found = skips(list(edges), [n.name for n in nodes])
    return Graph(
        title=title,
        subtitle=f"{si(anatomy.params)} parameters, {si(anatomy.madds)} multiply-adds",
        nodes=tuple(nodes),
        edges=tuple(Edge(s, t, text, (s, t) in found) for (s, t), text in edges.items()),
        note="On the arrows: channels, height x width. Bars: share of the multiply-adds.",
        overview=True,
    )


def _node(anatomy: Anatomy, name: str, part: Part, units: Sequence[Unit]) -> Node:
    head, lines = _lines(anatomy, anatomy.blocks(part.units))
    madds = sum(u.madds for u in units)
    return Node(
        name=name,
        kind="part",
        title=part.name,
        above=head,
        lines=tuple(lines),
        layer=" ".join(part.names),
        shape=units[-1].shape,
        operators=tuple(sorted(i for u in units for i in u.operators)),
        params=sum(u.params for u in units),
        madds=madds,
        share=madds / anatomy.madds if anatomy.madds else None,
    )


def _lines(anatomy: Anatomy, blocks: Sequence[Block]) -> tuple[str, list[str]]:
    """What the part repeats; that and the layers of one repeat, as the papers' tables print them."""
    real = [b for b in blocks if b.kind not in ("", "Sequential", "Head") and len(b.units) > 1]
    kinds = Counter(b.kind for b in real)
    most = max(kinds, key=lambda kind: kinds[kind]) if kinds else ""
    repeated = [b for b in real if b.kind == most]
    if not repeated:
        return "", _layers(anatomy, [i for b in blocks for i in b.units])
    first = repeated[0].units[0]
    others = [i for b in blocks if b not in real for i in b.units]
    loose = [(i, u) for i in others if (u := anatomy.units[i]).kind != "join" and u.name not in SMALL]
    head = f"{len(repeated)} x {spaced(most)}" if len(repeated) > 1 else spaced(most)
    return head, [
        *[_short(u) for i, u in loose if i < first][:2],
        *(spaced(kind) for kind in kinds if kind != most),
        head,
        *(INDENT + line for line in _layers(anatomy, repeated[-1].units)),
        *[_short(u) for i, u in loose if i > first][:2],
    ]


def _layers(anatomy: Anatomy, inside: Sequence[int]) -> list[str]:
    """The layers of a chain; of branches, how many layers there are of each kind."""
    units = [anatomy.units[i] for i in inside]
    gates = any(u.name == "multiplication" for u in units)
    shown = [u for u in units if u.kind != "join" and u.name not in SMALL and not (gates and _is_small(u))]
    chain = all(len(u.reads) == 1 for u in units if u.kind != "join")
    wide = any(u.name == "concatenation" and len(set(u.reads).intersection(inside)) > 2 for u in units)
    if chain and not wide and len(shown) <= MOST_LINES:
        return [*(_short(u) for u in shown), *(["gate"] if gates else [])]
    counts = Counter(u.name for u in shown)
    lines = [f"{n} x {name}" if n > 1 else name for name, n in counts.items()] + (["gate"] if gates else [])
    more = len(lines) - MOST_LINES
    return lines if more <= 1 else [*lines[:MOST_LINES], f"and {more} more kinds"]


def _is_small(unit: Unit) -> bool:
    return unit.shape[1:] == (1, 1) and unit.kind in ("convolution", "pooling", "linear")


def _short(unit: Unit) -> str:
    return ", ".join(filter(None, (unit.name + unit.settings, unit.details)))
