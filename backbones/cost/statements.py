"""Changes summed up in words: what is the same in many blocks is said once."""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from backbones.cost.naming import NORMS

FOLLOWING = frozenset({"input channels", "map"})
"""what a layer shows of changes elsewhere"""
CAUSES = ("layer", "channels", "groups", "stride", "dilation", "padding", "bias", "norm", "activation")
"""what one layer's change may be, that which moves its costs most first"""
MOST_NAMED = 3


class Changed(Protocol):
    """What is told of a change."""

    @property
    def what(self) -> str: ...
    @property
    def part(self) -> str: ...
    @property
    def block(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def order(self) -> int: ...
    @property
    def of(self) -> int: ...
    @property
    def whole(self) -> bool: ...
    @property
    def layer(self) -> str: ...
    @property
    def traits(self) -> Mapping[str, tuple[Any, Any]]: ...
    @property
    def params(self) -> int: ...
    @property
    def madds(self) -> int: ...


@dataclass(frozen=True)
class Statement:
    """One change, wherever it was made."""

    text: str
    params: int
    madds: int
    follows: bool = False
    """whether it only follows from other changes"""

    def asdict(self) -> dict[str, Any]:
        return {"statement": self.text, "params": self.params, "madds": self.madds, "follows": self.follows}


class Event(NamedTuple):
    """One word of a statement: "groups 1 to 32" "in", "BN" "added after"."""

    word: str
    verb: str
    cause: str = "layer"
    """one of CAUSES"""


def state(
    changes: Sequence[Changed], images: tuple[tuple[int, ...], tuple[int, ...]], convolutions: int
) -> tuple[Statement, ...]:
    """The image first, then whole blocks, then layers; what follows from others last.

    `convolutions` is how many could have changed.
    """
    found = []
    if images[0] != images[1]:
        sizes = (" x ".join(map(str, image)) for image in images)
        found.append(Statement(f"image {' to '.join(sizes)}", 0, 0))
    found += _blocks([c for c in changes if c.whole])
    inner = [c for c in changes if not c.whole]
    found += _layers([c for c in inner if c.what != "changed" or c.traits.keys() - FOLLOWING], convolutions)
    found += [_statement(c.layer, [c]) for c in inner if c.what == "changed" and not c.traits]
    if following := [c for c in inner if c.traits and c.traits.keys() <= FOLLOWING]:
        found.append(_following(following))
    return tuple(found)


def _blocks(changes: Sequence[Changed]) -> list[Statement]:
    """So many blocks added here and there."""
    found = []
    for what in ("added", "removed"):
        for kind in dict.fromkeys(c.kind for c in changes if c.what == what):
            mine = [c for c in changes if c.what == what and c.kind == kind]
            blocks = Counter(part for part, _ in dict.fromkeys((c.part, c.block) for c in mine))
            several = ", ".join(f"{n} in {part}" for part, n in blocks.items())
            where = f"({several})" if len(blocks) > 1 else f"in {next(iter(blocks))}"
            found.append(_statement(f"{_many(sum(blocks.values()), kind)} {what} {where}", mine))
    return found


def _layers(changes: Sequence[Changed], convolutions: int) -> list[Statement]:
    """One statement for each set of blocks in which the same was done; a change is priced where its cause is told."""
    events: dict[Event, list[Changed]] = {}
    priced: dict[Event, list[Changed]] = {}
    for change in changes:
        found = list(_events(change))
        for event in found:
            events.setdefault(event, []).append(change)
        priced.setdefault(min(found, key=lambda event: CAUSES.index(event.cause)), []).append(change)
    together: dict[tuple[tuple[str, str], ...], list[Event]] = {}
    for event, mine in events.items():
        together.setdefault(tuple(sorted({(c.part, c.block) for c in mine})), []).append(event)
    statements = []
    for some in together.values():
        mine = list({id(c): c for event in some for c in events[event]}.values())
        caused = [c for event in some for c in priced.get(event, ())]
        every = {event for event in some if len(events[event]) == convolutions > 2}
        where = [] if len(every) == len(some) else [_where(mine)]
        statements.append(_statement(" ".join([_words(some, events, every), *where]), caused))
    return statements


def _events(change: Changed) -> Iterator[Event]:
    """What was done; to which layers, and how many channels they have, is told with it."""
    if change.what != "changed":
        yield Event("", change.what)
    for name, (a, b) in change.traits.items():
        if name == "layer":
            yield Event(f"{a} becomes {b}", "")
        elif name == "form":
            yield from _reformed(a.split(" · "), b.split(" · "), change.layer)
        elif name == "channels":
            yield Event("channels", "in", name)
        elif name == "bias":
            yield Event("bias", "added to" if b else "removed from", name)
        else:
            yield Event(f"{name} {a} to {b}", "in", name)


def _reformed(a: Sequence[str], b: Sequence[str], layer: str) -> Iterator[Event]:
    """Norms and activations that came, went or moved."""
    sides = [{"before": words[: words.index(layer)], "after": words[words.index(layer) + 1 :]} for words in (a, b)]
    gone = [(w, side) for side, words in sides[0].items() for w in words if w not in sides[1][side]]
    come = [(w, side) for side, words in sides[1].items() for w in words if w not in sides[0][side]]
    for word, side in list(come):
        if other := next((pair for pair in gone if pair[0] == word), None):
            gone.remove(other)
            come.remove((word, side))
            yield Event(word, f"moved {side}", _cause(word))
    for side, before in sides[0].items():
        after = sides[1][side]
        if before != after and sorted(before) == sorted(after):
            yield Event(f"{' · '.join(before)} becomes {' · '.join(after)}", side, "norm")
    if len(gone) == len(come) == 1 and gone[0][1] == come[0][1]:
        yield Event(f"{gone[0][0]} becomes {come[0][0]}", come[0][1], _cause(gone[0][0], come[0][0]))
    else:
        yield from (Event(word, f"removed {side}", _cause(word)) for word, side in gone)
        yield from (Event(word, f"added {side}", _cause(word)) for word, side in come)


def _cause(*words: str) -> str:
    return "norm" if set(words) & set(NORMS.values()) else "activation"


def _words(some: Sequence[Event], events: Mapping[Event, Sequence[Changed]], every: Container[Event]) -> str:
    """groups 1 to 32 in conv 3x3, channels x 2 in conv 1x1 and conv 3x3"""
    told: dict[tuple[str, str], list[str]] = {}
    for event in some:
        mine = events[event]
        layers = ["every convolution"] if event in every else [c.layer for c in mine]
        if event.verb in ("added", "removed"):
            told.setdefault((event.verb, ""), []).append(_named(mine))
        elif event.word == "channels":
            told.setdefault(("in", _and(layers)), []).append(_channels(mine))
        else:
            told.setdefault((event.verb, _and(layers) if event.verb else ""), []).append(event.word)
    return ", ".join(" ".join(filter(None, (_and(words), *key))) for key, words in told.items())


def _named(changes: Sequence[Changed]) -> str:
    """Layers that came or went together, with their number; those that scale a map by what it holds are a gate."""
    blocks = len({c.block for c in changes})
    layers = [f"{n // blocks} x {name}" if n > blocks and not n % blocks else name for name, n in _count(changes)]
    if any(c.layer == "multiplication" for c in changes) and any(c.layer.startswith("global") for c in changes):
        return f"gate ({', '.join(layers)})"
    return _and(layers)


def _count(changes: Iterable[Changed]) -> Iterable[tuple[str, int]]:
    return Counter(c.layer for c in changes).items()


def _channels(changes: Iterable[Changed]) -> str:
    pairs = list(dict.fromkeys(c.traits["channels"] for c in changes))
    ratios = {b / a for a, b in pairs}
    (a, b), (c, d) = pairs[0], pairs[-1]
    dots = ", ..., " if len(pairs) > 2 else ", "
    span = f"{a} to {b}{dots}{c} to {d}" if len(pairs) > 1 else f"{a} to {b}"
    if len(pairs) > 1 and len(ratios) == 1:
        return f"channels times {ratios.pop():.3g} ({span})"
    return f"channels {span}"


def _where(changes: Sequence[Changed]) -> str:
    """In every block of a kind, in the first of each part, in so many, or in these parts."""
    blocks = {(c.part, c.block): c for c in changes}
    kinds = {c.kind for c in changes}
    parts = list(dict.fromkeys(c.part for c in changes))
    kind, number, of = next(iter(kinds)), len(blocks), max(c.of for c in changes)
    if len(kinds) > 1 or not kind:
        return f"in {_and(parts)}"
    if number == of and number > 1:
        return f"in every {kind}"
    if len(parts) == number > 1 and all(c.order == 0 for c in changes):
        return f"in the first {kind} of {_and(parts)}"
    if number == 1:
        return f"in {next(iter(blocks))[1]}"
    return f"in {number} of {_many(of, kind)}" if number < of else f"in {_and(parts)}"


def _following(changes: Sequence[Changed]) -> Statement:
    names = dict.fromkeys(name for c in changes for name in c.traits)
    reasons = {"input channels": "reads other channels", "map": "works on a map of another size"}
    told = " or ".join(reasons[name] for name in names)
    return _statement(f"what else {told}: {_many(len(changes), 'layer')}", changes, follows=True)


def _statement(text: str, changes: Iterable[Changed], follows: bool = False) -> Statement:
    changes = list(changes)
    return Statement(text, sum(c.params for c in changes), sum(c.madds for c in changes), follows)


def _and(names: Iterable[str]) -> str:
    some = list(dict.fromkeys(names))
    if len(some) > MOST_NAMED + 1:
        return f"{', '.join(some[:MOST_NAMED])} and {len(some) - MOST_NAMED} more"
    return " and ".join(filter(None, (", ".join(some[:-1]), some[-1])))


def _many(number: int, kind: str) -> str:
    return f"{number} {kind}" if number == 1 or kind.endswith("s") else f"{number} {kind}s"
