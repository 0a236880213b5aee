"""Rows become a table on the screen, CSV, JSON or Markdown."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

Format = Literal["table", "csv", "json", "md"]


def show(rows: Sequence[Mapping[str, Any]], format: Format, columns: Mapping[str, str], names: int = 1) -> None:
    """Print rows; `columns` are those of a table, key -> heading, the first `names` of them aligned left.

    CSV and JSON have every column.
    """
    if format == "json":
        print(json.dumps(list(rows), indent=1))
    elif format == "csv":
        keys = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(sys.stdout, keys, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in rows)
    elif format == "md":
        print(f"| {' | '.join(columns.values())} |")
        print("|" + "|".join("---" if i < names else "---:" for i in range(len(columns))) + "|")
        for row in rows:
            print("| " + " | ".join(text(row.get(key)).replace("|", "\\|") for key in columns) + " |")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for i, heading in enumerate(columns.values()):
            table.add_column(heading, justify="left" if i < names else "right", no_wrap=i < names)
        for row in rows:
            table.add_row(*(text(row.get(key)) for key in columns))
        Console(width=None if sys.stdout.isatty() else 160).print(table)


def _plain(value: Any) -> Any:
    """As a program reads it: numbers without marks between their digits."""
    return text(value) if isinstance(value, (tuple, list)) else value


def text(value: Any) -> str:
    """A shape as 64x112x112, a whole number with its thousands apart, nothing where there is nothing."""
    if value is None or value == () or value == []:
        return ""
    if isinstance(value, (tuple, list)):
        return "x".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
