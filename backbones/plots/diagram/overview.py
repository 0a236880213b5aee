"""A network at a glance: its parts, what they repeat, their share of the cost."""

from collections import Counter
from collections.abc import Sequence

from backbones.cost.anatomy import Anatomy, Block, Part
from backbones.cost.units import Unit, spaced
from backbones.plots.diagram.graph import Edge, Graph, Node, si, size, skips

MOST_LINES = 4


def overview(anatomy: Anatomy, title: str) -> Graph:
    """The parts in a row."""
    parts = anatomy.parts
    place = {unit: index for index, part in enumerate(parts) for unit in part.units}
    names = [f"part{i}" for i in range(len(parts))]
    nodes, edges = list[Node](), dict[tuple[str, str], str]()
    first = anatomy.operators[0].input_shapes[0] if anatomy.operators else ()
    nodes.append(Node("in", "end", "image", shape=tuple(first)))
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
        note="On the arrows: channels, height × width. Bars: share of the multiply-adds.",
        overview=True,
    )


def _node(anatomy: Anatomy, name: str, part: Part, units: Sequence[Unit]) -> Node:
    blocks = anatomy.blocks(part.units)
    madds = sum(u.madds for u in units)
    return Node(
        name=name,
        kind="part",
        title=part.name,
        lines=tuple(_lines(anatomy, blocks)),
        layer=" ".join(part.names),
        shape=units[-1].shape,
        operators=tuple(sorted(i for u in units for i in u.operators)),
        params=sum(u.params for u in units),
        madds=madds,
        share=madds / anatomy.madds if anatomy.madds else None,
    )


def _lines(anatomy: Anatomy, blocks: Sequence[Block]) -> list[str]:
    """What the part repeats, then the layers of one repeat as the papers' tables print them."""
    real = [b for b in blocks if b.kind and len(b.units) > 1]
    kinds = Counter(b.kind for b in real)
    most = max(kinds, key=lambda kind: kinds[kind]) if kinds else ""
    repeated = [b for b in real if b.kind == most]
    loose = [anatomy.units[i] for b in blocks if b not in real for i in b.units]
    if len(repeated) < 2 or most == "Sequential":
        units = [anatomy.units[i] for b in blocks for i in b.units]
        if len(real) <= 1 and most not in ("", "Sequential", "Head") and _branches(units):
            return [*(_short(u) for u in loose), spaced(most), *_layers(units)]
        return _layers(units)
    lines = [_short(u) for u in loose[:1]] + [spaced(kind) for kind in kinds if kind != most and kind != "Sequential"][:1]
    body = [anatomy.units[i] for i in repeated[-1].units]
    return [*lines, f"{len(repeated)} × {spaced(most)}", *_layers(body)]


def _branches(units: Sequence[Unit]) -> bool:
    return any(u.kind == "join" for u in units)


def _layers(units: Sequence[Unit]) -> list[str]:
    """The layers of a chain; of branches, how many layers there are of each kind."""
    shown = [u for u in units if u.kind != "join" and not _is_gate(u)]
    chain = all(len(u.reads) == 1 for u in units if u.kind != "join")
    wide = sum(u.kind == "join" and u.name == "concat" and len(u.reads) > 2 for u in units)
    if chain and not wide and len(shown) <= MOST_LINES:
        return [_short(u) for u in shown]
    counts = Counter(u.name for u in shown)
    lines = [f"{n} × {name}" if n > 1 else name for name, n in counts.items()]
    return lines if len(lines) <= MOST_LINES + 1 else [*lines[:MOST_LINES], f"and {len(lines) - MOST_LINES} more kinds"]


def _is_gate(unit: Unit) -> bool:
    return unit.shape[1:] == (1, 1) and unit.kind in ("convolution", "pooling", "linear")


def _short(unit: Unit) -> str:
    return unit.name + unit.settings
