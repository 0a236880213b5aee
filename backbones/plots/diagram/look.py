"""How diagrams look: colours that every eye tells apart, on a light or a dark ground, and the width of letters."""

import re
from dataclasses import dataclass
from xml.sax.saxutils import escape

from backbones.plots import style
from backbones.plots.style import FONT

BIG, TITLE, SMALL = 18.0, 13.0, 10.5
"""sizes of letters"""

HUES = {
    "convolution": style.BLUE,
    "depthwise": style.SKY,
    "linear": style.PURPLE,
    "pooling": style.ORANGE,
    "other": style.GREEN,
    "part": style.BLUE,
}


@dataclass(frozen=True)
class Look:
    """The colours of one ground."""

    ground: str
    ink: str
    muted: str
    line: str
    panel: str
    rim: str
    strong: str
    """what the hues of rims are mixed with"""
    tint: float
    """how much of its hue a box has"""
    skip: str

    def fill(self, kind: str) -> str:
        return mixed(HUES.get(kind, self.line), self.ground, self.tint)

    def edge(self, kind: str) -> str:
        """Rims and bars: nearer to the letters' colour than the box is."""
        return mixed(HUES.get(kind, self.line), self.strong, 0.72)


LIGHT = Look("#FFFFFF", style.INK, "#5F6670", "#8A929C", "#F5F6F8", "#D3D8DE", "#FFFFFF", 0.13, style.VERMILLION)
DARK = Look(
    style.DARK.ground, style.DARK.ink, style.DARK.grey, "#7C8793", "#1B2027", "#46505C", "#FFFFFF", 0.30, "#FF8A3D"
)


def mixed(colour: str, ground: str, share: float) -> str:
    """`share` of a colour over the ground."""
    pairs = ((int(colour[i : i + 2], 16), int(ground[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02X}" for a, b in pairs)


NARROW, WIDE = frozenset("iljtfrI.,:;|/'·()[] "), frozenset("mwMWN%@")


def width(text: str, size: float) -> float:
    """Of a text, rounded up: viewers differ in their fonts."""
    return size * sum(0.36 if c in NARROW else 0.92 if c in WIDE else 0.66 if c.isupper() else 0.6 for c in text)


def typeset(words: str) -> str:
    """3x3 and 64 x 56 x 56 with the sign for times."""
    return re.sub(r"(?<![A-Za-z])x(?![A-Za-z])", "\N{MULTIPLICATION SIGN}", words)


def text(x: float, y: float, words: str, size: float, colour: str, anchor: str = "middle", extra: str = "") -> str:
    """One line of text; y is its middle."""
    return (
        f'<text x="{x:.1f}" y="{y + 0.35 * size:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"'
        f"{extra}>{escape(words)}</text>"
    )


def page(width: float, height: float, look: Look, title: str, body: list[str]) -> str:
    """The SVG around what is drawn."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
            f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{FONT}" role="img" aria-label="{escape(title)}">',
            f'<rect width="100%" height="100%" fill="{look.ground}"/>',
            *body,
            "</svg>",
        ]
    )
