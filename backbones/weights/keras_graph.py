"""A network as Keras sees it, a graph of layers: its files have them in the order of their depth, which this finds."""

from typing import NamedTuple

from backbones.weights.convert import Leaf


class Node(NamedTuple):
    """A layer of the graph."""

    number: int
    """layers made before it"""
    name: str
    """empty for a layer without weights"""
    inputs: tuple["Node", ...]


class Separable(str):
    """The name of one layer of theirs that is two convolutions of ours."""


class Graph(list[str | Leaf]):
    """Keras' network: its layers with weights in the order of ours, and `order`, in that of its files."""

    def __init__(self) -> None:
        super().__init__()
        self.input = self.last = Node(0, "", ())
        self.made = 1

    def then(self, x: Node, *names: str | Leaf) -> Node:
        """Layers in a row behind `x`; "" has no weights."""
        for name in names:
            self.extend([name] * (2 if isinstance(name, Separable) else 1) if name else ())
            x = self._node(name if isinstance(name, str) else name.name, x)
        return x

    def foreign(self, x: Node, name: str) -> Node:
        """A layer with weights that ours does not have."""
        return self._node(name, x)

    def merge(self, *inputs: Node) -> Node:
        """A sum or concatenation."""
        return self._node("", *inputs)

    def order(self) -> list[str]:
        """Names by depth, the farthest from the output first; of equal depth as a search back from there meets them."""
        depth, met, todo = dict[int, int](), dict[int, Node](), [self.last]
        while todo:
            node = todo.pop()
            if node.number not in met:
                met[node.number] = node
                todo += reversed(node.inputs)
        for node in sorted(met.values(), key=lambda n: -n.number):
            for one in node.inputs:
                depth[one.number] = max(depth.get(one.number, 0), depth.setdefault(node.number, 0) + 1)
        return [node.name for node in sorted(met.values(), key=lambda n: -depth.get(n.number, 0)) if node.name]

    def _node(self, name: str, *inputs: Node) -> Node:
        self.last = Node(self.made, name, inputs)
        self.made += 1
        return self.last
