"""What was counted: of each operator, and summed over layers, stages and the whole network."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import groupby
from math import prod
from typing import Any, Literal

from torch import nn

from backbones.cost.copies import peak
from backbones.cost.storages import Life
from backbones.cost.trace import Operator, Shape
from backbones.geometry import Geometry

SUMS = (
    *("params", "aux_params", "buffers", "madds", "activations", "conv_activations", "bytes_read", "bytes_written"),
    *("textbook_activations", "peak_memory", "cpu_memory"),
)
OF_LAYERS = ("kind", "kernel_size", "stride", "groups")
"""columns that a stage does not have"""
STAGE = "stage"
Per = Literal["operator", "layer", "stage"]


@dataclass(frozen=True)
class Row:
    """The cost of one operator, layer or stage."""

    name: str
    kind: str
    output_shape: Shape
    """without the batch"""
    kernel_size: Shape
    stride: Shape
    groups: int
    params: int
    buffers: int
    madds: int | None
    """None where one of its operators has no rule"""
    activations: int
    bytes_read: int
    bytes_written: int
    intensity: float | None
    """multiply-adds per byte read or written"""
    receptive_field: Shape | None
    """(height, width) in pixels of the image; None where it has none"""
    total_stride: Shape | None
    """distance of neighbouring values, in pixels of the image"""
    offset: tuple[float, float] | None
    """centre of the first value's field, in pixels from the image's first one"""

    def asdict(self) -> dict[str, Any]:
        """The columns by name; a stage has no kernel of its own."""
        names = (field.name for field in fields(self))
        return {n: getattr(self, n) for n in names if self.kind != STAGE or n not in OF_LAYERS}


@dataclass(frozen=True)
class Cost:
    """Of one network, for `batch_size` images."""

    params: int
    """trained values, without those of auxiliary heads"""
    aux_params: int
    """trained values of auxiliary heads, which only training uses"""
    buffers: int
    """values that are kept but not trained"""
    operators: tuple[Operator, ...]
    lives: tuple[Life, ...]
    """every piece of memory that a pass allocates, the image first, and how long it lives"""
    curve: tuple[int, ...]
    """bytes of maps alive during each operator, the image among them"""
    names: tuple[str, ...]
    """paths of the stages"""
    kinds: Mapping[str, str]
    """class of every module, by its path"""
    outputs: Mapping[str, Shape]
    """path of a module -> shape of its output, without the batch"""
    weight_bytes: int
    """of parameters and buffers"""
    itemsize: int
    """bytes per value"""
    input_shape: Shape
    """of one image"""
    batch_size: int

    @cached_property
    def madds(self) -> int:
        """Multiply-adds of convolutions and matrix products."""
        return sum(o.madds or 0 for o in self.operators)

    @cached_property
    def activations(self) -> int:
        """Values that operators write."""
        return sum(o.activations for o in self.operators)

    @cached_property
    def conv_activations(self) -> int:
        """Values that convolutions write: what pycls and timm call activations."""
        return sum(o.activations for o in self.operators if o.op == "convolution")

    @cached_property
    def textbook_activations(self) -> int:
        """Values of the image and of what convolutions, poolings and matrix products write, as lectures count them."""
        return self.batch_size * prod(self.input_shape) + sum(
            o.activations for o in self.operators if o.madds or (o.kernel_size and "pool" in o.op)
        )

    @cached_property
    def bytes_read(self) -> int:
        return sum(o.bytes_read for o in self.operators)

    @cached_property
    def bytes_written(self) -> int:
        return sum(o.bytes_written for o in self.operators)

    @cached_property
    def peak_memory(self) -> int:
        """Bytes of maps at the worst moment of inference, the image among them; `weight_bytes` come on top."""
        return max(self.curve, default=0)

    @cached_property
    def cpu_memory(self) -> int:
        """Bytes of weights, maps and the convolutions' own copies at the worst moment of inference on the CPU."""
        return self.weight_bytes + peak(self.operators, self.curve, self.itemsize)

    @cached_property
    def uncounted(self) -> tuple[str, ...]:
        """Operators for whose multiply-adds there is no rule, with their layers."""
        return tuple(dict.fromkeys(f"{o.op} in {o.layer or 'the network'}" for o in self.operators if o.madds is None))

    def asdict(self) -> dict[str, int]:
        """The sums by name."""
        return {name: getattr(self, name) for name in SUMS}

    def by_kind(self) -> dict[str, Row]:
        """Summed over all operators of a kind: convolution, relu, ...; the most values written first."""
        rows = {}
        for op in dict.fromkeys(o.op for o in self.operators):
            rows[op] = _row(op, op, [o for o in self.operators if o.op == op])
        return dict(sorted(rows.items(), key=lambda item: -item[1].activations))

    def rows(self, per: Per) -> tuple[Row, ...]:
        """One row per operator, layer or stage, in the order in which they run."""
        return {"operator": self._each, "layer": self.layers, "stage": self.stages}[per]()

    def _each(self) -> tuple[Row, ...]:
        return (*(_row(o.layer, o.op, [o]) for o in self.operators), *self._not_run(""))

    def layers(self) -> tuple[Row, ...]:
        """What runs without a break in one innermost module."""
        outer = {o.layer.rpartition(".")[0] for o in self.operators}  # do more than their own operators
        outputs = {layer: shape for layer, shape in self.outputs.items() if layer not in outer}
        runs = _runs(self.operators, _layer)
        rows = [_row(layer, kind, own, outputs.get(layer)) for (layer, kind), own in runs]
        return (*rows, *self._not_run(""))

    def stages(self) -> tuple[Row, ...]:
        """The stem, each stage and the head; of other modules, their parts."""
        parts = {name: [o for o in self.operators if _within(o.layer, name)] for name in self.names}
        rest = [o for o in self.operators if not any(_within(o.layer, name) for name in self.names)]
        rows = [_row(name, STAGE, own, self.outputs.get(name)) for name, own in parts.items() if own]
        return (*rows, *([_row("the rest", STAGE, rest)] if rest else []), *self._not_run(STAGE))

    def _not_run(self, kind: str) -> list[Row]:
        """Parameters that no operator reads, such as another library's auxiliary heads."""
        left = self.params - sum(o.params for o in self.operators)
        return [Row("not run", kind, (), (), (), 1, left, 0, 0, 0, 0, 0, 0.0, None, None, None)] if left else []


def _within(layer: str, name: str) -> bool:
    return layer == name or layer.startswith(f"{name}.")


def _layer(o: Operator) -> tuple[str, str]:
    return o.layer, o.kind


def _runs(
    operators: Iterable[Operator], key: Callable[[Operator], tuple[str, str]]
) -> Iterable[tuple[tuple[str, str], list[Operator]]]:
    return ((k, list(own)) for k, own in groupby(operators, key))


def _row(name: str, kind: str, own: Sequence[Operator], output: Shape | None = None) -> Row:
    window = own[-1] if kind == STAGE else next((o for o in own if o.kernel_size), own[-1])
    geometry = own[-1].geometry
    counted, moved = [o.madds for o in own], sum(o.bytes_read + o.bytes_written for o in own)
    madds = None if None in counted else sum(m or 0 for m in counted)
    return Row(
        name,
        kind,
        own[-1].output_shape[1:] if output is None else output,
        window.kernel_size,
        window.stride,
        window.groups,
        sum(o.params for o in own),
        sum(o.buffers for o in own),
        madds,
        sum(o.activations for o in own),
        sum(o.bytes_read for o in own),
        sum(o.bytes_written for o in own),
        None if madds is None else madds / max(moved, 1),
        geometry.receptive_field if geometry else None,
        geometry.stride if geometry else None,
        _offset(geometry) if geometry else None,
    )


def _offset(geometry: Geometry) -> tuple[float, float]:
    (top, left), (bottom, right) = geometry.low, geometry.high
    return (top + bottom) / 2, (left + right) / 2


def stage_names(module: nn.Module) -> tuple[str, ...]:
    """Paths of the parts of a module: its children, and the children's own where these are parts themselves."""
    names = []
    for name, child in module.named_children():
        inside = list(child.named_children()) if isinstance(child, (nn.Sequential, nn.ModuleList)) else []
        if inside and all(any(part.children()) for _, part in inside):
            names += [f"{name}.{n}" for n, _ in inside]
        else:
            names.append(name)
    return tuple(names)
