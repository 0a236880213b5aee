"""Which answer of a network stands for which class of the data."""

import logging
from collections.abc import Sequence

log = logging.getLogger("backbones")


def columns(network: Sequence[str], data: Sequence[str], said: str, by_place: bool = False) -> tuple[int, ...] | None:
    """For each class of the data, the number of the network's answer of the same name; None where they are in order.

    ValueError, with `said` as the network's name, where the two do not know the same classes. With `by_place`, a
    network that does not name its classes, or calls none as the data does (ImageNet's "tench" is its folder n01440764),
    is taken to have them in the data's order, which a log line says.
    """
    if tuple(network) == tuple(data):
        return None
    if by_place and not set(network) & set(data) and len(network) in (0, len(data)):
        called = f"calls its classes {some(network, 3)}" if network else "does not name its classes"
        log.info("%s %s; they are taken in the data's order: %s", said, called, some(data, 3))
        return None
    if sorted(network) != sorted(data):
        raise ValueError(
            f"{said} knows the classes {some(network)}, the data has {some(data)}: {_difference(network, data)}"
        )
    if twice := sorted({name for name in network if network.count(name) > 1}):
        raise ValueError(
            f"{said} has its classes in another order than the data, and more than one is called {some(twice)}, so "
            "names do not tell which is which; put the data's into the network's order"
        )
    return tuple(map(list(network).index, data))


def some(classes: Sequence[str], most: int = 8) -> str:
    """The first of them, and how many there are."""
    return ", ".join(classes[:most]) + (f", ... ({len(classes)})" if len(classes) > most else "")


def _difference(network: Sequence[str], data: Sequence[str]) -> str:
    only = [
        f"only {whose} has {some(sorted(set(mine) - set(others)), 3)}"
        for whose, mine, others in (("the network", network, data), ("the data", data, network))
        if set(mine) - set(others)
    ]
    return "; ".join(only) or "some name stands for more classes in one than in the other"
