"""What is known of the networks: from the catalog, without torch."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Annotated, Any

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from backbones import catalog, recipes, units

Json = Annotated[bool, arg(name="json")]


def list_networks(pattern: Positional[str] = "*", /, paper: bool = False, json_: Json = False) -> None:
    """List networks with their year, parameters and multiply-adds.

    Args:
        pattern: of the name, as in a shell: "*resnet*"
        paper: list what the papers print beside what we count, and why they differ
        json_: print the catalog's entries as JSON
    """
    entries = [e for e in catalog.load().values() if fnmatchcase(e["name"], pattern)]
    if not entries:
        raise LookupError(f"no network matches {pattern!r}; `backbones list` shows all")
    if json_:
        print(json.dumps(entries, indent=1))
        return
    if paper:
        _print_scores(entries)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, justify in (("network", "left"), ("year", "right"), ("params", "right"), ("madds", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_column("input", justify="right")
    table.add_column("departs from the paper")
    for e in entries:
        numbers = (units.si(e["measured"]["params"]), units.si(e["measured"]["madds"]))
        departs = "; ".join(d["here"] for d in e["departures"])
        table.add_row(e["name"], str(e["paper"]["year"]), *numbers, str(e["input_size"][1]), departs)
    Console().print(table)


def _print_scores(entries: list[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("network", no_wrap=True)
    table.add_column("what")
    for column in ("printed", "counted", "off"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("source", overflow="fold", min_width=10)
    scores = catalog.scores(entries)
    for score in scores:
        numbers = (units.si(score.printed), f"{score.counted:,}", f"{score.difference:+.1f} %")
        table.add_row(score.network, score.what, *numbers, score.source)
    console = Console()
    console.print(table)
    for score in scores:
        if score.verdict == "differs":
            why = f"{score.network}, {score.what}, {score.source}: {score.gap}"
            console.print(why, markup=False, highlight=False, soft_wrap=True)


def info(name: Positional[str], /, json_: Json = False) -> None:
    """Show a network's paper, what it reports beside what we count, its maps, its departures and its recipe.

    Args:
        name: as `backbones list` prints it
        json_: print the catalog's entry as JSON
    """
    entry = catalog.find(name)
    if json_:
        print(json.dumps(entry, indent=1))
        return
    console, paper, measured = Console(), entry["paper"], entry["measured"]
    console.print(f"[bold]{entry['name']}[/]  {paper['title']}")
    where = f", arXiv {paper['arxiv']}" if paper["arxiv"] else ""
    builds_on = f"; builds on {', '.join(paper['builds_on'])}" if paper["builds_on"] else ""
    console.print(f"{paper['authors']}, {paper['year']}, {paper['venue']}{where}{builds_on}", highlight=False)
    channels, height, width = entry["input_size"]
    console.print(
        f"input {channels}x{height}x{width}, from {measured['min_size']}x{measured['min_size']}; "
        f"{entry['num_classes']} classes; features of {measured['num_features']}; family {entry['family']}",
        highlight=False,
    )
    console.print(_claims(entry))
    maps = Table("map", "channels", "stride", "receptive field", box=None, title="features", title_justify="left")
    for feature in measured["features"]:
        maps.add_row(*map(str, feature.values()))
    console.print(maps)
    if entry["departures"]:
        console.print(_departures(entry))
    for promise, reason in entry["cannot"].items():
        console.print(f"cannot {promise}: {reason}")
    if entry["recipe"]:
        console.print(_recipe(entry["recipe"], bool(entry["measured"]["aux_params"])))


def explain(name: Positional[str], /) -> None:
    """Show where a network departs from its paper, and what the paper says there.

    Args:
        name: as `backbones list` prints it
    """
    entry = catalog.find(name)
    if entry["departures"]:
        Console().print(_departures(entry))
        return
    twins = [n for n in catalog.load() if n.startswith(f"{name}.")]
    others = f" Its twins depart: {', '.join(twins)}." if twins else ""
    print(f"{entry['name']} is the paper's own network ({entry['paper']['title']}, {entry['paper']['year']}).{others}")


def recipe(name: Positional[str], /) -> None:
    """Show how a network's paper trained it: every value, where it is printed, and what we do instead where we must.

    Args:
        name: as `backbones list` prints it; or modern, this library's own recipe
    """
    if name == "modern":
        Console().print(_recipe(asdict(recipes.MODERN), aux=True))
        text = ", ".join(f"{field} {_shown(value)}" for field, value in recipes.PHOTOGRAPHS.items())
        print(f"where the images, and the network's input, have {recipes.PHOTOGRAPH} pixels a side or more: {text}")
        return
    entry = catalog.find(name)
    if not entry["recipe"]:
        raise LookupError(
            f"{entry['name']} is not in its paper, which has no recipe for it; see `backbones recipe modern`"
        )
    Console().print(_recipe(entry["recipe"], bool(entry["measured"]["aux_params"])))


def _claims(entry: Mapping[str, Any]) -> Table:
    table = Table("what", "reported", "measured", "source", box=None, title="counts and errors", title_justify="left")
    measured = entry["measured"]
    table.add_row("params", "", f"{measured['params']:,}", "counted")
    table.add_row("madds", "", f"{measured['madds']:,}", "counted")
    for claim in entry["reported"]:
        for key, counted in claim["counted"].items():
            source = ": ".join(filter(None, (catalog.where(claim), claim["gap"])))
            table.add_row(key, f"{claim[key]:,.0f}", f"{counted:,}", source)
        if claim["maps"]:
            sides = (" ".join(map(str, maps)) for maps in (claim["maps"], measured["maps"]))
            table.add_row("maps", *sides, claim["source"])
        for key, label in (("top1", "top-1"), ("top5", "top-5")):
            if claim[key] is not None:
                how = f"{claim['source']}; {claim['data']}, {claim['protocol']}"
                table.add_row(label, f"{claim[key]:.2f} %", "not here", how)
    return table


def _departures(entry: Mapping[str, Any]) -> Table:
    table = Table("here", "the paper", "where", title=f"{entry['name']} departs", title_justify="left", box=None)
    for departure in entry["departures"]:
        table.add_row(departure["here"], departure["paper"], departure["section"])
    return table


def _recipe(values: Mapping[str, Any], aux: bool) -> Table:
    """`aux` says whether the network has auxiliary heads."""
    title = f"trained as in {values['source']}"
    table = Table("recipe", "value", "where it is from", title=title, title_justify="left", box=None)
    for field in (f for f in recipes.in_force(values) if aux or f != "aux_weight"):
        table.add_row(field, _shown(values[field]), recipes.origin(field, values))
    for deviation in values["deviations"]:
        table.add_row("instead", "", deviation)
    return table


def _shown(value: Any) -> str:
    several = value if isinstance(value, (tuple, list)) else (value,)
    return " ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in several)
