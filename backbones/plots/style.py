"""How every picture of the house looks, on light and on dark ground, and how it becomes files."""

import csv
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from pathlib import Path
from typing import Any

BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILLION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"
"""the colours of Okabe and Ito, told apart by every eye"""
INK, GREY, PALE = "#222222", "#6B6B6B", "#E6E6E6"
FONT = "Helvetica, Arial, sans-serif"
PNG_SCALE = 2


@dataclass(frozen=True)
class Theme:
    """The colours of a picture. Those of the lines are Okabe and Ito's, or lighter ones of the same hue."""

    ground: str
    ink: str
    """what is read first"""
    grey: str
    """what is read second"""
    pale: str
    """grids"""
    colours: tuple[str, ...]
    """of lines and marks, in this order"""
    ramp: tuple[str, ...]
    """from early to late: viridis, less the end that this ground swallows"""

    def shade(self, place: float) -> str:
        """A colour of the ramp, from 0 to 1."""
        place = min(max(place, 0), 1) * (len(self.ramp) - 1)
        i = min(int(place), len(self.ramp) - 2)
        parts = [[int(c[k : k + 2], 16) for k in (1, 3, 5)] for c in self.ramp[i : i + 2]]
        return "#" + "".join(f"{round(a + (b - a) * (place - i)):02X}" for a, b in zip(*parts, strict=True))


LIGHT = Theme(
    ground="white",
    ink=INK,
    grey=GREY,
    pale=PALE,
    colours=(BLUE, VERMILLION, GREEN, "#AA4C86"),
    ramp=("#440154", "#443A83", "#31688E", "#20908D", "#35B779", "#A0C621"),
)
DARK = Theme(
    ground="#15181D",
    ink="#F0F0F0",
    grey="#A9AFB8",
    pale="#2C313A",
    colours=(SKY, "#F28E2B", "#2BC79B", "#E6A0C8"),
    ramp=("#7D66C4", "#4C7BB8", "#2A9DA0", "#3FBF83", "#90D743", "#FDE725"),
)


def load_altair() -> Any:
    """The module altair, or an error that says how to get it."""
    try:
        import altair
        import vl_convert  # noqa: F401  (altair needs it to write SVG and PNG)
    except ImportError as error:
        raise ImportError("pictures need altair and vl-convert; run: pip install 'backbones[plots]'") from error
    return altair


def themed(chart: Any, theme: Theme = LIGHT) -> Any:
    """The finished chart in the fonts and colours of the house, on ground of its own, so that it reads on any page."""
    text = {
        "labelColor": theme.ink,
        "labelFontSize": 12,
        "titleColor": theme.ink,
        "titleFontSize": 13,
        "titleFontWeight": "normal",
    }
    lines = {"domainColor": theme.grey, "tickColor": theme.grey, "gridColor": theme.pale}
    title = {
        "anchor": "start",
        "frame": "group",
        "fontSize": 18,
        "color": theme.ink,
        "subtitleFontSize": 13,
        "subtitleColor": theme.grey,
        "subtitleLineHeight": 18,
        "subtitlePadding": 6,
        "offset": 18,
    }
    return chart.configure(
        background=theme.ground,
        padding=16,
        font=FONT,
        axis={**text, **lines, "labelPadding": 4, "titlePadding": 8},
        legend=text,
        title=title,
        view={"stroke": None},
    )


def texts(base: Any, rows: Sequence[Mapping[str, Any]], theme: Theme, size: float, colour: Any) -> list[Any]:
    """Layers of words: `text`, at the places that `base` encodes, by `align`; with a rim that parts them from lines."""
    alt, layers = load_altair(), []
    for align in ("left", "center", "right"):
        if values := [row for row in rows if row["align"] == align]:
            at = base.properties(data=alt.Data(values=values)).encode(text="text:N")
            how = {"align": align, "baseline": "middle", "fontSize": size, "lineBreak": "\n", "lineHeight": 1.25 * size}
            rim = at.mark_text(**how, stroke=theme.ground, strokeWidth=3.5, strokeJoin="round")
            layers += [rim.encode(color=alt.value(theme.ground)), at.mark_text(**how).encode(color=colour)]
    return layers


def ticks(low: float, high: float) -> list[float]:
    """Round values for a logarithmic axis: decades, and where they are few, 2 and 5 of each too."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    leading = (1,) if log10(high / low) > 3 else (1, 2, 5)
    return [d * 10.0**n for n in decades for d in leading if low <= d * 10.0**n <= high]


def save(chart: Any, path: str | os.PathLike[str], data: Sequence[Mapping[str, Any]]) -> None:
    """Write path.svg, path.png and, from `data`, path.csv; `path` has no suffix, but may have dots (resnet50.tv).

    The chart is altair's, or the text of an SVG. Each file appears whole or not at all.
    """
    write(f"{os.fspath(path)}.svg", lambda part: _draw(chart, part, "svg"))
    write(f"{os.fspath(path)}.png", lambda part: _draw(chart, part, "png"))
    write(f"{os.fspath(path)}.csv", lambda part: _write_csv(part, data))


def write(path: str | os.PathLike[str], fill: Callable[[Path], object]) -> None:
    """Make a file that appears whole or not at all: `fill` writes to the path that it is given."""
    part = Path(f"{os.fspath(path)}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        fill(part)
        part.replace(part.with_suffix(""))
    finally:
        part.unlink(missing_ok=True)


def _draw(chart: Any, path: Path, form: str) -> None:
    if not isinstance(chart, str):
        chart.save(str(path), format=form, scale_factor=PNG_SCALE if form == "png" else 1)
    elif form == "svg":
        path.write_text(chart, encoding="utf-8")
    else:
        load_altair()
        from vl_convert import svg_to_png

        path.write_bytes(svg_to_png(chart, scale=PNG_SCALE))


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    columns = dict.fromkeys(name for row in rows for name in row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
