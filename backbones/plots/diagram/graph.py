"""What a block diagram shows, before it is placed: nodes, edges and groups of nodes that repeat."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any


@dataclass(frozen=True)
class Node:
    """A box, a joint or an end of the drawing."""

    name: str
    kind: str
    """part, convolution, depthwise, linear, pooling, other, join, end"""
    title: str
    above: str = ""
    """what happens before it, in small letters; of a part, the line that says what it repeats"""
    lines: tuple[str, ...] = ()
    """more, in small letters"""
    layer: str = ""
    """its dotted path"""
    shape: tuple[int, ...] = ()
    operators: tuple[int, ...] = ()
    """which of the cost's operators it stands for, those of all repeats"""
    params: int = 0
    madds: int = 0
    repeat: int = 1
    share: float | None = None
    """of the network's multiply-adds, where it is shown"""


@dataclass(frozen=True)
class Edge:
    """A map on its way."""

    source: str
    target: str
    size: str
    """channels x height x width"""
    skip: bool
    """whether there is also a longer way"""


@dataclass(frozen=True)
class Group:
    """Nodes of one block, drawn once for all its repeats."""

    name: str
    """its dotted path, or those of the first and last repeat"""
    kind: str
    """its class, in words"""
    nodes: tuple[str, ...]
    repeat: int = 1
    note: str = ""


@dataclass(frozen=True)
class Graph:
    """One drawing."""

    title: str
    subtitle: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    groups: tuple[Group, ...] = ()
    note: str = ""
    overview: bool = False
    layers: Mapping[str, int] = field(default_factory=dict)
    """which row each node is in"""

    def node(self, name: str) -> Node:
        return next(n for n in self.nodes if n.name == name)

    def rows(self) -> list[dict[str, Any]]:
        """The drawing as data: a row per node, then a row per edge."""
        nodes = [
            {
                "what": "node",
                "name": n.name,
                "kind": n.kind,
                "label": _label(n),
                "layer": n.layer,
                "size": size(n.shape),
                "repeat": n.repeat,
                "params": n.params,
                "madds": n.madds,
                "operators": " ".join(map(str, n.operators)),
            }
            for n in self.nodes
        ]
        edges = [
            {"what": "edge", "source": e.source, "target": e.target, "size": e.size, "skip": e.skip} for e in self.edges
        ]
        return [*nodes, *edges]


def _label(node: Node) -> str:
    if node.kind == "part":
        return ", ".join((node.title, *map(str.strip, node.lines)))
    return " · ".join(filter(None, (node.above, node.title, *node.lines)))


def size(shape: Sequence[int]) -> str:
    """64 x 56 x 56; what has no height and width is a vector."""
    return " x ".join(map(str, shape if prod(shape[1:]) > 1 else shape[:1]))


def sizes(shapes: Iterable[Sequence[int]]) -> str:
    """Of the maps of several repeats: 96-224 x 56 x 56."""
    known = list(dict.fromkeys(map(tuple, shapes)))
    channels = sorted({s[0] for s in known})
    if len(known) == 1 or len({s[1:] for s in known}) > 1:
        return size(known[0])
    return f"{channels[0]}-{channels[-1]} x {' x '.join(map(str, known[0][1:]))}"


def skips(pairs: Sequence[tuple[str, str]], order: Sequence[str]) -> set[tuple[str, str]]:
    """The pairs that a longer way also joins; `order` lists sources before targets."""
    after: dict[str, set[str]] = {name: set() for name in order}
    for source, target in pairs:
        after[source].add(target)
    reach: dict[str, set[str]] = {}
    for name in reversed(order):
        reach[name] = after[name].union(*(reach[n] for n in after[name]))
    return {(s, t) for s, t in pairs if any(t in reach[n] for n in after[s] if n != t)}
