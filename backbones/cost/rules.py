"""What each operator of torch computes: how many multiply-adds of convolutions and matrix products."""

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _convolution(args: Sequence[Any], out: Tensor) -> int:
    """Every value of the output (of the input, where transposed) meets each weight of its filter once."""
    x, weight, transposed = args[0], args[1], args[6]
    return (x.numel() if transposed else out.numel()) * prod(weight.shape[1:])


def _product(left: int) -> Callable[[Sequence[Any], Tensor], int]:
    """(..., n, k) @ (..., k, m): every value of the output sums k products."""
    return lambda args, out: out.numel() * args[left].shape[-1]


def _attention(args: Sequence[Any], out: Tensor) -> int:
    """softmax(q k^T) v: (B, heads, L, E) with (B, heads, S, E), two products."""
    q, k, v = args[:3]
    return q.numel() * k.shape[-2] + prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]


_MADDS: dict[str, Callable[[Sequence[Any], Tensor], int]] = {
    "convolution": _convolution,
    **dict.fromkeys(("mm", "bmm", "mv", "dot"), _product(0)),
    **dict.fromkeys(("addmm", "baddbmm", "addmv"), _product(1)),
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
}

_WITHOUT = frozenset(
    [
        "native_batch_norm",
        "_native_batch_norm_legit",
        "_native_batch_norm_legit_no_training",
        "native_layer_norm",
        "native_group_norm",
        "_softmax",
        "_safe_softmax",
        "_log_softmax",
        "linalg_vector_norm",
        "_weight_norm_interface",
        "max_pool2d_with_indices",
        "max_pool3d_with_indices",
        "max_pool2d",
        "avg_pool2d",
        "avg_pool3d",
        "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d",
        "adaptive_max_pool2d",
        "adaptive_max_pool3d",
        "upsample_nearest1d",
        "upsample_nearest2d",
        "upsample_nearest3d",
        "upsample_linear1d",
        "upsample_bilinear2d",
        "upsample_bicubic2d",
        "upsample_trilinear3d",
        "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa",
        "cat",
        "stack",
        "constant_pad_nd",
        "reflection_pad1d",
        "reflection_pad2d",
        "replication_pad2d",
        "clone",
        "copy",
        "_to_copy",
        "index",
        "index_put",
        "index_select",
        "index_add",
        "gather",
        "scatter",
        "embedding",
        "roll",
        "flip",
        "repeat",
        "slice_scatter",
        "select_scatter",
        "_reshape_copy",
        "im2col",
        "col2im",
        "pixel_shuffle",
        "pixel_unshuffle",
        "channel_shuffle",
        "native_channel_shuffle",
        "lift_fresh",
        "cumsum",
        "topk",
        "sort",
        "fill",
        "zero",
        "zeros",
        "ones",
        "full",
        "arange",
        "linspace",
        "eye",
        "scalar_tensor",
        "tril",
        "triu",
        "native_dropout",
        "bernoulli",
        "rand",
        "randn",
        "uniform",
        "normal",
        "rrelu_with_noise",
        "glu",
        "mean",
        "sum",
        "_prelu_kernel",
        "log_sigmoid_forward",
        "hardswish",
        "var_mean",
        "unfold_backward",
        "masked_fill",
        "where",
    ]
)
"""They move, pool, normalise, draw or fill: no convolution, no matrix product"""

_NAMES = {
    "native_batch_norm": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "addmm": "linear",
    "mm": "matmul",
}


def called(op: Any, args: Sequence[Any]) -> str:
    """The operator's name as users know it: convolution, batch_norm, linear."""
    if op is aten.convolution and args[6]:
        return "transposed_convolution"
    name = op.__name__
    return _NAMES.get(name, name)


def writes(func: Any) -> bool:
    """Whether an operator on memory that was there before changes it, and does not only look at it otherwise."""
    return func._schema.is_mutable and not func.overloadpacket.__name__.startswith("as_strided")


def madds(func: Any, args: Sequence[Any], out: Tensor) -> int | None:
    """Multiply-adds of one call; None where there is no rule for the operator."""
    name = func.overloadpacket.__name__.rstrip("_")  # in place or not
    if rule := _MADDS.get(name):
        return rule(args, out)
    return 0 if _has_none(func, name) else None


@cache
def _has_none(func: Any, name: str) -> bool:
    if func.namespace != "aten":
        return False
    packets = [func.overloadpacket, getattr(aten, name, func.overloadpacket)]
    tags = [tag for packet in packets for overload in packet.overloads() for tag in getattr(packet, overload).tags]
    made = name.startswith("new_") or name.endswith("_like")
    return name in _WITHOUT or made or torch.Tag.pointwise in tags or torch.Tag.reduction in tags
