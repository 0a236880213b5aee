"""Where a network spends its parameters, multiply-adds and activations, stage by stage."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from backbones import units
from backbones.plots.style import LIGHT, Theme, load_altair, themed

MEASURES = {"params": "parameters", "madds": "multiply-adds", "activations": "activations"}
WIDTH, BAR, STEP, GROUP = 720, 24, 30, 128
"""of the bars; high is one bar, from one to the next, from one network to the next"""
LEAST = 38
"""pixels of a part that has room for its share in words"""


def stage_rows(networks: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The picture as data: of each stage of each network, its name, its counts and their shares in percent."""
    rows = []
    for network, stages in networks.items():
        totals = {what: sum(stage[what] for stage in stages) for what in MEASURES}
        for stage in stages:
            shares = {f"{what}_share": 100 * stage[what] / (totals[what] or 1) for what in MEASURES}
            rows.append({"network": network, "stage": stage["name"], **{m: stage[m] for m in MEASURES}, **shares})
    return rows


def stages(rows: Sequence[Mapping[str, Any]], theme: Theme = LIGHT) -> Any:
    """Three bars per network, each the whole, parted by stage."""
    if not rows:
        raise ValueError("no networks to draw; give at least one")
    alt = load_altair()
    networks = list(dict.fromkeys(row["network"] for row in rows))
    names = _in_order([shown(row["stage"]) for row in rows])
    inks = dict(zip(names, _colours(names, theme), strict=True))
    parts, ends, heads = [], [], []
    for n, network in enumerate(networks):
        heads.append({"y": n * GROUP + 12, "text": network})
        own = [row for row in rows if row["network"] == network]
        for m, (what, words) in enumerate(MEASURES.items()):
            top, left = n * GROUP + 28 + m * STEP, 0.0
            for row in own:
                share = row[f"{what}_share"]
                part = {
                    "network": network,
                    "stage": shown(row["stage"]),
                    "what": words,
                    "count": row[what],
                    "share": share,
                    "x": left,
                    "x2": left + share,
                    "y": top,
                    "y2": top + BAR,
                    "centre": left + share / 2,
                    "middle": top + BAR / 2,
                    "text": f"{share:.0f} %" if share * WIDTH / 100 >= LEAST else "",
                    "ink": _readable(inks[shown(row["stage"])]),
                }
                parts.append(part)
                left += share
            ends.append({"y": top + BAR / 2, "what": words, "total": units.si(sum(row[what] for row in own))})
    height = len(networks) * GROUP - 14
    x = alt.X("x:Q").scale(domain=[0, 100], nice=False).axis(None)
    y = alt.Y("y:Q").scale(domain=[0, height], reverse=True, nice=False).axis(None)
    colour = alt.Color("stage:N", title=None, sort=None).scale(domain=names, range=list(inks.values()))
    colour = colour.legend(orient="top", symbolType="square", symbolSize=150, columns=8, offset=10)
    tips = [
        alt.Tooltip("network:N"),
        alt.Tooltip("stage:N"),
        alt.Tooltip("what:N", title="of the"),
        alt.Tooltip("share:Q", title="share (%)", format=".1f"),
        alt.Tooltip("count:Q", title="count", format=","),
    ]
    bars = alt.Chart(alt.Data(values=parts)).mark_rect(stroke=theme.ground, strokeWidth=1.5)
    inside = alt.Chart(alt.Data(values=parts)).mark_text(fontSize=12, baseline="middle")
    right = alt.Chart(alt.Data(values=ends))
    layers = [
        bars.encode(x=x, x2="x2:Q", y=y, y2="y2:Q", color=colour, tooltip=tips),
        inside.encode(
            x=alt.X("centre:Q").axis(None),
            y=alt.Y("middle:Q").axis(None),
            text="text:N",
            color=alt.Color("ink:N", scale=None),
        ),
        right.mark_text(align="right", dx=-10, fontSize=12, color=theme.grey, baseline="middle").encode(
            x=alt.value(0), y=y, text="what:N"
        ),
        right.mark_text(align="left", dx=10, fontSize=12, color=theme.ink, baseline="middle").encode(
            x=alt.value(WIDTH), y=y, text="total:N"
        ),
        alt.Chart(alt.Data(values=heads))
        .mark_text(align="left", fontSize=14, fontWeight="bold", color=theme.ink, baseline="middle")
        .encode(x=alt.value(0), y=y, text="text:N"),
    ]
    title = alt.TitleParams(
        "Where the cost is, stage by stage",
        subtitle=[
            "Shares of one image's cost, in the order of the forward pass; the totals stand at the right.",
            "Multiply-adds of convolutions and matrix products; activations: values that every operator writes.",
        ],
    )
    return themed(alt.layer(*layers).properties(width=WIDTH, height=height, title=title), theme)


def shown(stage: str) -> str:
    """stages.0 is called stage 1."""
    found = re.fullmatch(r"stages\.(\d+)", stage)
    return f"stage {int(found[1]) + 1}" if found else stage


def _in_order(names: Sequence[str]) -> list[str]:
    """Each name once: the stem, the stages by number, the head."""
    first = list(dict.fromkeys(names))
    number = {name: int(found[1]) for name in first if (found := re.fullmatch(r"stage (\d+)", name))}
    return sorted(first, key=lambda name: (name == "head", name != "stem", number.get(name, 0)))


def _colours(names: Sequence[str], theme: Theme) -> list[str]:
    """Grey for the stem, vermillion for the head, the ramp between them."""
    own = [name for name in names if name not in ("stem", "head")]
    ramp = {name: theme.shade(i / max(len(own) - 1, 1)) for i, name in enumerate(own)}
    return [ramp.get(name, theme.grey if name == "stem" else theme.colours[1]) for name in names]


def _readable(ground: str) -> str:
    """Black or white, whichever has more contrast with an sRGB colour."""
    parts = (int(ground[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (light + 0.05) ** 2 > 1.05 * 0.05 else "#FFFFFF"
