"""Weights meet a network: whose they are, which of ours has their function, and what the user wants changed."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import models, registry
from backbones.backbone import Backbone
from backbones.build import at_most, build, build_on_meta
from backbones.recognise import SHAPE, Source, Wish, guess, recognise, twins
from backbones.records import Checkpoint, Variant
from backbones.weights import file as weights_file
from backbones.weights import sources
from backbones.weights.convert import Fit, told
from backbones.weights.header import short
from backbones.weights.peers import PEERS
from backbones.weights.reader import Entry, not_finite, opened

log = logging.getLogger("backbones")

BACKGROUND = 1001
"""classes of a file whose first is the background of TensorFlow's networks"""
FILES = ("model.safetensors", "best.safetensors", "last.safetensors")
"""of a folder of ours: saved for others, or left by a run"""
NEUTRAL = (
    *("num_classes", "in_channels", "aux", "drop_rate", "drop_path_rate", "drop_path_mode", "memory_efficient"),
    *("global_pool", "output_stride"),
)
"""settings that leave what the weights compute as it is"""


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


def name_of(weights: str | PathLike[str], source: str | None = None) -> str:
    """Which network of ours a file holds. ValueError where it is nobody's, or fits several functions."""
    if str(weights).startswith(("tv:", "timm:")):
        raise ValueError(f"{weights} is what several networks have; say which with network=..., or --network")
    models.load()
    found = locate(weights, ())
    with opened(found.path) as file:
        if file.metadata.get("format", "").startswith("backbones "):
            return weights_file.describe(found.path)[0].network
        shapes = {name: entry.shape for name, entry in file.header.items()}
        fits = guess(shapes, file.metadata if file.kind == "hdf5" else {}, source or found.network)
    names = sorted({f.network.ours for f in fits})
    if len(names) != 1:
        several = f"those of {' or '.join(names)}; say which" if names else "nobody's whose files are read"
        raise ValueError(f"{found.said}: these weights are {several}")
    return names[0]


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
        found = recognise(wish, source, shapes, file.metadata if file.kind == "hdf5" else {})
        tensors = file.load()
    variant = registry.find(found.network.ours)
    _say(wish, source, found, variant)
    state, shape = found.ours(tensors), found.shape
    spelled = {name: tensors[old] for name, old in found.spelled.items()}
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
        preprocessing=source.preprocessing or found.peer.preprocessing(found.network, spelled),
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
        with at_most(len(header)):
            expected = build_on_meta(variant, checkpoint.settings).state_dict()
    except Exception as error:  # anybody may have written the settings
        raise ValueError(
            f"{path} does not fit {variant.name}: its settings do not build it ({short(str(error))})"
        ) from None
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
        elif tuple(here.shape) != there.shape or here.is_floating_point() != ("float" in there.dtype):
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
    own = [n for n in same if {k: v for k, v in n.settings.items() if k not in NEUTRAL} == _changed(model)]
    if not own:
        needs = " or ".join(sorted({f"{n.name} with {dict(n.settings)}" for n in same}))
        raise LookupError(
            f"{to} has no network with the function of this {model.variant.name}" + (f", but {needs}" if needs else "")
        )
    wanted = "".join(f", {key}={value!r}" for key, value in own[0].kwargs.items())
    log.info("%s: as %s's %s%s", model.variant.name, to, own[0].name, wanted)
    state = model.state_dict()
    peer.write(Path(path), {slot.name: slot.there(state[key]) for key, slot in peer.slots(model).items()}, own[0])


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


def _say(wish: Wish, source: Source, found: Fit, variant: Variant) -> None:
    theirs = f"{found.peer.name}'s {found.network.name}"
    if wish.insists:
        log.warning("%s: weights of %s, whose function may differ, in %s as asked", source.said, theirs, variant.name)
        return
    if variant != wish.variant:
        log.info("%s: weights of %s, so this is %s: %s", source.said, theirs, variant.name, _departs(variant))
    if brought := ", ".join(f"{key}={value}" for key, value in found.network.settings.items() if key != "aux"):
        log.info("%s: weights of %s, so it is built with %s", source.said, theirs, brought)
    if hidden := found.peer.hides.get(found.network.name):
        log.info("%s: %s", source.said, hidden)


def brought(model: Backbone) -> dict[str, Any]:
    """The settings that it takes to build this network again by its variant's name."""
    aux = {"aux": bool(model.aux)} if "aux" in model.settings else {}
    return {**_changed(model), **aux}


def _changed(model: Backbone) -> dict[str, Any]:
    """The settings by which the network's function is not its variant's."""
    defaults = {key: p.default for key, p in inspect.signature(model.variant.build).parameters.items()}
    own = {**defaults, **model.variant.settings}
    given = {key: value for key, value in model.settings.items() if key not in NEUTRAL and value is not None}
    return {key: value for key, value in given.items() if own.get(key) != value}


def _departs(variant: Variant) -> str:
    return "; ".join(departure.here for departure in variant.departures) or "the paper's own network"


@cache
def versions() -> dict[str, str]:
    """Of the packages that made a file."""
    return {package: version(package) for package in ("backbones", "torch", "torchvision")}
