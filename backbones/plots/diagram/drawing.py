"""The detail level becomes SVG: layers from top to bottom, branches side by side, skips in curves around."""

from textwrap import wrap
from xml.sax.saxutils import escape

from backbones.plots.diagram.graph import Edge, Graph, Group, Node
from backbones.plots.diagram.layout import Placed, place
from backbones.plots.diagram.look import BIG, DARK, LIGHT, SMALL, TITLE, Look, page, text, typeset, width
from backbones.plots.diagram.rows import Vertex
from backbones.plots.diagram.shapes import LINE, MARGIN, Rectangle, heading, rectangle
from backbones.units import si

PAD, HEAD, JOINT = 14.0, 20.0, 26.0
"""beside letters, height of a title, of a joint"""
FRAME, ASIDE = 11.0, 14.0
"""around a group, between its name and its frame"""
SYMBOLS = {
    "addition": "+",
    "subtraction": "-",
    "multiplication": typeset("x"),
    "division": "/",
    "concatenation": "cat",
    "maximum": "max",
}


def boxes(graph: Graph) -> dict[str, Rectangle]:
    """Where the nodes are, before margins."""
    return _boxes(_placed(graph), graph)


def tall(graph: Graph, dark: bool) -> str:
    """The detail level."""
    look, placed = DARK if dark else LIGHT, _placed(graph)
    boxes = _boxes(placed, graph)
    frames = [_frame(graph.groups[i], boxes, placed, graph) for i in range(len(graph.groups))]
    left = min([0.0, *(f.x for f in frames)])
    right = max([placed.width, *(f.x + f.width for f in frames)])
    names = max((width(line, SMALL) for group in graph.groups for line in _aside(group)), default=-ASIDE) + ASIDE
    needed = max(width(graph.title, BIG), width(graph.subtitle, 11.5), width(typeset(graph.note), SMALL))
    inner = max(right - left + names, needed)
    dx, dy = MARGIN + names - left + (inner - (right - left + names)) / 2, MARGIN + 56
    body = [*heading(graph, look), f'<g transform="translate({dx:.1f} {dy:.1f})">']
    for group, frame in zip(graph.groups, frames, strict=True):
        body += _framed(frame, group, left - ASIDE, look)
    for edge in graph.edges:
        body.append(_line(graph, placed, boxes, edge.source, edge.target, edge.skip, look))
    body += [part for node in graph.nodes for part in _node(node, boxes[node.name], look)]
    body += [*_labels(graph, placed, boxes, look), "</g>"]
    height = dy + placed.height + 2 * MARGIN
    body.append(text(MARGIN, height - MARGIN + 4, typeset(graph.note), SMALL, look.muted, "start"))
    return page(inner + 2 * MARGIN, height, look, graph.title, body)


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
    return max(wide, 120.0), 14 + HEAD + LINE * sum(map(bool, small))


def _placed(graph: Graph) -> Placed:
    sizes = {n.name: measure(n) for n in graph.nodes}
    groups = {name: i for i, group in enumerate(graph.groups) for name in group.nodes}
    skips = {(e.source, e.target) for e in graph.edges if e.skip}
    gaps: dict[int, float] = {}
    for group in graph.groups:
        rows = [graph.layers[n] for n in group.nodes]
        gaps[min(rows)] = gaps.get(min(rows), 0.0) + FRAME
        gaps[max(rows) + 1] = gaps.get(max(rows) + 1, 0.0) + FRAME
    weights: dict[Vertex, float] = {n.name: 1.01 if n.madds else 1.0 for n in graph.nodes}
    return place(sizes, [(e.source, e.target) for e in graph.edges], graph.layers, groups, skips, gaps, weights)


def _boxes(placed: Placed, graph: Graph) -> dict[str, Rectangle]:
    found = {}
    for node in graph.nodes:
        (x, y), (wide, high) = placed.centre[node.name], measure(node)
        if node.kind not in ("join", "end"):
            wide = placed.widths[node.name]
        found[node.name] = Rectangle(x - wide / 2, y - high / 2, wide, high)
    return found


def _frame(group: Group, boxes: dict[str, Rectangle], placed: Placed, graph: Graph) -> Rectangle:
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
    top, bottom = placed.top[min(rows)] - FRAME, placed.bottom[max(rows)] + FRAME
    return Rectangle(left, top, right - left, bottom - top)


# -- marks


def _framed(frame: Rectangle, group: Group, left: float, look: Look) -> list[str]:
    """The frame, and beside it what it is and how often it repeats."""
    drawn, y = [rectangle(frame, f'rx="9" fill="{look.panel}" stroke="{look.rim}"')], frame.y + 14
    if group.repeat > 1:
        drawn.append(text(left, y + 2, typeset(f"x {group.repeat}"), BIG, look.ink, "end", ' font-weight="600"'))
        y += 23
    for line in _aside(group):
        drawn.append(text(left, y, line, SMALL, look.muted, "end"))
        y += LINE
    return drawn


def _aside(group: Group) -> list[str]:
    kind = group.kind if group.kind != group.name else ""
    return [*filter(None, (group.name, kind)), *wrap(group.note, 20)]


def _node(node: Node, box: Rectangle, look: Look) -> list[str]:
    told = f"{node.layer}: {si(node.params)} parameters, {si(node.madds)} multiply-adds" if node.layer else node.title
    hint = f"<title>{escape(told)}</title>"
    x, middle = box.middle, box.y + box.height / 2
    if node.kind == "end":
        rim = f'rx="12" fill="none" stroke="{look.rim}"'
        return [rectangle(box, rim, hint), text(x, middle, node.title, 11.5, look.muted)]
    if node.kind == "join":
        symbol, words = SYMBOLS.get(node.title, node.title), "".join(node.lines)
        size = 16 if len(symbol) == 1 else 10.5
        drawn = [rectangle(box, f'rx="13" fill="{look.ground}" stroke="{look.ink}" stroke-width="1.4"', hint)]
        if not words:
            return [*drawn, text(x, middle, symbol, size, look.ink)]
        wide = max(JOINT, width(symbol, 10.5) + 10)
        return [
            *drawn,
            text(box.x + wide / 2 + 1, middle, symbol, size, look.ink),
            text(box.x + wide, middle, words, SMALL, look.muted, "start"),
        ]
    rim = f'rx="5" fill="{look.fill(node.kind)}" stroke="{look.edge(node.kind)}" stroke-width="1.2"'
    drawn, y = [rectangle(box, rim, hint)], box.y + 7
    for words, big in [(node.above, False), (node.title, True), *((line, False) for line in node.lines)]:
        if not words:
            continue
        high = HEAD if big else LINE
        size, colour, weight = (TITLE, look.ink, ' font-weight="600"') if big else (SMALL, look.muted, "")
        drawn.append(text(x, y + high / 2, typeset(words), size, colour, "middle", weight))
        y += high
    return drawn


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
    joint = graph.node(target).kind == "join" and (skip or sum(e.target == target for e in graph.edges) < 3)
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
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="{wide}"/><path d="{tip}" fill="{colour}"/>'


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


def _labels(graph: Graph, placed: Placed, boxes: dict[str, Rectangle], look: Look) -> list[str]:
    """The size of every node's map: below it where no other line leaves, else beside it."""
    ends = {n for g in graph.groups for n in g.nodes if graph.layers[n] == max(graph.layers[m] for m in g.nodes)}
    drawn = []
    for source in dict.fromkeys(e.source for e in graph.edges):
        box, mine = boxes[source], [e for e in graph.edges if e.source == source]
        turns = [_first_x(placed, boxes, e) - box.middle for e in mine]
        to_left, to_right = min(turns) < -1, max(turns) > 1
        if to_left and to_right and _free_right(graph, placed, boxes, source, width(mine[0].size, SMALL)):
            x, y, anchor = box.x + box.width + 7, box.y + box.height / 2, "start"
        else:
            sign = -1 if to_right and not to_left else 1
            x, y = box.middle + 7 * sign, box.bottom + 11 + (FRAME if source in ends else 0)
            anchor = "start" if sign > 0 else "end"
        halo = f' stroke="{look.ground}" stroke-width="3" paint-order="stroke" stroke-linejoin="round"'
        drawn.append(text(x, y, typeset(mine[0].size), SMALL, look.muted, anchor, halo))
    return drawn


def _first_x(placed: Placed, boxes: dict[str, Rectangle], edge: Edge) -> float:
    lanes = placed.lanes[edge.source, edge.target]
    return lanes[0][0] if lanes else boxes[edge.target].middle


def _free_right(graph: Graph, placed: Placed, boxes: dict[str, Rectangle], name: str, room: float) -> bool:
    """Whether there is nothing so far to the right of a node."""
    box, row = boxes[name], graph.layers[name]
    low, high = box.x + box.width, box.x + box.width + room + 14
    others = [b for n, b in boxes.items() if graph.layers[n] == row and n != name]
    lanes = (x for way in placed.lanes.values() for x, top, _ in way if top == placed.top[row])
    return not any(b.x < high and b.x + b.width > low for b in others) and not any(low < x < high for x in lanes)
