"""The errors of the field over the years."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from math import ceil, floor, log, pi
from typing import Any

from backbones.plots.labels import Line, Mark, place
from backbones.plots.style import LIGHT, Theme, load_altair, texts, themed
from backbones.protocols import ONE_CROP, is_ensemble, stated_by

WIDTH, HEIGHT = 980, 580
FONT_SIZE = 12
KINDS = ("one network", "several networks")
SHAPES = ("circle", "diamond")
DASHES = ([1, 0], [6, 4])
AREA = 110
TICKS = (2, 3, 4, 5, 7, 10, 15, 20)


def timeline_rows(entries: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The picture as data: the lowest top-5 error on ImageNet of each paper, of one network and of several.

    `month` is that of the arXiv number, or the middle of the year where there is none; `best` whether no earlier row
    of its kind has as low an error; `tag` who states it: the paper, or its authors with the weights that they publish.
    """
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        paper = entry["paper"]
        for claim in entry["reported"]:
            if claim["top5"] is None or not claim["data"].startswith("ImageNet"):
                continue
            row = {
                "month": _month(paper),
                "network": entry["name"],
                "kind": KINDS[is_ensemble(claim)],
                "top5_error": round(100 - claim["top5"], 3),
                "data": claim["data"],
                "protocol": claim["protocol"],
                "tag": stated_by(claim),
                "source": claim["source"],
                "paper": paper["title"],
                "year": paper["year"],
            }
            key = paper["title"], row["kind"]
            if key not in best or row["top5_error"] < best[key]["top5_error"]:
                best[key] = row
    rows, lowest = [], dict.fromkeys(KINDS, 100.0)
    for row in sorted(best.values(), key=lambda row: (row["month"], row["top5_error"])):
        rows.append(row | {"best": row["top5_error"] < lowest[row["kind"]]})
        lowest[row["kind"]] = min(lowest[row["kind"]], row["top5_error"])
    return rows


def timeline(rows: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Any:
    """Top-5 error over time, one network and several networks as two series, each with the best so far as a line."""
    if not rows:
        raise ValueError("none of these networks has a printed top-5 error on ImageNet; give other names")
    alt = load_altair()
    rows = [{**row, "time": _time(row["month"]), "many": not ONE_CROP.match(row["protocol"])} for row in rows]
    times, errors = [row["time"] for row in rows], [row["top5_error"] for row in rows]
    start, end = floor(min(times)), ceil(max(times) + 0.3)
    low, high = min(errors) / 1.15, max(errors) * 1.15

    def data(x: float, y: float) -> dict[str, float]:
        return {"time": start + (end - start) * x / WIDTH, "top5_error": high * (low / high) ** (y / HEIGHT)}

    def pixels(row: Mapping[str, Any]) -> tuple[float, float]:
        return WIDTH * (row["time"] - start) / (end - start), HEIGHT * log(high / row["top5_error"]) / log(high / low)

    x = alt.X("time:Q", title=None).scale(domain=[start, end], nice=False, zero=False)
    x = x.axis(format="d", grid=False, values=list(range(start, end + 1)))
    y = alt.Y("top5_error:Q", title="top-5 error (%, logarithmic)")
    y = y.scale(type="log", domain=[low, high], nice=False).axis(domain=False, ticks=False, values=TICKS)
    base = alt.Chart().encode(x=x, y=y)

    marks, drawn = [], list[Line]()
    for row in sorted(rows, key=lambda row: not row["best"]):
        up = row["kind"] == KINDS[0]
        marks.append(Mark(*pixels(row), 6, (_shown(row),), first=-pi / 4 if up else 3 * pi / 4))
    for kind in KINDS:
        corners = [pixels(row) for row in rows if row["best"] and row["kind"] == kind]
        for (from_x, from_y), (to_x, to_y) in pairwise(corners):
            drawn += [(from_x, from_y, to_x, from_y), (to_x, from_y, to_x, to_y)]
    words, lines = [], []
    best = sum(row["best"] for row in rows)
    for found in place(marks, WIDTH, HEIGHT, FONT_SIZE, drawn=drawn):
        text = marks[found.mark].lines[0]
        words.append({**data(found.x, found.y), "text": text, "align": found.align, "best": found.mark < best})
        if found.line:
            ends = data(*found.line[2:])
            lines.append({**data(*found.line[:2]), "time2": ends["time"], "error2": ends["top5_error"]})

    domain = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
    inks = [theme.colours[KINDS.index(kind)] for kind in domain]
    colour = alt.Color("kind:N", title=None).scale(domain=domain, range=inks)
    shape = alt.Shape("kind:N", title=None).scale(domain=domain, range=[SHAPES[KINDS.index(kind)] for kind in domain])
    legend = {"orient": "top", "symbolSize": 120, "labelFontSize": 13}
    tips = [
        alt.Tooltip("network:N"),
        alt.Tooltip("top5_error:Q", title="top-5 error (%)", format=".2f"),
        alt.Tooltip("kind:N", title="of"),
        alt.Tooltip("protocol:N"),
        alt.Tooltip("data:N"),
        alt.Tooltip("tag:N", title="stated by"),
        alt.Tooltip("source:N"),
        alt.Tooltip("month:N"),
        alt.Tooltip("paper:N"),
    ]
    points = base.encode(tooltip=tips).properties(data=alt.Data(values=rows))
    steps = {
        kind: base.mark_line(interpolate="step-after", strokeWidth=2, opacity=0.6, color=ink, strokeDash=dash)
        for kind, ink, dash in zip(KINDS, theme.colours, DASHES, strict=False)
    }
    layers = [
        *(
            line.properties(data=alt.Data(values=[row for row in rows if row["best"] and row["kind"] == kind]))
            for kind, line in steps.items()
        ),
        base.mark_rule(color=theme.grey, strokeWidth=0.8)
        .encode(x2="time2:Q", y2="error2:Q")
        .properties(data=alt.Data(values=lines)),
        points.mark_point(size=AREA, filled=True, opacity=1).encode(
            color=colour.legend(**legend), shape=shape.legend(**legend)
        ),
        points.mark_point(size=AREA / 3, filled=True, opacity=1, color=theme.ground)
        .encode(shape=shape.legend(**legend))
        .transform_filter("!datum.many"),
        *texts(base, words, theme, FONT_SIZE, alt.condition("datum.best", alt.value(theme.ink), alt.value(theme.grey))),
    ]
    title = alt.TitleParams(
        "How the errors on ImageNet fell",
        subtitle=[
            "Lowest top-5 error that each paper prints († its authors' release); lines: the best so far. "
            "Full marks: many crops; hollow: one.",
            "Validation images (* less the 1,762 blacklisted), unless test is said; at the month of the arXiv number.",
        ],
    )
    return themed(alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title), theme)


def _month(paper: Mapping[str, Any]) -> str:
    """2014-09 for arXiv 1409.1556; July of its year for a paper without a number."""
    arxiv = paper["arxiv"]
    return f"20{arxiv[:2]}-{arxiv[2:4]}" if arxiv else f"{paper['year']}-07"


def _time(month: str) -> float:
    """The middle of a month, in years."""
    return int(month[:4]) + (int(month[5:]) - 0.5) / 12


def _shown(row: Mapping[str, Any]) -> str:
    """The words beside a mark."""
    error = f"{row['top5_error']:.2f}".removesuffix("0")
    release = "†" if row["tag"] == "publisher" else ""
    return f"{row['network']} {error}{release}" + (
        ", test" if "test" in row["data"] else "*" if "blacklisted" in row["data"] else ""
    )
