"""Two networks side by side: what the second has added, removed and changed, block by block, and what that costs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple

from backbones.cost.alignment import align
from backbones.cost.anatomy import Anatomy, Block, Part
from backbones.cost.grouping import Unit
from backbones.cost.naming import spaced
from backbones.cost.report import Cost
from backbones.cost.statements import Statement, state
from backbones.cost.traits import form, likeness, traits_of
from backbones.cost.tree import LISTS

LEAST_ALIKE = 0.25
"""blocks less alike than this are not two forms of one block"""


@dataclass(frozen=True)
class Change:
    """One layer or joint that the second network has otherwise, or that one of them lacks."""

    what: Literal["added", "removed", "changed"]
    part: str
    block: str
    """dotted path, in the first network where it was removed"""
    kind: str
    """class of the block, in words"""
    order: int
    """of the block among those of its kind in its part"""
    of: int
    """how many blocks of this kind the two networks share"""
    whole: bool
    """whether the whole block was added or removed"""
    layer: str
    """what it is, such as conv 3x3; with its norm and activation where it was added or removed"""
    traits: Mapping[str, tuple[Any, Any]]
    """what changed: before and after"""
    params: int
    madds: int

    @property
    def text(self) -> str:
        """What changed, in words."""
        return ", ".join(
            f"{a} becomes {b}" if name in ("layer", "form") else f"{name} {a} to {b}"
            for name, (a, b) in self.traits.items()
        )

    def asdict(self) -> dict[str, Any]:
        keys = ("what", "part", "block", "layer", "text", "params", "madds")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Compared:
    """One part of both networks, or of one of them."""

    first: str
    second: str
    params: tuple[int, int]
    madds: tuple[int, int]

    def asdict(self) -> dict[str, Any]:
        """With the second's share of the first, None where the first has nothing."""
        row: dict[str, Any] = {"first": self.first, "second": self.second}
        for key, (a, b) in (("params", self.params), ("madds", self.madds)):
            row |= {f"{key}_first": a, f"{key}_second": b, f"{key}_ratio": b / a if a else None}
        return row


@dataclass(frozen=True)
class Diff:
    """Everything in which two networks differ. The changes' costs sum to the difference of the networks'."""

    parts: tuple[Compared, ...]
    changes: tuple[Change, ...]
    images: tuple[tuple[int, ...], tuple[int, ...]]
    convolutions: int
    """how many the two networks share"""

    @cached_property
    def statements(self) -> tuple[Statement, ...]:
        """The changes summed up: the same change in many blocks is one statement; what matters most comes first."""
        return state(self.changes, self.images, self.convolutions)

    @property
    def params(self) -> tuple[int, int]:
        return _sum(part.params for part in self.parts)

    @property
    def madds(self) -> tuple[int, int]:
        return _sum(part.madds for part in self.parts)

    def rows(self) -> list[dict[str, Any]]:
        """The parts side by side, and their sum."""
        return [part.asdict() for part in (*self.parts, Compared("total", "total", self.params, self.madds))]

    def sentence(self, first: str, second: str) -> str:
        """All that matters in one sentence."""
        told = [s.text for s in self.statements if not s.follows]
        if not self.changes:
            return f"{second} against {first}: no difference"
        if not told:
            told = [s.text for s in self.statements]
        costs = [f"{name} {_percent(*pair)}" for name, pair in (("params", self.params), ("madds", self.madds))]
        return f"{second} against {first}: {'; '.join([*told, ', '.join(costs)])}"


def diff(first: Cost, second: Cost) -> Diff:
    """Parts are paired in order, blocks within parts and layers within blocks by what they are."""
    return _Comparison(Anatomy(first), Anatomy(second), first.params, second.params).diff()


class Placed(NamedTuple):
    """A block and where it is."""

    block: Block
    part: Part
    scale: float
    """how much smaller than the image its map is"""


class _Comparison:
    def __init__(self, a: Anatomy, b: Anatomy, *params: int) -> None:
        self.a, self.b, self.params = a, b, params
        self._alike: dict[tuple[object, object], float] = {}
        self._orders: dict[tuple[int, str, str], int] = {}
        self._convolutions = 0

    def diff(self) -> Diff:
        pairs = self._parts()
        blocks = self._blocks(pairs)
        shared: dict[str, int] = {}
        for a, b in blocks:
            if a and b and len(a.block.units) > 1:
                shared[a.block.kind] = shared.get(a.block.kind, 0) + 1
        changes = _without_moves([c for a, b in blocks for c in self._changes(a, b, shared)])
        unread = [total - anatomy.params for total, anatomy in zip(self.params, (self.a, self.b), strict=True)]
        compared = [self._compared(pa, pb) for pa, pb in pairs]
        if any(unread):
            compared.append(Compared("not run", "not run", (unread[0], unread[1]), (0, 0)))
        if unread[0] != unread[1]:
            layer, gained = "parameters that evaluation does not read", unread[1] - unread[0]
            changes.append(Change("changed", "not run", "", "", 0, 0, False, layer, {}, gained, 0))
        return Diff(tuple(compared), tuple(changes), (self.a.image, self.b.image), self._convolutions)

    # -- pairs

    def _parts(self) -> list[tuple[Part | None, Part | None]]:
        """By their order where both networks have as many; else by the size of their maps and what they hold."""
        one, other = self.a.parts, self.b.parts
        if len(one) == len(other):
            return list(zip(one, other, strict=True))
        scales = [[_scale(n, part.units) for part in n.parts] for n in (self.a, self.b)]
        last = (len(one) - 1, len(other) - 1)

        def alike(i: int, j: int) -> float:
            ends = (i == 0) == (j == 0) and (i == last[0]) == (j == last[1])
            return (1.0 if ends else 0.1) if abs(scales[0][i] - scales[1][j]) < 0.2 * scales[0][i] else 0.05 * ends

        pairs = align(len(one), len(other), alike)
        return [(None if i is None else one[i], None if j is None else other[j]) for i, j in pairs]

    def _blocks(self, parts: Sequence[tuple[Part | None, Part | None]]) -> list[tuple[Placed | None, Placed | None]]:
        """Within their parts; where the two networks are divided otherwise, over the whole length."""
        one, other = ([list(_placed(n, part)) for part in n.parts] for n in (self.a, self.b))
        if any(pa is None or pb is None for pa, pb in parts):
            return self._paired(list(chain(*one)), list(chain(*other)))
        return [pair for some, others in zip(one, other, strict=True) for pair in self._paired(some, others)]

    def _paired(self, a: Sequence[Placed], b: Sequence[Placed]) -> list[tuple[Placed | None, Placed | None]]:
        pairs = align(len(a), len(b), lambda i, j: self._block_score(a[i], b[j]), LEAST_ALIKE)
        return [(None if i is None else a[i], None if j is None else b[j]) for i, j in pairs]

    def _block_score(self, a: Placed, b: Placed) -> float:
        """Of blocks that work on maps of other sizes, less."""
        key = (self._mark(self.a, a.block), self._mark(self.b, b.block))
        if key not in self._alike:
            scores = [likeness(x, y) for x, y in self._units(a.block, b.block) if x and y]
            self._alike[key] = 2 * sum(scores) / (len(a.block.units) + len(b.block.units))
        return self._alike[key] * (1.0 if abs(a.scale - b.scale) < 0.2 * a.scale else 0.7)

    @staticmethod
    def _mark(anatomy: Anatomy, block: Block) -> object:
        return tuple((u.label, u.shape, u.params) for u in (anatomy.units[i] for i in block.units))

    def _units(self, a: Block | None, b: Block | None) -> list[tuple[Unit | None, Unit | None]]:
        """In an order that does not depend on which branch runs first."""
        one, other = _sorted(self.a, a), _sorted(self.b, b)
        pairs = align(len(one), len(other), lambda i, j: likeness(one[i], other[j]), 0.3)
        return [(None if i is None else one[i], None if j is None else other[j]) for i, j in pairs]

    # -- changes

    def _changes(self, one: Placed | None, other: Placed | None, shared: Mapping[str, int]) -> Iterator[Change]:
        here = other or one
        if here is None:
            return
        a, b, part, home = one and one.block, other and other.block, here.part, here.block
        kind = (a or home).kind
        single = len(home.units) < 2
        place = (0 if a else 1, part.name, kind)
        order = self._orders[place] = self._orders.get(place, -1) + 1 if not single else 0
        whole = (a is None or b is None) and not single
        words = "" if single else spaced(kind)
        for x, y in self._units(a, b):
            unit = y or x
            if unit is None:
                continue
            self._convolutions += bool(x and y and y.kind in ("convolution", "depthwise"))
            gained = [(y.params if y else 0) - (x.params if x else 0), (y.madds if y else 0) - (x.madds if x else 0)]
            traits = traits_of(x, y) if x and y else {}
            if x and y and not traits and not any(gained):
                continue
            what: Literal["added", "removed", "changed"] = "changed" if x and y else "added" if y else "removed"
            label = unit.name if x and y else form(unit)
            yield Change(what, part.name, home.name, words, order, shared.get(kind, 0), whole, label, traits, *gained)

    def _compared(self, pa: Part | None, pb: Part | None) -> Compared:
        sides = [(self.a, pa), (self.b, pb)]
        params, madds = [], []
        for anatomy, part in sides:
            some = [anatomy.units[i] for i in part.units] if part else []
            params.append(sum(u.params for u in some))
            madds.append(sum(u.madds for u in some))
        names = [part.name if part else "" for _, part in sides]
        return Compared(names[0], names[1], (params[0], params[1]), (madds[0], madds[1]))


def _scale(anatomy: Anatomy, units: Sequence[int]) -> float:
    """How much smaller than the image their last map is."""
    shape = anatomy.units[units[-1]].shape
    return anatomy.image[-1] / shape[-1] if len(shape) > 1 else anatomy.image[-1]


def _placed(anatomy: Anatomy, part: Part) -> Iterator[Placed]:
    for block in _repeating(anatomy.blocks(part.units)):
        yield Placed(block, part, _scale(anatomy, block.units))


def _repeating(blocks: Sequence[Block]) -> list[Block]:
    """Blocks of a class of their own; what is only a list of layers counts layer by layer."""
    found = []
    for block in blocks:
        if block.kind in ("", "Head", *LISTS):
            found += [Block(block.name, "", (unit,)) for unit in block.units]
        else:
            found.append(block)
    return found


def _without_moves(changes: Sequence[Change]) -> list[Change]:
    """Less the layers that one network has at the end of a part and the other at the start of the next."""
    kept = list[Change]()
    for change in changes:
        opposite = {"added": "removed", "removed": "added"}.get(change.what)
        key = (opposite, change.layer, -change.params, -change.madds, False)
        twin = next((c for c in kept if (c.what, c.layer, c.params, c.madds, c.whole) == key), None)
        if twin and not change.whole:
            kept.remove(twin)
        else:
            kept.append(change)
    return kept


def _sorted(anatomy: Anatomy, block: Block | None) -> list[Unit]:
    """What is read before what reads it, the longest branch first."""
    if block is None:
        return []
    inside, depth, done = set(block.units), dict[int, int](), list[int]()
    for i in block.units:
        depth[i] = 1 + max((depth[r] for r in anatomy.units[i].reads if r in depth), default=0)
    read = {r for i in block.units for r in anatomy.units[i].reads}
    waiting = [i for i in reversed(block.units) if i not in read]
    entered = set(waiting)
    while waiting:
        if before := inside.intersection(anatomy.units[waiting[-1]].reads) - entered:
            waiting.append(min(before, key=lambda r: (-depth[r], r)))
            entered.add(waiting[-1])
        else:
            done.append(waiting.pop())
    return [anatomy.units[i] for i in done]


def _sum(pairs: Any) -> tuple[int, int]:
    firsts, seconds = zip(*pairs, strict=True)
    return sum(firsts), sum(seconds)


def _percent(a: int, b: int) -> str:
    if a == b:
        return "the same"
    if not a:
        return f"0 to {b}"
    change = 100 * (b / a - 1)
    if abs(change) >= 200:
        return f"times {b / a:.3g}"
    return (
        f"{change:+.0f} %" if abs(change) >= 9.5 else f"{change:+.1f} %" if abs(change) >= 0.05 else f"{change:+.2g} %"
    )
