"""In what two forms of one layer differ."""

from typing import Any

from backbones.cost.grouping import Unit


def likeness(a: Unit, b: Unit) -> float:
    """1 for equal layers, 0 for those that have nothing in common."""
    if a.kind != b.kind:
        filters = {a.kind, b.kind} == {"convolution", "depthwise"}
        return 0.5 if filters and a.name.split()[-1] == b.name.split()[-1] else 0.0
    if a.kind == "join" or a.kind == "other":
        return (0.98 + 0.02 * (a.label == b.label)) if a.name == b.name else 0.0
    differ = sum(x != y for x, y in ((a.settings, b.settings), (a.details, b.details), (a.after, b.after)))
    equal = (a.shape == b.shape) + (a.params == b.params)
    return (0.9 if a.name == b.name else 0.5) - 0.05 * differ + 0.05 * equal


def traits_of(a: Unit, b: Unit) -> dict[str, tuple[Any, Any]]:
    """In what two forms of one layer differ. What only follows from other changes is named last, and alone."""
    found: dict[str, tuple[Any, Any]] = {}
    found["layer"] = a.name, b.name
    found["form"] = " · ".join((*a.before, b.name, *a.after)), form(b)
    filters = {"convolution", "depthwise", "linear"}
    if a.kind in filters and b.kind in filters:
        found["channels"] = a.shape[0], b.shape[0]
        found["bias"] = _has_bias(a), _has_bias(b)
        if a.kind == b.kind == "convolution":
            found["groups"] = a.main.groups, b.main.groups
    if a.kind != "join":
        found["stride"] = _short(a.main.stride), _short(b.main.stride)
        found["dilation"] = _short(a.main.dilation), _short(b.main.dilation)
        if a.name == b.name and "pad" not in (*a.before, *b.before):
            found["padding"] = _short(a.main.padding), _short(b.main.padding)
    found = {name: pair for name, pair in found.items() if pair[0] != pair[1]}
    if not found and a.params != b.params:
        return {"input channels": (_reads(a), _reads(b))}
    if not found and a.madds != b.madds:
        return {"map": ("x".join(map(str, a.shape[1:])), "x".join(map(str, b.shape[1:])))}
    return found


def form(unit: Unit) -> str:
    return " · ".join((*unit.before, unit.name, *unit.after))


def _reads(unit: Unit) -> int:
    return unit.main.input_shapes[0][1] if unit.main.input_shapes and len(unit.main.input_shapes[0]) > 1 else 0


def _has_bias(unit: Unit) -> bool:
    """Whether its filter has one parameter more for each output."""
    if not unit.main.params:
        return False
    window = 1
    for side in unit.main.kernel_size:
        window *= side
    weights = unit.shape[0] * _reads(unit) // unit.main.groups * window
    return unit.main.params == weights + unit.shape[0]


def _short(values: tuple[int, ...]) -> Any:
    """3 for (3, 3)."""
    return values[0] if len(set(values)) == 1 else values or 1
