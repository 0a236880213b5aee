"""Block diagrams of any network, found by watching it run: an overview and every part in detail; also as data."""

from typing import Any

from backbones.cost.anatomy import Anatomy
from backbones.plots.diagram.detail import detail
from backbones.plots.diagram.drawing import boxes, tall
from backbones.plots.diagram.graph import Edge, Graph, Group, Node
from backbones.plots.diagram.overview import overview
from backbones.plots.diagram.shapes import Rectangle
from backbones.plots.diagram.strip import places, strip

__all__ = ["Edge", "Graph", "Group", "Node", "draw", "graph", "rectangles"]


def graph(cost: Any, title: str, stage: str | None = None) -> Graph:
    """What there is to draw of a network whose cost was measured: its overview, or one part of it, layer by layer.

    Args:
        cost: of `measure_cost`
        title: stands above the drawing
        stage: a part by its dotted path, such as stages.1 or stages.1.0; "" is the whole network
    """
    anatomy = Anatomy(cost)
    return overview(anatomy, title) if stage is None else detail(anatomy, stage, title)


def draw(graph: Graph, dark: bool = False) -> str:
    """The diagram as SVG, on a white or a dark ground."""
    return strip(graph, dark) if graph.overview else tall(graph, dark)


def rectangles(graph: Graph) -> dict[str, Rectangle]:
    """Where each node is drawn."""
    return places(graph) if graph.overview else boxes(graph)
