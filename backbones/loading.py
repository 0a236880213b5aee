"""Weights meet a network: whose they are, which of ours has their function, and what the user wants changed."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from math import prod
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from backbones import registry
from backbones.backbone import Backbone
from backbones.build import build, build_on_meta
from backbones.records import Checkpoint, Preprocessing, Variant
from backbones.weights import file as weights_file
from backbones.weights import sources
from backbones.weights.convert import Fit, Network, Peer, fit, told
from backbones.weights.peers import PEERS
from backbones.weights.reader import Entry, not_finite, opened

log = logging.getLogger("backbones")

BACKGROUND = 1001
"""classes of a file whose first is the background of TensorFlow's networks"""
SHAPE = ("num_classes", "in_channels", "aux")
"""settings that a file has, and that may be asked for otherwise"""
HEADS = ("global_pool", "output_stride")
"""settings that need not fit the file's classes, and leave the tensors as they are"""
FILES = ("model.safetensors", "best.safetensors", "last.safetensors")
"""of a folder of ours: saved for others, or left by a run"""
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


def locate(weights: str | PathLike[str], names: Sequence[str]) -> Source:
    """The file that `weights=` means: a path, a folder of ours, or published weights for one of these networks.

    Raises:
        FileNotFoundError, LookupError: there is none
        ConnectionError: it is not on this machine, and its host cannot be reached
    """
    if isinstance(weights, str) and weights.startswith(sources.PREFIXES):
        return published(sources.find(weights, names))
    path = Path(weights)
    if path.is_dir():
        inside = next((path / name for name in FILES if (path / name).is_file()), None)
        if inside is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(FILES)}; give a file, or a folder of ours")
        path = inside
    return Source(path, path.name)


def default(name: str) -> str:
    """What `pretrained=True` takes for this network. LookupError if nobody publishes any."""
    weights = sources.default(twins(name)).weights
    log.info("%s: pretrained=True takes %s", name, weights)
    return weights


def published(weights: sources.Published | sources.Repo) -> Source:
    """The file of published weights, fetched if it is not here."""
    fetched = sources.fetch(weights)
    known = fetched.published
    if known is None:
        return Source(fetched.path, fetched.origin)
    log.info("%s: %s", known.weights, fetched.origin)
    scores = {"top1": known.top1, "top5": known.top5}
    return Source(
        fetched.path,
        fetched.origin,
        f"{known.peer}:{known.peer_network}",
        known.network,
        known.preprocessing,
        fetched.classes,
        {key: value for key, value in scores.items() if value is not None},
        "ImageNet-1k" if fetched.classes else "",
    )


def twins(name: str) -> list[str]:
    """The networks that differ from this one in what departs, itself included."""
    plain = name.partition(".")[0]
    return [v.name for v in registry.variants() if v.name.partition(".")[0] == plain]


def load(wish: Wish, weights: str | PathLike[str]) -> Backbone:
    """The network with these weights, which bring their function; each change is said in a log line.

    Raises:
        FileNotFoundError: no such file
        LookupError: no such published weights
        ValueError: what is in the file is not this network's, or is nobody's, or fits two functions
    """
    source = locate(weights, twins(wish.variant.name))
    with opened(source.path) as file:
        if file.metadata.get("format", "").startswith("backbones "):
            _check_name(wish, source)
            return load_ours(source.path, wish.given)
        for note in file.notes:
            log.info("%s: %s", source.said, note)
        shapes = {name: entry.shape for name, entry in file.header.items()}
        found = recognise(wish, source, shapes)
        tensors = file.load()
    variant = registry.find(found.network.ours)
    _say(wish, source, found, variant)
    state, shape = found.ours(tensors), found.shape
    for dtype in {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}:
        log.info("%s: %s, read as float32", source.said, dtype)
    if shape["num_classes"] == BACKGROUND != wish.given.get("num_classes"):
        state = {key: tensor[1:] if "classifier" in key else tensor for key, tensor in state.items()}
        shape["num_classes"] -= 1
        log.info("%s: the first of its %d classes, the background, is left out", source.said, BACKGROUND)
    model = _filled(variant, found.network.settings, wish.given, shape, state, source.said)
    model.checkpoint = Checkpoint(
        model.variant.name,
        model.settings,
        classes=source.classes if len(source.classes) == model.num_classes else (),
        preprocessing=source.preprocessing,
        metrics=source.metrics,
        data=source.data,
        versions=versions(),
        source=f"{source.said}, {found.peer.name}'s {found.network.name}",
    )
    return model


def load_ours(path: str | PathLike[str], given: Mapping[str, Any] | None = None) -> Backbone:
    """What a file of our own holds, with what `given` changes. Its header is checked before a tensor is read."""
    checkpoint, header = weights_file.describe(path)
    variant = registry.find(checkpoint.network)
    try:
        expected = build_on_meta(variant, checkpoint.settings).state_dict()
    except (TypeError, ValueError, NotImplementedError, ArithmeticError) as error:
        raise ValueError(f"{path} asks for a {variant.name} that cannot be built: {error}") from None
    if lines := list(_misfits(expected, header)):
        raise ValueError(f"{path} does not fit {variant.name}, which it says it holds:{told(lines)}")
    checkpoint, state = weights_file.read(path)
    shape = {key: checkpoint.settings[key] for key in SHAPE if key in checkpoint.settings}
    settings = {key: value for key, value in checkpoint.settings.items() if key not in shape}
    model = _filled(variant, settings, given or {}, shape, state, Path(path).name)
    model.checkpoint = checkpoint
    return model


def _misfits(expected: Mapping[str, Tensor], header: Mapping[str, Entry]) -> Iterator[str]:
    """Our own tensors against a file's, by name, shape and type."""
    for name in expected.keys() | header.keys():
        here, there = expected.get(name), header.get(name)
        if here is None:
            yield f"no place for: {name} {there and there.shape}"
        elif there is None:
            yield f"missing: {name} {tuple(here.shape)}"
        elif (tuple(here.shape), str(here.dtype)) != (there.shape, f"torch.{there.dtype}"):
            yield f"shape: {name} is {there.shape} {there.dtype}, the network has {tuple(here.shape)} {here.dtype}"


def _filled(
    variant: Variant,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    shape: Mapping[str, Any],
    state: dict[str, Tensor],
    said: str,
) -> Backbone:
    """Built as the file has it and filled; then with the head, stem and auxiliary heads that `given` asks for."""
    aux = {"aux": given.get("aux", shape["aux"])} if "aux" in shape else {}
    model = build(variant, {**settings, **given, **shape, **aux})
    if aux and aux["aux"] != shape["aux"]:
        log.info("%s: auxiliary heads as asked, not as in the file", said)
    mine = {key: value for key, value in model.state_dict().items() if key.startswith("aux.")}
    if not shape.get("aux"):
        state = {**state, **mine}
    elif not mine:
        state = {key: value for key, value in state.items() if not key.startswith("aux.")}
    if bad := not_finite(state):
        log.warning("%s: NaN or infinite values in %s", said, ", ".join(bad[:8]))
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{said} does not fit {variant.name}: {error}") from None
    if (classes := given.get("num_classes", shape["num_classes"])) != shape["num_classes"]:
        log.info("%s: new classifier for %d classes, the file has %d", variant.name, classes, shape["num_classes"])
        model.reset_classifier(classes)
    if (channels := given.get("in_channels", shape["in_channels"])) != shape["in_channels"]:
        adapted = "%s: first convolution adapted to %d channels, the file has %d"
        log.info(adapted, variant.name, channels, shape["in_channels"])
        model.reset_channels(channels)
    model.settings = {**model.settings, "num_classes": classes, "in_channels": channels}
    return model


def export(model: Backbone, path: str | PathLike[str], to: str) -> None:
    """Write the weights as a peer's own files have them. LookupError where the peer has no network of this function."""
    if to not in PEERS:
        raise LookupError(f"to={to!r}; give one of {', '.join(PEERS)}")
    peer, same = PEERS[to], [n for n in PEERS[to].networks if n.ours == model.variant.name]
    own = [n for n in same if all(model.settings.get(key) == value for key, value in n.settings.items())]
    if not own:
        needs = " or ".join(sorted({f"{n.name} with {dict(n.settings)}" for n in same}))
        raise LookupError(
            f"{to} has no network with the function of this {model.variant.name}" + (f", but {needs}" if needs else "")
        )
    wanted = "".join(f", {key}={value!r}" for key, value in own[0].kwargs.items())
    log.info("%s: as %s's %s%s", model.variant.name, to, own[0].name, wanted)
    state = model.state_dict()
    peer.write(Path(path), {slot.name: slot.there(state[key]) for key, slot in peer.slots(model).items()}, own[0])


# -- whose weights are these?


def _check_name(wish: Wish, source: Source) -> None:
    """Whether a file of our own holds what was asked for, or a twin where the wish leaves that to it."""
    held = registry.find(weights_file.describe(source.path)[0].network)
    if held == wish.variant:
        return
    if wish.insists or wish.name != held.name.partition(".")[0]:
        raise ValueError(
            f"{source.path} holds {held.name}, not {wish.variant.name}; use create_model({held.name!r}, ...)"
        )
    log.info("%s holds %s, so this is it: %s", source.said, held.name, _departs(held))


def recognise(wish: Wish, source: Source, shapes: Mapping[str, Sequence[int]]) -> Fit:
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
    fits = [fit(shapes, peer, network, _on_meta(network.ours, own)) for peer, network in candidates]
    whole = [f for f in fits if not f.misfits]
    whole = [f for f in whole if not f.network.kwargs] or whole
    functions = {(f.network.ours, *sorted({**f.network.settings, "aux": None}.items())): f for f in reversed(whole)}
    named = "." in wish.name or wish.name in wish.variant.aliases
    allowed = [f for f in functions.values() if f.network.ours == wish.variant.name or not named]
    if len(allowed) == 1:
        return allowed[0]
    raise ValueError(f"{source.said} does not fit {wish.name}: {_why(wish, shapes, fits, list(functions.values()))}")


def guess(shapes: Mapping[str, Sequence[int]], source: str | None = None) -> list[Fit]:
    """Whose weights these may be, of all networks: the nearest by number of parameters are tried."""
    statistics = ("running_mean", "running_var", "num_batches_tracked", "moving_mean", "moving_variance")
    size = sum(prod(shape) for name, shape in shapes.items() if not name.endswith(statistics))
    nearest = sorted(_counts(), key=lambda name: abs(_counts()[name] - size))[:NEAREST]
    candidates = [(peer, n) for peer, n in networks(source) if n.ours in nearest]
    fits = [fit(shapes, peer, network, _on_meta(network.ours)) for peer, network in candidates]
    whole = [f for f in fits if not f.misfits]
    return [f for f in whole if not f.network.kwargs] or whole


def name_of(weights: str | PathLike[str], source: str | None = None) -> str:
    """Which network of ours a file holds. ValueError where it is nobody's, or fits several functions."""
    if str(weights).startswith(("tv:", "timm:")):
        raise ValueError(f"{weights} is what several networks have; say which with network=..., or --network")
    found = locate(weights, ())
    with opened(found.path) as file:
        if file.metadata.get("format", "").startswith("backbones "):
            return weights_file.describe(found.path)[0].network
        fits = guess({name: entry.shape for name, entry in file.header.items()}, source or found.network)
    names = sorted({f.network.ours for f in fits})
    if len(names) != 1:
        several = f"those of {' or '.join(names)}; say which" if names else "nobody's whose files are read"
        raise ValueError(f"{found.said}: these weights are {several}")
    return names[0]


def networks(source: str | None) -> Iterator[tuple[Peer, Network]]:
    """Those of all peers, of a "PEER", or the one "PEER:ITS NETWORK". LookupError for an unknown peer."""
    name, _, network = (source or "").partition(":")
    if name and name not in PEERS:
        raise LookupError(f"source={source!r}; give one of {', '.join(PEERS)}, or PEER:ITS NETWORK")
    for peer in [PEERS[name]] if name else PEERS.values():
        yield from ((peer, n) for n in peer.networks if network in ("", n.name))


def _why(wish: Wish, shapes: Mapping[str, Sequence[int]], fits: Sequence[Fit], whole: Sequence[Fit]) -> str:
    """What is wrong, and what to do."""
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
    others = {f.network.ours: f for f in reversed(guess(shapes))}
    reason = " or ".join(f"{f.peer.name}'s {f.network.name}: use {name!r}" for name, f in others.items())
    return (
        f"{len(best.misfits)} misfits with {best.peer.name}'s {best.network.name}"
        + (f"; these are the weights of {reason}" if others else "")
        + told(best.misfits)
    )


def _say(wish: Wish, source: Source, found: Fit, variant: Variant) -> None:
    theirs = f"{found.peer.name}'s {found.network.name}"
    if wish.insists:
        log.warning("%s: weights of %s, whose function may differ, in %s as asked", source.said, theirs, variant.name)
        return
    if variant != wish.variant:
        log.info("%s: weights of %s, so this is %s: %s", source.said, theirs, variant.name, _departs(variant))
    if brought := ", ".join(f"{key}={value}" for key, value in found.network.settings.items() if key != "aux"):
        log.info("%s: weights of %s, so it is built with %s", source.said, theirs, brought)


def _departs(variant: Variant) -> str:
    return "; ".join(departure.here for departure in variant.departures) or "the paper's own network"


def _on_meta(name: str, given: Mapping[str, Any] | None = None) -> Any:
    return lambda **settings: build_on_meta(registry.find(name), {**settings, **(given or {})})


@cache
def _counts() -> dict[str, int]:
    entries = json.loads(Path(__file__).with_name("catalog.json").read_text())
    return {name: entry["measured"]["params"] for name, entry in entries.items()}


@cache
def versions() -> dict[str, str]:
    """Of the packages that made a file."""
    return {package: version(package) for package in ("backbones", "torch", "torchvision")}
