"""backbones plot diagram: the block diagram of a network, ours or anybody's."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backbones.plots import Picture


def draw_diagram(network: str, stage: str | None = None) -> "Picture":
    """The overview of a network, or one of its parts layer by layer."""
    from backbones.cli.modules import find
    from backbones.cost import measure_cost
    from backbones.plots import DARK, Picture, diagram

    title = network if not stage else f"{network} \N{MIDDLE DOT} {stage}"
    graph = diagram.graph(measure_cost(*find(network)), title, stage)
    shown = [] if stage is None else [stage or "all"]
    name = "-".join(["diagram", network.replace(":", "-").replace("/", "-"), *shown])
    return Picture(name, title, graph.rows(), lambda theme: diagram.draw(graph, dark=theme is DARK))
