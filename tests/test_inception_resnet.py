"""What is peculiar to Inception-ResNet."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.layers import DropPath
from backbones.models.resnet import ResidualBlock

META = torch.device("meta")


def test_a_block_adds_a_scaled_linear_expansion() -> None:
    """Fig. 20, by hand: relu(x + scale * (1x1(concat) + bias))."""
    block = create_model("inception_resnet_v1", num_classes=2, seed=0).stages[3][1].eval()
    x = torch.randn(1, 1792, 3, 3).relu()
    inception, expansion, scale = block.branch
    nn.init.normal_(expansion.bias)
    with torch.no_grad():
        maps = torch.cat([part(x) for part in inception.branches], 1)
        assert maps.shape == (1, 384, 3, 3)
        linear = torch.einsum("oi,nihw->nohw", expansion.weight[:, :, 0, 0], maps) + expansion.bias[:, None, None]
        torch.testing.assert_close(block(x), (x + 0.2 * linear).clamp(min=0))
    assert scale.factor == 0.2


def test_blocks_and_scales() -> None:
    with META:
        for name, blocks in (
            ("inception_resnet_v1", (5, 10, 5)),
            ("inception_resnet_v2", (5, 10, 5)),
            ("inception_resnet_v2.slim", (10, 20, 10)),
        ):
            stages = create_model(name).stages
            scales = [[m.branch[-1].factor for m in stage if isinstance(m, ResidualBlock)] for stage in stages[1:]]
            expected = [[scale] * n for scale, n in zip((0.17, 0.10, 0.20), blocks, strict=True)]
            if name.endswith(".slim"):
                expected[2][-1] = 1.0
                assert isinstance(stages[3][-2].relu, nn.Identity)
            assert scales == expected
        scaled = create_model("inception_resnet_v1", scales=(0.1, 0.2, 0.3)).stages[3][1]
    assert scaled.branch[-1].factor == 0.3


def test_expansions_by_hand() -> None:
    """The widths that the figures print and those that can be added."""
    with META:
        v2 = create_model("inception_resnet_v2").stages
    assert [stage[-1].branch[1].weight.shape[:2] for stage in v2[1:]] == [(384, 128), (1152, 384), (2144, 448)]
    assert 384 + 384 + 384 == 1152
    assert 1152 + 384 + 288 + 320 == 2144


def test_drop_path_rises_with_depth() -> None:
    with META:
        model = create_model("inception_resnet_v2", drop_path_rate=0.4)
    rates = [m.rate for m in model.modules() if isinstance(m, DropPath)]
    assert rates == pytest.approx([0.4 * block / 20 for block in range(1, 21)])


def test_initialisation_is_the_releases() -> None:
    """Variance 2 / fan_in in convolutions, biases 0; Glorot's uniform weights in the classifier."""
    model = create_model("inception_resnet_v1", seed=0)
    block = model.stages[3][3].branch
    assert block[1].weight.std().item() == pytest.approx(math.sqrt(2 / 384), rel=0.01)
    assert block[0].branches[1][1][0].weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 192)), rel=0.01)
    assert not block[1].bias.any()
    bound = math.sqrt(6 / (1792 + 1000))
    assert 0.99 * bound < model.head.classifier.weight.abs().max() <= bound


@pytest.mark.parametrize("settings", [{"version": 3}, {"release": "tv"}, {"version": 1, "release": "slim"}])
def test_settings_that_are_not_allowed(settings: dict[str, object]) -> None:
    with META, pytest.raises(ValueError, match="give version 1 or 2 of the paper, or version 2 of slim"):
        create_model("inception_resnet_v2", **settings)
