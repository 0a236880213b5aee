"""A graph becomes SVG: from top to bottom in detail, in rows from left to right as an overview."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from backbones.plots.diagram.graph import Graph, Node, si
from backbones.plots.diagram.layout import Placed, place
from backbones.plots.diagram.look import BIG, DARK, LIGHT, SMALL, TITLE, Look, page, text, width

MARGIN, PAD = 28.0, 14.0
LINE, HEAD = 15.0, 20.0
"""of small letters, of a title"""
JOINT = 26.0
FRAME, FRAME_TITLE = 12.0, 22.0
SYMBOLS = {"concat": "cat"}


@dataclass(frozen=True)
class Rectangle:
    """Where a node is."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def rectangles(graph: Graph) -> dict[str, Rectangle]:
    """Where the nodes are, before margins."""
    return _boxes(_placed(graph), graph)


def tall(graph: Graph, dark: bool) -> str:
    """The detail level."""
    look, placed = DARK if dark else LIGHT, _placed(graph)
    boxes = _boxes(placed, graph)
    frames = [_frame(graph.groups[i], boxes, placed, graph) for i in range(len(graph.groups))]
    left = min([0.0, *(f.x for f in frames)])
    right = max([placed.width, *(f.x + f.width for f in frames)])
    needed = max(width(graph.title, BIG), width(graph.subtitle, 11.5), width(graph.note, SMALL))
    inner = max(right - left, needed)
    dx, dy = MARGIN - left + (inner - (right - left)) / 2, MARGIN + 56
    body = [*heading(graph, look), f'<g transform="translate({dx:.1f} {dy:.1f})">']
    for group, frame in zip(graph.groups, frames, strict=True):
        body += _framed(frame, group.title, group.repeat, group.note, look)
    labels = list[str]()
    for edge in graph.edges:
        body.append(_line(graph, placed, boxes, edge.source, edge.target, edge.skip, look))
    for name, (sign, label) in _labels(graph, placed, boxes).items():
        labels.append(_label(boxes[name], sign, label, look))
    body += [part for node in graph.nodes for part in _node(node, boxes[node.name], look)]
    body += [*labels, "</g>"]
    height = dy + placed.height + 2 * MARGIN
    body.append(text(MARGIN, height - MARGIN + 4, graph.note, SMALL, look.muted, "start"))
    return page(inner + 2 * MARGIN, height, look, graph.title, body)


def heading(graph: Graph, look: Look) -> list[str]:
    return [
        text(MARGIN, MARGIN + 4, graph.title, BIG, look.ink, "start", ' font-weight="600"'),
        text(MARGIN, MARGIN + 25, graph.subtitle, 11.5, look.muted, "start"),
    ]


# -- places


def measure(node: Node) -> tuple[float, float]:
    """Width and height of a node in a detail drawing."""
    if node.kind == "join":
        words = "".join(node.lines)
        symbol = SYMBOLS.get(node.title, node.title)
        wide = max(JOINT, width(symbol, 10.5) + 10)
        return (wide + width(words, SMALL) + 14 if words else wide), JOINT
    if node.kind == "end":
        return width(node.title, 11.5) + 22, 24.0
    small = [node.above, *node.lines]
    wide = max(width(node.title, TITLE), *(width(line, SMALL) for line in small)) + 2 * PAD
    return max(wide, 104.0), 14 + HEAD + LINE * sum(map(bool, small))


def _placed(graph: Graph) -> Placed:
    sizes = {n.name: measure(n) for n in graph.nodes}
    groups = {name: i for i, group in enumerate(graph.groups) for name in group.nodes}
    skips = {(e.source, e.target) for e in graph.edges if e.skip}
    return place(sizes, [(e.source, e.target) for e in graph.edges], graph.layers, groups, skips)


def _boxes(placed: Placed, graph: Graph) -> dict[str, Rectangle]:
    found = {}
    for node in graph.nodes:
        (x, y), (wide, high) = placed.centre[node.name], measure(node)
        if node.kind not in ("join", "end"):
            wide = placed.widths[node.name]
        found[node.name] = Rectangle(x - wide / 2, y - high / 2, wide, high)
    return found


def _frame(group: object, boxes: dict[str, Rectangle], placed: Placed, graph: Graph) -> Rectangle:
    names = set(group.nodes)
    some = [boxes[n] for n in names]
    rows = {graph.layers[n] for n in names}
    inner = [
        x
        for (s, t), lanes in placed.lanes.items()
        if s in names or t in names
        for x, top, bottom in lanes
        if any(placed.top[r] <= top and bottom <= placed.bottom[r] for r in rows)
    ]
    left = min([*(b.x for b in some), *(x - 6 for x in inner)]) - FRAME
    right = max([*(b.x + b.width for b in some), *(x + 6 for x in inner)]) + FRAME
    top, bottom = min(placed.top[r] for r in rows) - FRAME, max(placed.bottom[r] for r in rows) + FRAME
    return Rectangle(left, top, right - left, bottom - top)


# -- marks


def _framed(frame: Rectangle, title: str, repeat: int, note: str, look: Look) -> list[str]:
    drawn = [
        f'<rect x="{frame.x:.1f}" y="{frame.y:.1f}" width="{frame.width:.1f}" height="{frame.height:.1f}" rx="10" '
        f'fill="{look.panel}" stroke="{look.rim}"/>'
    ]
    return drawn


def _node(node: Node, box: Rectangle, look: Look) -> list[str]:
    told = f"{node.layer}: {si(node.params)} parameters, {si(node.madds)} multiply-adds" if node.layer else node.title
    hint = f"<title>{escape(told)}</title>"
    x, middle = box.middle, box.y + box.height / 2
    if node.kind == "end":
        rim = f'rx="12" fill="none" stroke="{look.rim}"'
        return [_rect(box, rim, hint), text(x, middle, node.title, 11.5, look.muted)]
    if node.kind == "join":
        symbol, words = SYMBOLS.get(node.title, node.title), "".join(node.lines)
        size = 16 if len(symbol) == 1 else 10.5
        drawn = [_rect(box, f'rx="13" fill="{look.ground}" stroke="{look.ink}" stroke-width="1.4"', hint)]
        if not words:
            return [*drawn, text(x, middle, symbol, size, look.ink)]
        wide = max(JOINT, width(symbol, 10.5) + 10)
        return [
            *drawn,
            text(box.x + wide / 2 + 1, middle, symbol, size, look.ink),
            text(box.x + wide, middle, words, SMALL, look.muted, "start"),
        ]
    rim = f'rx="5" fill="{look.fill(node.kind)}" stroke="{look.edge(node.kind)}" stroke-width="1.2"'
    drawn, y = [_rect(box, rim, hint)], box.y + 7
    for words, big in [(node.above, False), (node.title, True), *((line, False) for line in node.lines)]:
        if not words:
            continue
        high = HEAD if big else LINE
        weight = ' font-weight="600"' if big else ""
        drawn.append(text(x, y + high / 2, words, TITLE if big else SMALL, look.ink if big else look.muted, "middle", weight))
        y += high
    return drawn


def _rect(box: Rectangle, rest: str, inner: str = "") -> str:
    return (
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{box.height:.1f}" {rest}>{inner}</rect>'
    )


def _line(
    graph: Graph, placed: Placed, boxes: dict[str, Rectangle], source: str, target: str, skip: bool, look: Look
) -> str:
    """Down from the source, along its lanes, into the top of the target, or into the side of a joint."""
    a, b = boxes[source], boxes[target]
    x, y = a.middle, a.bottom
    path = f"M{x:.1f} {y:.1f}"
    lanes = placed.lanes[source, target]
    for lane, top, bottom in lanes:
        path += _bend(x, y, lane, top) + f"V{bottom:.1f}"
        x, y = lane, bottom
    colour, wide = (look.skip, 1.8) if skip else (look.line, 1.4)
    joint = graph.node(target).kind == "join"
    if joint and lanes and abs(x - b.middle) > b.width / 2 + 8 and _free(graph, boxes, target, x):
        side = b.x + b.width if x > b.middle else b.x
        sign = 1 if x > b.middle else -1
        level = b.y + b.height / 2
        radius = min(22.0, abs(x - side) - 6)
        path += f"V{level - radius:.1f}Q{x:.1f} {level:.1f} {x - sign * radius:.1f} {level:.1f}H{side + sign * 6:.1f}"
        tip = f"M{side:.1f} {level:.1f}l{sign * 7} -4v8z"
    else:
        path += _bend(x, y, b.middle, b.y - 6)
        tip = f"M{b.middle:.1f} {b.y:.1f}l-4 -7h8z"
    return (
        f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"/><path d="{tip}" fill="{colour}"/>'
    )


def _bend(x: float, y: float, to_x: float, to_y: float) -> str:
    if abs(x - to_x) < 0.1:
        return f"V{to_y:.1f}"
    half = (to_y - y) / 2
    return f"C{x:.1f} {y + half:.1f} {to_x:.1f} {to_y - half:.1f} {to_x:.1f} {to_y:.1f}"


def _free(graph: Graph, boxes: dict[str, Rectangle], target: str, x: float) -> bool:
    """Whether no other box of its row is between a joint and a lane."""
    low, high = sorted((boxes[target].middle, x))
    row = graph.layers[target]
    others = (boxes[n] for n, r in graph.layers.items() if r == row and n != target)
    return not any(b.x < high and b.x + b.width > low for b in others)


def _labels(graph: Graph, placed: Placed, boxes: dict[str, Rectangle]) -> dict[str, tuple[int, str]]:
    """Size of every node's map, on the side of its line where no other leaves."""
    found: dict[str, tuple[int, str]] = {}
    for edge in graph.edges:
        if edge.source not in found:
            mine = [e for e in graph.edges if e.source == edge.source]
            first = [
                (placed.lanes[e.source, e.target] or [(boxes[e.target].middle, 0, 0)])[0][0] - boxes[e.source].middle
                for e in mine
            ]
            found[edge.source] = (-1 if max(first) > 1 and min(first) > -1 else 1, edge.size)
    return found


def _label(box: Rectangle, sign: int, label: str, look: Look) -> str:
    halo = f' stroke="{look.ground}" stroke-width="3" paint-order="stroke" stroke-linejoin="round"'
    anchor = "start" if sign > 0 else "end"
    return text(box.middle + 7 * sign, box.bottom + 11, label, SMALL, look.muted, anchor, halo)
