"""What each operator of torch computes: how many multiply-adds of convolutions and matrix products."""

from collections.abc import Callable, Sequence
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


MADDS: dict[Any, Callable[[Sequence[Any], Tensor], int]] = {
    aten.convolution: _convolution,
    aten.mm: _product(0),
    aten.bmm: _product(0),
    aten.addmm: _product(1),
    aten.baddbmm: _product(1),
    aten.mv: _product(0),
    aten.dot: _product(0),
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention: _attention,
    aten._scaled_dot_product_efficient_attention: _attention,
    aten._scaled_dot_product_cudnn_attention: _attention,
}

WITHOUT_PRODUCTS = frozenset(
    getattr(aten, name)
    for name in (
        *(
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "_softmax",
            "_safe_softmax",
        ),
        *("native_layer_norm", "native_group_norm", "_log_softmax", "linalg_vector_norm", "cumsum", "topk", "sort"),
        *("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d"),
        *("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "pixel_shuffle"),
        *("cat", "stack", "constant_pad_nd", "reflection_pad2d", "replication_pad2d", "clone", "copy_", "_to_copy"),
        *(
            "index",
            "index_put",
            "index_put_",
            "index_select",
            "gather",
            "scatter",
            "embedding",
            "roll",
            "flip",
            "repeat",
        ),
        *("fill_", "zero_", "zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones"),
        *("new_full", "arange", "linspace", "eye", "scalar_tensor", "tril", "triu", "native_dropout", "bernoulli_"),
        *("slice_scatter", "select_scatter", "_reshape_copy", "unfold_backward", "im2col", "col2im", "mean", "sum"),
        *("pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "lift_fresh", "max_pool2d", "var_mean"),
    )
)
"""They move, pool, normalise or fill: no convolution, no matrix product"""

_NAMES = {
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "native_batch_norm": "batch_norm",
    "max_pool2d_with_indices": "max_pool2d",
    "addmm": "linear",
    "mm": "matmul",
}


def called(op: Any) -> str:
    """The operator's name as users know it: convolution, batch_norm, linear."""
    name = op.__name__
    return _NAMES.get(name, name)


def counts(func: Any) -> bool:
    """Whether we know how many multiply-adds the operator has, none included."""
    op, tags = func.overloadpacket, func.tags
    free = torch.Tag.pointwise in tags or torch.Tag.reduction in tags or op in WITHOUT_PRODUCTS
    return op in MADDS or free
