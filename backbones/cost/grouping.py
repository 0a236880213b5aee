"""A network as people draw it: a convolution with its norm and activation is one unit, a joint of branches another."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from backbones.cost.naming import (
    ACTIVATIONS,
    FILTERS,
    JOINS,
    MAKERS,
    NORMS,
    POOLINGS,
    SCALARS,
    Kind,
    filter_name,
    map_size,
    op_name,
    pooling_name,
    spaced,
)
from backbones.cost.trace import Operator
from backbones.cost.tree import Tree, ancestors, parent


@dataclass(frozen=True)
class Unit:
    """One box or one joint of a drawing."""

    operators: tuple[int, ...]
    main: Operator
    """the operator that names it"""
    kind: Kind
    name: str
    """what it is: conv 3x3, max pool, addition"""
    before: tuple[str, ...]
    after: tuple[str, ...]
    """norms and activations on either side of what names it"""
    reads: tuple[int, ...]
    """units whose maps it reads, -1 is the image"""
    shape: tuple[int, ...]
    """(C, H, W) of its map"""
    block: str
    params: int
    madds: int

    @cached_property
    def settings(self) -> str:
        """Channels, stride and groups, as in "64 /2"."""
        if self.kind == "join":
            return ""
        out = f", {self.shape[0]}" if self.kind in ("convolution", "depthwise", "linear") else ""
        stride = self.main.stride or (1,)
        steps = "" if max(stride) == 1 else f" /{'x'.join(map(str, dict.fromkeys(stride)))}"
        return out + steps

    @cached_property
    def details(self) -> str:
        """What does not fit the name: groups and dilation."""
        groups = f"{self.main.groups} groups" if self.kind == "convolution" and (self.main.groups or 1) > 1 else ""
        dilation = max(self.main.dilation or (1,))
        return ", ".join(filter(None, (groups, f"dilation {dilation}" if dilation > 1 else "")))

    @cached_property
    def label(self) -> str:
        """All of it in a line: what tells two units apart in a drawing."""
        named = f"{self.name}{self.settings}" + (f" ({self.details})" if self.details else "")
        return " · ".join((*self.before, named, *self.after))


class _Draft:
    """A unit that is being put together."""

    def __init__(self, operators: list[int], role: str, word: str) -> None:
        self.operators, self.role, self.word = operators, role, word
        self.main = operators[0]
        self.before, self.after = list[str](), list[str]()
        self.reads = list[int]()


def units(operators: Sequence[Operator], tree: Tree) -> tuple[Unit, ...]:
    """The units of a network in the order in which they ran; each operator is in exactly one of them."""
    return _Assembly(operators, tree).units()


class _Assembly:
    def __init__(self, operators: Sequence[Operator], tree: Tree) -> None:
        self.operators, self.tree = operators, tree
        self.of: dict[int, _Draft] = {}
        """operator -> its draft"""
        self.constants = self._constants()
        for run in self._runs():
            draft = self._draft(run)
            self.of.update(dict.fromkeys(run, draft))
        for index in range(len(operators)):
            if index not in self.constants:
                self._link(index)
        self._merge_sums()
        self._fold()

    def units(self) -> tuple[Unit, ...]:
        drafts = self.drafts()
        self._place_constants(drafts)
        place = {id(draft): i for i, draft in enumerate(drafts)}
        made = []
        for draft in drafts:
            members = sorted(draft.operators)
            reads = (self.of[i] if i >= 0 else None for i in draft.reads)
            indices = dict.fromkeys(-1 if r is None else place[id(r)] for r in reads)
            operator = self.operators[draft.main]
            live = [i for i in members if i not in self.constants]
            kind, name = self._named(draft)
            made.append(
                Unit(
                    operators=tuple(members),
                    main=operator,
                    kind=kind,
                    name=name,
                    before=tuple(dict.fromkeys(filter(None, draft.before))),
                    after=tuple(dict.fromkeys(filter(None, draft.after))),
                    reads=tuple(i for i in indices if i != place[id(draft)]),
                    shape=map_size(self.operators[live[-1]].output_shape),
                    block=self.tree.blocks[draft.main],
                    params=sum(self.operators[i].params for i in members),
                    madds=sum(self.operators[i].madds or 0 for i in members),
                )
            )
        return tuple(made)

    def drafts(self) -> list[_Draft]:
        """By when their last operator ran: what is read stands before what reads it."""
        found = {id(d): d for d in self.of.values()}
        return sorted(found.values(), key=lambda d: max(i for i in d.operators if i not in self.constants))

    # -- operators become drafts

    def _constants(self) -> set[int]:
        """Operators whose values do not come from the image, such as masked weights."""
        known = set[int]()
        for index, operator in enumerate(self.operators):
            if op_name(operator) in MAKERS or all(i in known for i in operator.inputs):
                known.add(index)
        return known

    def _runs(self) -> Iterable[list[int]]:
        """Operators one by one; those of a layer that is all its own formula, together (a local response norm)."""
        live = [i for i in range(len(self.operators)) if i not in self.constants]
        start = 0
        while start < len(live):
            layer, stop = self.operators[live[start]].layer, start + 1
            while stop < len(live) and self.operators[live[stop]].layer == layer:
                stop += 1
            run = live[start:stop]
            if len(run) > 1 and layer and not self.tree.is_container(layer) and self._is_formula(run):
                yield run
            else:
                yield from ([i] for i in run)
            start = stop

    def _is_formula(self, run: Sequence[int]) -> bool:
        entries = {i for r in run for i in self.operators[r].inputs if i not in run and i not in self.constants}
        names = [op_name(self.operators[r]) for r in run]
        padded = len([n for n in names if "pad" not in n]) == 1
        return len(entries) == 1 and not padded and not FILTERS.intersection(names)

    def _draft(self, run: list[int]) -> _Draft:
        operator = self.operators[run[0]]
        op = op_name(operator)
        if len(run) > 1:
            simple = all(op_name(self.operators[i]) not in POOLINGS | {"sum", "avg_pool3d"} for i in run)
            same = self.operators[run[-1]].output_shape == operator.input_shapes[0]
            return _Draft(run, "follower" if simple and same else "other", spaced(operator.kind))
        maps = {i for i in operator.inputs if i not in self.constants}
        if op in FILTERS:
            return _Draft(run, "filter", op)
        if op in POOLINGS:
            return _Draft(run, "pooling", op)
        if op in JOINS and len(maps) > 1:
            return _Draft(run, "join", JOINS[op])
        if op in ("cat", "stack"):
            return _Draft(run, "follower", "")
        if "pad" in op:
            return _Draft(run, "pad", "pad")
        if op in NORMS:
            return _Draft(run, "norm", NORMS[op])
        if op in ACTIVATIONS or op in ("hardtanh", "clamp"):
            return _Draft(run, "follower", ACTIVATIONS.get(op, "ReLU6"))
        if op in SCALARS:
            return _Draft(run, "follower", SCALARS[op])
        leaf = operator.layer and not self.tree.is_container(operator.layer)
        return _Draft(run, "other", spaced(operator.kind) if leaf else {"clone": "reorder"}.get(op, op.strip("_")))

    def _link(self, index: int) -> None:
        draft = self.of[index]
        outside = (i for i in self.operators[index].inputs if i not in self.constants and i not in draft.operators)
        draft.reads += [i for i in outside if i not in draft.reads]

    # -- drafts are put together

    def _readers(self) -> dict[int, list[_Draft]]:
        readers: dict[int, list[_Draft]] = {id(d): [] for d in self.of.values()}
        for draft in {id(d): d for d in self.of.values()}.values():
            for source in {id(self.of[i]): i for i in draft.reads if i >= 0}:
                readers[source].append(draft)
        return readers

    def _together(self, a: _Draft, b: _Draft) -> bool:
        """In one block; or between blocks, where b may also follow the last filter of a block of its list."""
        one, other = self.tree.blocks[a.main], self.tree.blocks[b.main]
        loose = other in self.tree.opened and (one in self.tree.opened or (parent(one) == other and a.role == "filter"))
        return one == other or loose

    def _absorb(self, into: _Draft, gone: _Draft) -> None:
        into.operators += gone.operators
        self.of.update(dict.fromkeys(gone.operators, into))

    def _merge_sums(self) -> None:
        """(a + b) + c is one joint of three."""
        readers = self._readers()
        for draft in self.drafts():
            if draft.role != "join" or draft.word != "addition":
                continue
            for index in [i for i in draft.reads if i >= 0]:
                source = self.of[index]
                if source.role == "join" and source.word == "addition" and readers[id(source)] == [draft]:
                    draft.reads.remove(index)
                    draft.reads = [*source.reads, *draft.reads]
                    self._absorb(draft, source)

    def _fold(self) -> None:
        """Norms, activations and paddings go into the box before or after them; those that cannot stay boxes."""
        readers = self._readers()
        for chain in self._chains(readers):
            source = self.of[i] if (i := chain[0].reads[0]) >= 0 else None
            targets = readers[id(chain[-1])]
            target = targets[0] if len(targets) == 1 else None
            back = (
                source is not None
                and readers[id(source)] == [chain[0]]
                and source.role in ("filter", "pooling", "join", "other")
                and chain[0].role != "pad"
                and self._together(source, chain[0])
            )
            forward = (
                target is not None
                and target.role in ("filter", "pooling")
                and self._together(target, chain[-1])
                and (target.role == "filter" or chain[-1].role == "pad" or not back)
            )
            cut = self._cut(chain, source) if back and forward else len(chain) if back else 0
            for draft in chain[:cut]:
                if source is not None:
                    self._absorb(source, draft)
                    source.after.append(draft.word)
            if forward and target is not None and cut < len(chain):
                target.reads = [*chain[cut].reads, *(i for i in target.reads if self.of.get(i) is not chain[-1])]
                for draft in reversed(chain[cut:]):
                    self._absorb(target, draft)
                    target.before.insert(0, draft.word)
            elif cut < len(chain):
                first = chain[cut]
                for draft in chain[cut + 1 :]:
                    self._absorb(first, draft)
                    first.after.append(draft.word)

    def _chains(self, readers: Mapping[int, list[_Draft]]) -> list[list[_Draft]]:
        """Followers of followers, as long as nobody else reads what is between them and they are of one block."""
        chains, taken = [], set[int]()
        for draft in self.drafts():
            if id(draft) in taken or draft.role not in ("norm", "follower", "pad"):
                continue
            chain = [draft]
            while len(after := readers[id(chain[-1])]) == 1 and after[0].role in ("norm", "follower", "pad"):
                if not self._together(chain[-1], after[0]):
                    break
                chain.append(after[0])
            taken |= {id(d) for d in chain}
            chains.append(chain)
        return chains

    def _cut(self, chain: Sequence[_Draft], source: _Draft | None) -> int:
        """How many of the chain belong to the box before: all, unless the block puts them before its convolutions."""
        cut = len(chain)
        while cut and chain[cut - 1].role == "pad":
            cut -= 1
        if source is None or source.role == "other":
            return cut
        first = self._opening(source.main, chain[0].main)
        if first in NORMS:
            return 0
        if first in ACTIVATIONS and source.role == "filter":
            return min(cut, next((i for i, d in enumerate(chain) if d.role != "norm"), cut))
        return cut

    def _opening(self, a: int, b: int) -> str:
        """The norm or activation with which a part that holds both begins, if one does."""
        one, other = (ancestors(self.operators[i].layer) for i in (a, b))
        for path, same in zip(one[1:], other[1:], strict=False):
            if path == same:
                live = (i for i in self.tree.within(path) if i not in self.constants)
                ops = (op_name(self.operators[i]) for i in live)
                first = next((op for op in ops if op != "cat"), "")
                if first in NORMS or first in ACTIVATIONS:
                    return first
        return ""

    def _place_constants(self, drafts: Sequence[_Draft]) -> None:
        """Operators on weights alone belong to the unit that reads them."""
        waiting = sorted(self.constants, reverse=True)
        readers: dict[int, int] = {}
        for index, operator in enumerate(self.operators):
            for i in operator.inputs:
                readers.setdefault(i, index)
        for index in waiting:
            owner = self.of.get(readers.get(index, -1))
            if owner is None:
                later = [i for i in self.of if i > index]
                owner = self.of[min(later)] if later else drafts[-1]
            owner.operators.append(index)
            self.of[index] = owner

    def _named(self, draft: _Draft) -> tuple[Kind, str]:
        operator = self.operators[draft.main]
        if draft.role == "filter":
            return filter_name(operator)
        if draft.role == "pooling":
            return "pooling", pooling_name(operator)
        if draft.role == "join":
            averages = draft.word == "addition" and draft.after[:1] == ["scale"] and len(draft.reads) > 1
            if averages and any(op_name(self.operators[i]) == "div" for i in draft.operators):
                del draft.after[0]
                return "join", "mean"
            return "join", draft.word
        return "other", draft.word
