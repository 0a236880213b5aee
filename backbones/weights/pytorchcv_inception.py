"""pytorchcv's Inceptions, Xception and NASNet: what they are here, and its names of the layers of modules that branch.

BN-Inception and NASNet are padded there as here for images of its own size (or of the odd and even neighbour) only.
"""

from collections.abc import Iterator

from backbones.backbone import Backbone
from backbones.weights.convert import Layers, Network
from backbones.weights.layers import blocks, convs, holds, normed

NASNET_7_1920 = {
    "repeat": 7,
    "penultimate_filters": 1920,
    "init_block_channels": 96,
    "final_pool_size": 10,
    "extra_padding": False,
    "skip_reduction_layer_input": True,
    "in_size": (299, 299),
}

NETWORKS = (
    Network("bninception", "inception_v2.caffe", {"conv_bias": True}),
    Network("inceptionv3", "inception_v3.tv", {"aux": False}),
    Network("inceptionv4", "inception_v4.timm"),
    Network("inceptionresnetv2", "inception_resnet_v2.slim"),
    Network("xception", "xception.timm"),
    Network("nasnet_4a1056", "nasnet_a_4_1056", {"aux": False}),
    Network("nasnet_6a4032", "nasnet_a_6_4032", {"aux": False}),
    Network("nasnet.get_nasnet", "nasnet_a_7_1920", {"aux": False}, NASNET_7_1920),
)

SEPARABLE = ("conv.dw_conv", "conv.pw_conv", "bn")

Module = tuple[str, ...]
"""its convolutions, in the order of the branches"""


def row(branch: int, length: int) -> Module:
    """Convolutions one behind another."""
    return tuple(f"branch{branch}.conv_list.conv{i}" for i in range(1, length + 1))


def fan(branch: int) -> Module:
    """The two convolutions side by side that end a branch."""
    return (f"branch{branch}.conv1x3", f"branch{branch}.conv3x1")


FIRST, POOLED = ("branch1.conv",), ("branch4.conv",)
A = (*FIRST, *row(2, 2), *row(3, 3), *POOLED)
A_TO_B = (*row(1, 1), *row(2, 3))
B = (*FIRST, *row(2, 3), *row(3, 5), *POOLED)
B_TO_C = (*row(1, 2), *row(2, 4))
C_OF_V3 = (*FIRST, *row(2, 1), *fan(2), *row(3, 2), *fan(3), *POOLED)
C_OF_V4 = (*FIRST, *row(2, 1), *fan(2), *row(3, 3), *fan(3), *POOLED)
RESIDUAL_A = (*FIRST, *row(2, 2), *row(3, 3))
RESIDUAL = (*FIRST, *row(2, 3))
RESIDUAL_B_TO_C = (*row(1, 2), *row(2, 2), *row(3, 3))
KEEPS = (
    *("branch1", "branch2.conv1", "branch2.conv2"),
    *("branch3.conv1", "branch3.conv2", "branch3.conv3", "branch4.conv"),
)
STRIDES = ("branch1.conv1", "branch1.conv2", "branch2.conv1", "branch2.conv2", "branch2.conv3")

INCEPTION_V2 = ((KEEPS,) * 2, (STRIDES, *(KEEPS,) * 4), (STRIDES, *(KEEPS,) * 2))
INCEPTION_V3 = ((A,) * 3, (A_TO_B, *(B,) * 4), (B_TO_C, *(C_OF_V3,) * 2))
INCEPTION_V4 = ((A,) * 4, (A_TO_B, *(B,) * 7), (B_TO_C, *(C_OF_V4,) * 3))
INCEPTION_RESNET = ((RESIDUAL_A,) * 10, (A_TO_B, *(RESIDUAL,) * 20), (RESIDUAL_B_TO_C, *(RESIDUAL,) * 10))
"""the modules of each of the peer's stages"""


def modules(stages: tuple[tuple[Module, ...], ...], residual: bool = False) -> Iterator[str]:
    """A residual module, which is one that does not stride, ends with a convolution that has no norm."""
    for stage, units in enumerate(stages, 1):
        for unit, layers in enumerate(units, 1):
            at = f"features.stage{stage}.unit{unit}"
            yield from normed(*(f"{at}.branches.{layer}" for layer in layers))
            if residual and layers in (RESIDUAL_A, RESIDUAL):
                yield f"{at}.conv"


def stem(*layers: str) -> Iterator[str]:
    yield from normed(*(f"features.init_block.{layer}" for layer in layers))


def inception_v2(model: Backbone) -> Iterator[str]:
    yield from stem("conv1", "conv2.conv1", "conv2.conv2")
    yield from modules(INCEPTION_V2)
    yield "output"


def inception_v3(model: Backbone) -> Iterator[str]:
    yield from stem(*(f"conv{i}" for i in range(1, 6)))
    yield from modules(INCEPTION_V3)
    yield "output.fc"


def inception_v4(model: Backbone) -> Iterator[str]:
    yield from stem("conv1", "conv2", "conv3", "block1.branches.branch2.conv")
    yield from stem(*(f"block2.branches.{layer}" for layer in (*row(1, 2), *row(2, 4))), "block3.branches.branch1.conv")
    yield from modules(INCEPTION_V4)
    yield "output.fc"


def inception_resnet(model: Backbone) -> Iterator[str]:
    yield from stem(*(f"conv{i}" for i in range(1, 6)), *(f"block.branches.{layer}" for layer in A))
    yield from modules(INCEPTION_RESNET, residual=True)
    yield from normed("features.final_conv")
    yield "output.fc"


def xception(model: Backbone) -> Iterator[str]:
    yield from normed("features.init_block.conv1", "features.init_block.conv2")
    last = 0
    for stage, index, block in blocks(model):
        at = f"features.stage{stage + 1}.unit{index + 1}"
        if not hasattr(block, "branch"):
            last += 1
            yield from (f"features.final_block.conv{last}.{layer}" for layer in SEPARABLE)
            continue
        for i in range(1, len(convs(block.branch)) // 2 + 1):
            yield from (f"{at}.body.block{i}.{layer}" for layer in SEPARABLE)
        if holds(block.shortcut):
            yield from normed(f"{at}.identity_conv")
    yield "output"


def nasnet(model: Backbone) -> Iterator[str]:
    yield from normed("features.init_block")
    for stage, index, cell in blocks(model):
        at = f"features.stage{stage}.unit{index + (stage > 1)}"  # the first stage's first cell is in the stem
        if (stage, index) in ((0, 0), (1, 0)):
            at = f"features.stem{stage + 1}_unit"
        if len(convs(cell.adjust)) == 2:
            yield from (f"{at}.path.path1.conv", f"{at}.path.path2.conv", f"{at}.path.bn")
        elif holds(cell.adjust):
            yield from normed(f"{at}.conv1x1_prev")
        yield from normed(f"{at}.conv1x1")
        for number, operation in enumerate(cell.operations):
            side = f"{at}.comb{number // 2}_{'right' if number % 2 else 'left'}"
            for i in (1, 2) if holds(operation) else ():
                yield from (f"{side}.conv{i}.{layer}" for layer in SEPARABLE)
    yield "output.fc"


LAYERS: dict[str, Layers] = {
    "inception_v2": inception_v2,
    "inception_v3": inception_v3,
    "inception_v4": inception_v4,
    "inception_resnet": inception_resnet,
    "xception": xception,
    "nasnet": nasnet,
}
