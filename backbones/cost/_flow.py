"""Stands in for measure_cost until it is merged: operators and who reads whose output."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.geometry import evaluating

aten = torch.ops.aten
NAMES = {"native_batch_norm": "batch_norm", "max_pool2d_with_indices": "max_pool2d", "addmm": "linear", "mm": "matmul"}
MAKERS = {"empty", "zeros", "ones", "full", "new_zeros", "new_ones", "empty_like", "new_empty", "detach"}


@dataclass(frozen=True)
class Operator:
    layer: str
    kind: str
    op: str
    input_shapes: tuple
    output_shape: tuple
    kernel_size: Any = None
    stride: Any = None
    padding: Any = None
    dilation: Any = None
    groups: int = 1
    params: int = 0
    madds: int = 0
    activations: int = 0
    inputs: tuple = ()


@dataclass(frozen=True)
class FlowCost:
    operators: tuple
    kinds: dict

    @property
    def params(self):
        return sum(o.params for o in self.operators)

    @property
    def madds(self):
        return sum(o.madds for o in self.operators)


def _two(v):
    v = [v] if isinstance(v, int) else list(v)
    return (v[0], v[-1]) if v else None


class Flow(TorchDispatchMode):
    def __init__(self, images, params):
        super().__init__()
        self.writer = {self.key(images): -1}
        self.params = {self.key(p): p for p in params}
        self.seen_params = set()
        self.keep = [images]
        self.operators = []
        self.stack = [("", "")]

    def key(self, x):
        return x.untyped_storage()._cdata

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        ins = [x for a in args for x in (a if isinstance(a, (tuple, list)) else (a,)) if isinstance(x, Tensor)]
        outs = [x for x in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(x, Tensor)]
        self.keep += outs
        name = func.overloadpacket.__name__
        if not outs:
            return out
        fresh = self.key(outs[0]) not in {self.key(x) for x in ins}
        inplace = name.endswith("_") and not name.endswith("__")
        if not fresh and not inplace:
            return out
        params = 0
        for x in ins:
            if (k := self.key(x)) in self.params and k not in self.seen_params:
                self.seen_params.add(k)
                params += self.params[k].numel()
        inputs = tuple(dict.fromkeys(self.writer[self.key(x)] for x in ins if self.key(x) in self.writer))
        shape = tuple(outs[0].shape[1:])
        more = {}
        madds = 0
        if name == "convolution":
            w = args[1]
            more = dict(kernel_size=tuple(w.shape[2:]), stride=_two(args[3]), padding=_two(args[4]), dilation=_two(args[5]), groups=args[8])
            madds = outs[0].numel() * w[0].numel()
        elif name in ("addmm", "mm"):
            madds = outs[0].numel() * args[-2].shape[-1]
        elif name in ("max_pool2d_with_indices", "avg_pool2d"):
            more = dict(kernel_size=_two(args[1]), stride=_two(args[2]) if len(args) > 2 and args[2] else _two(args[1]))
        layer, kind = self.stack[-1]
        self.operators.append(Operator(layer, kind, NAMES.get(name, name), tuple(tuple(x.shape[1:]) for x in ins if self.key(x) in self.writer), shape, params=params, madds=madds, activations=outs[0].numel(), inputs=inputs, **more))
        for x in outs:
            self.writer[self.key(x)] = len(self.operators) - 1
        return out


def measure_cost(module: nn.Module, shape) -> FlowCost:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    with torch.inference_mode(False):
        images = torch.empty(1, *shape, device="meta")
    meta = {n: torch.empty_like(t, device="meta") for n, t in tensors}
    flow = Flow(images, [meta[n] for n, _ in module.named_parameters()])
    flow.stack = [("", type(module).__name__)]
    hooks = []
    for name, part in module.named_modules():
        if name:
            hooks.append(part.register_forward_pre_hook(lambda m, a, name=name: flow.stack.append((name, type(m).__name__))))
            hooks.append(part.register_forward_hook(lambda m, a, o: (flow.stack.pop(), None)[1]))
    try:
        with evaluating(module), torch.inference_mode(False), torch.no_grad(), flow:
            torch.func.functional_call(module, meta, (images,))
    finally:
        for h in hooks:
            h.remove()
    return FlowCost(tuple(flow.operators), {n: type(m).__name__ for n, m in module.named_modules()})
