"""What is written of a network: the settings that build it again, and its weights as a peer's own file."""

import inspect
import logging
from os import PathLike
from pathlib import Path
from typing import Any

from torch import nn

from backbones.backbone import Backbone
from backbones.build import build_on_meta
from backbones.records import Variant
from backbones.weights.convert import misfits, told
from backbones.weights.header import describe
from backbones.weights.peers import PEERS

log = logging.getLogger("backbones")

NEUTRAL = ("num_classes", "in_channels", "aux", "drop_rate", "drop_path_rate", "drop_path_mode", "memory_efficient")
"""settings that leave what the weights compute as it is"""
USUAL = {"global_pool": "avg", "output_stride": None, "conv_bias": False}
"""of every network"""


def check(model: Backbone) -> None:
    """ValueError for a network that its variant and settings do not build, by the names and shapes of its tensors."""
    header = {name: describe(tensor) for name, tensor in model.state_dict().items()}
    if lines := list(misfits(build_on_meta(model.variant, model.settings).state_dict(), header)):
        raise ValueError(
            f"this network was changed and is no {model.variant.name} with its settings any more; "
            f"save its state_dict with safetensors instead:{told(lines)}"
        )


def brought(model: Backbone) -> dict[str, Any]:
    """The settings that it takes to build this network again by its variant's name."""
    aux = {"aux": bool(model.aux)} if "aux" in model.settings else {}
    return {**changed(model), **aux}


def usual(variant: Variant) -> dict[str, Any]:
    """The settings of a network that is built by its name alone."""
    defaults = {key: p.default for key, p in inspect.signature(variant.build).parameters.items()}
    return {**USUAL, **defaults, **variant.settings}


def changed(model: Backbone) -> dict[str, Any]:
    """The settings by which the network's function is not its variant's."""
    own = usual(model.variant)
    given = {key: value for key, value in model.settings.items() if key not in NEUTRAL and value is not None}
    found = {key: value for key, value in given.items() if own.get(key) != value}
    if "bn_eps" in found and _eps(model) == _eps(build_on_meta(model.variant, {})):
        del found["bn_eps"]
    return found


def export(model: Backbone, path: str | PathLike[str], to: str) -> None:
    """Write the weights as a peer's own files have them.

    Raises:
        LookupError: no such peer, or the peer has no network of this function
        ValueError: a network that was changed by hand, or a suffix that the peer does not read
    """
    if to not in PEERS:
        raise LookupError(f"to={to!r}; give one of {', '.join(PEERS)}")
    check(model)
    peer, same = PEERS[to], [n for n in PEERS[to].networks if n.ours == model.variant.name]
    own = [n for n in same if {k: v for k, v in n.settings.items() if k not in NEUTRAL} == changed(model)]
    like = build_on_meta(model.variant, model.settings)
    if not own or [type(m) for m in model.modules()] != [type(m) for m in like.modules()]:
        needs = " or ".join(sorted({f"{n.name} with {dict(n.settings)}" for n in same if n.settings}))
        raise LookupError(
            f"{to} has no network with the function of this {model.variant.name}" + (f", but {needs}" if needs else "")
        )
    keeping = [n for n in own if n.settings.get("aux") is not False]
    if model.aux and not keeping:
        like = build_on_meta(model.variant, {**model.settings, "aux": False})
    network = (keeping if model.aux and keeping else own)[0]
    slots, state = peer.slots(like), model.state_dict()
    wanted = "".join(f", {key}={value!r}" for key, value in network.kwargs.items())
    log.info("%s: as %s's %s%s", model.variant.name, to, network.name, wanted)
    if model.aux and not any(key.startswith("aux.") for key in slots):
        log.info("%s: without its auxiliary heads, which %s's has not", model.variant.name, to)
    peer.write(Path(path), {slot.name: slot.there(state[key]) for key, slot in slots.items()}, network)


def _eps(model: nn.Module) -> list[float]:
    return [m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
