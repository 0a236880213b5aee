"""Weights meet a network: whose they are, which of ours has their function, and what the user wants changed."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from backbones import models, registry
from backbones.backbone import Backbone
from backbones.build import at_most, build, check_sizes
from backbones.drawing import undrawn
from backbones.recognise import SHAPE, Source, Wish, guess, recognise, twins
from backbones.records import Checkpoint, Variant
from backbones.weights import sources
from backbones.weights.convert import Fit, misfits, told
from backbones.weights.file import Ours, ours, understood
from backbones.weights.header import describe, short
from backbones.weights.peers import PEERS
from backbones.weights.reader import not_finite, opened
from backbones.writing import NEUTRAL, USUAL, usual

log = logging.getLogger("backbones")

BACKGROUND = 1001
"""classes of a file whose first is the background of TensorFlow's networks"""
FILES = ("model.safetensors", "best.safetensors", "last.safetensors")
"""of a folder of ours: saved for others, or left by a run"""


def locate(weights: str | PathLike[str], names: Sequence[str]) -> Source:
    """The file that `weights=` means: a path, a folder of ours, or published weights for one of these networks.

    Raises:
        FileNotFoundError, LookupError: there is none
        ConnectionError: it is not on this machine, and its host cannot be reached
    """
    if isinstance(weights, str) and weights.startswith(sources.PREFIXES):
        return published(sources.find(weights, names))
    path = Path(weights).expanduser()
    if path.is_dir():
        told = sources.of_folder(path)
        inside = next((path / name for name in FILES if (path / name).is_file()), None)
        if inside is None:
            raise FileNotFoundError(f"{path} has none of {', '.join(FILES)}; give a file, or a folder of ours")
        if told:
            return Source(inside, inside.name, f"{told.peer}:{told.peer_network}", told.network, told.preprocessing)
        path = inside
    return Source(path, path.name)


def default(wish: Wish) -> str:
    """What `pretrained=True` takes for this network. LookupError if nobody publishes any."""
    name, weights = wish.variant.name, sources.default(wish.allowed).weights
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
            return understood(found.path, file.header, file.metadata).told.network
        shapes = {name: entry.shape for name, entry in file.header.items()}
        fits = guess(shapes, file.metadata if file.kind == "hdf5" else {}, source or found.network)
    names = sorted({f.network.ours for f in fits})
    if len(names) != 1:
        held = f"may be those of {' or '.join(names)}" if names else f"are of no network of {', '.join(PEERS)} here"
        raise ValueError(
            f"{found.said}: these weights {held}; say which with network=..., or --network: what does not fit is listed"
        )
    return names[0]


def load(wish: Wish, weights: str | PathLike[str]) -> Backbone:
    """The network with these weights, which bring their function; each change is said in a log line.

    Raises:
        FileNotFoundError: no such file
        LookupError: no such published weights
        ValueError: what is in the file is not this network's, or is nobody's, or fits two functions
    """
    source = locate(weights, wish.allowed)
    with opened(source.path) as file:
        if file.metadata.get("format", "").startswith("backbones "):
            held = understood(source.path, file.header, file.metadata)
            _check_name(wish, source, held.told.network)
            return _of_ours(held, wish.given, wish.variant if wish.insists else None)
        for note in file.notes:
            log.info("%s: %s", source.said, note)
        shapes = {name: entry.shape for name, entry in file.header.items()}
        found = recognise(wish, source, shapes, file.metadata if file.kind == "hdf5" else {})
        kinds = {name: entry.dtype for name, entry in file.header.items()}
        floats = {key: tensor.is_floating_point() for key, tensor in found.model.state_dict().items()}
        if odd := [name for key, name in found.places().items() if ("float" in kinds[name]) != floats[key]]:
            raise ValueError(
                f"{source.said}: {odd[0]} is {kinds[odd[0]]}, of another kind of number than the network's, as are "
                f"{len(odd) - 1} more; give weights that are not quantised, in float64, float32, float16 or bfloat16"
            )
        tensors = file.load()
    variant = registry.find(found.network.ours)
    _say(wish, source, found, variant)
    state, shape = found.ours(tensors), found.shape
    if bad := not_finite(state):
        log.warning("%s: NaN or infinite values in %s", source.said, ", ".join(bad[:8]))
    spelled = {name: tensors[old] for name, old in found.spelled.items()}
    for dtype in {str(t.dtype).removeprefix("torch.") for t in tensors.values() if t.is_floating_point()} - {"float32"}:
        log.info("%s: %s, read as float32", source.said, dtype)
    if shape["num_classes"] == BACKGROUND and wish.given.get("num_classes", BACKGROUND - 1) == BACKGROUND - 1:
        state = {key: tensor[1:] if "classifier" in key else tensor for key, tensor in state.items()}
        shape["num_classes"] -= 1
        log.info("%s: the first of its %d classes, the background, is left out", source.said, BACKGROUND)
    checkpoint = Checkpoint(
        variant.name,
        {},
        classes=source.classes if len(source.classes) == shape["num_classes"] else (),
        preprocessing=source.preprocessing or found.peer.preprocessing(found.network, spelled),
        metrics=source.metrics,
        data=source.data,
        versions=versions(),
        source=f"{source.said}, {found.peer.name}'s {found.network.name}",
    )
    return _filled(variant, found.network.settings, wish.given, shape, state, checkpoint, source.said)


def load_ours(path: str | PathLike[str]) -> Backbone:
    """What a file of our own holds."""
    return _of_ours(ours(path), {}, None)


def _of_ours(file: Ours, given: Mapping[str, Any], insists: Variant | None) -> Backbone:
    """What it holds, with what `given` changes. Its header is checked before a tensor is read."""
    path, checkpoint, header = file.path, file.told, file.header
    variant = registry.find(checkpoint.network)
    try:
        with at_most(len(header)), undrawn():
            twin = build(variant, checkpoint.settings)
    except Exception as error:  # anybody may have written the settings
        raise ValueError(
            f"{path} does not fit {variant.name}: its settings do not build it ({short(str(error))})"
        ) from None
    if lines := list(misfits(twin.state_dict(), header)):
        raise ValueError(f"{path} does not fit {variant.name}, which it says it holds:{told(lines)}")
    state = file.tensors()
    shape = {key: twin.settings[key] for key in SHAPE if key in twin.settings}
    settings = {key: value for key, value in checkpoint.settings.items() if key not in shape}
    if insists and insists != variant:
        settings = {key: value for key, value in settings.items() if key not in variant.settings}
        variant, checkpoint = insists, replace(checkpoint, network=insists.name)
    return _filled(variant, settings, given, shape, state, checkpoint, path.name, twin)


def _filled(
    variant: Variant,
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    shape: Mapping[str, Any],
    state: dict[str, Tensor],
    checkpoint: Checkpoint,
    said: str,
    twin: Backbone | None = None,
) -> Backbone:
    """Built as the file has it and filled; then with the head, stem and auxiliary heads that `given` asks for.

    `twin` has the file's own settings and fits it: it is filled itself where nothing else is asked for.
    """
    check_sizes(given)
    aux = {"aux": given.get("aux", shape["aux"])} if "aux" in shape else {}
    head = {key: value for key, value in given.items() if key == "global_pool"}
    classes = given.get("num_classes", shape["num_classes"])
    if twin and twin.variant == variant and not given:
        model = twin
    else:
        drawn = classes != shape["num_classes"] or (aux and aux["aux"] and not shape["aux"])
        with nullcontext() if drawn else undrawn():
            model = build(variant, {**settings, **{k: v for k, v in given.items() if k not in head}, **shape, **aux})
    if aux and aux["aux"] != shape["aux"]:
        log.info("%s: auxiliary heads as asked, not as in the file", said)
    mine = {f"aux.{key}": value for key, value in model.aux.state_dict().items()}
    if not shape.get("aux"):
        state = {**state, **mine}
    elif not mine:
        state = {key: value for key, value in state.items() if not key.startswith("aux.")}
    header = {} if model is twin else {name: describe(tensor) for name, tensor in state.items()}
    if model is not twin and (lines := list(misfits(model.state_dict(), header))):
        raise ValueError(f"{said} does not fit {variant.name}:{told(lines)}")
    _fill(model, state)
    model.checkpoint = checkpoint
    if classes != shape["num_classes"]:
        log.info("%s: new classifier for %d classes, the file has %d", variant.name, classes, shape["num_classes"])
        model.reset_classifier(classes)
    if (channels := given.get("in_channels", shape["in_channels"])) != shape["in_channels"]:
        adapted = "%s: first convolution adapted to %d channels, the file has %d"
        log.info(adapted, variant.name, channels, shape["in_channels"])
        model.reset_channels(channels)
    if head:
        model.set_global_pool(head["global_pool"])
    model.checkpoint = replace(model.checkpoint, settings=dict(model.settings))
    return model


def _fill(model: Backbone, state: Mapping[str, Tensor]) -> None:
    """Every tensor becomes the network's own, without a copy where it has the right type and is on the right device."""
    own = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        own[name].data = tensor.to(own[name].device, own[name].dtype)


def _check_name(wish: Wish, source: Source, network: str) -> None:
    """Whether a file of our own holds what was asked for, or a twin where the wish leaves that to it."""
    held = registry.find(network)
    if held == wish.variant:
        return
    if wish.insists and held.name in twins(wish.variant.name):
        log.warning("%s holds %s, whose function may differ, in %s as asked", source.said, held.name, wish.variant.name)
        return
    if wish.named or held.name not in twins(wish.variant.name):
        raise ValueError(
            f"{source.path} holds {held.name}, not {wish.variant.name}; use create_model({held.name!r}, ...)"
        )
    log.info("%s holds %s, so this is it: %s", source.said, held.name, _departs(held))


def _say(wish: Wish, source: Source, found: Fit, variant: Variant) -> None:
    """What the weights make of the wish, and where the wish contradicts them."""
    theirs, network = f"{found.peer.name}'s {found.network.name}", found.network
    trained = [n for n in found.peer.networks if n.name == network.name and not n.kwargs] or [network]
    if wish.insists and trained[0].ours != wish.variant.name:
        log.warning("%s: weights of %s, whose function may differ, in %s as asked", source.said, theirs, variant.name)
    elif variant != wish.variant:
        log.info("%s: weights of %s, so this is %s: %s", source.said, theirs, variant.name, _departs(variant))
    trained_with = {**usual(variant), **network.settings}
    free = {*NEUTRAL, *USUAL}  # to choose with any weights
    asked = {k: v for k, v in wish.given.items() if k not in free and trained_with.get(k) != v}
    brought = {key: value for key, value in network.settings.items() if key not in ("aux", *asked)}
    if brought:
        log.info("%s: weights of %s, so it is built with %s", source.said, theirs, _listed(brought))
    if asked:
        log.warning("%s: %s as asked, which weights of %s were not trained with", source.said, _listed(asked), theirs)
    if hidden := found.peer.hides.get(network.name):
        log.info("%s: %s", source.said, hidden)
    others = [peer.alike[variant.name] for peer in PEERS.values() if variant.name in peer.alike]
    if others and not (wish.source or source.network):
        log.info("%s: files of timm's %s have the same tensors and another function", source.said, others[0])


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def _departs(variant: Variant) -> str:
    return "; ".join(departure.here for departure in variant.departures) or "the paper's own network"


@cache
def versions() -> dict[str, str]:
    """Of the packages that made a file."""
    return {package: version(package) for package in ("backbones", "torch", "torchvision")}
