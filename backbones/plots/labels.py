"""Where the words beside the marks of a chart go, so that none covers another. In pixels, from the upper left."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, hypot, inf, pi, sin
from typing import NamedTuple

CHARACTER = 0.58
"""width of a character over the size of the font, rather too much than too little"""
LINE = 1.25
"""height of a line over the size of the font"""
GAPS = (4, 14, 26, 40, 56, 74, 94, 118, 144)
"""between mark and words; beyond the first there is a thin line between them"""
TURNS = 24
"""directions that are tried"""
TRIES = 4

Line = tuple[float, float, float, float]
"""x and y of its start, x and y of its end"""


@dataclass(frozen=True)
class Mark:
    """A disc, and the words that it would like to have beside it."""

    x: float
    y: float
    radius: float
    lines: tuple[str, ...] = ()
    reach: int = len(GAPS)
    """how many of the gaps may be tried; where none fits, it stays without words"""
    first: float = -pi / 4
    """the direction to begin with; y points down"""
    strict: bool = False
    """its words cover no mark at all, and it may stay without"""


class Place(NamedTuple):
    """Words, their middle at the left, at the centre or at the right; and the line from the rim of their mark."""

    mark: int
    x: float
    y: float
    align: str
    line: Line | None


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def inside(self, other: "Box") -> bool:
        return (
            self.left >= other.left
            and self.top >= other.top
            and self.right <= other.right
            and self.bottom <= other.bottom
        )

    def meets(self, other: "Box", gap: float = 2) -> bool:
        across = self.left < other.right + gap and other.left < self.right + gap
        return across and self.top < other.bottom + gap and other.top < self.bottom + gap

    def distance(self, x: float, y: float) -> float:
        """From a point outside; 0 inside."""
        return hypot(max(self.left - x, 0, x - self.right), max(self.top - y, 0, y - self.bottom))


def place(
    marks: Sequence[Mark],
    width: float,
    height: float,
    size: float,
    taken: Sequence[Box] = (),
    drawn: Sequence[Line] = (),
) -> list[Place]:
    """A place for the words of each mark, in this order: near, in its first direction if that is free.

    Words cover no words, no line, nothing `taken` or `drawn`, no mark with words of its own, and few of the others.
    A mark that is left over goes first in the next try.
    """
    order, best = [i for i, mark in enumerate(marks) if mark.lines], list[Place]()
    for _ in range(TRIES):
        found = _place(marks, order, Box(0, 0, width, height), size, taken, drawn)
        best = max(best, found, key=len)
        left = [i for i in order if not marks[i].strict and i not in {place.mark for place in found}]
        if not left:
            break
        order = left + [i for i in order if i not in left]
    return best


def _place(
    marks: Sequence[Mark], order: Sequence[int], frame: Box, size: float, taken: Sequence[Box], drawn: Sequence[Line]
) -> list[Place]:
    """One try, in this order."""
    boxes, lines, found = list(taken), list[Line](), []
    for number in order:
        mark, others = marks[number], [m for i, m in enumerate(marks) if i != number]
        best, choice = inf, None
        for price, gap, angle in _candidates(mark):
            if price >= best:
                break
            box, align = _box(mark, gap, angle, size)
            if not box.inside(frame) or any(box.meets(other) for other in boxes):
                continue
            if any(_enters(other, box) for other in (*lines, *drawn)):
                continue
            hidden = [m for m in others if box.distance(m.x, m.y) < m.radius]
            if any(m.lines for m in hidden) or (hidden and mark.strict):
                continue
            price += 12 * len(hidden)
            line = _line(mark, box) if gap > GAPS[0] else None
            if line:
                if any(_enters(line, other) for other in boxes) or any(_cross(line, other) for other in lines):
                    continue
                price += 40 * sum(_cross(line, other) for other in drawn)
                price += 15 * sum(_distance(line, m.x, m.y) < m.radius for m in others)
            if price < best:
                best, choice = price, (box, align, line)
        if choice:
            box, align, line = choice
            boxes.append(box)
            lines += [line] if line else []
            x = {"left": box.left, "center": (box.left + box.right) / 2, "right": box.right}[align]
            found.append(Place(number, x, (box.top + box.bottom) / 2, align, line))
    return found


def _candidates(mark: Mark) -> list[tuple[float, float, float]]:
    """What a place costs to begin with, its gap and its angle; the cheapest first."""
    places = ((gap, turn) for gap in GAPS[: mark.reach] for turn in range(TURNS))
    return sorted((gap + 6 * min(turn, TURNS - turn), gap, mark.first + 2 * pi * turn / TURNS) for gap, turn in places)


def _box(mark: Mark, gap: float, angle: float, size: float) -> tuple[Box, str]:
    """The words at this angle from the mark, and how they are aligned."""
    wide, high = max(CHARACTER * size * len(line) for line in mark.lines), LINE * size * len(mark.lines)
    dx, dy = cos(angle), sin(angle)
    x, y = mark.x + dx * (mark.radius + gap), mark.y + dy * (mark.radius + gap)
    align = "left" if dx > 0.3 else "right" if dx < -0.3 else "center"
    left = {"left": x, "center": x - wide / 2, "right": x - wide}[align]
    top = y - high / 2 + (dy * high / 2 if align != "center" else (high / 2 if dy > 0 else -high / 2))
    return Box(left, top, left + wide, top + high), align


def _line(mark: Mark, box: Box) -> Line:
    """From the rim of the mark to just before the nearest point of the words."""
    x, y = min(max(mark.x, box.left), box.right), min(max(mark.y, box.top), box.bottom)
    length = hypot(x - mark.x, y - mark.y) or 1
    dx, dy = (x - mark.x) / length, (y - mark.y) / length
    return mark.x + mark.radius * dx, mark.y + mark.radius * dy, x - 3 * dx, y - 3 * dy


def _enters(line: Line, box: Box) -> bool:
    """Whether a line enters a box: by the part of it that lies between the box's sides, then its top and bottom."""
    x, y, to_x, to_y = line
    start, end = 0.0, 1.0
    for at, step, low, high in ((x, to_x - x, box.left, box.right), (y, to_y - y, box.top, box.bottom)):
        if step == 0:
            if not low <= at <= high:
                return False
            continue
        near, far = sorted(((low - at) / step, (high - at) / step))
        start, end = max(start, near), min(end, far)
    return start <= end


def _distance(line: Line, x: float, y: float) -> float:
    """From a point to a line between two points."""
    x0, y0, x1, y1 = line
    square = (x1 - x0) ** 2 + (y1 - y0) ** 2
    along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / square if square else 0.0
    along = min(max(along, 0.0), 1.0)
    return hypot(x0 + along * (x1 - x0) - x, y0 + along * (y1 - y0) - y)


def _cross(a: Line, b: Line) -> bool:
    """Whether two lines cross."""

    def side(line: Line, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    return side(a, *b[:2]) * side(a, *b[2:]) < 0 and side(b, *a[:2]) * side(b, *a[2:]) < 0
