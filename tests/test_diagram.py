"""Diagrams show what ran: every operator once, every skip, every branch; and nothing lies over anything else."""

import csv
import json
from collections.abc import Callable
from functools import cache
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
import torchvision
from torch import Tensor, nn

from backbones import cli, create_model, model_info
from backbones.cli.diagram import draw_diagram
from backbones.cost import Cost, measure_cost
from backbones.plots import diagram
from backbones.plots.diagram import Graph
from backbones.plots.diagram.layout import place

RESIDUAL = {  # network -> a part in which something is added to what skipped a branch
    "resnet18": "stages.1",
    "resnet110_sd_cifar": "stages.1",
    "preact_resnet110_cifar": "stages.1",
    "wrn_16_4": "stages.1",
    "resnext50_32x4d": "stages.1",
    "inception_resnet_v1": "stages.1",
    "xception": "stages.2",
    "mobilenet_v2": "stages.1",
    "shufflenet_v1_g3_x1_0": "stages.1",
    "se_resnet50": "stages.1",
    "squeezenet1_0_simple_bypass": "stages.1",
    "efficientnet_b0": "stages.3",
}
PLAIN = ("lenet5", "vgg16", "googlenet", "mobilenet_v1", "plain20_cifar", "squeezenet1_0")
OTHERS = ("densenet121", "fractalnet20_cifar", "inception_v3", "inception_v4", "nasnet_a_4_1056")
FOREIGN: dict[str, Callable[[], nn.Module]] = {
    "torchvision resnet18": torchvision.models.resnet18,
    "torchvision vgg11": torchvision.models.vgg11,
    "torchvision googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    "torchvision densenet121": torchvision.models.densenet121,
}
NAMES = (*RESIDUAL, *PLAIN, *OTHERS, *FOREIGN)


@cache
def cost(name: str) -> Cost:
    with torch.device("meta"):
        if name in FOREIGN:
            return measure_cost(FOREIGN[name](), (3, 224, 224))
        return measure_cost(create_model(name), model_info(name).input_size)


def titles(graph: Graph) -> set[tuple[str, str]]:
    """Edges by what they join."""
    return {(graph.node(e.source).title, graph.node(e.target).title) for e in graph.edges}


def readers(graph: Graph, title: str) -> list[int]:
    """How many maps each node of this title reads."""
    return [sum(e.target == n.name for e in graph.edges) for n in graph.nodes if n.title == title]


class Tiny(nn.Module):
    """A strided convolution, two branches of which one is a skip, a concatenation, a gate: written as people write."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.inner = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.side = nn.Conv2d(8, 4, 5, padding=2)
        self.gate = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu_()
        x = torch.cat([self.inner(x) + x, self.side(x)], 1)
        return x * self.gate(x.mean((2, 3))).sigmoid()[..., None, None]


def test_a_known_graph() -> None:
    graph = diagram.graph(measure_cost(Tiny(), (3, 8, 8)), "tiny", "")
    stem, inner, side, gate = "conv 3x3, 8 /2", "conv 1x1, 8", "conv 5x5, 4", "linear, 12"
    assert titles(graph) == {
        ("image", stem),
        (stem, inner),
        (stem, side),
        (stem, "addition"),
        (inner, "addition"),
        ("addition", "concatenation"),
        (side, "concatenation"),
        ("concatenation", "global avg pool"),
        ("global avg pool", gate),
        (gate, "multiplication"),
        ("concatenation", "multiplication"),
        ("multiplication", "output"),
    }
    lines = {n.title: n.lines for n in graph.nodes}
    assert (lines[stem], lines[inner], lines[gate]) == (("ReLU",), ("BN · ReLU",), ("sigmoid",))
    skips = {(graph.node(e.source).title, graph.node(e.target).title) for e in graph.edges if e.skip}
    assert skips == {(stem, "addition"), ("concatenation", "multiplication")}
    sizes = {graph.node(e.source).title: e.size for e in graph.edges}
    assert (sizes["image"], sizes[stem], sizes["concatenation"], sizes[gate]) == (
        "3 x 8 x 8",
        "8 x 4 x 4",
        "12 x 4 x 4",
        "12",
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_operator_is_in_one_node(name: str) -> None:
    for stage in (None, ""):
        graph = diagram.graph(cost(name), name, stage)
        shown = sorted(i for node in graph.nodes for i in node.operators)
        assert shown == list(range(len(cost(name).operators)))
        assert sum(node.madds for node in graph.nodes) == cost(name).madds
        assert sum(node.params for node in graph.nodes) == cost(name).params


@pytest.mark.parametrize("name", NAMES)
def test_no_box_lies_over_another(name: str) -> None:
    for stage in (None, ""):
        boxes = diagram.rectangles(diagram.graph(cost(name), name, stage)).values()
        for a, b in combinations(boxes, 2):
            beside = a.x + a.width <= b.x or b.x + b.width <= a.x
            assert beside or a.bottom <= b.y or b.bottom <= a.y


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dark", [False, True])
def test_the_svg_is_well_formed_and_holds_everything(name: str, dark: bool) -> None:
    graph = diagram.graph(cost(name), f"<{name}> & co", "" if dark else None)
    svg = ElementTree.fromstring(diagram.draw(graph, dark))
    words = [t.text or "" for t in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert graph.title in words
    boxes = [r for r in svg.iter("{http://www.w3.org/2000/svg}rect") if r.get("width") != "100%"]
    assert len(boxes) >= len(graph.nodes)
    width, height = (float(svg.get(side) or 0) for side in ("width", "height"))
    assert max(float(r.get("x", 0)) + float(r.get("width", 0)) for r in boxes) < width
    assert max(float(r.get("y", 0)) + float(r.get("height", 0)) for r in boxes) < height


@pytest.mark.parametrize("name", RESIDUAL)
def test_skips_of_residual_families(name: str) -> None:
    graph = diagram.graph(cost(name), name, RESIDUAL[name])
    assert any(e.skip and graph.node(e.target).title == "addition" for e in graph.edges)


@pytest.mark.parametrize("name", PLAIN)
def test_no_skips_in_plain_networks(name: str) -> None:
    assert not any(e.skip for e in diagram.graph(cost(name), name, "").edges)


def test_branches() -> None:
    module = diagram.graph(cost("googlenet"), "", "stages.2.1")
    assert readers(module, "concatenation") == [4]
    assert sum(e.source.startswith("in") for e in module.edges) == 4
    dense = diagram.graph(cost("densenet121"), "", "stages.0")
    assert readers(dense, "concatenation") == [2, 3, 4, 5, 6, 7]
    fractal = diagram.graph(cost("fractalnet20_cifar"), "", "stages.0")
    assert readers(fractal, "mean") == [2, 3]
    cell = diagram.graph(cost("nasnet_a_4_1056"), "", "stages.1.2")
    assert [n.title for n in cell.nodes if n.kind == "end"] == ["from stages.1.0", "from stages.1.1", "to stages.1.3"]
    assert readers(cell, "concatenation") == [6]


def test_a_gate_scales_the_map_that_goes_around_it() -> None:
    graph = diagram.graph(cost("se_resnet50"), "", "stages.1.1")
    (gate,) = [n.name for n in graph.nodes if n.title == "multiplication"]
    around, through = sorted((e for e in graph.edges if e.target == gate), key=lambda e: not e.skip)
    assert (around.skip, around.size, through.skip, through.size) == (True, "512 x 28 x 28", False, "512")


def test_what_repeats_is_drawn_once() -> None:
    graph = diagram.graph(cost("resnet18"), "", "stages.1")
    assert [g.repeat for g in graph.groups] == [1, 1]  # the second has no projection
    graph = diagram.graph(cost("se_resnet50"), "", "stages.1")
    assert [(g.name, g.repeat) for g in graph.groups] == [("stages.1.0", 1), ("stages.1.1 to 3", 3)]
    stage = next(row for row in cost("se_resnet50").stages() if row.name == "stages.1")
    assert sum(n.params for n in graph.nodes) == stage.params
    assert sum(n.madds for n in graph.nodes) == stage.madds
    dense = diagram.graph(cost("densenet121"), "", "stages.2")
    assert [(g.repeat, g.note) for g in dense.groups][-1] == (23, "each reads all maps before it")
    assert {e.size for e in dense.edges} >= {"288-992 x 14 x 14"}


def test_lanes_pass_boxes() -> None:
    """A skip past three boxes runs beside them, in its own lane."""
    sizes = dict.fromkeys("abcde", (100.0, 40.0))
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("a", "e"), ("b", "e")]
    rows = {name: i for i, name in enumerate("abcde")}
    placed = place(sizes, edges, rows, {}, {("a", "e"), ("b", "e")}, {}, {})
    assert len({x for x, _ in placed.centre.values()}) == 1
    (x, *_), (other, *_) = ({lane[0] for lane in placed.lanes[edge]} for edge in edges[-2:])
    assert abs(x - placed.centre["b"][0]) > 50 < abs(other - placed.centre["b"][0])
    assert x != other


def test_parts_of_foreign_networks() -> None:
    def parts(name: str) -> list[str]:
        return [n.title for n in diagram.graph(cost(name), "").nodes if n.kind == "part"]

    assert parts("torchvision resnet18") == ["conv1 to maxpool", *(f"layer{i}" for i in range(1, 5)), "avgpool to fc"]
    assert "maxpool3 to inception4e" in parts("torchvision googlenet")
    assert "features.denseblock3" in parts("torchvision densenet121")


def test_unknown_parts() -> None:
    with pytest.raises(LookupError, match=r"no part 'stages.7'; its parts are stem, stages.0, .*head"):
        diagram.graph(cost("resnet18"), "", "stages.7")
    with pytest.raises(LookupError, match=r"'layer1.0.bn1' has no box of its own.* that of 'layer1.0.conv1'; give"):
        diagram.graph(cost("torchvision resnet18"), "", "layer1.0.bn1")
    assert diagram.graph(cost("torchvision resnet18"), "", "layer1.0.conv1").node("out")
    with pytest.raises(ValueError, match="Identity computes nothing"):
        diagram.graph(measure_cost(nn.Identity(), (3, 8, 8)), "")


def test_the_command_writes_picture_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["plot", "diagram", "resnet18", "--stage", "stages.1", "--dark", "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["backbones", *args])
    cli.main()
    assert "diagram-resnet18-stages.1-dark.svg" in capsys.readouterr().out
    stem = tmp_path / "diagram-resnet18-stages.1-dark"
    graph = diagram.graph(cost("resnet18"), "resnet18 · stages.1", "stages.1")
    assert Path(f"{stem}.svg").read_text(encoding="utf-8") == diagram.draw(graph, dark=True)
    with Path(f"{stem}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["what"] for row in rows].count("edge") == len(graph.edges)
    names = {row["name"] for row in rows if row["what"] == "node"}
    assert {row[end] for row in rows if row["what"] == "edge" for end in ("source", "target")} == names
    assert json.loads(json.dumps(graph.rows())) == graph.rows()


def test_each_drawing_has_a_name_of_its_own() -> None:
    names = [draw_diagram("lenet5", stage).name for stage in (None, "", "stages.0")]
    assert names == ["diagram-lenet5", "diagram-lenet5-all", "diagram-lenet5-stages.0"]


@pytest.mark.parametrize("stage", [None, ""])
def test_a_single_layer(stage: str | None) -> None:
    graph = diagram.graph(measure_cost(nn.Conv2d(3, 4, 3), (3, 8, 8)), "alone", stage)
    assert titles(graph) == {("image", title := "conv 3x3, 4" if stage == "" else "network"), (title, "output")}
    ElementTree.fromstring(diagram.draw(graph))
