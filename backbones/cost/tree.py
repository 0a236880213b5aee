"""Which block of a network each operator belongs to, found from the module tree and from who reads whose output."""

from collections.abc import Mapping, Sequence

from backbones.cost.trace import Operator

LISTS = frozenset({"Sequential", "ModuleList", "ModuleDict"})


class Tree:
    """The parts of a network in which operators ran. `blocks[i]` is the path of operator i's block.

    A part is opened into blocks of its own where its parts run one after another: a list of them, or several of one
    kind. Branches that run side by side belong to one block.
    """

    def __init__(self, operators: Sequence[Operator], kinds: Mapping[str, str]) -> None:
        self._operators, self.kinds = operators, kinds
        self._within: dict[str, list[int]] = {}
        for index, operator in enumerate(operators):
            for path in ancestors(operator.layer):
                self._within.setdefault(path, []).append(index)
        self.opened = set[str]()
        self._open("")
        self.blocks = tuple(self._block(operator.layer) for operator in operators)

    def within(self, path: str) -> list[int]:
        """The operators that ran inside this part, in their order."""
        return self._within.get(path, [])

    def children(self, path: str) -> list[str]:
        """The parts of a part in which operators ran, in the order in which they began."""
        depth = len(ancestors(path))
        found = (ancestors(self._operators[i].layer) for i in self.within(path))
        return list(dict.fromkeys(p[depth] for p in found if len(p) > depth))

    def is_container(self, path: str) -> bool:
        """Whether a part of it filters: a norm that holds its activation is a layer."""
        inner = (self._operators[i] for i in self.within(path))
        return any(o.madds for o in inner if o.layer != path)

    def _open(self, path: str) -> None:
        containers = [child for child in self.children(path) if self.is_container(child)]
        if containers and (not path or self._is_list(path, containers)) and self._is_chain(path, containers):
            self.opened.add(path)
            for child in containers:
                self._open(child)

    def _is_list(self, path: str, containers: Sequence[str]) -> bool:
        if self.kinds.get(path) in LISTS:
            return True
        kinds = {self.kinds.get(child) for child in containers}
        return len(containers) > 1 and len(kinds) == 1 and not kinds & LISTS

    def _is_chain(self, path: str, containers: Sequence[str]) -> bool:
        """Each reads what came after the one before it began, and not only what the whole part reads."""
        starts = [self.within(child)[0] for child in containers]
        for child, before, start in zip(containers[1:], starts, starts[1:], strict=False):
            reads = (i for operator in self.within(child) for i in self._operators[operator].inputs)
            if not any(before <= i < start for i in reads):
                return False
        return True

    def _block(self, layer: str) -> str:
        """The innermost part that was not opened; what an opened part computes itself is its own."""
        line = [*ancestors(layer)]
        for path in line:
            if path not in self.opened:
                return path if self.is_container(path) else parent(path)
        return layer


def ancestors(path: str) -> list[str]:
    """ "", "a", "a.b", ... and the path itself."""
    words = path.split(".") if path else []
    return ["", *(".".join(words[: i + 1]) for i in range(len(words)))]


def parent(path: str) -> str:
    return path.rpartition(".")[0]
