"""A variant and settings become a network."""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from backbones.backbone import Backbone
from backbones.dilation import set_output_stride
from backbones.records import Variant

AFTERWARDS: dict[str, Callable[[Backbone, Any], None]] = {
    "global_pool": Backbone.set_global_pool,
    "drop_path_mode": Backbone.set_drop_path_mode,
    "output_stride": set_output_stride,
    "bn_eps": Backbone.set_bn_eps,
    "conv_bias": Backbone.set_conv_bias,
}
"""settings of every network, applied to the finished one"""
DRAWING = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)
"""functions of torch.nn.init that take nearly all the time in which a network is built"""
_undrawn: set[int] = set()
"""threads whose networks keep what their memory held"""
_draws: dict[str, Callable[..., torch.Tensor]] = {}
_lock = threading.Lock()


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
def undrawn() -> Iterator[None]:
    """Networks that this thread builds get no initial weights, for a file brings them; what is no draw is as ever.

    Their memory is not touched either. Other threads draw as ever.
    """
    here = threading.get_ident()
    with _lock:
        if not _undrawn:
            for name in DRAWING:
                _draws[name] = getattr(nn.init, name)
                setattr(nn.init, name, _unless_undrawn(_draws[name]))
        _undrawn.add(here)
    try:
        yield
    finally:
        with _lock:
            _undrawn.discard(here)
            if not _undrawn:
                for name, draw in _draws.items():
                    setattr(nn.init, name, draw)


def _unless_undrawn(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(draw)
    def unless(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return tensor if threading.get_ident() in _undrawn else draw(tensor, *args, **kwargs)

    return unless


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
