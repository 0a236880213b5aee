"""What is peculiar to "Rethinking the Inception Architecture"."""

import math

import pytest
import torch
from torch import nn
from torchvision.models.inception import InceptionAux

from backbones import create_model
from backbones.backbone import WithAux
from backbones.models.inception_v3 import auxiliary, figure_5, figure_6, figure_7

META = torch.device("meta")


def kernels(part: nn.Module) -> list[tuple[int, ...]]:
    return [m.kernel_size for m in part.modules() if isinstance(m, nn.Conv2d)]


def weights(part: nn.Module) -> int:
    return sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Conv2d))


def test_modules_by_hand() -> None:
    """Filters of each figure, in x out x height x width, added up without the code that builds them."""
    with META:
        five, six, seven = figure_5(288, 64, 3, False), figure_6(160, False, False), figure_7(1280, False)
    assert weights(five) == 288 * (64 + 48 + 64 + 64) + 9 * (48 * 64 + 64 * 96 + 96 * 96)
    one_by_seven = 2 * 160 * 160 + 2 * 160 * 192 + 2 * 160 * 160
    assert weights(six) == 768 * (192 + 160 + 160 + 192) + 7 * one_by_seven
    assert weights(seven) == 1280 * (320 + 384 + 448 + 192) + 9 * 448 * 384 + 4 * 3 * 384 * 384
    assert kernels(seven.branches[2]) == [(1, 1), (3, 3), (1, 3), (3, 1)]
    assert seven(torch.empty(1, 1280, 8, 8, device="meta")).shape == (1, 2048, 8, 8)


def test_how_torchvision_departs() -> None:
    with META:
        paper, torchvision = create_model("inception_v3").stages, create_model("inception_v3.tv").stages
    assert kernels(paper[0]) == [(3, 3)]
    assert kernels(torchvision[0]) == [(1, 1), (3, 3)]
    assert kernels(paper[1][2].branches[1]) == [(1, 1), (3, 3)]
    assert kernels(torchvision[1][1].branches[1]) == [(1, 1), (5, 5)]
    assert kernels(paper[2][1].branches[2]) == [(1, 1), (1, 7), (7, 1), (1, 7), (7, 1)]
    assert kernels(torchvision[2][1].branches[2]) == [(1, 1), (7, 1), (1, 7), (7, 1), (1, 7)]
    assert (len(paper[2]), len(torchvision[2])) == (6, 5)
    ones = torch.ones(1, 1, 4, 4)
    assert paper[3][1].branches[3][0](ones)[0, 0, 0, 0] == 1
    assert torchvision[3][1].branches[3][0](ones)[0, 0, 0, 0] == pytest.approx(4 / 9)


def test_v3_is_v2_with_a_normalised_auxiliary_classifier() -> None:
    with META:
        v2, v3 = create_model("inception_v2_rethinking"), create_model("inception_v3")
    shapes = [{k: v.shape for k, v in model.state_dict().items() if "aux" not in k} for model in (v2, v3)]
    assert shapes[0] == shapes[1]
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in model.aux.modules()) for model in (v2, v3)]
    assert norms == [1, 2]
    assert not create_model("inception_v3", aux=False, num_classes=2).aux


def test_auxiliary_classifier_is_torchvisions() -> None:
    ours, theirs = auxiliary(11, normalised=True).eval(), InceptionAux(768, 11).eval()
    names = zip(ours.state_dict(), theirs.state_dict().values(), strict=True)
    ours.load_state_dict({name: torch.randn_like(v).abs() / 9 if v.ndim else v for name, v in names})
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    x = torch.randn(2, 768, 17, 17)
    with torch.no_grad():
        assert ours.trunk(ours.pool(x)).shape == (2, 768, 1, 1)
        torch.testing.assert_close(ours(x), theirs(x))


def test_auxiliary_logits_in_training() -> None:
    with META:
        model = create_model("inception_v3", num_classes=5).train()
        output = model(torch.empty(2, 3, 75, 75))
    assert isinstance(output, WithAux)
    assert [x.shape for x in output.aux] == [(2, 5)]
    assert list(model.aux) == ["stages_2_5"]


def test_initialisation_is_the_releases() -> None:
    """Variance 2 / fan_in, cut at two deviations of the uncut normal; 0.01 and 0.001 in the auxiliary classifier."""
    model = create_model("inception_v3", seed=0)
    cut = 0.8796  # deviation of a standard normal that is cut at 2
    for conv in (model.stages[3][2].branches[2][0][0], model.stages[2][3].branches[1][1][0], model.stages[1][1][0]):
        std = math.sqrt(2 / conv.weight[0].numel())
        assert conv.weight.std().item() == pytest.approx(std, rel=0.01)
        assert conv.weight.abs().max() <= 2 * std * math.sqrt(1.3)
    classifier, tap = model.head.classifier, model.aux["stages_2_5"]
    assert classifier.weight.std().item() == pytest.approx(math.sqrt(2 / 2048), rel=0.01)
    assert tap.trunk[1][0].weight.std().item() == pytest.approx(0.01 * cut, rel=0.01)
    assert tap.head.classifier.weight.std().item() == pytest.approx(0.001 * cut, rel=0.01)
    assert not classifier.bias.any()


def test_settings_that_are_not_allowed() -> None:
    with META, pytest.raises(ValueError, match="release='slim'; give one of paper, torchvision"):
        create_model("inception_v3", release="slim")
