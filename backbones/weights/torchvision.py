"""torchvision's networks: what they are here, and its names of our layers."""

import re
from collections.abc import Iterator

from torch import nn

from backbones.backbone import Backbone
from backbones.weights.convert import Leaf, Network, Peer

MOBILE = {"_x0_35": 0.35, "_x0_5": 0.5, "_x0_75": 0.75, "_x1_3": 1.3, "_x1_4": 1.4}
TEMPLATES = {50: ((1, 64), (2, 40), (4, 24), (8, 14)), 101: ((1, 64), (2, 40), (4, 24), (8, 14), (1, 100), (2, 64))}

NETWORKS = (
    Network("alexnet", "alexnet.tv"),
    *(Network(f"vgg{depth}{norm}", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    Network("googlenet", "googlenet.tv"),
    Network("inception_v3", "inception_v3.tv"),
    *(Network(f"resnet{depth}", f"resnet{depth}.tv") for depth in (18, 34, 50, 101, 152)),
    Network("resnext50_32x4d", "resnext50_32x4d"),
    Network("resnext101_32x8d", "resnext101_32x8d.tv"),
    Network("resnext101_64x4d", "resnext101_64x4d"),
    Network("wide_resnet50_2", "wide_resnet50_2"),
    Network("wide_resnet101_2", "wide_resnet101_2.tv"),
    *(Network(f"densenet{depth}", f"densenet{depth}") for depth in (121, 161, 169, 201)),
    Network("squeezenet1_0", "squeezenet1_0"),
    Network("squeezenet1_1", "squeezenet1_1"),
    Network("mobilenet_v2", "mobilenet_v2.tv"),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv") for size in range(8)),
    *(Network("mobilenet_v2", f"mobilenet_v2{x}.tv", kwargs={"width_mult": width}) for x, width in MOBILE.items()),
    *(
        Network(f"resnet{depth}", f"resnext{depth}_{c}x{d}d", kwargs={"groups": c, "width_per_group": d})
        for depth, templates in TEMPLATES.items()
        for c, d in templates
    ),
    Network("resnet101", "resnext101_32x4d", kwargs={"groups": 32, "width_per_group": 4}),
)
