"""Whose weights a file holds, told from the names and shapes of its tensors."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
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

log = logging.getLogger("backbones")

SHAPE = ("num_classes", "in_channels", "aux")
"""settings that a file has, and that may be asked for otherwise"""
HEADS = ("global_pool", "output_stride")
"""settings that need not fit the file's classes, and leave the tensors as they are"""
VALUES_ONLY = ("bn_eps",)
"""settings of peers that change what is computed, but no name and no shape"""
LAYOUT = ("aux", "conv_bias")
"""settings that tensors need, and that change no function"""
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

    @property
    def named(self) -> bool:
        """Whether the name says which twin is meant: dotted, or an alias."""
        return "." in self.name or self.name in self.variant.aliases

    @property
    def allowed(self) -> list[str]:
        """The networks of ours whose weights may be taken."""
        return [self.variant.name] if self.named and not self.insists else twins(self.variant.name)


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
        layout = [{key: n.settings[key] for key in LAYOUT if key in n.settings} for _, n in candidates]
        candidates = [
            (peer, n._replace(ours=wish.variant.name, settings=settings, kwargs={}))
            for (peer, n), settings in zip(candidates, layout, strict=True)
        ]
    own = {key: value for key, value in wish.given.items() if key not in SHAPE and key not in HEADS}
    built: dict[str, Backbone] = {}
    fits = [fit(shapes, metadata or {}, peer, n, _on_meta(n.ours, built, own)) for peer, n in candidates]
    whole = [f for f in fits if not f.misfits]
    whole = [f for f in whole if not f.network.kwargs] or whole
    functions = {(f.network.ours, *sorted({**f.network.settings, "aux": None}.items())): f for f in reversed(whole)}
    allowed = [f for f in functions.values() if f.network.ours in wish.allowed or wish.insists]
    if len(allowed) == 1:
        if len(functions) > 1:
            log.info("%s: equal shapes are %d functions; taken as %s, as named", source.said, len(functions), wish.name)
        return allowed[0]
    why = _why(wish, fits, list(functions.values()), lambda: guess(shapes, metadata))
    raise ValueError(f"{source.said} does not fit {wish.name}: {why}")


def guess(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str] | None = None, source: str | None = None
) -> list[Fit]:
    """Whose weights these may be, of all networks: the nearest by number of parameters are tried."""
    statistics = ("running_mean", "running_var", "num_batches_tracked", "moving_mean", "moving_variance")
    size = sum(prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))
    nearest = sorted(_counts(), key=lambda name: abs(_counts()[name].params - size))[:NEAREST]
    nearest += [name for name, count in _counts().items() if count.fits(size)]
    candidates = [(peer, n) for peer, n in networks(source) if n.ours in nearest]
    built: dict[str, Backbone] = {}
    fits = [fit(shapes, metadata or {}, peer, n, _on_meta(n.ours, built)) for peer, n in candidates]
    whole = [f for f in fits if not f.misfits]
    return [f for f in whole if not f.network.kwargs] or whole


def networks(source: str | None) -> list[tuple[Peer, Network]]:
    """Those of all peers, of a "PEER", or the one "PEER:ITS NETWORK". LookupError for an unknown peer."""
    name, _, network = (source or "").partition(":")
    if name and name not in PEERS:
        raise LookupError(f"source={source!r}; give one of {', '.join(PEERS)}, or PEER:ITS NETWORK")
    found = [(p, n) for p in PEERS.values() for n in p.networks if name in ("", p.name) and network in ("", n.name)]
    if not found:
        raise LookupError(f"source={source!r}; {name} has no {network} whose function is a network's here")
    return found


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


def _on_meta(name: str, built: dict[str, Backbone], given: Mapping[str, Any] | None = None) -> Callable[..., Backbone]:
    """Builds that network, or takes it out of `built`: candidates differ in names more than in networks."""

    def build(**settings: Any) -> Backbone:
        own = {key: value for key, value in settings.items() if key not in VALUES_ONLY}
        settings = {**own, **(given or {})}
        key = f"{name} {sorted(settings.items())}"
        if key not in built:
            built[key] = build_on_meta(registry.find(name), settings)
        return built[key]

    return build


class Count(NamedTuple):
    """Of a network's parameters."""

    params: int
    classes: int
    features: int
    """that each class is told by"""

    def fits(self, params: int) -> bool:
        """Whether the network has so many with some number of classes."""
        rest = params - (self.params - self.classes * (self.features + 1))
        return rest >= 0 and rest % (self.features + 1) == 0


@cache
def _counts() -> dict[str, Count]:
    entries = json.loads(Path(__file__).with_name("catalog.json").read_text()).values()
    numbers = ((e["name"], e["measured"], e["num_classes"]) for e in entries)
    return {name: Count(told["params"], classes, told["num_features"]) for name, told, classes in numbers}
