"""Accuracy against cost: which networks are the best of their price."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import log10, pi, sqrt
from typing import Any

from backbones import protocols
from backbones.pareto import pareto
from backbones.plots.labels import Box, Mark, place
from backbones.plots.style import LIGHT, Theme, load_altair, texts, themed, ticks

WIDTH, HEIGHT = 900, 540
AREA = 17e-6
"""of a bubble, in square pixels per parameter"""
FONT_SIZE, SMALL = 12, 11
SIZES = (5e6, 25e6, 100e6)
"""parameters that the legend shows"""


def accuracy_rows(entries: Iterable[Mapping[str, Any]], protocol: str) -> list[dict[str, Any]]:
    """The picture as data: the best accuracy of each network of the catalog under one protocol, at its own image size.

    Where a network has none at its own size, its best at another.
    """
    rows = []
    for entry in entries:
        measured, own = entry["measured"], entry["input_size"][1]
        known = protocols.accuracies(entry, protocol)
        for found in sorted(known, key=lambda k: k["input_size"] != own)[:1]:
            size = found["input_size"]
            row = {
                "network": entry["name"],
                "input_size": size,
                "year": entry["paper"]["year"],
                "top1": round(found["top1"], 3),
                "top5": found["top5"] and round(found["top5"], 3),
                "madds": measured["madds"] if size == own else measured["madds_at"][str(size)],
                "params": measured["params"],
                "protocol": found["how"],
                "tag": found["tag"],
                "source": found["source"],
                "paper": entry["paper"]["title"],
                "label": entry["name"] if size == own else f"{entry['name']} at {size}",
            }
            rows.append(row)
    front = pareto(rows)
    return [row | {"pareto": i in front} for i, row in enumerate(rows)]


def accuracy(rows: Sequence[Mapping[str, Any]], protocol: str, theme: Theme = LIGHT) -> Any:
    """Top-1 over multiply-adds of one image, area the parameters, colour the year; the Pareto front with its names."""
    if not rows:
        raise ValueError(f"no network has an accuracy under {protocol!r}; give another protocol, or other names")
    alt = load_altair()
    costs, gains = [row["madds"] for row in rows], [row["top1"] for row in rows]
    low, high = min(costs) / 1.8, max(costs) * 1.9
    margin = 0.12 * (max(gains) - min(gains)) + 1
    bottom, top = min(gains) - margin / 2, max(gains) + margin

    def pixels(row: Mapping[str, Any]) -> tuple[float, float, float]:
        x = WIDTH * log10(row["madds"] / low) / log10(high / low)
        return x, HEIGHT * (top - row["top1"]) / (top - bottom), sqrt(AREA * row["params"] / pi)

    def data(x: float, y: float) -> dict[str, float]:
        return {"madds": low * (high / low) ** (x / WIDTH), "top1": top - (top - bottom) * y / HEIGHT}

    x = alt.X("madds:Q", title="multiply-adds of one image (logarithmic)")
    x = x.scale(type="log", domain=[low, high], nice=False).axis(format="~s", grid=False, values=ticks(low, high))
    y = alt.Y("top1:Q", title="top-1 accuracy (%)").scale(domain=[bottom, top], nice=False, zero=False)
    y = y.axis(domain=False, ticks=False, tickCount=8)
    base = alt.Chart().encode(x=x, y=y)

    front = sorted((row for row in rows if row["pareto"]), key=lambda row: row["madds"])
    others = _best_of_each_paper(row for row in rows if not row["pareto"])
    marks = [Mark(*pixels(row), lines=(row["label"],), first=-3 * pi / 4) for row in front]
    marks += [Mark(*pixels(row), lines=(row["label"],), reach=6, first=pi / 4, strict=True) for row in others]
    marks += [Mark(*pixels(row)) for row in rows if row not in front and row not in others]
    drawn = [(a.x, a.y, b.x, b.y) for a, b in pairwise(marks[: len(front)])]
    key = Box(WIDTH - 190, HEIGHT - 110, WIDTH, HEIGHT)
    words, lines = [], []
    for found in place(marks, WIDTH, HEIGHT, FONT_SIZE, [key], drawn):
        text, named = marks[found.mark].lines[0], found.mark < len(front)
        words.append({**data(found.x, found.y), "text": text, "align": found.align, "front": named})
        if found.line:
            mark, end = marks[found.mark], data(*found.line[2:])
            start = found.line[:2] if named else (mark.x, mark.y)  # the rims of the others are hidden
            lines.append({**data(*start), "madds2": end["madds"], "top12": end["top1"]})

    years = sorted({row["year"] for row in rows})
    shades = [theme.shade(i / max(len(years) - 1, 1)) for i in range(len(years))]
    colour = alt.Color("year:O", title=None).scale(domain=years, range=shades)
    colour = colour.legend(orient="top", symbolType="circle", symbolSize=110, symbolStrokeWidth=0, offset=4)
    size = alt.Size("params:Q").scale(domain=[0, 1e9], range=[0, 1e9 * AREA]).legend(None)
    tips = [
        alt.Tooltip("label:N", title="network"),
        alt.Tooltip("top1:Q", title="top-1 (%)", format=".2f"),
        alt.Tooltip("top5:Q", title="top-5 (%)", format=".2f"),
        alt.Tooltip("protocol:N"),
        alt.Tooltip("tag:N", title="stated by"),
        alt.Tooltip("source:N"),
        alt.Tooltip("madds:Q", title="multiply-adds", format=".3s"),
        alt.Tooltip("params:Q", title="parameters", format=".3s"),
        alt.Tooltip("year:O"),
        alt.Tooltip("paper:N"),
    ]
    bubbles = base.mark_circle(
        opacity=alt.expr("datum.pareto ? 1 : 0.8"), strokeWidth=alt.expr("datum.pareto ? 1.8 : 0.5")
    )
    edge = alt.condition("datum.pareto", alt.value(theme.ink), alt.value(theme.ground))
    layers = [
        base.mark_line(color=theme.grey, strokeWidth=1.5, strokeDash=[5, 4])
        .encode(order="madds:Q")
        .properties(data=alt.Data(values=front)),
        bubbles.encode(size=size, color=colour, stroke=edge, tooltip=tips).properties(
            data=alt.Data(values=sorted(rows, key=lambda row: (row["pareto"], -row["params"])))
        ),
        base.mark_rule(color=theme.grey, strokeWidth=0.8)
        .encode(x2="madds2:Q", y2="top12:Q")
        .properties(data=alt.Data(values=lines)),
        *texts(
            base, words, theme, FONT_SIZE, alt.condition("datum.front", alt.value(theme.ink), alt.value(theme.grey))
        ),
        *_size_key(base, size, data, theme),
    ]
    title = alt.TitleParams(
        f"Accuracy against multiply-adds of {len(rows)} classic backbone{'s' if len(rows) > 1 else ''}",
        subtitle=[
            f"ImageNet-1k, top-1. Protocol {protocol}: {protocols.PROTOCOLS[protocol]}.",
            "Multiply-adds of convolutions and matrix products, counted. "
            "Dashed: the Pareto front, where nothing as good costs less.",
        ],
    )
    return themed(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title), theme)


def _best_of_each_paper(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    best: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        if row["paper"] not in best or row["top1"] > best[row["paper"]]["top1"]:
            best[row["paper"]] = row
    return list(best.values())


def _size_key(base: Any, size: Any, data: Any, theme: Theme) -> list[Any]:
    """Three empty discs in the lower right corner, and how many parameters they stand for."""
    discs, words, left = [], [{**data(WIDTH - 170, HEIGHT - 84), "text": "parameters", "align": "left"}], WIDTH - 170.0
    for params in SIZES:
        radius = sqrt(AREA * params / pi)
        left += radius
        discs.append({**data(left, HEIGHT - 46), "params": params})
        words.append({**data(left, HEIGHT - 10), "text": f"{params / 1e6:.0f} M", "align": "center"})
        left += radius + 26
    alt = load_altair()
    ring = base.mark_point(color=theme.grey, strokeWidth=1, fill=theme.ground).encode(size=size)
    ring = ring.properties(data=alt.Data(values=discs))
    return [ring, *texts(base, words, theme, SMALL, alt.value(theme.grey))]
