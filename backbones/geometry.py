"""Where every value of every map comes from: its stride and receptive field, by watching one forward pass.

A map's value at position i of one dimension sees the image from `low + i * stride` to `high + i * stride`. Convolutions
and poolings widen that interval, sums and concatenations unite it, and what has no such interval (a global mean, a
sum of maps of different strides) has no geometry: None.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten

_EVERYWHERE = {
    *(aten.native_batch_norm, aten.native_dropout, aten.clone, aten._to_copy, aten.detach, aten.alias, aten.expand),
    *(aten.view, aten._unsafe_view, aten.squeeze, aten.unsqueeze),
}
"""operators that work on each position of a map for itself; in evaluation, and as long as height and width stay"""
_ALONG = {aten.transpose: (1, 3), aten.slice: (1, 2), aten.split: (2, 3), aten.split_with_sizes: (2, 3)}
"""the same, unless they work along height or width: which arguments are their dimensions"""


class Geometry(NamedTuple):
    """Of one map, per dimension (height, width), in pixels of the image."""

    stride: tuple[int, int] = (1, 1)
    low: tuple[int, int] = (0, 0)
    high: tuple[int, int] = (0, 0)

    @property
    def receptive_field(self) -> tuple[int, int]:
        return self.high[0] - self.low[0] + 1, self.high[1] - self.low[1] + 1

    def window(self, kernel: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1) -> "Geometry":
        """After a sliding window: a convolution or a pooling."""
        strides, lows, highs = [], [], []
        for k, s, p, d, u, low, high in zip(*map(_pair, (kernel, stride, padding, dilation)), *self, strict=True):
            strides.append(u * s)
            lows.append(low - p * u)
            highs.append(high + ((k - 1) * d - p) * u)
        return Geometry(_pair(strides), _pair(lows), _pair(highs))

    def union(self, other: "Geometry") -> "Geometry | None":
        """Of a sum or a concatenation; None where the strides differ."""
        if self.stride != other.stride:
            return None
        (a, b), (c, d) = self.low, other.low
        (e, f), (g, h) = self.high, other.high
        return Geometry(self.stride, (min(a, c), min(b, d)), (max(e, g), max(f, h)))


def newest(x: Any) -> Any:
    """The map itself, or the newest of the maps that travel together (a cell with two inputs hands on both)."""
    return x[-1] if isinstance(x, tuple) else x


def _pair(value: Any) -> tuple[int, int]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return (values[0], values[-1])


def tensors(values: Any) -> list[Tensor]:
    """Every tensor of arguments or of an output: one, several, or a dict of them."""
    if isinstance(values, Tensor):
        return [values]
    inside = values.values() if isinstance(values, Mapping) else values if isinstance(values, (tuple, list)) else ()
    return [x for value in inside for x in tensors(value)]


def without_values(arguments: Any) -> Any:
    """Arguments in which tensors that a module keeps beside its parameters and buffers have no values either."""
    if isinstance(arguments, Tensor):
        return torch.empty_like(arguments, device="meta") if arguments.ndim and not arguments.is_meta else arguments
    if isinstance(arguments, (tuple, list)):
        return type(arguments)(without_values(a) for a in arguments)
    return {k: without_values(a) for k, a in arguments.items()} if isinstance(arguments, dict) else arguments


def _argument(args: Sequence[Any], index: int, default: Any) -> Any:
    return args[index] if index < len(args) else default


def _quickly(func: Any, args: Any) -> Any:
    """What an operator returns on the meta device, where torch finds that out in Python: half of the time of a pass.

    None for all but three, and where shapes, types or devices differ.
    """
    if func not in _SLOW or not args[0].is_meta:
        return None
    like = torch.empty_like(args[0])
    if func is aten.native_batch_norm.default:
        return None if args[5] else (like, like.new_empty(0), like.new_empty(0))
    same = all(isinstance(x, Tensor) and (x.shape, x.stride()) == (like.shape, like.stride()) for x in args)
    return like if same and len({(x.dtype, x.device) for x in args}) == 1 else None


_SLOW = {aten.relu.default, aten.add.Tensor, aten.native_batch_norm.default}


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active, knows the geometry of every map computed from `images`."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._known: dict[int, tuple[weakref.ref[Tensor], Geometry | None]] = {}  # by id, which may be used again
        self._know(images, Geometry())

    def _know(self, x: Tensor, geometry: Geometry | None) -> None:
        self._known[id(x)] = (weakref.ref(x), geometry)

    def geometry(self, x: Tensor) -> Geometry | None:
        """None for what has none, and for what does not come from the image."""
        return self._known[id(x)][1] if self.from_image(x) else None

    def from_image(self, x: Tensor) -> bool:
        """Whether its values depend on the image's."""
        return id(x) in self._known and self._known[id(x)][0]() is x

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = without_values(args), without_values(kwargs or {})
        out = _quickly(func, args)
        out = func(*args, **kwargs) if out is None else out
        name = func.overloadpacket.__name__
        if name.startswith("new_") or name.endswith("_like") or not any(map(self.from_image, tensors(args))):
            return out
        geometry = self._after(func, args, out)
        for x in tensors(out):
            self._know(x, geometry if x.ndim >= 4 else None)  # 5: channels in groups
        return out

    def _after(self, func: Any, args: Any, out: Any) -> Geometry | None:
        op = func.overloadpacket
        first = self.geometry(args[0]) if args and isinstance(args[0], Tensor) else None
        if op is aten.convolution:
            _, weight, _, stride, padding, dilation, transposed, *_ = args
            plain = first is not None and weight.ndim == 4 and not transposed
            return first.window(weight.shape[2:], stride, padding, dilation) if first and plain else None
        if first and op in (aten.max_pool2d_with_indices, aten.avg_pool2d):
            dilation = _argument(args, 4, 1) if op is aten.max_pool2d_with_indices else 1
            return first.window(args[1], _argument(args, 2, ()) or args[1], _argument(args, 3, 0), dilation)
        if first and op is aten.constant_pad_nd:
            left, _, top, _ = [*args[1], 0, 0][:4]
            return first.window(1, padding=(top, left))
        if first and args[0].ndim == 4 and op is aten.slice and (dim := _argument(args, 1, 0)) in (2, 3):
            start, step = [0, 0], [1, 1]
            skipped = _argument(args, 2, 0) or 0
            start[dim - 2] = -skipped if skipped >= 0 else -max(skipped + args[0].shape[dim], 0)
            step[dim - 2] = _argument(args, 4, 1)
            return first.window(1, step, start)
        keeps = op in _EVERYWHERE or torch.Tag.pointwise in func.tags
        if op is aten.native_batch_norm and args[5]:
            keeps = False  # statistics of the whole map
        if op in _ALONG and first:
            keeps = all(d % args[0].ndim < args[0].ndim - 2 for d in args[slice(*_ALONG[op])])
        if op is aten.cat:
            keeps = _argument(args, 1, 0) % args[0][0].ndim < args[0][0].ndim - 2
        if op is aten.avg_pool3d:
            keeps = tuple(args[1][1:]) == (1, 1)
        return self._merged(args, out) if keeps else None  # what we do not know may look anywhere

    def _merged(self, args: Any, out: Any) -> Geometry | None:
        """Element by element: what all inputs of the output's own height and width see together."""
        shape = tensors(out)[0].shape[-2:]
        inputs = [x for x in tensors(args) if self.from_image(x) and x.shape[-2:] == shape and x.ndim >= 4]
        merged = self.geometry(inputs[0]) if inputs else None
        for x in inputs[1:]:
            other = self.geometry(x)
            merged = merged.union(other) if merged and other else None
        return merged


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and every part of it back in its own mode afterwards."""
    before = {
        part: (part.training, {k: v for k, v in vars(part).items() if isinstance(v, Tensor)})
        for part in module.modules()
    }
    module.eval()
    try:
        yield
    finally:
        for part, (mode, attributes) in before.items():
            part.training = mode
            vars(part).update(attributes)  # hooks such as weight norm's write here


class Seen(NamedTuple):
    """One part of a network, as it ran."""

    name: str
    module: nn.Module
    before: Geometry | None
    """of the part's first input, the newest where several maps travel together"""
    after: Geometry | None
    """of its output"""
    map: Tensor
    """its output, on the meta device"""


def watch(module: nn.Module, input_shape: tuple[int, int, int]) -> list[Seen]:
    """Run the module once on the meta device and report its parts in the order in which they finished.

    Nothing is allocated and nothing of the module changes. `input_shape` is (C, H, W).
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    dtype = next((t.dtype for _, t in tensors if t.is_floating_point()), torch.float32)
    with torch.inference_mode(False):  # inference tensors would pass some operators by unseen
        images = torch.empty(1, *input_shape, device="meta", dtype=dtype)
    watcher, seen, hooks = Watch(images), list[Seen](), []
    for name, part in module.named_modules():

        def hook(part: nn.Module, args: Any, out: Any, name: str = name) -> None:
            before, after = newest(args[0]), newest(out)
            if isinstance(after, Tensor):
                seen.append(Seen(name, part, watcher.geometry(before), watcher.geometry(after), after))

        hooks.append(part.register_forward_hook(hook))
    try:
        with evaluating(module), torch.inference_mode(False), torch.no_grad(), watcher:
            torch.func.functional_call(module, {n: torch.empty_like(t, device="meta") for n, t in tensors}, (images,))
    finally:
        for handle in hooks:
            handle.remove()
    return seen
