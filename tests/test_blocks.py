"""The blocks on their own: their formulas against what they hold and compute."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from backbones.blocks import BLOCKS

OTHER_SIZES = {
    "naive inception": {"c": 24, "c1": 5, "c3": 6, "c5": 7},
    "inception": {"c": 24, "c1": 5, "r3": 3, "c3": 6, "r5": 2, "c5": 7, "p": 4},
    "dense": {"c": 10, "k": 3, "layers": 4},
    "asymmetric convolution": {"c": 12, "k": 3},
    "depthwise separable": {"c": 8, "d": 20, "s": 1},
    "inverted residual": {"c": 8, "d": 20, "t": 3, "s": 2},
    "fire": {"c": 8, "s1": 3, "e1": 5, "e3": 7},
    "squeeze-excite": {"c": 24, "r": 4},
}
THIRD = {"inverted residual": {"c": 8, "d": 20, "t": 1, "s": 1}}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("height", "width"), [(28, 28), (17, 35)])
def test_formulas_are_what_is_counted(name: str, height: int, width: int) -> None:
    block = BLOCKS[name]
    for sizes in ({}, OTHER_SIZES.get(name) or ({"c": 16} if "c" in block.sizes else {}), THIRD.get(name, {})):
        with torch.device("meta"):
            module = block.build(**sizes).eval()
            channels = {**block.sizes, **sizes}.get("c", 288) * (4 if name == "bottleneck" else 1)
            with FlopCounterMode(display=False) as counter:
                module(torch.empty(1, channels, height, width))
        assert sum(p.numel() for p in module.parameters()) == block.params(**sizes)
        assert counter.get_total_flops() // 2 == block.madds(height, width, **sizes)


def test_the_reductions_of_inception_pay() -> None:
    """The textbook's example, 28x28x256 in, 128, 192 and 96 filters: 854 M, and 271 M (often printed as 358 M)."""
    naive, reduced = BLOCKS["naive inception"], BLOCKS["inception"]
    assert (naive.madds(28, 28), reduced.madds(28, 28)) == (854_196_224, 271_351_808)


def test_sizes_are_checked() -> None:
    with pytest.raises(TypeError, match=r"no size \['channels'\]; this block has \['c'\]"):
        BLOCKS["residual"].build(channels=3)
