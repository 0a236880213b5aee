"""What is peculiar to Inception-v4."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.models.inception_v4 import inception_b, inception_c, reduction_b

META = torch.device("meta")


def kernels(part: nn.Module) -> list[tuple[int, ...]]:
    return [m.kernel_size for m in part.modules() if isinstance(m, nn.Conv2d)]


def weights(part: nn.Module) -> int:
    return sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Conv2d))


def test_blocks_by_hand() -> None:
    """Filters of Fig. 5, 6 and 8, in x out x height x width, added up without the code that builds them."""
    with META:
        b, c, reduction = inception_b("paper"), inception_c("paper"), reduction_b()
    seven = 192 * 224 + 224 * 256 + 192 * 192 + 192 * 224 + 224 * 224 + 224 * 256
    assert weights(b) == 1024 * (384 + 192 + 192 + 128) + 7 * seven
    three = 2 * 384 * 256 + 384 * 448 + 448 * 512 + 2 * 512 * 256
    assert weights(c) == 1536 * (256 + 384 + 384 + 256) + 3 * three
    assert weights(reduction) == 1024 * (192 + 256) + 9 * (192 * 192 + 320 * 320) + 7 * (256 * 256 + 256 * 320)


def test_rows_and_columns_of_filters() -> None:
    """The figures' order, and that of the authors' release."""
    with META:
        paper, slim = create_model("inception_v4").stages, create_model("inception_v4.timm").stages
    row, column = (1, 7), (7, 1)
    assert kernels(paper[0][1].branches[1])[1:3] == [column, row]
    assert kernels(slim[0][1].branches[1])[1:3] == [row, column]
    assert kernels(paper[2][1].branches[2])[1:] == [row, column, row, column]
    assert kernels(slim[2][1].branches[2])[1:] == [column, row, column, row]
    assert kernels(paper[3][1].branches[2]) == [(1, 1), (1, 3), (3, 1), (1, 3), (3, 1)]
    assert kernels(slim[3][1].branches[2]) == [(1, 1), (3, 1), (1, 3), (1, 3), (3, 1)]
    for stages in (paper, slim):
        assert [len(stage) - 1 for stage in stages[1:]] == [4, 7, 3]


def test_initialisation_is_the_releases() -> None:
    """Variance 2 / fan_in in convolutions; Glorot's uniform +-sqrt(6 / (fan_in + fan_out)) in the classifier."""
    model = create_model("inception_v4", seed=0)
    conv = model.stages[3][1].branches[2][2][0]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (3 * 448)), rel=0.01)
    bound = math.sqrt(6 / (1536 + 1000))
    assert 0.99 * bound < model.head.classifier.weight.abs().max() <= bound
    assert not model.head.classifier.bias.any()
    assert model.head.dropout.p == 0.2


def test_settings_that_are_not_allowed() -> None:
    with META, pytest.raises(ValueError, match="release='tv'; give one of paper, slim"):
        create_model("inception_v4", release="tv")
