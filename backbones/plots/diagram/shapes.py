"""What both levels of a diagram are drawn with."""

from dataclasses import dataclass

from backbones.plots.diagram.graph import Graph
from backbones.plots.diagram.look import BIG, Look, text

MARGIN, LINE = 28.0, 15.0
"""around the drawing; height of a line of small letters"""


@dataclass(frozen=True)
class Rectangle:
    """Where a node is."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def rectangle(box: Rectangle, rest: str, inner: str = "") -> str:
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" {rest}>{inner}</rect>'
    )


def heading(graph: Graph, look: Look) -> list[str]:
    return [
        text(MARGIN, MARGIN + 4, graph.title, BIG, look.ink, "start", ' font-weight="600"'),
        text(MARGIN, MARGIN + 25, graph.subtitle, 11.5, look.muted, "start"),
    ]
