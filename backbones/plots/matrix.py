"""Which class is taken for which."""

import json
from collections.abc import Sequence
from typing import Any

from backbones.plots.style import BLUE, INK, PALE, load_altair, themed

MOST_COUNTS = 20
"""with more classes than this, cells show no counts"""
SHADES = ("#FFFFFF", "#B3D5E8", BLUE, "#00395A")


def confusion_rows(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> list[dict[str, Any]]:
    """The picture as data: one row per cell; `percent` of the images of the true class, None where there are none."""
    if not classes or len(matrix) != len(classes) or any(len(row) != len(classes) for row in matrix):
        lengths = sorted({len(row) for row in matrix})
        given = f"{len(matrix)} rows of {lengths} counts for {len(classes)} classes"
        raise ValueError(f"{given}; give a square matrix with one row and one column per class")
    return [
        {"true": true, "predicted": predicted, "count": count, "percent": 100 * count / total if total else None}
        for true, row, total in zip(classes, matrix, map(sum, matrix), strict=True)
        for predicted, count in zip(classes, row, strict=True)
    ]


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """Heat map of (true, predicted) counts, shaded by their share of the true class; counts up to 20 classes."""
    rows = confusion_rows(matrix, classes)
    alt, number = load_altair(), len(classes)
    with_counts = number <= MOST_COUNTS
    cells = [  # classes by index, because two of them may share a name
        {"true": i // number, "predicted": i % number, "percent": row["percent"] or 0, "text": row["count"] or ""}
        for i, row in enumerate(rows)
        if with_counts or row["count"]
    ]
    side = 40 if number <= 12 else 30 if with_counts else max(3.0, min(24.0, 840 / number))
    axis = {
        "labelExpr": f"{json.dumps(list(classes))}[datum.value]",
        "labelFontSize": 12 if side > 13 else 8,
        "labelLimit": 120,
        "labelOverlap": True,
        "ticks": False,
        "domain": False,
    }
    fits = max(map(len, classes)) * 8 <= side
    domain = list(range(number))
    x = alt.X("predicted:O", title="predicted class").scale(domain=domain).axis(**axis, labelAngle=0 if fits else -90)
    y = alt.Y("true:O", title="true class").scale(domain=domain).axis(**axis)
    shade = alt.Color("percent:Q", title="% of the true class")
    shade = shade.scale(type="pow", exponent=0.5, domain=[0, 100], range=SHADES, interpolate="rgb")
    legend = {"values": [0, 5, 25, 100], "gradientLength": min(200, number * side), "gradientThickness": 12}
    base = alt.Chart(alt.Data(values=cells)).encode(x=x, y=y)
    grid = {"stroke": PALE, "strokeWidth": 1} if with_counts else {}
    chart = base.mark_rect(**grid).encode(color=shade.legend(**legend))
    if with_counts:
        ink = alt.condition("datum.percent > 33", alt.value("white"), alt.value(INK))
        chart += base.mark_text(fontSize=12 if number <= 12 else 10).encode(text="text:N", color=ink)
    frame = alt.ViewConfig(stroke=PALE)
    return themed(chart.properties(width=number * side, height=number * side, view=frame))
