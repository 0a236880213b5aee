"""What is peculiar to GoogLeNet and BN-Inception."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import googlenet

from backbones import create_model
from backbones.backbone import Backbone
from backbones.cost import measure_cost
from backbones.layers import AuxHead
from backbones.models.googlenet import TABLE_1, Inception, NaiveInception
from backbones.models.inception_v2 import FIGURE_5


def on_meta(name: str, **settings: object) -> Backbone:
    with torch.device("meta"):
        return create_model(name, **settings)


def dropless(model: nn.Module) -> nn.Module:
    for dropout in (m for m in model.modules() if isinstance(m, nn.Dropout)):
        dropout.p = 0.0
    return model


# -- the module


def test_reductions_make_the_module_cheap() -> None:
    """Fig. 2: 3a with and without its 1x1 reductions, by the textbook formula; the naive one also grows."""
    row = TABLE_1["3a"]
    naive = NaiveInception(192, row.c1, row.c3, row.c5)
    x = torch.empty(1, 192, 28, 28)
    assert naive(x).shape == (1, 64 + 128 + 32 + 192, 28, 28)
    assert Inception(192, row)(x).shape == (1, 256, 28, 28)
    assert measure_cost(naive, (192, 28, 28)).madds == 28**2 * 192 * (64 + 9 * 128 + 25 * 32)
    reduced = 192 * (64 + 96 + 16 + 32) + 9 * 96 * 128 + 25 * 16 * 32
    assert measure_cost(Inception(192, row), (192, 28, 28)).madds == 28**2 * reduced


def test_branches_stand_in_the_order_of_the_columns() -> None:
    module = Inception(8, TABLE_1["3a"]).eval()
    x = torch.randn(1, 8, 6, 6)
    one, three, five, pool = module.branches
    with torch.inference_mode():
        parts = [
            one[0](x).relu(),
            three[2](three[0](x).relu()).relu(),
            five[2](five[0](x).relu()).relu(),
            pool[1](F.max_pool2d(x, 3, 1, 1)).relu(),
        ]
        torch.testing.assert_close(module(x), torch.cat(parts, 1))
    assert [part.shape[1] for part in parts] == [64, 128, 32, 32]


def test_googlenet_is_22_layers_deep() -> None:
    """Sec. 5: 22 layers with parameters on the longest way, 27 with the poolings (of Table 1's column "depth")."""
    model = on_meta("googlenet", aux=False)
    modules = [m for m in model.modules() if isinstance(m, Inception)]
    layers = 3 + 2 * len(modules) + 1
    assert (layers, layers + 5) == (22, 27)
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in model.modules()) == 2


# -- auxiliary classifiers


def test_auxiliary_classifiers_as_printed() -> None:
    """Sec. 5, by the functions of torch: what follows 4a and 4d in training, and nothing in evaluation."""
    model = dropless(create_model("googlenet", num_classes=5, seed=0)).train()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, aux = model(images)
        x = model.stages[:2](model.stem(images))
        first = model.stages[2][:2](x)
        second = model.stages[2][2:5](first)
        assert (first.shape, second.shape) == ((2, 512, 14, 14), (2, 528, 14, 14))
        for got, x, tap in zip(aux, (first, second), model.aux.values(), strict=True):
            pooled = F.avg_pool2d(x, 5, 3)
            assert pooled.shape[2:] == (4, 4)
            hidden = tap.head.neck[0](tap.trunk[0](pooled).relu().flatten(1)).relu()
            torch.testing.assert_close(got, tap.head.classifier(hidden))
        torch.testing.assert_close(model.eval()(images), logits)
    assert [m.p for m in on_meta("googlenet").modules() if isinstance(m, nn.Dropout)] == [0.4, 0.7, 0.7]


def test_auxiliary_classifiers_of_torchvision() -> None:
    """The same logits in training, without dropout: theirs come out last one first."""
    torch.manual_seed(0)
    theirs = dropless(googlenet(weights=None, init_weights=False, num_classes=5)).train()
    ours = dropless(create_model("googlenet.tv", num_classes=5)).train()
    parts = [(ours.stem, theirs.conv1), (ours.stages[0], nn.ModuleList([theirs.conv2, theirs.conv3]))]
    for stage in (1, 2, 3):
        modules = [m for name, m in theirs.named_children() if name.startswith(f"inception{stage + 2}")]
        parts.append((ours.stages[stage], nn.ModuleList(modules)))
    parts += [(ours.head, theirs.fc), *zip(ours.aux.values(), (theirs.aux1, theirs.aux2), strict=True)]
    for mine, other in parts:
        mine.load_state_dict(dict(zip(mine.state_dict(), other.state_dict().values(), strict=True)))
    images = torch.randn(4, 3, 97, 97, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, got = theirs(images), ours(images)
    for mine, other in ((got.logits, expected.logits), (got.aux[0], expected.aux_logits1)):
        torch.testing.assert_close(mine, other)
    torch.testing.assert_close(got.aux[1], expected.aux_logits2)


def test_small_images_can_be_trained_on() -> None:
    _, aux = create_model("googlenet", num_classes=3).train()(torch.randn(2, 3, 32, 40))
    assert [x.shape for x in aux] == [(2, 3), (2, 3)]


# -- BN-Inception


def test_figure_5_counts_to_the_readings() -> None:
    """Row by row with the textbook formula: convolutions without bias, two parameters per normalised channel."""

    def count(pool_4c: int, conv1: int) -> int:
        convs = [(64, 64), (9 * 64, 192)]  # fan-in and width of each after conv1
        channels = 192
        for name, row in FIGURE_5.items():
            proj = pool_4c if name in ("4c", "4d") else row.proj
            convs += [(channels, row.c1), (channels, row.c3_reduce), (9 * row.c3_reduce, row.c3)]
            convs += [(channels, row.d3_reduce), (9 * row.d3_reduce, row.d3), (9 * row.d3, row.d3), (channels, proj)]
            channels = row.c1 + row.c3 + row.d3 + (proj or channels)
        weights = conv1 + sum(fan_in * width for fan_in, width in convs) + channels * 1000
        return weights + 2 * (64 + sum(width for _, width in convs)) + 1000

    full = 7 * 7 * 3 * 64
    separable = 7 * 7 * 8 * 3 + 8 * 3 * 64
    readings = {
        (128, full): {"separable": False},
        (128, separable): {},
        (96, full): {"release": "slim", "separable": False},
        (96, separable): {"release": "slim"},
    }
    counted = {reading: count(*reading) for reading in readings}
    assert list(counted.values()) == [11_285_224, 11_278_528, 11_194_984, 11_188_288]
    for reading, settings in readings.items():
        assert measure_cost(on_meta("inception_v2", **settings), (3, 224, 224)).params == counted[reading]


def test_pooling_inside_the_modules() -> None:
    """Mean in all but 5b, whose largest is projected; the modules that stride let the largest pass through."""
    model = on_meta("inception_v2")
    blocks = [block for stage in model.stages for block in stage if hasattr(block, "branches")]
    kinds = [[type(layer).__name__ for layer in block.branches[-1]] for block in blocks]
    mean, strided = ["AvgPool2d", "Conv2d", "BatchNorm2d", "ReLU"], ["SamePad", "MaxPool2d"]
    assert kinds == [mean, mean, strided, mean, mean, mean, mean, strided, mean, ["MaxPool2d", *mean[1:]]]
    assert [len(block.branches) for block in blocks] == [3 if kind == strided else 4 for kind in kinds]
    assert all(m.bias is None for m in model.modules() if isinstance(m, nn.Conv2d))


def test_separable_convolution_is_two_convolutions() -> None:
    """Of slim's stem: 8 filters of each channel, then a 1x1, with nothing between; SAME padding, odd pixel far."""
    stem = create_model("inception_v2.slim", seed=0).stem.eval()
    _, depthwise, pointwise, norm, _ = stem
    x = torch.randn(1, 3, 32, 32)
    found = [F.conv2d(F.pad(x[:, [c]], (2, 3, 2, 3)), depthwise.weight[8 * c : 8 * c + 8], stride=2) for c in range(3)]
    with torch.inference_mode():
        torch.testing.assert_close(stem(x), norm(F.conv2d(torch.cat(found, 1), pointwise.weight)).relu())


# -- how they start


def stds(model: nn.Module, expected: float, layer: type[nn.Module], gain: float) -> None:
    for m in (m for m in model.modules() if isinstance(m, layer)):
        weight: Tensor = m.weight.detach()
        if weight.numel() > 4000:
            assert weight.std().item() == pytest.approx(expected or math.sqrt(gain / weight[0].numel()), rel=0.05)


def test_googlenet_starts_as_caffes() -> None:
    """Uniform of variance 1 / fan_in, biases 0.2 but for classifiers, as BVLC GoogLeNet."""
    model = create_model("googlenet", seed=0)
    classifiers = {model.head.classifier, *(tap.head.classifier for tap in model.aux.values())}
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        bound = math.sqrt(3 / layer.weight[0].numel())
        assert layer.weight.abs().max() <= bound
        assert (layer.bias == (0.0 if layer in classifiers else 0.2)).all()
    stds(model, 0.0, nn.Conv2d, gain=1.0)
    stds(model, 0.0, nn.Linear, gain=1.0)


def test_the_normalised_ones_start_gaussian() -> None:
    """torchvision's N(0, 0.01^2); N(0, 2 / fan_in) in BN-Inception."""
    for name, std in (("googlenet.tv", 0.01), ("inception_v2", 0.0), ("inception_v2.slim", 0.0)):
        model = create_model(name, seed=0)
        stds(model, std, nn.Conv2d, gain=2.0)
        stds(model, std, nn.Linear, gain=2.0)
        assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_settings_that_are_not_allowed() -> None:
    for name, said in (("googlenet", "paper, torchvision"), ("inception_v2", "paper, slim")):
        with pytest.raises(ValueError, match=f"release='caffe'; give one of {said}"):
            on_meta(name, release="caffe")
    assert not any(isinstance(m, AuxHead) for m in on_meta("googlenet", aux=False).modules())
