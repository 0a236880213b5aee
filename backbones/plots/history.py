"""How a training went: loss, accuracy and learning rate over the epochs."""

from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, nan
from typing import Any

from backbones.plots.style import BLUE, GREY, VERMILLION, load_altair, themed

PARTS = {"train": "training", "val": "validation"}
COLOURS = [BLUE, VERMILLION]
MOST_POINTS = 20
"""with more epochs than this, a line shows no points"""
MOST_STEPS = 6
"""with at most so many different values, a learning rate is drawn as steps on a logarithmic axis"""


def curves(history: Sequence[Mapping[str, float]]) -> Any:
    """Three panels from one row per epoch: epoch, train_loss, train_top1, lr and, if known, val_loss, val_top1."""
    needed = ("epoch", "train_loss", "train_top1", "lr")
    if missing := [key for key in needed if not history or any(key not in row for row in history)]:
        raise ValueError(f"history of {len(history)} epochs lacks {missing}; give one row per epoch with {needed}")
    alt = load_altair()
    parts = [part for part in PARTS if any(f"{part}_{what}" in row for row in history for what in ("loss", "top1"))]
    names = [PARTS[part] for part in parts]
    legend = {"orient": "top", "offset": 8, "symbolType": "stroke", "symbolStrokeWidth": 3}
    colour = alt.Color("line:N", title=None).scale(domain=names, range=COLOURS[: len(names)]).legend(**legend)
    points = {"size": 28, "filled": True} if len(history) <= MOST_POINTS else False

    def panel(lines: Mapping[str, str], y: Any, colour: Any, interpolate: str = "linear") -> Any:
        """One panel; `lines` maps a column of the history to the name of its line."""
        values = [
            {"epoch": row["epoch"], "line": name, "value": row[key] if isfinite(row[key]) else None}
            for key, name in lines.items()
            for row in history
            if key in row
        ]
        x = alt.X("epoch:Q", title="epoch").scale(zero=False, nice=False, padding=8)
        x = x.axis(tickMinStep=1, tickCount=6, format="d", grid=False)
        line = alt.Chart(alt.Data(values=values)).mark_line(strokeWidth=2, point=points, interpolate=interpolate)
        return line.encode(x=x, y=y, color=colour).properties(width=250, height=220)

    def y(title: str, ticks: Sequence[float] = (), **scale: Any) -> Any:
        which = {"values": ticks} if ticks else {"tickCount": 5}
        return alt.Y("value:Q", title=title).scale(**scale).axis(domain=False, ticks=False, **which)

    accuracies = [row.get(key, nan) for key in ("train_top1", "val_top1") for row in history]
    known = [accuracy for accuracy in accuracies if isfinite(accuracy)] or [0]
    low = min(90, 10 * floor(min(known) / 10))
    tens = [low, max(low + 10, 10 * ceil(max(known) / 10))]
    rates = sorted({row["lr"] for row in history})
    in_steps = rates[0] > 0 and 1 < len(rates) <= min(MOST_STEPS, len(history) // 2)
    rate = y("learning rate", rates, type="log") if in_steps else y("learning rate", zero=True)
    return themed(
        alt.hconcat(
            panel({f"{part}_loss": PARTS[part] for part in parts}, y("loss", zero=True), colour),
            panel({f"{part}_top1": PARTS[part] for part in parts}, y("accuracy (%)", domain=tens), colour),
            panel({"lr": "rate"}, rate, alt.value(GREY), "step-after" if in_steps else "linear"),
            spacing=36,
        )
    )
