"""How the cost of a network grows with its width, resolution, depth, groups and batch."""

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

from backbones.plots.style import LIGHT, Theme, load_altair, texts, themed

COSTS = {"params": "parameters", "madds": "multiply-adds", "activations": "activations", "memory": "memory"}
SHAPES = ("circle", "square", "triangle-up", "diamond")
DASHES = ([1, 0], [1, 0], [5, 4], [2, 3])
"""so that of two lines that coincide both are seen"""
SETTINGS = {
    "width": "width, as the network's own factor",
    "resolution": "side of the image, pixels",
    "depth": "depth",
    "groups": "groups",
    "batch": "images at once",
}
SLOPES = {-1: "1/x", 1: "x", 2: "x\N{SUPERSCRIPT TWO}", 3: "x\N{SUPERSCRIPT THREE}"}
"""powers that are drawn to compare with"""
FLAT = 0.005
"""a cost whose exponent is below does not depend on the setting"""
WIDTH, HEIGHT = 340, 260
ACROSS = 2
"""panels in one line"""
FONT_SIZE = 12


def scaling_rows(network: str, points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The picture as data: of a sweep's points, each a setting or several and the costs there, one row per setting.

    Where several settings were swept, those of one setting with the first values of the others.
    """
    settings = [key for key in points[0] if key not in COSTS]
    rows = []
    for setting in settings:
        line = [p for p in points if all(p[key] == points[0][key] for key in settings if key != setting)]
        if len({p[setting] for p in line}) > 1:
            costs = ({what: p[what] for what in COSTS if p.get(what) is not None} for p in line)
            rows += [
                {"network": network, "setting": setting, "value": p[setting], **cost}
                for p, cost in zip(line, costs, strict=True)
            ]
    return rows


def scaling(rows: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Any:
    """A panel for each network and setting: every cost over the smallest value's, both axes logarithmic.

    Beside each line stands the exponent by which it grows, fitted to the logarithms.
    """
    if not rows:
        raise ValueError("nothing to draw; give at least two values of one setting")
    alt = load_altair()
    panels: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        panels.setdefault((row["network"], row["setting"]), []).append(row)
    for (network, setting), own in panels.items():
        if len({row["value"] for row in own}) < 2:
            raise ValueError(f"{network} has one value of {setting}; give at least two")
    drawn = [_panel(*key, own, theme) for key, own in panels.items()]
    lines = [alt.hconcat(*drawn[i : i + ACROSS], spacing=10) for i in range(0, len(drawn), ACROSS)]
    title = alt.TitleParams(
        "How the cost grows",
        subtitle=[
            "Cost over that of the smallest value, both axes logarithmic; beside each line its fitted power of x.",
            "Multiply-adds of convolutions and matrix products; memory of inference with weights. Grey: exact powers.",
        ],
    )
    return themed(alt.vconcat(*lines, spacing=28).properties(title=title), theme)


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """The power by which costs grow with values, by least squares of the logarithms."""
    x, y = [log(value) for value in values], [log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


def _panel(network: str, setting: str, rows: Sequence[Mapping[str, Any]], theme: Theme) -> Any:
    alt = load_altair()
    rows = sorted(rows, key=lambda row: row["value"])
    values = [row["value"] for row in rows]
    known = [what for what in COSTS if all(row.get(what) for row in rows)]
    powers = {what: exponent(values, [row[what] for row in rows]) for what in known}
    first, last = values[0], values[-1]
    points = [
        {"value": row["value"], "times": row[what] / rows[0][what], "cost": COSTS[what], "count": row[what]}
        for what in known
        for row in rows
    ]
    slopes = sorted({round(power) for power in powers.values()} & SLOPES.keys())
    guides = [{"value": v, "times": (v / first) ** k, "power": k} for k in slopes for v in (first, last)]
    heights = [point["times"] for point in (*points, *guides)]
    low, high = min(heights) / 1.15, max(heights) * 1.15

    ends = [(rows[-1][what] / rows[0][what], f"{COSTS[what]} {_power(powers[what])}", what) for what in known]
    ends += [((last / first) ** k, SLOPES[k], "") for k in slopes]
    words = _spread(ends, low, high)
    inks = dict(zip(COSTS, theme.colours, strict=True))
    for word in words:
        word["ink"] = inks.get(word["what"], theme.grey)

    x = alt.X("value:Q", title=SETTINGS.get(setting, setting))
    edge = (last / first) ** 0.03
    x = x.scale(type="log", domain=[first / edge, last * edge], nice=False).axis(values=values, format="~g", grid=False)
    y = alt.Y("times:Q", title=f"times the cost at {first:g}").scale(type="log", domain=[low, high], nice=False)
    y = y.axis(values=_ticks(low, high), format="~g", domain=False, ticks=False)
    base = alt.Chart().encode(x=x, y=y)
    names = [COSTS[what] for what in known]
    colour = alt.Color("cost:N").scale(domain=names, range=[inks[what] for what in known]).legend(None)
    marks = [shape for shape, what in zip(SHAPES, COSTS, strict=True) if what in known]
    shape = alt.Shape("cost:N").scale(domain=names, range=marks).legend(None)
    dashes = [list(dash) for dash, what in zip(DASHES, COSTS, strict=True) if what in known]
    dash = alt.StrokeDash("cost:N").scale(domain=names, range=dashes).legend(None)
    tips = [
        alt.Tooltip("cost:N"),
        alt.Tooltip("value:Q", title=setting),
        alt.Tooltip("count:Q", format=","),
        alt.Tooltip("times:Q", format=".3g"),
    ]
    lines = base.encode(color=colour).properties(data=alt.Data(values=points))
    layers = [
        base.mark_line(color=theme.grey, strokeWidth=1, strokeDash=[2, 3])
        .encode(detail="power:N")
        .properties(data=alt.Data(values=guides)),
        lines.mark_line(strokeWidth=2.5).encode(strokeDash=dash),
        lines.mark_point(filled=True, size=55, opacity=1).encode(shape=shape, tooltip=tips),
        *texts(
            base.encode(x=alt.value(WIDTH + 8)), words, theme, FONT_SIZE, alt.Color("ink:N", scale=None, legend=None)
        ),
    ]
    title = alt.TitleParams(f"{network}: {setting}", fontSize=14, offset=8)
    return alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title).resolve_scale(color="independent")


def _power(power: float) -> str:
    return "constant" if abs(power) < FLAT else f"x^{power:.2f}"


def _spread(ends: Sequence[tuple[float, str, str]], low: float, high: float) -> list[dict[str, Any]]:
    """Words at the ends of the lines, moved apart where they would overlap."""
    step, ordered = FONT_SIZE * 1.3, sorted(ends, key=lambda end: -end[0])
    wished = [HEIGHT * log(high / times) / log(high / low) for times, _, _ in ordered]
    places = list[float]()
    for y in wished:
        places.append(max(y, places[-1] + step) if places else y)
    for i in reversed(range(len(places))):
        below = places[i + 1] - step if i + 1 < len(places) else HEIGHT
        places[i] = min(places[i], below)
    return [
        {"times": high * (low / high) ** (y / HEIGHT), "text": text, "what": what, "align": "left"}
        for y, (_, text, what) in zip(places, ordered, strict=True)
    ]


def _ticks(low: float, high: float) -> list[float]:
    """Powers of two, so many that they can be read; and where they are few, the middle between them too."""
    whole = [2.0**k for k in range(-20, 40) if low <= 2.0**k <= high]
    if len(whole) > 2:
        return whole[:: -(-len(whole) // 8)]
    return sorted({*whole, *(1.5 * tick for tick in (whole[0] / 2, *whole) if low <= 1.5 * tick <= high)})
