"""backbones weights: what others publish for a network."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from backbones import catalog
from backbones.cli.show import Json

if TYPE_CHECKING:
    from backbones.weights.sources import Published

TITLE = "{} takes, as weights=...; accuracies, licences and sizes as their publishers state them"


def list_weights(name: Positional[str], /, json_: Json = False) -> None:
    """List published weights that fit a network, or a dotted one with its plain name. Nothing is downloaded.

    Args:
        name: as `backbones list` prints it
        json_: print a list with all that is known of each
    """
    from backbones.weights.sources import some, twins

    name = catalog.find(name)["name"]
    found = some(twins(name))
    if json_:
        print(json.dumps([_facts(weights) for weights in found], indent=1))
        return
    table = Table(box=None, pad_edge=False, header_style="bold", title=TITLE.format(name), title_justify="left")
    table.add_column("weights", no_wrap=True)
    table.add_column("network", overflow="fold")
    for column in ("top-1", "top-5", "input"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("licence", overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("here")
    for weights in found:
        facts = _facts(weights)
        scores = ("" if score is None else f"{score:.2f}" for score in (weights.top1, weights.top5))
        side = str(weights.preprocessing.size[0]) if weights.preprocessing else ""
        size = f"{weights.bytes / 1e6:.0f} MB" if weights.bytes else ""
        row = (weights.weights, weights.network, *scores, side, weights.licence, size, "yes" if facts["cached"] else "")
        table.add_row(*row)
    Console().print(table)


def _facts(weights: "Published") -> dict[str, object]:
    """As JSON takes it, with where the file is on this machine."""
    from backbones.weights.sources import cached

    place, path = weights.place, cached(weights)
    return {**asdict(weights), "place": str(place), "cached": None if path is None else str(path)}
