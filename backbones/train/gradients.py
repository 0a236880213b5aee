"""Gradients that torch computes slowly on a processor, by other means.

Depthwise convolutions in bfloat16: on AVX512-bf16, the gradient of the input of one of stride 2, or with spread values,
takes 10 to 200 times as long as the convolution itself, and that of the weights for 5x5 values three times as long as
in float32. The mean of each map in channels_last, as squeeze-and-excitation has it: its gradient is laid out otherwise,
and then added to that of the gated map place by place.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.overrides import TorchFunctionMode

from backbones.records import Options

Pair = tuple[int, int]


class QuickGradients(TorchFunctionMode):
    """What is computed inside this has the same first derivatives, sooner.

    The backward pass may compute again outside of it (gradient checkpointing): torch's own functions keep the same
    tensors.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d and not kwargs and len(args) == 7 and _is_slow(*args):
            x, weight, _, stride, padding, dilation, _ = args
            return _Depthwise.apply(x.bfloat16(), weight.bfloat16(), stride, padding, dilation)
        if func is Tensor.mean and kwargs == {"keepdim": True} and args[1:] == ((2, 3),) and _is_spread(args[0]):
            return _MapMean.apply(args[0])
        return func(*args, **(kwargs or {}))


def quick_gradients(device: str, options: Options) -> AbstractContextManager[Any]:
    """What the forward passes of a run are made inside of: on a processor, unless a compiler makes them."""
    return QuickGradients() if device == "cpu" and not options.compile else nullcontext()


def _is_slow(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair | str, dilation: Pair, groups: int
) -> bool:
    """Whether a convolution is one of these, as `torch.nn.Conv2d` calls it."""
    if groups != len(weight) or weight.shape[1] != 1 or x.dim() != 4 or x.device.type != "cpu" or bias is not None:
        return False
    if max(stride) == max(dilation) == 1 and max(weight.shape[2:]) <= 3:
        return False
    if isinstance(padding, str) or any(p > r for p, r in zip(padding, _reach(weight, dilation), strict=True)):
        return False
    mixed = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    allowed = (torch.bfloat16, torch.float32) if mixed else (torch.bfloat16,)
    return torch.is_grad_enabled() and x.dtype in allowed and weight.dtype in allowed


def _is_spread(x: Tensor) -> bool:
    """Whether the values of a map lie apart from each other."""
    if not (x.requires_grad and torch.is_grad_enabled() and x.device.type == "cpu" and x.dim() == 4):
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class _MapMean(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        """The same for all values of a map; what it is added to decides how it is laid out."""
        return (slope / (ctx.shape[2] * ctx.shape[3])).expand(ctx.shape)


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.window = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        of_input = _of_input(x, weight, slope, *ctx.window) if ctx.needs_input_grad[0] else None
        of_weight = _of_weight(x, weight, slope, *ctx.window) if ctx.needs_input_grad[1] else None
        return of_input, of_weight, None, None, None


def _of_input(x: Tensor, weight: Tensor, slope: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """The convolution, turned around, of `slope` with zeros between its values: dL/dx(i) = sum_k z(i - k) w(k)."""
    (n, c, *sides), reach = x.shape, _reach(weight, dilation)
    spread = slope.new_zeros(n, sides[0] + reach[0], sides[1] + reach[1], c).permute(0, 3, 1, 2)  # channels last
    rows, columns = (
        slice(r - p, r - p + s * (side - 1) + 1, s)
        for r, p, s, side in zip(reach, padding, stride, slope.shape[2:], strict=True)
    )
    spread[:, :, rows, columns] = slope
    return F.conv2d(spread, weight.flip(2, 3), None, 1, 0, dilation, c)


def _of_weight(x: Tensor, weight: Tensor, slope: Tensor, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    if max(dilation) > 1 or max(weight.shape[2:]) > 3:
        x, slope = x.float(), slope.float()
    found = conv2d_weight(x, weight.shape, slope, stride, padding, dilation, len(weight))  # type: ignore[no-untyped-call]
    return torch.empty_like(weight).copy_(found)  # laid out as the weights are


def _reach(weight: Tensor, dilation: Pair) -> Pair:
    """How far the last value of a window is from its first, down and across."""
    return dilation[0] * (weight.shape[2] - 1), dilation[1] * (weight.shape[3] - 1)
