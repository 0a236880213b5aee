"""A variant and settings become a network."""

import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from backbones import models
from backbones.backbone import Backbone
from backbones.dilation import set_output_stride
from backbones.drawing import drawn_once, undrawn
from backbones.records import Variant

AFTERWARDS: dict[str, Callable[[Backbone, Any], None]] = {
    "global_pool": Backbone.set_global_pool,
    "drop_path_mode": Backbone.set_drop_path_mode,
    "output_stride": set_output_stride,
    "bn_eps": Backbone.set_bn_eps,
    "conv_bias": Backbone.set_conv_bias,
}
"""settings of every network, applied to the finished one"""


def build(variant: Variant, given: Mapping[str, Any]) -> Backbone:
    """The network with these settings over its own; TypeError for a setting that the family does not have."""
    shape = {"num_classes": variant.num_classes, "in_channels": variant.input_size[0]}
    settings = {**shape, **variant.settings, **given}
    for promise, reason in variant.cannot.items():
        if settings.pop(promise, None):
            raise NotImplementedError(f"{variant.name} cannot {promise}={given[promise]}: {reason}")
    check_sizes(settings)
    for key in ("drop_rate", "drop_path_rate"):
        if not isinstance(settings.get(key, 0.0), int | float):
            raise ValueError(f"{key}={settings[key]!r}; give a number")
        if not 0 <= settings.get(key, 0.0) < 1:
            raise ValueError(f"{key}={settings[key]}; give a probability from 0 to, not including, 1")
    own = {key: value for key, value in settings.items() if key not in AFTERWARDS}
    known = inspect.signature(variant.build).parameters.keys()
    if unknown := own.keys() - known:
        raise TypeError(f"{variant.name} has no setting {sorted(unknown)}; it has {sorted(known)}")
    ours = variant.build.__module__.startswith(f"{models.__name__}.")  # others may read weights while they build
    with drawn_once() if ours else nullcontext():
        model: Backbone = variant.build(**own)
    model.variant, model.settings = variant, settings
    for key, change in AFTERWARDS.items():
        if settings.get(key) is not None:
            change(model, settings[key])
    return model


def check_sizes(settings: Mapping[str, Any]) -> None:
    """ValueError for a number of classes or channels that no network has."""
    for key, word, lowest in (("num_classes", "num_classes", 0), ("in_channels", "in_chans", 1)):
        value = settings.get(key, lowest)
        if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
            raise ValueError(f"{word}={value!r}; give a whole number, {lowest} or more")


def build_on_meta(variant: Variant, given: Mapping[str, Any]) -> Backbone:
    """The same with shapes and no values: it takes no memory."""
    with torch.device("meta"), undrawn():
        return build(variant, given)


@contextmanager
def at_most(tensors: int) -> Iterator[None]:
    """Stop a network that is far larger than the file it shall be filled from, before it is built to the end."""
    here, made = threading.get_ident(), 0

    def count(*_: object) -> None:
        nonlocal made
        made += threading.get_ident() == here
        if made > 2 * tensors + 1000:
            raise ValueError(f"the network has far more than the {tensors} tensors of the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
