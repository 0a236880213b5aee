"""One part or block of a network, layer by layer; what repeats is drawn once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backbones.cost.anatomy import Anatomy, Block
from backbones.cost.grouping import Unit
from backbones.cost.naming import spaced
from backbones.plots.diagram.graph import Edge, Graph, Group, Node, size, sizes, skips
from backbones.units import si

LONGEST_UNFOLDED = 8
"""so many blocks that differ in channels only (a dense block's) are drawn one by one"""


@dataclass(frozen=True)
class Run:
    """Blocks that are drawn once; `alike` but for the maps they read, or equal."""

    blocks: tuple[Block, ...]
    alike: bool = False


def detail(anatomy: Anatomy, stage: str, title: str) -> Graph:
    """`stage` is a dotted path, such as stages.1 or stages.1.0; "" is the whole network."""
    return _Detail(anatomy, stage).graph(title)


class _Detail:
    def __init__(self, anatomy: Anatomy, stage: str) -> None:
        self.anatomy, self.stage = anatomy, stage
        self.inside = anatomy.inside(stage)
        self.runs = list(_fold(anatomy, anatomy.blocks(self.inside)))
        self.drawn: dict[int, int] = {}
        """unit -> the unit that is drawn for it"""
        self.stands_for: dict[int, list[int]] = {}
        for run in self.runs:
            for block in run.blocks:
                for unit, first in zip(block.units, run.blocks[0].units, strict=True):
                    self.drawn[unit] = first
                    self.stands_for.setdefault(first, []).append(unit)

    def graph(self, title: str) -> Graph:
        units, whole = self.anatomy.units, [self.anatomy.units[i] for i in self.inside]
        nodes, layers, edges = dict[str, Node](), dict[str, int](), dict[tuple[str, str], str]()
        self._sources(nodes, layers, edges)
        floor = max(layers.values(), default=-1) + 1
        for run in self.runs:
            framed = len(run.blocks[0].units) > 1
            floor = max(layers.values()) + 1 if framed else floor
            for unit in run.blocks[0].units:
                name = f"u{unit}"
                nodes[name] = self._node(unit)
                before = [s for s, t in edges if t == name]
                inner = [f"u{self.drawn[i]}" for i in units[unit].reads if i in self.drawn and self.drawn[i] != unit]
                edges |= {(s, name): self._size(int(s[1:])) for s in inner}
                layers[name] = max([floor, *(layers[s] + 1 for s in (*before, *inner))])
            floor = max(layers.values()) + 1 if framed else floor
        self._outputs(nodes, layers, edges)
        found = skips(list(edges), list(nodes))
        madds, params = sum(u.madds for u in whole), sum(u.params for u in whole)
        share = (
            f" ({100 * madds / self.anatomy.madds:.0f} % of the network)" if self.stage and self.anatomy.madds else ""
        )
        return Graph(
            title=title,
            subtitle=f"{si(params)} parameters, {si(madds)} multiply-adds{share}",
            nodes=tuple(nodes.values()),
            edges=tuple(Edge(s, t, text, (s, t) in found) for (s, t), text in edges.items()),
            groups=tuple(self._groups()),
            note="On the lines: channels x height x width.",
            layers=layers,
        )

    def _sources(self, nodes: dict[str, Node], layers: dict[str, int], edges: dict[tuple[str, str], str]) -> None:
        """What is read from outside."""
        units = self.anatomy.units
        for run in self.runs:
            for unit in run.blocks[0].units:
                for source in units[unit].reads:
                    if source in self.drawn:
                        continue
                    name, shape = f"in{source}", self.anatomy.image if source < 0 else units[source].shape
                    told = "image" if source < 0 else f"from {self._place(source)}"
                    nodes.setdefault(name, Node(name, "end", told, shape=shape))
                    layers[name] = 0
                    edges[name, f"u{unit}"] = size(shape)

    def _outputs(self, nodes: dict[str, Node], layers: dict[str, int], edges: dict[tuple[str, str], str]) -> None:
        """What is read outside, or is the network's result."""
        inside, readers = set(self.inside), dict[int, list[int]]()
        for index, unit in enumerate(self.anatomy.units):
            for source in unit.reads:
                readers.setdefault(source, []).append(index)
        leaving = [i for i in self.inside if not readers.get(i) or any(r not in inside for r in readers[i])]
        outside = [r for i in leaving for r in readers.get(i, []) if r not in inside]
        told = f"to {self._place(min(outside))}" if outside else "output"
        nodes["out"] = Node("out", "end", told)
        layers["out"] = max(layers.values()) + 1
        for i in leaving:
            edges[f"u{self.drawn[i]}", "out"] = self._size(self.drawn[i])

    def _place(self, unit: int) -> str:
        """The name of the part, or of the block where both are in one part."""
        part = self.anatomy.part_of(unit)
        if part != self.anatomy.part_of(self.inside[0]):
            return part.names[0]
        block = self.anatomy.units[unit].block
        return block if block not in self.anatomy.tree.opened else self.anatomy.units[unit].main.layer

    def _size(self, unit: int) -> str:
        return sizes(self.anatomy.units[i].shape for i in self.stands_for[unit])

    def _node(self, index: int) -> Node:
        members = [self.anatomy.units[i] for i in self.stands_for[index]]
        unit = members[0]
        below = " · ".join(filter(None, (unit.details, *unit.after)))
        join = unit.kind == "join"
        return Node(
            name=f"u{index}",
            kind=unit.kind,
            title=unit.name + unit.settings,
            above=" · ".join(unit.before),
            lines=(below,) if below else (),
            layer=unit.main.layer,
            shape=unit.shape,
            operators=tuple(sorted(i for u in members for i in u.operators)),
            params=sum(u.params for u in members),
            madds=sum(u.madds for u in members),
            repeat=len(members),
            share=None if join or not self.anatomy.madds else sum(u.madds for u in members) / self.anatomy.madds,
        )

    def _groups(self) -> Iterator[Group]:
        framed = [run for run in self.runs if len(run.blocks[0].units) > 1]
        if len(framed) == 1 and len(framed[0].blocks) == 1 and framed[0].blocks[0].name == self.stage:
            return
        for run in framed:
            first, last = run.blocks[0], run.blocks[-1]
            name = first.name if first is last else f"{first.name} to {last.name.rpartition('.')[2]}"
            kind = "" if first.kind == "Sequential" else spaced(first.kind)
            note = "each reads all maps before it" if run.alike else ""
            yield Group(name, kind, tuple(f"u{i}" for i in first.units), len(run.blocks), note)


def _fold(anatomy: Anatomy, blocks: Sequence[Block]) -> Iterator[Run]:
    """Equal neighbours become one run; those alike but for what they read do where they are many."""
    marks = [_mark(anatomy, b, exact=True) for b in blocks]
    loose = [_mark(anatomy, b, exact=False) for b in blocks]
    start = 0
    while start < len(blocks):
        equal = _length(marks, start)
        alike = _length(loose, start)
        if equal == 1 and alike > LONGEST_UNFOLDED:
            yield Run(tuple(blocks[start : start + alike]), alike=True)
            start += alike
        else:
            yield Run(tuple(blocks[start : start + equal]))
            start += equal


def _length(marks: Sequence[object], start: int) -> int:
    stop = start + 1
    while stop < len(marks) and marks[start] is not None and marks[stop] == marks[start]:
        stop += 1
    return stop - start


def _mark(anatomy: Anatomy, block: Block, exact: bool) -> object:
    """What two blocks must share to be drawn once. A single layer is always drawn."""
    if len(block.units) < 2:
        return None
    place = {unit: i for i, unit in enumerate(block.units)}

    def of(unit: Unit) -> object:
        inner = tuple(place[i] for i in unit.reads if i in place)
        outer = tuple(anatomy.units[i].shape if i >= 0 else () for i in unit.reads if i not in place)
        join = unit.kind == "join"
        return (unit.label, inner, outer, unit.shape) if exact else (unit.label, inner, () if join else unit.shape)

    return tuple(of(anatomy.units[i]) for i in block.units)
