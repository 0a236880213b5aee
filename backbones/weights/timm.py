"""timm's networks: what they are here."""

from backbones.weights.convert import Network

RESNETS = (*(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), "resnext101_32x8d", "wide_resnet101_2")
MOBILE = {"035": "_x0_35", "050": "_x0_5", "075": "_x0_75", "100": "", "140": "_x1_4"}
SE = ("resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d")

NETWORKS = (
    *(Network(f"vgg{depth}{norm}", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    Network("inception_v3", "inception_v3.tv"),
    Network("inception_v4", "inception_v4.timm"),
    Network("inception_resnet_v2", "inception_resnet_v2.slim"),
    *(Network(name, f"{name}.tv") for name in RESNETS),
    *(Network(f"resnetv2_{depth}", f"preact_resnet{depth}.timm") for depth in (50, 101, 152)),
    Network("wide_resnet50_2", "wide_resnet50_2"),
    *(Network(f"resnext{size}", f"resnext{size}") for size in ("50_32x4d", "101_32x4d", "101_64x4d")),
    *(Network(f"densenet{depth}", f"densenet{depth}") for depth in (121, 161, 169, 201)),
    Network("legacy_xception", "xception.timm"),
    Network("mobilenetv1_100", "mobilenet_v1.timm"),
    *(Network(f"mobilenetv2_{width}", f"mobilenet_v2{x}.tv") for width, x in MOBILE.items()),
    *(Network(f"legacy_se{name}", f"se_{name}") for name in SE),
    *(Network(f"se{name}", f"se_{name}.timm") for name in SE),
    Network("legacy_senet154", "senet154"),
    Network("nasnetalarge", "nasnet_a_6_4032.timm"),
    *(Network(f"tf_efficientnet_b{size}", f"efficientnet_b{size}") for size in range(8)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv") for size in range(5)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv", {"bn_eps": 1e-5}) for size in (5, 6, 7)),
)
