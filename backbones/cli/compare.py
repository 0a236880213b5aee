"""backbones compare, diff: networks side by side, and what one has that another lacks."""

import json
from collections.abc import Mapping
from typing import Any

from tyro.conf import Positional

from backbones import catalog, protocols
from backbones.cli import tables
from backbones.units import si

COSTS = ("params", "madds")
HEADINGS = {"params": "params", "madds": "madds", "activations": "activations", "peak_memory": "memory of maps"}


def compare(names: Positional[tuple[str, ...]], /, format: tables.Format = "table") -> None:
    """Show networks side by side: their costs with ratios against the first, and the accuracies that were printed.

    Accuracies of different protocols never stand in one column.

    Args:
        names: as `backbones list` prints them, the first to compare the others with
        format: how to print; csv and json have exact numbers
    """
    rows = catalog.compare(*names)
    printed = [key for key in rows[0] if key.startswith("top1 ")]
    headings = {"network": "network", "year": "year", "input_size": "input", **HEADINGS}
    headings |= {key: f"top-1, {key.partition(' ')[2]}" for key in printed}
    if format in ("csv", "json"):
        tables.show(rows, format, headings)
        return
    tables.show([{**row, **_told(row, printed)} for row in rows], format, headings)
    print()
    for key in printed:
        name = key.partition(" ")[2]
        print(f"{name}: {protocols.PROTOCOLS[name]}")
    for row in rows:
        if row["other"]:
            print(f"{row['network']}: top-1 {row['other']}")


def _told(row: Mapping[str, Any], printed: list[str]) -> dict[str, str]:
    """Costs with their ratio; accuracies with two digits, and the side of their images where it is another."""
    unit = {"peak_memory": "B"}
    costs = {key: f"{si(row[key])}{unit.get(key, '')} ({row[f'{key}_ratio']:.3g})" for key in HEADINGS}
    accuracies = {}
    for key in printed:
        if row[key] is not None:
            size = row[key.replace("top1", "size", 1)]
            accuracies[key] = f"{row[key]:.2f} %{'' if size == row['input_size'][1] else f' at {size}'}"
    return {**costs, **accuracies, "year": str(row["year"])}


def diff(
    first: Positional[str], second: Positional[str], /, size: int | None = None, format: tables.Format = "table"
) -> None:
    """Show what the second network has otherwise than the first, block by block, and what that costs.

    Args:
        first: as `backbones list` prints it; or torchvision:NAME, timm:NAME, FILE.py:FUNCTION that returns a module
        second: likewise
        size: side of the images in pixels; each network's own by default
        format: how to print; json has every changed layer, csv the table alone
    """
    from backbones import cost
    from backbones.cli.modules import find

    found = cost.diff(*(cost.measure_cost(*find(name, size)) for name in (first, second)))
    rows = found.rows()
    if format == "json":
        told = {"sentence": found.sentence(first, second), "statements": [s.asdict() for s in found.statements]}
        print(json.dumps({**told, "parts": rows, "changes": [c.asdict() for c in found.changes]}, indent=1))
        return
    if format == "csv":
        tables.show(rows, format, {})
        return
    print(found.sentence(first, second), end="\n\n")
    if len(found.statements) > 1:
        changes = [
            {"change": s.text, **{key: f"{value:+,}" if (value := getattr(s, key)) else "" for key in COSTS}}
            for s in found.statements
        ]
        tables.show(changes, format, {key: key for key in ("change", *COSTS)})
        print()
    same = all(row["first"] == row["second"] for row in rows)
    columns = {"second": "part"} if same else {"first": first, "second": second}
    for key in COSTS:
        columns |= {f"{key}_first": f"{key} before", f"{key}_second": "after", f"{key}_ratio": "ratio"}
    tables.show(rows, format, columns, names=1 if same else 2)
