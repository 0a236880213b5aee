"""Keras' names of our layers, one graph of layers for each family."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import nn

from backbones.backbone import Backbone
from backbones.weights.convert import Layers, Leaf
from backbones.weights.keras_graph import Graph, Node, Separable
from backbones.weights.layers import blocks, convs, holds, rows


def numbered(kind: str, number: int) -> str:
    """The name that a layer without one gets."""
    return f"{kind}_{number}" if number else kind


def vgg(model: Backbone) -> Graph:
    graph = Graph()
    x, grid = graph.input, model.head.grid
    for stage, part in enumerate(model.stages, 1):
        x = graph.then(x, *(f"block{stage}_conv{i}" for i in each(convs(part))))
    channels = convs(model.stages)[-1].out_channels
    graph.then(x, Leaf("fc1", (channels, grid, grid)), "fc2", "predictions")
    return graph


def resnet(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.input, "conv1_conv", "conv1_bn")
    for stage, index, block in blocks(model):
        at = f"conv{stage + 2}_block{index + 1}"
        y = graph.then(x, *bottleneck(at), f"{at}_3_bn")
        shortcut = graph.then(x, f"{at}_0_conv", f"{at}_0_bn") if holds(block.shortcut) else x
        x = graph.then(graph.merge(shortcut, y), "")
    graph.then(x, "predictions")
    return graph


def preact_resnet(model: Backbone) -> Graph:
    """A stack begins with the unit that has a projection, not where the map shrinks."""
    graph = Graph()
    x, stack, unit = graph.then(graph.input, "conv1_conv"), 1, 0
    for block in (b for _, _, b in blocks(model) if hasattr(b, "branch")):
        stack, unit = (stack + 1, 1) if holds(block.shortcut) else (stack, unit + 1)
        at = f"conv{stack}_block{unit}"
        active = graph.then(x, f"{at}_preact_bn", "")
        y = graph.then(active, *bottleneck(at, pad=True))
        shortcut = graph.then(active, f"{at}_0_conv") if holds(block.shortcut) else x
        x = graph.merge(graph.then(x, "") if isinstance(block.shortcut, nn.MaxPool2d) else shortcut, y)
    graph.then(x, "post_bn", "predictions")
    return graph


def bottleneck(at: str, pad: bool = False) -> Iterator[str]:
    """Up to the last convolution."""
    yield from (f"{at}_1_conv", f"{at}_1_bn", "")
    yield from ["", f"{at}_2_conv", f"{at}_2_bn", ""][not pad :]
    yield f"{at}_3_conv"


def densenet(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.input, "conv1_conv", "conv1_bn")
    for stage, part in enumerate(model.stages, 1):
        for module in (m for m in part.children() if holds(m)):
            if isinstance(module, nn.BatchNorm2d):
                x = graph.then(x, "bn")
            elif len(convs(module)) == 1:
                x = graph.then(x, f"pool{stage}_bn", f"pool{stage}_conv")
            else:
                for i in each(module.children()):
                    at = f"conv{stage + 1}_block{i}"
                    x = graph.then(x, f"{at}_0_bn", f"{at}_1_conv", f"{at}_1_bn", f"{at}_2_conv")
    graph.then(x, "predictions")
    return graph


def mobilenet_v1(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.input, "conv1", "conv1_bn")
    for i in each(blocks(model)):
        x = graph.then(x, *(f"conv_{kind}_{i}{layer}" for kind in ("dw", "pw") for layer in ("", "_bn")))
    graph.then(x, Leaf("conv_preds", (model.num_features, 1, 1)))
    return graph


def mobilenet_v2(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.input, "Conv1", "bn_Conv1")
    for i, block in enumerate(b for _, _, b in blocks(model) if hasattr(b, "branch")):
        at = f"block_{i}_" if i else "expanded_conv_"
        names = ("expand", "depthwise", "project")[-len(convs(block.branch)) :]
        x = graph.then(x, *(f"{at}{name}{layer}" for name in names for layer in ("", "_BN")))
    graph.then(x, "Conv_1", "Conv_1_bn", "predictions")
    return graph


def efficientnet(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.foreign(graph.input, "normalization"), "stem_conv", "stem_bn")
    for row, index, block in rows(model):
        at = f"block{row + 1}{chr(ord('a') + index)}_"
        wide = ("expand_conv", "expand_bn") if len(convs(block.branch)) > 4 else ()
        names = (*wide, "dwconv", "bn", "se_reduce", "se_expand", "project_conv", "project_bn")
        x = graph.then(x, *(at + name for name in names))
    graph.then(x, "top_conv", "top_bn", "predictions")
    return graph


def xception(model: Backbone) -> Graph:
    graph = Graph()
    x = graph.then(graph.input, "block1_conv1", "block1_conv1_bn", "block1_conv2", "block1_conv2_bn", "")
    number, projections = 1, 0
    for _, _, block in blocks(model):
        if not hasattr(block, "branch"):
            continue
        y, number = x, number + 1
        for i in range(1, len(convs(block.branch)) // 2 + 1):
            at = f"block{number}_sepconv{i}"
            y = graph.then(y, "", Separable(at), f"{at}_bn")
        if holds(block.shortcut):
            y = graph.then(y, "")
            x = graph.then(x, numbered("conv2d", projections), numbered("batch_normalization", projections))
            projections += 1
        x = graph.merge(y, x)
    for i in (1, 2):
        x = graph.then(x, Separable(f"block{number + 1}_sepconv{i}"), f"block{number + 1}_sepconv{i}_bn")
    graph.then(x, "predictions")
    return graph


class Inception:
    """Walks the modules of an Inception network, whose layers have numbers for names but for a few."""

    def __init__(self) -> None:
        self.graph, self.convs, self.norms, self.residuals = Graph(), 0, 0, dict[str, int]()

    def walk(self, module: nn.Module, x: Node) -> Node:
        if isinstance(module, nn.Conv2d):
            self.convs += 1
            return self.graph.then(x, numbered("conv2d", self.convs - 1))
        if isinstance(module, nn.BatchNorm2d):
            self.norms += 1
            return self.graph.then(x, numbered("batch_normalization", self.norms - 1))
        if isinstance(branches := getattr(module, "branches", None), nn.ModuleList):
            return self.graph.merge(*(self.walk(branch, x) for branch in branches))
        if hasattr(module, "branch"):
            return self.residual(module, x)
        if isinstance(module, nn.Sequential):
            for part in module:
                x = self.walk(part, x)
            return x
        return self.graph.then(x, "")

    def residual(self, block: Any, x: Node) -> Node:
        at = {256: "block35", 320: "block35", 1088: "block17", 2080: "block8"}[block.branch[1].out_channels]
        self.residuals[at] = self.residuals.get(at, 0) + 1
        y = self.graph.then(self.walk(block.branch[0], x), f"{at}_{self.residuals[at]}_conv")
        x = self.graph.merge(x, y)
        return x if isinstance(block.relu, nn.Identity) else self.graph.then(x, "")


def inception_v3(model: Backbone) -> Graph:
    inception = Inception()
    x = inception.walk(model.stages, inception.walk(model.stem, inception.graph.input))
    inception.graph.then(x, "predictions")
    return inception.graph


def inception_resnet(model: Backbone) -> Graph:
    inception, (*stages, last) = Inception(), list(model.stages)
    parts = [model.stem, *stages, *list(last.children())[:-1]]
    x = inception.walk(nn.Sequential(*parts), inception.graph.input)
    inception.graph.then(x, "conv_7b", "conv_7b_bn", "predictions")
    return inception.graph


def nasnet(model: Backbone) -> Graph:
    graph = Graph()
    p = x = graph.then(graph.input, "stem_conv1", "stem_bn1")
    normal = reductions = 0
    for _, _, cell in blocks(model):
        if cell.table.stride > 1:
            reductions += 1
            kind, at = "reduction", f"stem_{reductions}" if reductions < 3 else f"reduce_{normal}"
        else:
            kind, at = "normal", str(normal + (reductions > 2))
            normal += 1
        p, x = (p if cell.skips else x), nasnet_cell(graph, cell, kind, at, p, x)
    graph.then(x, "", "", "predictions")
    return graph


def nasnet_cell(graph: Graph, cell: Any, kind: str, at: str, p: Node, x: Node) -> Node:
    if hasattr(cell.adjust, "even"):
        p = graph.then(p, "")
        even, odd = graph.then(p, "", f"adjust_conv_1_{at}"), graph.then(p, "", "", "", f"adjust_conv_2_{at}")
        p = graph.then(graph.merge(even, odd), f"adjust_bn_{at}")
    elif holds(cell.adjust):
        p = graph.then(p, "", f"adjust_conv_projection_{at}", f"adjust_bn_{at}")
    h = graph.then(x, "", f"{kind}_conv_1_{at}", f"{kind}_bn_1_{at}")
    known = {"h_i-1": p, "h_i": h}
    padded = graph.then(h, "") if cell.table.stride > 1 else h
    for i, row in enumerate(cell.table.rows, 1):
        sums = []
        for side, operation, source in (("left", row.left, row.left_input), ("right", row.right, row.right_input)):
            name = f"{kind}_{side}{4 if kind == 'reduction' and i == 5 else i}_{at}"
            if operation.startswith("sep"):
                pad = ("",) if cell.table.stride > 1 and source.startswith("h") else ()
                y = graph.then(known[source], "", *pad, *separable(1, name))
                sums.append(graph.then(y, "", *separable(2, name)))
            elif operation == "identity":
                sums.append(known[source])
            else:
                sums.append(graph.then(padded if source == "h_i" else known[source], ""))
        known[f"x{i}"] = graph.merge(*sums)
    return graph.merge(*(known[name] for name in cell.table.concatenated))


def separable(number: int, name: str) -> Iterable[str]:
    return Separable(f"separable_conv_{number}_{name}"), f"separable_conv_{number}_bn_{name}"


def each(parts: Iterable[Any]) -> range:
    """1, 2, ... for as many."""
    return range(1, sum(1 for _ in parts) + 1)


LAYERS: Mapping[str, Layers] = {
    "vgg": vgg,
    "inception_v3": inception_v3,
    "inception_resnet": inception_resnet,
    "resnet": resnet,
    "preact_resnet": preact_resnet,
    "densenet": densenet,
    "xception": xception,
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": mobilenet_v2,
    "nasnet": nasnet,
    "efficientnet": efficientnet,
}
