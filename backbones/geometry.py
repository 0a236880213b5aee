"""Where every value of every map comes from: its stride and receptive field, by watching one forward pass.

A map's value at position i of one dimension sees the image from `low + i * stride` to `high + i * stride`. Convolutions
and poolings widen that interval, sums and concatenations unite it, and what has no such interval (a global mean, a
sum of maps of different strides) has no geometry: None.
"""

import weakref
from collections.abc import Iterator, Sequence
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
        known, geometry = self._known.get(id(x), (None, None))
        return geometry if known and known() is x else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = _quickly(func, args)
        out = func(*args, **(kwargs or {})) if out is None else out
        geometry = self._after(func, args, out)
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, Tensor):
                self._know(x, geometry if x.ndim >= 4 else None)  # 5: channels in groups
        return out

    def _after(self, func: Any, args: Any, out: Any) -> Geometry | None:
        op = func.overloadpacket
        first = self.geometry(args[0]) if args and isinstance(args[0], Tensor) else None
        if op is aten.convolution:
            _, weight, _, stride, padding, dilation, transposed, *_ = args
            return None if transposed or first is None else first.window(weight.shape[2:], stride, padding, dilation)
        if first and op in (aten.max_pool2d_with_indices, aten.avg_pool2d):
            dilation = _argument(args, 4, 1) if op is aten.max_pool2d_with_indices else 1
            return first.window(args[1], _argument(args, 2, ()) or args[1], _argument(args, 3, 0), dilation)
        if first and op is aten.constant_pad_nd:
            left, _, top, _ = [*args[1], 0, 0][:4]
            return first.window(1, padding=(top, left))
        if first and args[0].ndim == 4 and op is aten.slice and (dim := _argument(args, 1, 0)) in (2, 3):
            start, step = [0, 0], [1, 1]
            start[dim - 2], step[dim - 2] = -(_argument(args, 2, 0) or 0), _argument(args, 4, 1)
            return first.window(1, step, start)
        keeps = op in _EVERYWHERE or torch.Tag.pointwise in func.tags
        if op in _ALONG and first:
            keeps = all(d % args[0].ndim < args[0].ndim - 2 for d in args[slice(*_ALONG[op])])
        if op is aten.cat:
            keeps = _argument(args, 1, 0) % args[0][0].ndim < args[0][0].ndim - 2
        if op is aten.avg_pool3d:
            keeps = tuple(args[1][1:]) == (1, 1)
        return self._merged(args, out) if keeps else None  # what we do not know may look anywhere

    def _merged(self, args: Any, out: Any) -> Geometry | None:
        """Element by element: what all inputs of the output's own height and width see together."""
        shape = (out[0] if isinstance(out, (tuple, list)) else out).shape[-2:]
        inputs = [x for a in args for x in (a if isinstance(a, (tuple, list)) else (a,)) if isinstance(x, Tensor)]
        seen = [g for x in inputs if (g := self.geometry(x)) and x.shape[-2:] == shape]
        merged: Geometry | None = seen[0] if seen else None
        for other in seen[1:]:
            merged = merged and merged.union(other)
        return merged


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and every part of it back in its own mode afterwards."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


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
