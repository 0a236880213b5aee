"""An overview becomes SVG: the parts from left to right, in as many rows as keep the letters readable."""

from xml.sax.saxutils import escape

from backbones.plots.diagram.graph import Graph, Node
from backbones.plots.diagram.look import DARK, LIGHT, SMALL, TITLE, Look, page, text, typeset, width
from backbones.plots.diagram.shapes import LINE, MARGIN, Rectangle, heading, rectangle
from backbones.units import si

WIDEST = 1180.0
"""of a row"""
ARROW, ROW_GAP, PAD, BAR, ASIDE = 70.0, 62.0, 12.0, 5.0, 14.0


def places(graph: Graph) -> dict[str, Rectangle]:
    """Where the nodes are, before margins: as many in each row, the image and the output at its ends."""
    parts = [n for n in graph.nodes if n.kind == "part"]
    wide = max(_wide(n) for n in parts)
    ends = {n.name: width(n.title, 11.5) + 22 for n in graph.nodes if n.kind == "end"}
    most = max(1, int((WIDEST - max(ends.values())) // (wide + ARROW)))
    per_row = -(-len(parts) // -(-len(parts) // most))
    found, start, y = dict[str, Rectangle](), ends["in"] + ARROW, 0.0
    for i in range(0, len(parts), per_row):
        row = parts[i : i + per_row]
        high = max(map(_high, row))
        for column, node in enumerate(row):
            found[node.name] = Rectangle(start + column * (wide + ARROW), y, wide, high)
        y += high + ROW_GAP
    first, last = found[parts[0].name], found[parts[-1].name]
    found["in"] = Rectangle(0.0, first.y + first.height / 2 - 12, ends["in"], 24.0)
    found["out"] = Rectangle(last.x + wide + ARROW, last.y + last.height / 2 - 12, ends["out"], 24.0)
    return found


def strip(graph: Graph, dark: bool) -> str:
    """The overview level."""
    look, boxes = DARK if dark else LIGHT, places(graph)
    skips = [e for e in graph.edges if e.skip]
    dy = MARGIN + 56 + (26 if skips else 0)
    body = [*heading(graph, look), f'<g transform="translate({MARGIN:.1f} {dy:.1f})">']
    for edge in graph.edges:
        body += _arrow(boxes[edge.source], boxes[edge.target], edge.size, edge.skip, look)
    for node in graph.nodes:
        body += _part(node, boxes[node.name], look)
    body.append("</g>")
    right = max(b.x + b.width + (ARROW if node != "out" else 0) for node, b in boxes.items())
    height = dy + max(b.bottom for b in boxes.values()) + 2 * MARGIN + 4
    body.append(text(MARGIN, height - MARGIN + 4, typeset(graph.note), SMALL, look.muted, "start"))
    return page(max(right, width(graph.note, SMALL)) + 2 * MARGIN, height, look, graph.title, body)


def _wide(node: Node) -> float:
    return max([width(node.title, TITLE), 96.0, *(width(line, SMALL) for line in node.lines)]) + 2 * PAD


def _high(node: Node) -> float:
    return 38 + LINE * len(node.lines) + 28


def _part(node: Node, box: Rectangle, look: Look) -> list[str]:
    if node.kind == "end":
        rim = f'rx="12" fill="none" stroke="{look.rim}"'
        return [rectangle(box, rim), text(box.middle, box.y + 12, node.title, 11.5, look.muted)]
    hint = f"<title>{escape(node.layer)}: {si(node.params)} parameters, {si(node.madds)} multiply-adds</title>"
    rim = f'rx="7" fill="{look.fill("part")}" stroke="{look.edge("part")}" stroke-width="1.2"'
    drawn = [rectangle(box, rim, hint)]
    x, y = box.x + PAD, box.y + 20
    drawn.append(text(x, y, node.title, TITLE, look.ink, "start", ' font-weight="600"'))
    y += 21
    for line in node.lines:
        headline = line == node.above
        drawn.append(text(x, y, typeset(line), SMALL + headline, look.ink if headline else look.muted, "start"))
        y += LINE
    if node.share:
        percent = f"{100 * node.share:.0f} %" if node.share >= 0.01 else "< 1 %"
        base, room = box.bottom - 14, box.width - 2 * PAD - 34
        track = Rectangle(x, base - BAR / 2, room, BAR)
        done = Rectangle(x, base - BAR / 2, max(room * node.share, 1.0), BAR)
        drawn += [
            rectangle(track, f'rx="2.5" fill="{look.ground}"'),
            rectangle(done, f'rx="2.5" fill="{look.edge("part")}"'),
            text(box.x + box.width - PAD, base, percent, SMALL, look.muted, "end"),
        ]
    return drawn


def _arrow(a: Rectangle, b: Rectangle, size: str, skip: bool, look: Look) -> list[str]:
    """To the right, or from the end of a row to the start of the next; a skip above the parts that it passes."""
    if skip:
        tip = f"M{b.middle - ASIDE:.1f} {b.y:.1f}l-4 -7h8z"
        return [_line(_around(a, b), look.skip, 1.8), _tip(tip, look.skip)]
    channels, _, sides = size.partition(" x ")
    y, to_y = a.y + a.height / 2, b.y + b.height / 2
    right, left = a.x + a.width, b.x
    path = (
        f"M{right:.1f} {y:.1f}H{left - 6:.1f}" if y == to_y else _to_next_row(a, b, right + ARROW - 4, left - ARROW / 2)
    )
    x = (right + left - 5) / 2 if y == to_y else right + (ARROW - 12) / 2
    return [
        _line(path, look.line, 1.4),
        _tip(f"M{left:.1f} {to_y:.1f}l-7 -4v8z", look.line),
        text(x, y - 9, channels, SMALL, look.muted),
        text(x, y + 10, typeset(sides), SMALL, look.muted),
    ]


def _to_next_row(a: Rectangle, b: Rectangle, out: float, back: float) -> str:
    """Down at `out`, back between the rows, down again at `back`."""
    y, to_y, turn = a.y + a.height / 2, b.y + b.height / 2, (a.bottom + b.y) / 2
    return (
        f"M{a.x + a.width:.1f} {y:.1f}H{out - 12:.1f}q12 0 12 12V{turn - 12:.1f}q0 12 -12 12"
        f"H{back + 12:.1f}q-12 0 -12 12V{to_y - 12:.1f}q0 12 12 12H{b.x - 6:.1f}"
    )


def _around(a: Rectangle, b: Rectangle) -> str:
    """In an arc above the row, or between two rows."""
    x, to_x = a.middle + ASIDE, b.middle - ASIDE
    if a.y == b.y:
        return f"M{x:.1f} {a.y:.1f}C{x:.1f} {a.y - 32:.1f} {to_x:.1f} {a.y - 32:.1f} {to_x:.1f} {b.y - 6:.1f}"
    turn, side = (a.bottom + b.y) / 2 - 13, 10 if to_x > x else -10
    return f"M{x:.1f} {a.bottom:.1f}V{turn - 10:.1f}q0 10 {side} 10H{to_x - side:.1f}q{side} 0 {side} 10V{b.y - 6:.1f}"


def _line(path: str, colour: str, wide: float) -> str:
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"/>'


def _tip(path: str, colour: str) -> str:
    return f'<path d="{path}" fill="{colour}"/>'
