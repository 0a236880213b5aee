"""Norms become part of the convolutions and linear layers beside them; what does nothing in eval() goes.

A norm of fixed statistics is x * scale + shift for each channel. After a convolution it scales the filters; before one
without padding (a border of zeros would have to be shifted too) it scales what they read. Where a norm reads what
others read too, as in pre-activation networks the first of every block, nothing can take it in, and it stays.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from backbones.infer.graph import aten, constant, finished, given, place

CONVOLUTIONS = (aten.conv2d.default, aten.linear.default)


class Norm(NamedTuple):
    """x * scale + shift, in double precision."""

    scale: Tensor
    shift: Tensor


def fold(graph: GraphModule) -> GraphModule:
    """The same function, to the last digits of float64, with fewer operators. Changes the graph that it is given."""
    for node in list(graph.graph.nodes):
        if node.target == aten.dropout.default and given(node)[2] is False:
            node.replace_all_uses_with(given(node)[0])
            graph.graph.erase_node(node)
    for node in list(graph.graph.nodes):
        if norm := _norm(graph, node):
            _into_those_before(graph, node, norm) or _into_those_after(graph, node, norm)
    return finished(graph)


def _norm(graph: GraphModule, node: Node) -> Norm | None:
    if node.op != "call_function" or node.target != aten.batch_norm.default or given(node)[5] is not False:
        return None
    if not all(_known(graph, argument) for argument in given(node)[1:5]) or None in given(node)[3:5]:
        return None
    weight, bias, mean, variance = (constant(graph, argument) for argument in given(node)[1:5])
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + given(node)[7]).rsqrt()
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return Norm(scale, shift if bias is None else shift + bias.double())


def _into_those_before(graph: GraphModule, node: Node, norm: Norm) -> bool:
    """Into the convolution that it alone reads, or into several whose channels stand beside each other."""
    before = given(node)[0]
    joined = isinstance(before, Node) and before.target == aten.cat.default and given(before)[1:] == (1,)
    sources = list(given(before)[0]) if joined else [before]
    if len(before.users) > 1 or not all(_takes(graph, source) for source in sources):
        return False
    start = 0
    for source in sources:
        weight, bias = _parameters(graph, source)
        assert weight is not None
        scale, shift = (values[start : start + len(weight)] for values in norm)
        start += len(weight)
        old = 0.0 if bias is None else bias.double()
        scaled = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
        _give(graph, source, scaled.to(weight.dtype), (old * scale + shift).to(weight.dtype))
    node.replace_all_uses_with(before)
    graph.graph.erase_node(node)
    return True


def _takes(graph: GraphModule, layer: Any) -> bool:
    """Whether it is a layer with weights that one node reads, once."""
    if not isinstance(layer, Node) or layer.target not in CONVOLUTIONS or len(layer.users) > 1:
        return False
    reader = next(iter(layer.users))
    once = sum(argument is layer for argument in torch.utils._pytree.tree_leaves(given(reader))) == 1
    flat = layer.target != aten.linear.default or layer.meta["val"].dim() == 2  # else its features are not dimension 1
    return once and flat and _known_parameters(graph, layer)


def _into_those_after(graph: GraphModule, node: Node, norm: Norm) -> bool:
    """Into the convolutions that alone read it, if none adds a border."""
    after = list(node.users)
    if not all(user.target == aten.conv2d.default and given(user)[0] is node and not _padded(user) for user in after):
        return False
    if not all(_known_parameters(graph, user) for user in after):
        return False
    for user in after:
        weight, bias = _parameters(graph, user)
        assert weight is not None
        groups = given(user)[6] if len(given(user)) > 6 else 1
        # each group of filters reads its own channels: (filters, channels of a group)
        scale, shift = (v.reshape(groups, -1).repeat_interleave(len(weight) // groups, 0) for v in norm)
        read = weight.double() * scale[:, :, None, None]
        added = (weight.double() * shift[:, :, None, None]).sum((1, 2, 3))
        new = added if bias is None else added + bias.double()
        _give(graph, user, read.to(weight.dtype), new.to(weight.dtype))
        user.replace_input_with(node, given(node)[0])
    graph.graph.erase_node(node)
    return True


def _padded(convolution: Node) -> bool:
    padding = given(convolution)[4] if len(given(convolution)) > 4 else 0
    return bool(torch.tensor(padding).any())


def _known(graph: GraphModule, argument: Any) -> bool:
    """Nothing, or a tensor that the graph holds; not one that it computes."""
    return argument is None or constant(graph, argument) is not None


def _known_parameters(graph: GraphModule, layer: Node) -> bool:
    return constant(graph, given(layer)[1]) is not None and all(_known(graph, a) for a in given(layer)[2:3])


def _parameters(graph: GraphModule, layer: Node) -> tuple[Tensor | None, Tensor | None]:
    """Weight, and bias if it has one."""
    return constant(graph, given(layer)[1]), constant(graph, given(layer)[2]) if len(given(layer)) > 2 else None


def _give(graph: GraphModule, layer: Node, weight: Tensor, bias: Tensor) -> None:
    """Other parameters, of this layer alone: whoever shares the old ones keeps them."""
    layer.args = (given(layer)[0], place(graph, weight, layer), place(graph, bias, layer), *given(layer)[3:])
