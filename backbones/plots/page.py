"""All pictures on one page: a single HTML file that works offline, with tooltips, light and dark, and the data."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from backbones.plots.style import DARK, LIGHT, Theme, load_altair


@dataclass(frozen=True)
class Picture:
    """A picture and its data, before a theme is chosen."""

    name: str
    """of its files, and of its place on the page"""
    title: str
    """a few words for a list of pictures"""
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[Theme], Any]
    """an altair chart, or the text of an SVG"""


STYLE = """
:root { color-scheme: light dark; --ground: %(light_ground)s; --ink: %(light_ink)s; --grey: %(light_grey)s;
  --pale: %(light_pale)s; --link: %(light_link)s }
@media (prefers-color-scheme: dark) { :root { --ground: %(dark_ground)s; --ink: %(dark_ink)s; --grey: %(dark_grey)s;
  --pale: %(dark_pale)s; --link: %(dark_link)s } }
body { margin: 0 auto; max-width: 1100px; padding: 24px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 Helvetica, Arial, sans-serif }
h1 { font-size: 26px; margin: 8px 0 }
nav { color: var(--grey); margin-bottom: 24px }
a { color: var(--link); margin-right: 18px }
section { margin: 40px 0 56px }
.picture, .data { overflow-x: auto }
.dark { display: none }
@media (prefers-color-scheme: dark) { .dark { display: block } .light { display: none } }
summary { cursor: pointer; color: var(--grey); margin: 6px 16px }
.data { max-height: 420px; margin: 8px 16px; border: 1px solid var(--pale) }
table { border-collapse: collapse; font-size: 13px; white-space: nowrap; font-variant-numeric: tabular-nums }
th { position: sticky; top: 0; background: var(--ground); text-align: left; border-bottom: 1px solid var(--grey) }
th, td { padding: 3px 12px }
td { border-bottom: 1px solid var(--pale) }
td.number { text-align: right }
#vg-tooltip-element { font: 13px/1.4 Helvetica, Arial, sans-serif }
"""

SCRIPT = """
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
function draw() {
  const theme = dark.matches ? "dark" : "light";
  for (const [name, specs] of Object.entries(charts)) {
    vegaEmbed("#" + name + " .picture", specs[theme],
      {mode: "vega-lite", renderer: "svg", actions: false, tooltip: {theme: theme}});
  }
}
dark.addEventListener("change", draw);
draw();
"""

NOTHING_FROM_OUTSIDE = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:"
)


def page(pictures: Sequence[Picture], title: str = "The classic backbones in pictures") -> str:
    """One HTML file that needs nothing else: a browser that opens it asks no server for anything."""
    load_altair()
    from vl_convert import javascript_bundle

    charts, sections = {}, []
    for picture in pictures:
        drawn = {"light": picture.draw(LIGHT), "dark": picture.draw(DARK)}
        if isinstance(drawn["light"], str):
            inside = "".join(f'<div class="{theme}">{svg}</div>' for theme, svg in drawn.items())
        else:
            inside = ""
            charts[picture.name] = {theme: _spec(chart) for theme, chart in drawn.items()}
        sections.append(
            f'<section id="{escape(picture.name)}" aria-label="{escape(picture.title)}">\n'
            f'<div class="picture">{inside}</div>\n{_table(picture.rows)}\n</section>'
        )
    links = "".join(f'<a href="#{escape(p.name)}">{escape(p.title)}</a>' for p in pictures)
    colours = {f"light_{key}": value for key, value in _colours(LIGHT).items()}
    colours |= {f"dark_{key}": value for key, value in _colours(DARK).items()}
    data = json.dumps(charts).replace("</", "<\\/")
    script = javascript_bundle().replace("</script", "<\\/script")  # type: ignore[call-arg]  # as altair calls it
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{NOTHING_FROM_OUTSIDE}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{escape(title)}</title>\n<style>{STYLE % colours}</style>\n</head>\n<body>",
        f"<h1>{escape(title)}</h1>\n<nav>{links}</nav>",
        *sections,
        f'<script type="application/json" id="charts">{data}</script>',
        f"<script>{script}</script>",
        f"<script>{SCRIPT}</script>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _spec(chart: Any) -> dict[str, Any]:
    spec = dict(chart.to_dict())
    spec.pop("$schema", None)
    return spec


def _colours(theme: Theme) -> dict[str, str]:
    return {
        "ground": theme.ground,
        "ink": theme.ink,
        "grey": theme.grey,
        "pale": theme.pale,
        "link": theme.colours[0],
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(column.replace('_', ' '))}</th>" for column in columns)
    body = "\n".join(f"<tr>{''.join(_cell(row.get(column)) for column in columns)}</tr>" for row in rows)
    summary = f"Data: {len(rows)} rows" if len(rows) != 1 else "Data: 1 row"
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<details><summary>{summary}</summary><div class="data">{table}</div></details>'


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        value = "yes" if value else "no"
    if isinstance(value, int | float):
        return (
            f'<td class="number">{value:.5g}</td>' if isinstance(value, float) else f'<td class="number">{value}</td>'
        )
    return f"<td>{escape(str(value or ''))}</td>"
