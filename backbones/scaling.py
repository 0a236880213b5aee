"""How the cost of a network grows with its width, depth, groups, resolution and batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import log
from typing import Any

from backbones.build import build_on_meta
from backbones.cost import measure_cost
from backbones.factory import model_info

SETTINGS = {"width": ("width",), "depth": ("depth",), "groups": ("groups", "cardinality")}
"""what is scaled -> the families' own names of it"""
LEAST = {"resolution": "the side of the image in pixels, 1 or more", "batch": "1 image or more"}
COSTS = ("params", "madds", "activations", "memory")


@dataclass(frozen=True)
class Sweep:
    """The cost at every combination of the values that were given."""

    network: str
    points: tuple[dict[str, Any], ...]
    """what was set, then params, madds and activations of the batch, and bytes of memory in inference"""
    exponents: dict[str, dict[str, float]]
    """what was scaled -> cost -> the exponent e with which it grows: cost ~ value^e, by least squares of logarithms"""


def scale(
    name: str,
    *,
    width: Sequence[float] = (),
    resolution: Sequence[int] = (),
    depth: Sequence[float] = (),
    groups: Sequence[int] = (),
    batch: Sequence[int] = (),
) -> Sweep:
    """Count a network at every combination of these; what is not given stays the network's own.

    Width, depth and groups are the family's own settings (alpha of MobileNet, layers of ResNet, cardinality of
    ResNeXt). TypeError where the family has no such setting, ValueError where a value is not allowed.
    """
    asked = {"width": width, "depth": depth, "groups": groups, "resolution": resolution, "batch": batch}
    given = {what: tuple(map(_whole, values)) for what, values in asked.items() if values}
    if not given:
        raise ValueError(f"nothing to scale; give values of {', '.join(asked)}")
    for what, values in given.items():
        for value in values:
            if not value > 0:
                raise ValueError(f"{what}={value}; give {LEAST.get(what, 'more than zero')}")
    points = tuple(_point(name, dict(zip(given, values, strict=True))) for values in product(*given.values()))
    exponents = {what: _exponents(what, points, given) for what, values in given.items() if len(set(values)) > 1}
    return Sweep(model_info(name).name, points, exponents)


def _point(name: str, at: dict[str, Any]) -> dict[str, Any]:
    variant = model_info(name)
    channels, height, width = variant.input_size
    if "resolution" in at:
        height = width = at["resolution"]
    settings = {_setting(name, what): at[what] for what in SETTINGS.keys() & at.keys()}
    model, batch = build_on_meta(variant, settings), at.get("batch", 1)
    cost = measure_cost(model, (channels, height, width), batch)
    counted = {"params": cost.params, "madds": cost.madds, "activations": cost.activations, "memory": cost.cpu_memory}
    return {**at, **counted}


def _whole(value: float) -> float:
    """16.0 is 16: layers and channels are counted, though some families' settings are factors."""
    return int(value) if float(value).is_integer() else value


def _setting(name: str, what: str) -> str:
    import inspect

    known = inspect.signature(model_info(name).build).parameters
    for setting in SETTINGS[what]:
        if setting in known:
            return setting
    has = [w for w, settings in SETTINGS.items() if any(s in known for s in settings)]
    raise TypeError(f"{name} has no {what} to scale; it has {', '.join([*has, 'resolution', 'batch'])}")


def _exponents(what: str, points: Sequence[dict[str, Any]], given: dict[str, tuple[Any, ...]]) -> dict[str, float]:
    """Where the other settings have their first values."""
    line = [p for p in points if all(p[other] == values[0] for other, values in given.items() if other != what)]
    return {cost: _slope([log(p[what]) for p in line], [log(p[cost]) for p in line]) for cost in COSTS}


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)
