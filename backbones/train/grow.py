"""A deep VGG from a trained shallow one, as its authors first had to begin (Sec. 3.1)."""

from typing import NamedTuple

from torch import nn

from backbones.backbone import Backbone
from backbones.models.vgg import VGG

CONVOLUTIONS = 4  # of the shallow network that are taken over, beside all its fully connected layers


class Copied(NamedTuple):
    """One layer that a network took over."""

    layer: str
    source: str
    parameters: int


def grow_from(model: Backbone, shallow: Backbone) -> list[Copied]:
    """Copy the first four convolutions and the fully connected layers of a VGG into a deeper one; say what was copied.

    A convolution goes to the same place in the same stage, which is where it fits, and its batch norm goes with it. The
    layers between keep their initialisation. ValueError where this is not defined, and then nothing is copied.
    """
    ours, theirs = _layers(model), _layers(shallow)
    convolutions = [place for place in theirs if place[0] != "head"]
    taken = [place for place in theirs if place not in convolutions[CONVOLUTIONS:]]
    shapes = [
        {p: [t.shape for _, m in found[p] for t in m.parameters()] for p in taken if p in found}
        for found in (ours, theirs)
    ]
    if len(ours) <= len(theirs) or shapes[0] != shapes[1]:
        raise ValueError(
            "grow_from copies a shallow VGG into a deeper one with the same norms, classes and channels, "
            "such as vgg11 into vgg16, or vgg11_bn into vgg16_bn"
        )
    copied = []
    for place in taken:
        for (name, mine), (source, yours) in zip(ours[place], theirs[place], strict=True):
            mine.load_state_dict(yours.state_dict())
            copied.append(Copied(name, source, sum(p.numel() for p in yours.parameters())))
    return copied


def _layers(model: Backbone) -> dict[tuple[str, int], list[tuple[str, nn.Module]]]:
    """(part, how manieth) -> a convolution or fully connected layer with its name, and the norm behind it."""
    if not isinstance(model, VGG):
        raise ValueError(f"grow_from takes two VGGs; one of these is a {type(model).__name__}")
    found: dict[tuple[str, int], list[tuple[str, nn.Module]]] = {}
    parts = {**{f"stages.{i}": stage for i, stage in enumerate(model.stages)}, "head": model.head}
    for part, module in parts.items():
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                place = part, sum(key[0] == part for key in found)
                found[place] = [(f"{part}.{name}", layer)]
            elif isinstance(layer, nn.BatchNorm2d):
                found[place].append((f"{part}.{name}", layer))
    return found
