"""Every operator call of one forward pass, written down so that it can be made again with tensors of other values."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.cost.rules import writes
from backbones.cost.trace import Layers, call, called_layers, on_meta
from backbones.geometry import evaluating, tensors, without_values

Call = str
"""an operator and its arguments, as JSON; a tensor is its shape, its strides, its type and whether it is a weight"""


def calls(module: nn.Module, input_shape: Sequence[int], batch_size: int = 1) -> Counter[Call]:
    """How often one forward pass over images of shape (C, H, W) makes each call; "module" counts modules called.

    Calls that compute nothing, such as views, are left out.
    """
    layers = Layers()
    with on_meta(module, input_shape, batch_size) as (own, images):
        recorder = _Recorder({x.untyped_storage()._cdata for x in own.values()})
        with evaluating(module), torch.no_grad(), called_layers(module, layers), recorder:
            call(module, own, images, layers)
    recorder.seen["module"] = layers.calls.total()
    return recorder.seen


class _Recorder(TorchDispatchMode):
    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen = Counter[Call]()
        self._weights = weights

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = without_values(args), without_values(kwargs or {})
        out = func(*args, **kwargs)
        outs, reads = tensors(out), {x.untyped_storage()._cdata for x in tensors(args)}
        view = not writes(func) and any(x.untyped_storage()._cdata in reads for x in outs)
        if reads and not view and any(x.numel() for x in outs):
            written = {name: self._written(value) for name, value in kwargs.items()}
            self.seen[json.dumps([str(func), [self._written(a) for a in args], written])] += 1
        return out

    def _written(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            weight = value.untyped_storage()._cdata in self._weights
            return {"t": [list(value.shape), list(value.stride()), str(value.dtype).removeprefix("torch."), weight]}
        if isinstance(value, (list, tuple)):
            return [self._written(v) for v in value]
        if isinstance(value, (torch.dtype, torch.layout, torch.device, torch.memory_format)):
            return {"torch": str(value)}
        return value


def made(written: Call, tensor: Callable[[list[int], list[int], torch.dtype, bool], Tensor]) -> Callable[[], Any]:
    """The call, ready to be made; `tensor` gives one of a shape, strides and type, for a weight or for a map."""
    name, args, kwargs = json.loads(written)
    _, op, overload = name.split(".")
    function = getattr(getattr(torch.ops.aten, op), overload)
    return partial(function, *_read(args, tensor), **{k: _read(v, tensor) for k, v in kwargs.items()})


def _read(value: Any, tensor: Callable[..., Tensor]) -> Any:
    if isinstance(value, list):
        return [_read(v, tensor) for v in value]
    if isinstance(value, dict) and "t" in value:
        shape, strides, dtype, weight = value["t"]
        return tensor(shape, strides, getattr(torch, dtype), weight)
    if isinstance(value, dict):
        return getattr(torch, value["torch"].removeprefix("torch.")) if "torch." in value["torch"] else value["torch"]
    return value
