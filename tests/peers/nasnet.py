"""pytorchcv's NASNet-A: its extra padding is TensorFlow's SAME at the networks' own sizes only. timm's large one."""

from collections.abc import Iterator

import timm
from pytorchcv.model_provider import get_model
from torch import nn

from backbones.models.nasnet import Cell

PEERS = {
    "nasnet_a_4_1056": lambda: get_model("nasnet_4a1056"),
    "nasnet_a_6_4032": lambda: get_model("nasnet_6a4032"),
    "nasnet_a_6_4032.timm": lambda: timm.create_model("nasnetalarge"),
}
FIXED = {"nasnet_a_4_1056", "nasnet_a_6_4032"}
PREVIOUS, CURRENT = ("conv1x1_prev", "path", "conv_prev_1x1"), ("conv1x1", "conv_1x1")  # their names of our two 1x1


def holders(*modules: nn.Module) -> list[nn.Module]:
    return [m for part in modules for m in part.modules() if [*m.parameters(recurse=False)]]


def parts(cell: nn.Module) -> list[nn.Module]:
    """The layers of one of their cells in our order: the previous map's, the current one's, the table's."""
    children = dict(cell.named_children())
    names = [*children]
    previous = [n for n in names if n in PREVIOUS or n.startswith("path_") or n == "final_path_bn"]
    combined = sorted(n for n in names if n.startswith("comb"))
    return holders(*(children[n] for n in (*previous, *(n for n in names if n in CURRENT), *combined)))


def pairs(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    mine = [m for m in ours.modules() if isinstance(m, Cell)]
    other = [m for m in theirs.modules() if any(n.startswith("comb") for n, _ in m.named_children())]
    for cell, twin in zip(mine, other, strict=True):
        yield from zip(holders(cell), parts(twin), strict=True)
    inside = {m for cell in (*mine, *other) for m in cell.modules()}
    outside = [[m for m in holders(net) if m not in inside] for net in (ours, theirs)]
    yield from zip(*outside, strict=True)
