"""How every picture of the house looks, and how it becomes files."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BLUE, VERMILLION = "#0072B2", "#D55E00"
"""two of the colours of Okabe and Ito, told apart by every eye"""
INK, GREY, PALE = "#222222", "#6B6B6B", "#E6E6E6"
FONT = "Helvetica, Arial, sans-serif"
PNG_SCALE = 2


def load_altair() -> Any:
    """The module altair, or an error that says how to get it."""
    try:
        import altair
        import vl_convert  # noqa: F401  (altair needs it to write SVG and PNG)
    except ImportError as error:
        raise ImportError("pictures need altair and vl-convert; run: pip install 'backbones[plots]'") from error
    return altair


def themed(chart: Any) -> Any:
    """The finished chart in the fonts and colours of the house, on white, so that it reads on a dark page too."""
    text = {"labelColor": INK, "labelFontSize": 12, "titleColor": INK, "titleFontSize": 13, "titleFontWeight": "normal"}
    lines = {"domainColor": GREY, "tickColor": GREY, "gridColor": PALE, "labelPadding": 4, "titlePadding": 8}
    return chart.configure(
        background="white", padding=16, font=FONT, axis={**text, **lines}, legend=text, view={"stroke": None}
    )


def save(chart: Any, path: str | os.PathLike[str], data: Sequence[Mapping[str, Any]]) -> None:
    """Write path.svg, path.png and, from `data`, path.csv; `path` has no suffix, but may have dots (resnet50.tv).

    Each file appears whole or not at all.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for suffix in ("svg", "png", "csv"):
        part = Path(f"{os.fspath(path)}.{suffix}.part")
        try:
            if suffix == "csv":
                _write_csv(part, data)
            else:
                chart.save(str(part), format=suffix, scale_factor=PNG_SCALE if suffix == "png" else 1)
            part.replace(part.with_suffix(""))
        finally:
            part.unlink(missing_ok=True)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
