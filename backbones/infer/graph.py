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
    """The module as it computes in eval(), for any number of images where it can, else for that of the example.

    Raises:
        RuntimeError: it decides by values, or does what torch.export cannot follow
    """
    several = tuple(torch.cat([x, x]) if len(x) == 1 else x for x in example)  # one image would be taken as the rule
    training = [part for part in module.modules() if part.training]
    try:
        module.eval()
        with quiet(), torch.no_grad():
            try:
                shapes = tuple({0: Dim("batch", min=1)} for _ in several)
                return torch.export.export(module, several, dynamic_shapes=(shapes,) if _varied(module) else shapes)
            except Exception:
                return torch.export.export(module, tuple(example))
    finally:
        for part in training:
            part.training = True


def graph_of(program: ExportedProgram) -> GraphModule:
    """Its operators, free of what only checks shapes."""
    with quiet():
        graph: GraphModule = program.module(check_guards=False)
    for node in list(graph.graph.nodes):
        if node.target in (aten._assert_tensor_metadata.default, aten._assert_scalar.default):
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


def _varied(module: nn.Module) -> bool:
    """Whether its forward takes any number of arguments."""
    return bool(module.forward.__code__.co_flags & 0x04) if hasattr(module.forward, "__code__") else False
