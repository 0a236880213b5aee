"""torch alone, made fast: filters laid out once as the kernels want them, activations and additions done by them.

Eager torch lays the filters out anew at every call; torch.compile would not, after half a minute of compiling. These
are the kernels of oneDNN that it would call too.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node

from backbones.infer.graph import aten, constant, finished, given, place

ACTIVATIONS = {
    aten.relu.default: "relu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.silu.default: "swish",
    aten.hardswish.default: "hardswish",
    aten.hardtanh.default: "hardtanh",
}
IN_PLACE = {
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
}
DEFAULTS = (None, 1, 0, 1, 1)
"""of a convolution: bias, stride, padding, dilation, groups"""
FLOAT_ONLY = (aten.avg_pool3d.default,)
"""what torch has no bfloat16 kernel for: local response normalisation"""
NEW = {aten.batch_norm.default, aten.add.Tensor, aten.mul.Tensor, aten.cat.default}
"""what writes a tensor that is its own, beside our convolutions"""


def available(dtype: torch.dtype) -> bool:
    """Whether this processor has these kernels for numbers of this kind."""
    if not torch._C._has_mkldnn or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(graph: GraphModule, example: Sequence[Tensor], dtype: torch.dtype) -> nn.Module:
    """The same function in numbers of this kind inside, float32 outside. Changes the folded graph it is given.

    Args:
        example: what the layout of the filters is chosen for; others are right too
        dtype: torch.float32 or torch.bfloat16
    """
    convert(graph, dtype)
    for node in list(graph.graph.nodes):
        if node.target == aten.conv2d.default:
            _pack_convolution(graph, node, len(example[0]))
        elif node.target == aten.linear.default:
            _pack_linear(graph, node, len(example[0]))
    for node in list(graph.graph.nodes):
        if node.target == aten.add.Tensor:
            _add_within(graph, node)
    for node in list(graph.graph.nodes):
        if node.target in ACTIVATIONS and not _activate_within(graph, node):
            _in_place(node)
    return finished(graph)


def convert(graph: GraphModule, dtype: torch.dtype) -> None:
    """Images and weights to this kind, in channels last; results back. Norms that stay keep float32 statistics."""
    norms = {a for node in graph.graph.nodes if node.target == aten.batch_norm.default for a in given(node)[1:5]}
    for node in list(graph.graph.nodes):
        value = constant(graph, node)
        if value is not None and value.dtype == torch.float32 and node not in norms and dtype != torch.float32:
            new = place(graph, value.to(dtype), node)
            node.replace_all_uses_with(new)
        elif node.op == "placeholder" and node.meta["val"].is_floating_point():
            layout = {"memory_format": torch.channels_last} if node.meta["val"].dim() == 4 else {}
            with graph.graph.inserting_after(node):
                new = graph.graph.call_function(torch.Tensor.to, (node,), {"dtype": dtype, **layout})
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
        elif node.target in FLOAT_ONLY and dtype != torch.float32:
            with graph.graph.inserting_before(node):
                node.update_arg(0, graph.graph.call_function(torch.Tensor.float, (given(node)[0],)))
            with graph.graph.inserting_after(node):
                new = graph.graph.call_function(torch.Tensor.to, (node, dtype))
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new, delete_user_cb=lambda user, new=new: user is not new)
        elif node.op == "output" and dtype != torch.float32:
            for result in {r for r in node.all_input_nodes if r.meta["val"].dtype == torch.float32}:
                with graph.graph.inserting_before(node):
                    node.replace_input_with(result, graph.graph.call_function(torch.Tensor.float, (result,)))


def _pack_convolution(graph: GraphModule, node: Node, batch: int) -> None:
    arguments = list(given(node))
    arguments.extend(DEFAULTS[len(arguments) - 2 :])
    (image, weight, bias), rest = arguments[:3], arguments[3:]
    filters = constant(graph, weight)
    if filters is None:
        return
    stride, padding, dilation = map(_pair, rest[:3])
    groups = rest[3]
    size = [batch, *image.meta["val"].shape[1:]]
    if not all(isinstance(side, int) for side in size):
        return
    laid_out = torch.ops.mkldnn._reorder_convolution_weight(
        filters.contiguous(memory_format=torch.channels_last), padding, stride, dilation, groups, size
    )
    _replace(
        graph,
        node,
        torch.ops.mkldnn._convolution_pointwise.default,
        (image, place(graph, laid_out, node), bias, padding, stride, dilation, groups, "none", [], ""),
    )


def _pack_linear(graph: GraphModule, node: Node, batch: int) -> None:
    weight = constant(graph, given(node)[1])
    if weight is None or (weight.dtype != torch.bfloat16 and not torch._C._has_mkldnn):
        return
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), batch)
    bias = given(node)[2] if len(given(node)) > 2 else None
    target = torch.ops.mkldnn._linear_pointwise.default
    _replace(graph, node, target, (given(node)[0], place(graph, laid_out, node), bias, "none", [], ""))


def _add_within(graph: GraphModule, node: Node) -> None:
    """x + convolution(y): the convolution, if not a grouped one, adds x to what it writes."""
    if node.kwargs.get("alpha", 1) != 1:
        return
    for one, other in (given(node), given(node)[::-1]):
        if _plain(one) and _alike(one, other) and given(one)[6] == 1 and given(one)[7] == "none":
            image, *rest = given(one)[:7]
            target = torch.ops.mkldnn._convolution_pointwise.binary
            _replace(graph, node, target, (image, other, *rest, "add", None, None, [], None))
            graph.graph.erase_node(one)
            return


def _activate_within(graph: GraphModule, node: Node) -> bool:
    """The convolution, linear layer or addition before it, which nothing else reads, applies it."""
    before = given(node)[0]
    if not isinstance(before, Node) or len(before.users) > 1:
        return False
    name, scalars = ACTIVATIONS[cast(OpOverload[..., Any], node.target)], list[Any]()
    if name == "hardtanh":
        scalars = [*given(node)[1:], *[-1.0, 1.0][len(given(node)) - 1 :]]
    added = before.target == torch.ops.mkldnn._convolution_pointwise.binary
    if added and name == "relu" and given(before)[10] is None:
        before.update_arg(10, name)
    elif _plain(before) and given(before)[7] == "none":
        before.args = (*given(before)[:7], name, scalars, "")
    elif before.target == torch.ops.mkldnn._linear_pointwise.default and given(before)[3] == "none":
        before.args = (*given(before)[:3], name, scalars, "")
    else:
        return False
    node.replace_all_uses_with(before)
    graph.graph.erase_node(node)
    return True


def _in_place(node: Node) -> None:
    """In the place of what it reads, where nothing else reads that."""
    before = given(node)[0]
    ours = isinstance(before, Node) and (_plain(before) or before.target in NEW or _added(before))
    if ours and len(before.users) == 1 and node.target in IN_PLACE:
        node.target = IN_PLACE[node.target]


def _pair(value: Any) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value, value]


def _plain(node: Any) -> bool:
    return (
        isinstance(node, Node)
        and node.target == torch.ops.mkldnn._convolution_pointwise.default
        and len(node.users) == 1
    )


def _added(node: Node) -> bool:
    return node.target == torch.ops.mkldnn._convolution_pointwise.binary


def _alike(one: Node, other: Any) -> bool:
    """Two maps of the same shape, also where that has a symbol for the number of images."""
    if not isinstance(other, Node) or other is one or "val" not in other.meta:
        return False
    shapes = [str(tuple(node.meta["val"].shape)) for node in (one, other)]
    return shapes[0] == shapes[1] and one.meta["val"].dim() == 4


def _replace(graph: GraphModule, node: Node, target: Any, args: tuple[Any, ...]) -> Node:
    with graph.graph.inserting_before(node):
        new = graph.graph.call_function(target, args)
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    graph.graph.erase_node(node)
    return new
