"""timm's networks: what they are here, and its names of our layers."""

import re
from collections.abc import Iterator

from torch import nn

from backbones.backbone import Backbone
from backbones.weights.convert import Leaf, Network, Peer
from backbones.weights.layers import blocks, convs, holds, normed, positions
from backbones.weights.torchvision import TEMPLATES, densenet, inception_v3, resnet

EXCITED = ("resnet50", "resnet101", "resnet152", "resnext50_32x4d", "resnext101_32x4d")
MOBILE = {"_x0_35": "035", "_x0_5": "050", "_x0_75": "075", "": "100", "_x1_4": "140"}
RELEASED = {"pad_type": "same", "bn_eps": 1e-3}
"""padding and eps of the authors' releases"""
WIDER = {"18_x1_5": (96, 192, 384, 768), "18_x2": (128, 256, 512, 1024), "18_x3": (192, 384, 768, 1536)}
WIDER |= {"34_x1_5": WIDER["18_x1_5"], "34_x2": WIDER["18_x2"]}

NETWORKS = (
    *(Network(f"vgg{depth}{norm}", f"vgg{depth}{norm}") for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(Network(f"resnet{depth}", f"resnet{depth}.tv") for depth in (18, 34, 50, 101, 152)),
    Network("inception_v3", "inception_v3.tv", {"aux": False}),
    *(Network(f"densenet{depth}", f"densenet{depth}") for depth in (121, 161, 169, 201)),
    Network("resnext50_32x4d", "resnext50_32x4d"),
    Network("resnext101_32x4d", "resnext101_32x4d"),
    Network("resnext101_32x8d", "resnext101_32x8d.tv"),
    Network("resnext101_64x4d", "resnext101_64x4d"),
    Network("inception_v4", "inception_v4.timm"),
    Network("inception_resnet_v2", "inception_resnet_v2.slim"),
    *(Network(f"resnetv2_{depth}", f"preact_resnet{depth}.timm") for depth in (18, 34, 50, 101, 152)),
    Network("wide_resnet50_2", "wide_resnet50_2"),
    Network("wide_resnet101_2", "wide_resnet101_2.tv"),
    Network("legacy_xception", "xception.timm"),
    Network("mobilenetv1_100", "mobilenet_v1.timm"),
    *(Network(f"legacy_se{name}", f"se_{name}") for name in EXCITED),
    Network("legacy_senet154", "senet154"),
    *(Network(f"se{name}", f"se_{name}.timm") for name in EXCITED),
    Network("senet154", "senet154.timm"),
    Network("nasnetalarge", "nasnet_a_6_4032.timm", {"aux": False}),
    *(Network(f"mobilenetv2_{theirs}", f"mobilenet_v2{ours}.tv") for ours, theirs in MOBILE.items()),
    *(Network(f"tf_efficientnet_b{size}", f"efficientnet_b{size}") for size in range(8)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv") for size in range(5)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv", {"bn_eps": 1e-5}) for size in range(5, 8)),
    *(Network(f"efficientnet_b{size}", f"efficientnet_b{size}.tv", kwargs={"bn_eps": 1e-3}) for size in range(5, 8)),
    Network("inception_v3", "inception_v3.tv", kwargs={"aux_logits": True}),
    *(
        Network(f"resnet{depth}", f"resnext{depth}_{c}x{d}d", kwargs={"cardinality": c, "base_width": d})
        for depth, templates in TEMPLATES.items()
        for c, d in templates
    ),
    *(Network(f"resnet{name[:2]}", f"wrn_{name}", kwargs={"channels": channels}) for name, channels in WIDER.items()),
    Network("densenet121", "densenet264", kwargs={"block_config": (6, 12, 64, 48)}),
    Network("mobilenetv1_100", "mobilenet_v1", kwargs={**RELEASED, "act_layer": "relu"}),
    *(Network(f"mobilenetv2_{theirs}", f"mobilenet_v2{ours}", kwargs=RELEASED) for ours, theirs in MOBILE.items()),
)

A = ("branch0", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2", "branch3.1")
B = ("branch0", *(f"branch1.{i}" for i in range(3)), *(f"branch2.{i}" for i in range(5)), "branch3.1")
C = (
    *("branch0", "branch1_0", "branch1_1a", "branch1_1b"),
    *("branch2_0", "branch2_1", "branch2_2", "branch2_3a", "branch2_3b", "branch3.1"),
)
OF_4 = ("branch0.0", "branch0.1", *(f"branch1.{i}" for i in range(4)))
OF_3 = ("branch0", *(f"branch1.{i}" for i in range(3)))
INCEPTION_V4 = (("conv",), OF_4, ("conv",), *(A,) * 4, OF_3, *(B,) * 7, OF_4, *(C,) * 3)
"""the layers of each module behind the first three convolutions, in the order of its branches"""
INCEPTION_RESNET = {
    "mixed_5b": A,
    **{f"repeat.{i}": A[:-1] for i in range(10)},
    "mixed_6a": OF_3,
    **{f"repeat_1.{i}": OF_3 for i in range(20)},
    "mixed_7a": ("branch0.0", "branch0.1", "branch1.0", "branch1.1", "branch2.0", "branch2.1", "branch2.2"),
    **{f"repeat_2.{i}": OF_3 for i in range(9)},
    "block8": OF_3,
}


def vgg(model: Backbone) -> Iterator[str | Leaf]:
    """One numbered row of layers; the first two matrices are convolutions."""
    yield from (f"features.{i}" for i in positions(model.stages))
    yield from (Leaf("pre_logits.fc1", (512, 7, 7)), Leaf("pre_logits.fc2", (4096, 1, 1)), "head.fc")


def senet(model: Backbone) -> Iterator[str]:
    """timm's ports of the authors' release, which pools as Caffe does, and its ResNets with gates."""
    legacy = model.settings.get("caffe_pool", True)
    steps = len(convs(model.stem))
    if legacy:
        for i in range(1, steps + 1):
            yield from (f"layer0.conv{i}", f"layer0.bn{i}")
    else:
        yield from ("conv1", "bn1") if steps == 1 else ("conv1.0", "conv1.1", "conv1.3", "conv1.4", "conv1.6", "bn1")
    gate, classifier = ("se_module", "last_linear") if legacy else ("se", "fc")
    for stage, index, block in blocks(model):
        at = f"layer{stage + 1}.{index}"
        for i in (1, 2, 3):
            yield from (f"{at}.conv{i}", f"{at}.bn{i}")
        yield from (f"{at}.{gate}.fc1", f"{at}.{gate}.fc2")
        if holds(block.shortcut):
            yield from (f"{at}.downsample.0", f"{at}.downsample.1")
    yield classifier


def preact_resnet(model: Backbone) -> Iterator[str | Leaf]:
    """The classifier is a convolution."""
    yield "stem.conv"
    for stage, index, unit in blocks(model):
        if isinstance(unit, nn.BatchNorm2d):
            break
        at = f"stages.{stage}.blocks.{index}"
        for i in range(1, len(convs(unit.branch)) + 1):
            yield from (f"{at}.norm{i}", f"{at}.conv{i}")
        if holds(unit.shortcut):
            yield f"{at}.downsample.conv"
    yield from ("norm", Leaf("head.fc", (model.num_features, 1, 1)))


def inception_v4(model: Backbone) -> Iterator[str]:
    yield from normed(*(f"features.{i}" for i in range(3)))
    for i, layers in enumerate(INCEPTION_V4, 3):
        yield from normed(*(f"features.{i}.{layer}" for layer in layers))
    yield "last_linear"


def inception_resnet(model: Backbone) -> Iterator[str]:
    yield from normed(*(f"conv2d_{layer}" for layer in ("1a", "2a", "2b", "3b", "4a")))
    for module, layers in INCEPTION_RESNET.items():
        yield from normed(*(f"{module}.{layer}" for layer in layers))
        if not module.startswith("mixed"):
            yield f"{module}.conv2d"
    yield from (*normed("conv2d_7b"), "classif")


def xception(model: Backbone) -> Iterator[str]:
    yield from ("conv1", "bn1", "conv2", "bn2")
    modules = [block for _, _, block in blocks(model) if hasattr(block, "branch")]
    for number, block in enumerate(modules, 1):
        for i, layer in enumerate(block.branch):
            if convs(layer):
                yield from (f"block{number}.rep.{i}.conv1", f"block{number}.rep.{i}.pointwise")
            elif holds(layer):
                yield f"block{number}.rep.{i}"
        if holds(block.shortcut):
            yield from (f"block{number}.skip", f"block{number}.skipbn")
    for i in (3, 4):
        yield from (f"conv{i}.conv1", f"conv{i}.pointwise", f"bn{i}")
    yield "fc"


def nasnet(model: Backbone) -> Iterator[str]:
    """Its cells are numbered through, those that reduce apart."""
    yield from ("conv0.conv", "conv0.bn")
    for stage, index, cell in blocks(model):
        first = f"cell_stem_{stage}" if stage < 2 else f"reduction_cell_{stage - 2}"
        at = f"cell_{(stage - 1) * 6 + index - 1}" if index else first
        if hasattr(cell.adjust, "even"):
            yield from (f"{at}.path_1.conv", f"{at}.path_2.conv", f"{at}.final_path_bn")
        elif holds(cell.adjust):
            yield from normed(f"{at}.conv_prev_1x1")
        yield from normed(f"{at}.conv_1x1")
        for i in (i for i, operation in enumerate(cell.operations) if holds(operation)):
            branch = f"{at}.comb_iter_{i // 2}_{'right' if i % 2 else 'left'}"
            for half in (1, 2):
                separable = f"{branch}.separable_{half}"
                yield from (f"{separable}.depthwise_conv2d", f"{separable}.pointwise_conv2d", f"{branch}.bn_sep_{half}")
    yield "last_linear"


def mobilenet_v1(model: Backbone) -> Iterator[str]:
    yield from ("conv_stem", "bn1")
    for stage, index, _ in blocks(model):
        at = f"blocks.{stage}.{index}"
        yield from (f"{at}.conv_dw", f"{at}.bn1", f"{at}.conv_pw", f"{at}.bn2")
    yield "classifier"


def inverted(model: Backbone) -> Iterator[str]:
    """MobileNetV2 and EfficientNet: rows of blocks, of which only the first adds nothing."""
    yield from ("conv_stem", "bn1")
    row, index = -1, 0
    for block in (b for _, _, b in blocks(model) if hasattr(b, "branch")):
        row, index = (row + 1, 0) if block.drop_path is None else (row, index + 1)
        gated = any(hasattr(part, "squeeze") for part in block.branch)
        widens = len(convs(block.branch)) - 2 * gated == 3
        names = ["conv_pw", "conv_dw", "conv_pwl"] if widens else ["conv_dw", "conv_pw"]
        for i, name in enumerate(names, 1):
            if gated and i == len(names):
                yield from (f"blocks.{row}.{index}.se.conv_reduce", f"blocks.{row}.{index}.se.conv_expand")
            yield from (f"blocks.{row}.{index}.{name}", f"blocks.{row}.{index}.bn{i}")
    yield from ("conv_head", "bn2", "classifier")


def _create(network: Network) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(network.name, **network.kwargs)
    return model


def _respell(name: str) -> str:
    """Torchvision's files, which timm reads too: VGG's matrices, and `norm.1` in DenseNet's of 2017."""
    for theirs, name_of_timm in (("0", "pre_logits.fc1"), ("3", "pre_logits.fc2"), ("6", "head.fc")):
        name = re.sub(rf"^classifier\.{theirs}\.", f"{name_of_timm}.", name)
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)


SLIDES = "timm's, on images of 256 pixels a side and more, slides its first matrix over the map; this network pools it"

TIMM = Peer(
    name="timm",
    networks=NETWORKS,
    layers={
        "vgg": vgg,
        "resnet": resnet,
        "inception_v3": inception_v3,
        "densenet": densenet,
        "resnext": resnet,
        "inception_v4": inception_v4,
        "inception_resnet": inception_resnet,
        "preact_resnet": preact_resnet,
        "wide_resnet": resnet,
        "xception": xception,
        "mobilenet_v1": mobilenet_v1,
        "senet": senet,
        "nasnet": nasnet,
        "mobilenet_v2": inverted,
        "efficientnet": inverted,
    },
    create=_create,
    respell=_respell,
    alike={
        "resnet18.tv": "resnetblur18",
        "resnet50.tv": "resnetblur50 and resnetaa50",
        "efficientnet_b0": "efficientnet_blur_b0",
        "efficientnet_b0.tv": "efficientnet_blur_b0",
    },
    hides={network.name: SLIDES for network in NETWORKS if network.name.startswith("vgg")},
)
