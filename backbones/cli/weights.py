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
    console = Console()
    for network in dict.fromkeys(weights.network for weights in found):
        console.print(_table(network, [weights for weights in found if weights.network == network]))
    console.print("Figures and licences are the publishers' own. Take one by weights=, the default by pretrained=True.")


def _table(network: str, found: "list[Published]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title=network, title_justify="left")
    table.add_column("weights", no_wrap=True)
    for column in ("top-1", "top-5", "input"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("licence", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("here")
    for weights in found:
        scores = ("" if score is None else f"{score:.2f}" for score in (weights.top1, weights.top5))
        side = str(weights.preprocessing.size[0]) if weights.preprocessing else ""
        size = f"{weights.bytes / 1e6:.0f} MB" if weights.bytes else ""
        table.add_row(weights.weights, *scores, side, weights.licence, size, _here(weights) and "yes")
    return table


def _facts(weights: "Published") -> dict[str, object]:
    return {**asdict(weights), "place": str(weights.place), "cached": _here(weights)}


def _here(weights: "Published") -> str:
    from backbones.weights.sources import cached

    return str(cached(weights) or "")
