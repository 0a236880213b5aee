"""A network taken apart for a reader: its parts in order, the blocks of each part, the units of each block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from backbones.cost.grouping import Unit, units
from backbones.cost.report import Cost
from backbones.cost.tree import LISTS, Tree, ancestors


@dataclass(frozen=True)
class Part:
    """The stem, a stage, the head; in a foreign network a top-level part, or a run of equal ones."""

    names: tuple[str, ...]
    """dotted paths; "" where the network itself computes"""
    units: tuple[int, ...]

    @property
    def name(self) -> str:
        return (self.names[0] or "network") if len(self.names) == 1 else f"{self.names[0]} to {self.names[-1]}"


@dataclass(frozen=True)
class Block:
    """What repeats inside a part: several units of one module."""

    name: str
    kind: str
    """its class"""
    units: tuple[int, ...]


class Anatomy:
    """Of one network, from a `Cost`. ValueError where it computes nothing from its image: there is nothing to show."""

    def __init__(self, cost: Cost) -> None:
        if not any(-1 in operator.inputs for operator in cost.operators):
            kind = cost.kinds.get("", "the network")
            raise ValueError(f"{kind} computes nothing from its image; give a module that does")
        self.operators, self.kinds, self.names = cost.operators, cost.kinds, cost.names
        self.image = cost.input_shape
        """(C, H, W) of what the network reads"""
        self.tree = Tree(self.operators, self.kinds)
        self.units: tuple[Unit, ...] = units(self.operators, self.tree)
        self.params, self.madds = sum(u.params for u in self.units), sum(u.madds for u in self.units)
        self.parts = tuple(self._parts())

    def blocks(self, part: Sequence[int]) -> list[Block]:
        """The units in order, those of one block together; a unit that is no block's stands alone."""
        found = []
        for name, group in groupby(part, key=lambda i: self.units[i].block):
            members = tuple(group)
            if name in self.tree.opened:
                found += [Block(self.units[i].main.layer, "", (i,)) for i in members]
            else:
                found.append(Block(name, self.kinds.get(name, ""), members))
        return found

    def inside(self, path: str) -> list[int]:
        """The units of a part of the network, by its dotted path. LookupError where it has none of its own."""
        ran = set(self.tree.within(path))
        if path and not ran:
            raise LookupError(f"the network has no part {path!r}; its parts are {', '.join(self.part_names())}")
        found = [i for i, unit in enumerate(self.units) if path in ancestors(unit.main.layer)]
        if not found:
            layer = next(unit.main.layer for unit in self.units if ran.intersection(unit.operators))
            raise LookupError(f"{path!r} has no box of its own, it is drawn in that of {layer!r}; give that")
        return found

    def part_names(self) -> list[str]:
        return [name for part in self.parts for name in part.names]

    def part_of(self, unit: int) -> Part:
        return next(part for part in self.parts if unit in part.units)

    # -- parts

    def _parts(self) -> Iterator[Part]:
        entries = self._opened("", list(range(len(self.units))))
        waiting: list[tuple[str, list[int]]] = []
        for _, run in groupby(self._marked(entries), key=lambda entry: entry[0]):
            members = [*waiting, *(entry[1:] for entry in run)]
            waiting = members if not waiting and self._only_pools(members) else []
            if not waiting:
                names = tuple(name for name, _ in members if name) or ("",)
                yield Part(names, tuple(i for _, some in members for i in some))

    def _only_pools(self, members: Sequence[tuple[str, list[int]]]) -> bool:
        """A pooling between two parts opens the second."""
        units = [self.units[i] for _, some in members for i in some]
        return all(u.kind == "pooling" and not u.name.startswith("global") for u in units) and -1 not in units[0].reads

    def _opened(self, path: str, inside: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The children of a part with their units; the one that is most of the network is opened in turn."""
        entries: list[tuple[str, list[int]]] = []
        depth = len(ancestors(path))
        for i in inside:
            line = ancestors(self.units[i].main.layer)
            name = line[depth] if len(line) > depth else ""
            if entries and name in ("", entries[-1][0]):  # what the part computes itself goes on with what it reads
                entries[-1][1].append(i)
            else:
                entries.append((name, [i]))
        if len(entries) == 1 and entries[0][0] not in self.tree.opened:
            return entries
        return [
            e for name, some in entries for e in (self._opened(name, some) if self._is_most(name) else [(name, some)])
        ]

    def _is_most(self, path: str) -> bool:
        """Whether a list of parts, such as `stages` or `features`, holds most of what there is."""
        children = len(self.tree.children(path))
        if "." in path and path in self.names:
            return False
        return self.kinds.get(path) in LISTS and children > 1 and 2 * len(self.tree.within(path)) > len(self.operators)

    def _marked(self, entries: Sequence[tuple[str, list[int]]]) -> Iterator[tuple[Any, str, list[int]]]:
        """Entries that go into one part get one mark: blocks of one kind and map size, and layers of one map size."""
        mark: Any = None
        for name, members in entries:
            kind, side = self.kinds.get(name, ""), tuple(s for s in self.units[members[-1]].shape[1:] if s > 1)
            if not self.tree.is_container(name):
                alone = mark and mark[0] == "layers" and mark[2] == 1 and self.units[members[0]].kind == "pooling"
                same = mark and mark[0] == "layers" and (mark[1] == side or alone)
                mark = ["layers", side, mark[2] + len(members) if same else len(members), mark[3] if same else name]
                yield (("layers", mark[3]), name, members)
                continue
            same = mark and mark[0] == kind and mark[1] == side and kind not in LISTS
            mark = [kind, side, 0, mark[3] if same else name]
            yield ((kind, mark[3]), name, members)
