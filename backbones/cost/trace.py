"""One forward pass on the meta device, operator by operator: nothing is allocated, nothing of the module changes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from backbones.cost import rules
from backbones.cost.storages import Life, Storages
from backbones.geometry import Geometry, Watch, evaluating, newest, tensors

aten = torch.ops.aten
Shape = tuple[int, ...]
_POOLS = {
    **dict.fromkeys((aten.max_pool2d_with_indices, aten.max_pool3d_with_indices), 4),
    **dict.fromkeys((aten.avg_pool2d, aten.avg_pool3d)),
}
"""poolings, and which argument is their dilation"""


@dataclass(frozen=True, slots=True)
class Operator:
    """One call of an operator, as it ran."""

    layer: str
    """path of the innermost module that called it; "" for the network itself"""
    kind: str
    """class of that module"""
    op: str
    """convolution, batch_norm, relu, add, ..."""
    inputs: tuple[int, ...]
    """indices of the operators whose results it reads; -1 is the image"""
    input_shapes: tuple[Shape, ...]
    """of what it reads, weights apart"""
    output_shape: Shape
    kernel_size: Shape
    """of convolutions and poolings; else empty, as are the next three"""
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    params: int
    """trained values that it is the first to read"""
    buffers: int
    """other values that its layer keeps"""
    madds: int | None
    """multiply-adds of convolutions and matrix products; None where we have no rule for it"""
    activations: int
    """values it writes"""
    bytes_read: int
    bytes_written: int
    geometry: Geometry | None
    """stride and receptive field of its output; None where it has none"""


@dataclass(frozen=True)
class Trace:
    """What one pass did."""

    operators: tuple[Operator, ...]
    lives: tuple[Life, ...]
    """every piece of memory it allocated, the image first"""
    curve: tuple[int, ...]
    """bytes of maps alive during each operator, the image among them"""
    outputs: Mapping[str, Shape]
    """path of a module that was called once -> shape of its output, without the batch"""


def trace(
    module: nn.Module, input_shape: Sequence[int], batch_size: int = 1, dtype: torch.dtype | None = None
) -> Trace:
    """Run the module on images of shape (C, H, W), in evaluation mode, in its own dtype unless another is given.

    ValueError names the layer that failed.
    """
    with on_meta(module, input_shape, batch_size, dtype) as (own, images):
        recorder = _Recorder(module, own, images)
        with evaluating(module), torch.no_grad(), called_layers(module, recorder.layers), recorder:
            out = call(module, own, images, recorder.layers)
    curve = recorder.storages.curve(len(recorder.operators))
    del out, images  # alive to the end of the pass, as they are for a caller
    return Trace(tuple(recorder.operators), tuple(recorder.storages.lives), tuple(curve), _once(recorder.layers))


def _once(layers: "Layers") -> dict[str, Shape]:
    return {name: shape for name, shape in layers.outputs.items() if layers.calls[name] == 1}


@contextmanager
def on_meta(
    module: nn.Module, input_shape: Sequence[int], batch_size: int, dtype: torch.dtype | None = None
) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """The module's parameters and buffers without values, and images for it; what its forward makes has none either."""
    check(module, input_shape, batch_size)
    own_tensors = dict([*module.named_parameters(), *module.named_buffers()])
    floating = {n: t.dtype for n, t in own_tensors.items() if t.is_floating_point()}
    with torch.inference_mode(False), torch.device("meta"):
        images = torch.empty(batch_size, *input_shape, dtype=dtype or next(iter(floating.values()), None))
        cast = {n: dtype or own for n, own in floating.items()}
        yield {n: torch.empty_like(t, dtype=cast.get(n), device="meta") for n, t in own_tensors.items()}, images


def check(module: nn.Module, input_shape: Sequence[int], batch_size: int) -> None:
    """What can be counted, and for how large images."""
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError("a TorchScript module hides its layers; give the torch.nn.Module that it was made from")
    if batch_size < 1 or min(input_shape, default=1) < 1:
        raise ValueError(f"batch_size={batch_size}, input_shape={tuple(input_shape)}; give 1 or more of each")


class Layers(list[tuple[str, nn.Module]]):
    """The modules that run now, outermost first, each with its path."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: dict[str, Shape] = {}
        """of those that have run, without the batch"""
        self.calls = Counter[str]()
        """how often each was called"""

    def __str__(self) -> str:
        name, module = self[-1]
        return f"{name or 'the network'} ({type(module).__name__})"


@contextmanager
def called_layers(module: nn.Module, layers: Layers) -> Iterator[None]:
    """Keep `layers` up to date while the module runs."""

    def leave(_part: nn.Module, _inputs: Any, out: Any) -> None:
        name, _ = layers.pop()
        if isinstance(out := newest(out), Tensor):
            layers.outputs[name] = tuple(out.shape[1:])

    hooks = []
    for name, part in module.named_modules():

        def enter(part: nn.Module, _: Any, name: str = name) -> None:
            layers.append((name, part))
            layers.calls[name] += 1

        hooks += [part.register_forward_pre_hook(enter), part.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def call(module: nn.Module, own: Mapping[str, Tensor], images: Tensor, layers: Layers) -> Any:
    """The module's output, or a ValueError that names the layer that failed."""
    try:
        return torch.func.functional_call(module, dict(own), (images,))
    except Exception as error:
        given = f"an image of {'x'.join(map(str, images.shape[1:]))}"
        if len(layers) < 2 and isinstance(error, ValueError | TypeError):
            raise ValueError(f"{type(module).__name__} cannot read {given}: {error}") from error
        if any(sign in str(error) for sign in _BY_VALUES):
            raise ValueError(
                f"{layers} decides by the values of a tensor, which a count does not have ({_first_line(error)}); "
                "count a module without it"
            ) from error
        raise ValueError(f"{layers} failed on {given}: {_first_line(error)}") from error


_BY_VALUES = ("item()", "_local_scalar_dense", "aten::nonzero", "aten::equal", "data-dependent", "out of meta tensor")
"""what torch says where a tensor's values are asked for, and there are none"""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


class _Recorder(Watch):  # type: ignore[no-untyped-call]
    """Notes every operator, its layer, its geometry and what it allocates."""

    def __init__(self, module: nn.Module, own: Mapping[str, Tensor], images: Tensor) -> None:
        super().__init__(images)
        self.layers, self.operators, self.storages = Layers(), list[Operator](), Storages()
        self._writer = {_storage(images): -1}
        self._parameters = {_storage(own[n]): own[n].numel() for n, _ in module.named_parameters()}
        self._counted, self._noted = set[int](), set[nn.Module]()
        for tensor in own.values():
            self.storages.ignore(tensor)
        self.storages.note(images)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.storages.step = len(self.operators)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        outs, reads = tensors(out), tensors(args)
        view = any(self.storages.knows(x) for x in outs) and not rules.writes(func)
        for x in outs:
            if self.storages.note(x):
                self._writer.pop(_storage(x), None)  # of what had this place before
        written = sum(x.numel() for x in outs)
        if written and not view and not func.overloadpacket.__name__.startswith(("empty", "new_empty")):
            self._note(func, args, reads, outs)
        self.storages.step = len(self.operators) - 1
        return out

    def _note(self, func: Any, args: Sequence[Any], reads: Sequence[Tensor], outs: Sequence[Tensor]) -> None:
        op, (layer, part) = func.overloadpacket, self.layers[-1] if self.layers else ("", nn.Module())
        maps = [x for x in reads if _storage(x) in self._writer]
        index = len(self.operators)
        writers = tuple(dict.fromkeys(self._writer[_storage(x)] for x in maps))
        self.operators.append(
            Operator(
                layer,
                type(part).__name__,
                rules.called(op, args),
                writers,
                tuple(tuple(x.shape) for x in maps),
                tuple(outs[0].shape),
                *_window(op, args),
                params=sum(self._first(_storage(x)) for x in reads),
                buffers=0 if part in self._noted else sum(b.numel() for b in part.buffers(recurse=False)),
                madds=rules.madds(func, args, outs[0]),
                activations=outs[0].numel(),
                bytes_read=sum(x.numel() * x.element_size() for x in {id(x): x for x in reads}.values()),
                bytes_written=sum(x.numel() * x.element_size() for x in outs),
                geometry=self.geometry(outs[0]),
            )
        )
        self._noted.add(part)
        if writers:
            self._writer.update((_storage(x), index) for x in outs)

    def _first(self, storage: int) -> int:
        """Values of this parameter, the first time that it is read."""
        if storage in self._counted or storage not in self._parameters:
            return 0
        self._counted.add(storage)
        return self._parameters[storage]


def _storage(x: Tensor) -> int:
    return x.untyped_storage()._cdata


def _window(op: Any, args: Sequence[Any]) -> tuple[Shape, Shape, Shape, Shape, int]:
    """Kernel, stride, padding, dilation and groups."""
    if op is aten.convolution:
        _, weight, _, stride, padding, dilation, _, _, groups = args
        return tuple(weight.shape[2:]), tuple(stride), tuple(padding), tuple(dilation), groups
    if op in _POOLS:
        kernel = _full(args[1], args[0])
        stride = _full(args[2], args[0]) if len(args) > 2 and args[2] else kernel
        padding = _full(args[3] if len(args) > 3 else (0,), args[0])
        at = _POOLS[op]
        return kernel, stride, padding, _full(args[at] if at and len(args) > at else (1,), args[0]), 1
    return (), (), (), (), 1


def _full(values: Sequence[int], x: Tensor) -> Shape:
    """One value per dimension; torch lets users give one for all."""
    return tuple(values) if len(values) > 1 else tuple(values) * (x.ndim - 2)
