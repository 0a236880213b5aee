"""Whose weights a file holds, told from the names and shapes of its tensors."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from backbones import registry
from backbones.backbone import Backbone
from backbones.build import build_on_meta
from backbones.records import Preprocessing, Variant
from backbones.weights.convert import Fit, Network, Peer, fit, told
from backbones.weights.peers import PEERS

SHAPE = ("num_classes", "in_channels", "aux")
"""settings that a file has, and that may be asked for otherwise"""
HEADS = ("global_pool", "output_stride")
"""settings that need not fit the file's classes, and leave the tensors as they are"""
NEAREST = 12
"""networks that are tried on a file that does not say what it holds"""


class Wish(NamedTuple):
    """What the user asked for."""

    name: str
    """as typed: an alias or a dotted name says which twin is meant, a plain name leaves it to the weights"""
    variant: Variant
    given: Mapping[str, Any]
    source: str | None = None
    """the peer, or "PEER:ITS NETWORK", where the user says it"""
    insists: bool = False
    """on the named network's function, whatever the weights were trained with"""


@dataclass(frozen=True)
class Source:
    """A file on this machine, and what is known of it before it is opened."""

    path: Path
    said: str
    """how log lines and checkpoints call it"""
    network: str | None = None
    """the peer, or "PEER:ITS NETWORK", where the publisher says it"""
    ours: str | None = None
    """our network of that function"""
    preprocessing: Preprocessing | None = None
    classes: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: str = ""


def twins(name: str) -> list[str]:
    """The networks that differ from this one in what departs, itself included."""
    plain = name.partition(".")[0]
    return [v.name for v in registry.variants() if v.name.partition(".")[0] == plain]


def recognise(
    wish: Wish, source: Source, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None
) -> Fit:
    """The one function that has these tensors and that the wish allows. ValueError if there is none, or several."""
    group = twins(wish.variant.name)
    candidates = [(peer, n) for peer, n in networks(wish.source or source.network) if n.ours in group]
    if not candidates:
        held = sorted({n.ours for _, n in networks(wish.source or source.network)})
        raise ValueError(
            f"{source.said}: these are the weights of {held[0]}, not of {wish.variant.name}"
            if len(held) == 1
            else f"{source.said}: no {wish.source or 'library whose files are read'} has {wish.variant.name}"
        )
    if wish.insists:  # on the named network, whatever else has these shapes
        candidates = [(peer, n._replace(ours=wish.variant.name, settings={}, kwargs={})) for peer, n in candidates]
    own = {key: value for key, value in wish.given.items() if key not in SHAPE and key not in HEADS}
    fits = [fit(shapes, metadata or {}, peer, n, _on_meta(n.ours, own)) for peer, n in candidates]
    whole = [f for f in fits if not f.misfits]
    whole = [f for f in whole if not f.network.kwargs] or whole
    functions = {(f.network.ours, *sorted({**f.network.settings, "aux": None}.items())): f for f in reversed(whole)}
    named = "." in wish.name or wish.name in wish.variant.aliases
    allowed = [f for f in functions.values() if f.network.ours == wish.variant.name or not named]
    if len(allowed) == 1:
        return allowed[0]
    why = _why(wish, fits, list(functions.values()), lambda: guess(shapes, metadata))
    raise ValueError(f"{source.said} does not fit {wish.name}: {why}")


def guess(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None, source: str | None = None
) -> list[Fit]:
    """Whose weights these may be, of all networks: the nearest by number of parameters are tried."""
    statistics = ("running_mean", "running_var", "num_batches_tracked", "moving_mean", "moving_variance")
    size = sum(prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))
    nearest = sorted(_counts(), key=lambda name: abs(_counts()[name] - size))[:NEAREST]
    candidates = [(peer, n) for peer, n in networks(source) if n.ours in nearest]
    fits = [fit(shapes, metadata or {}, peer, n, _on_meta(n.ours)) for peer, n in candidates]
    whole = [f for f in fits if not f.misfits]
    return [f for f in whole if not f.network.kwargs] or whole


def networks(source: str | None) -> Iterator[tuple[Peer, Network]]:
    """Those of all peers, of a "PEER", or the one "PEER:ITS NETWORK". LookupError for an unknown peer."""
    name, _, network = (source or "").partition(":")
    if name and name not in PEERS:
        raise LookupError(f"source={source!r}; give one of {', '.join(PEERS)}, or PEER:ITS NETWORK")
    for peer in [PEERS[name]] if name else PEERS.values():
        yield from ((peer, n) for n in peer.networks if network in ("", n.name))


def _why(wish: Wish, fits: Sequence[Fit], whole: Sequence[Fit], others: Callable[[], list[Fit]]) -> str:
    """What is wrong, and what to do; `others` looks for whose weights they are."""
    if len(whole) > 1:
        ways = " or ".join(f"source='{f.peer.name}:{f.network.name}' ({f.network.ours})" for f in whole)
        return f"equal shapes, but several functions; say whose it is: {ways}"
    if whole:
        theirs = f"{whole[0].peer.name}'s {whole[0].network.name}"
        return (
            f"these are the weights of {theirs}, which is {whole[0].network.ours}; ask for that, "
            f"or insist on other weights for {wish.name} with departures=()"
        )
    best = min(fits, key=lambda f: len(f.misfits))
    held = {f.network.ours: f for f in reversed(others())}
    reason = " or ".join(f"{f.peer.name}'s {f.network.name}: use {name!r}" for name, f in held.items())
    return (
        f"{len(best.misfits)} misfits with {best.peer.name}'s {best.network.name}"
        + (f"; these are the weights of {reason}" if held else "")
        + told(best.misfits)
    )


def _on_meta(name: str, given: Mapping[str, Any] | None = None) -> Callable[..., Backbone]:
    return lambda **settings: build_on_meta(registry.find(name), {**settings, **(given or {})})


@cache
def _counts() -> dict[str, int]:
    entries = json.loads(Path(__file__).with_name("catalog.json").read_text())
    return {name: entry["measured"]["params"] for name, entry in entries.items()}
