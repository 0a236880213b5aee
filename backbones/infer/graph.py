"""What a module computes, as a graph of torch's operators that can be rewritten."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node

from backbones.infer.extras import quiet

aten = torch.ops.aten


def export(module: nn.Module, example: Sequence[Tensor]) -> ExportedProgram:
    """A module in eval() as it computes, for any number of images where it can, else for that of the example.

    Raises:
        RuntimeError: it decides by values, or does what torch.export cannot follow
    """
    several = tuple(torch.cat([x, x]) if len(x) == 1 else x for x in example)  # one image would be taken as the rule
    with quiet(), torch.no_grad():
        try:
            shapes = tuple({0: Dim("batch", min=1)} for _ in several)
            shaped = (shapes,) if _varied(module) else shapes
            return _functional(torch.export.export(module, several, dynamic_shapes=shaped))
        except Exception:  # this number of images is part of what it computes
            return _functional(torch.export.export(module, tuple(example)))


def graph_of(program: ExportedProgram) -> GraphModule:
    """Its operators, free of what only checks shapes."""
    with quiet():
        graph: GraphModule = program.module(check_guards=False)
    for node in list(graph.graph.nodes):
        if node.target == aten._native_batch_norm_legit_no_training.default:
            _as_one_norm(graph, node)
        elif node.target == aten.conv2d.padding:
            _as_numbers(node)
        elif node.target in (aten._assert_tensor_metadata.default, aten._assert_scalar.default):
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def given(node: Node) -> tuple[Any, ...]:
    """Its arguments."""
    return tuple(node.args)


def constant(graph: GraphModule, node: Any) -> Tensor | None:
    """The tensor of a node that holds one, such as a weight."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    value: Any = graph
    for name in str(node.target).split("."):
        value = getattr(value, name)
    return value.detach() if isinstance(value, Tensor) else None


def place(graph: GraphModule, value: Tensor, before: Node) -> Node:
    """A node that holds this tensor."""
    number = 0
    while hasattr(graph, name := f"placed_{number}"):
        number += 1
    graph.register_buffer(name, value)
    with graph.graph.inserting_before(before):
        return graph.graph.get_attr(name)


def finished(graph: GraphModule) -> GraphModule:
    """Without what nothing reads."""
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [n for n, _ in (*graph.named_parameters(), *graph.named_buffers()) if n not in used]:
        *path, last = name.split(".")
        delattr(graph.get_submodule(".".join(path)), last)
    graph.recompile()
    return graph


def _functional(program: ExportedProgram) -> ExportedProgram:
    """The same without operators that write over what they read, so that others may be moved past them."""
    schemas = (getattr(node.target, "_schema", None) for node in program.graph.nodes)
    return program.run_decompositions({}) if any(schema and schema.is_mutable for schema in schemas) else program


def _as_one_norm(graph: GraphModule, node: Node) -> None:
    """A norm that also returns its statistics, which nobody reads, becomes one that does not."""
    image, *parameters, momentum, eps = given(node)
    with graph.graph.inserting_before(node):
        norm = graph.graph.call_function(aten.batch_norm.default, (image, *parameters, False, momentum, eps, False))
    for user in list(node.users):
        if user.args[1] == 0:
            norm.meta = dict(user.meta)
            user.replace_all_uses_with(norm)
        graph.graph.erase_node(user)
    graph.graph.erase_node(node)


def _as_numbers(node: Node) -> None:
    """A convolution with padding="same" or "valid" in numbers, where the border is the same on both sides."""
    arguments = [*given(node), *(None, [1, 1], "valid", [1, 1], 1)[len(given(node)) - 2 :]]
    sides = node.args[1].meta["val"].shape[2:] if isinstance(node.args[1], Node) else ()
    dilation = arguments[5] if len(arguments[5]) == 2 else [*arguments[5], *arguments[5]]
    whole = [d * (side - 1) if arguments[4] == "same" else 0 for d, side in zip(dilation, sides, strict=True)]
    if all(border % 2 == 0 for border in whole):
        arguments[4] = [border // 2 for border in whole]
        node.target, node.args = aten.conv2d.default, tuple(arguments)


def _varied(module: nn.Module) -> bool:
    """Whether its forward takes any number of arguments."""
    return bool(module.forward.__code__.co_flags & 0x04) if hasattr(module.forward, "__code__") else False
