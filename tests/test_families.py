"""What is peculiar to each paper."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.catalog import load
from backbones.models.alexnet import local_response_norm
from backbones.models.lenet import FIGURE_3, RadialBasis
from backbones.records import Recipe
from backbones.train.loss import limit_filters, training_loss

# -- LeNet-5


def test_lenet5_counts_layer_by_layer() -> None:
    """Sec. II-B: trainable parameters and connections of C1, S2, C3, S4, C5 and F6."""
    model = create_model("lenet5")
    (c1, _, s2, _), (c3, _, s4, _), (c5, _) = model.stages
    f6 = model.head.neck[0]
    layers = (c1, s2, c3, s4, c5, f6)
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [156, 12, 1516, 32, 48_120, 10_164]
    per_value = (26 * 6, 5 * 6, 1500 + 16, 5 * 16, 401 * 120, 121 * 84)
    sides = (28, 14, 10, 5, 1, 1)
    connections = [n * side**2 for n, side in zip(per_value, sides, strict=True)]
    assert connections == [122_304, 5_880, 151_600, 2_000, 48_120, 10_164]
    assert sum(connections) + 10 * 84 == 340_908
    maps = model.features(torch.zeros(1, 1, 32, 32))
    assert [m.shape[1:] for m in maps] == [(6, 14, 14), (16, 5, 5), (120, 1, 1)]


def test_lenet5_c3_sees_what_table_1_says() -> None:
    """60 connections between maps, each as a convolution of its own; the paper's rows by its own sentence."""
    c3 = create_model("lenet5", seed=0).stages[1][0].double()
    threes = [{i, (i + 1) % 6, (i + 2) % 6} for i in range(6)]
    fours = [{i, (i + 1) % 6, (i + 2) % 6, (i + 3) % 6} for i in range(6)]
    gaps = [{0, 1, 3, 4}, {1, 2, 4, 5}, {0, 2, 3, 5}]
    expected = [*threes, *fours, *gaps, set(range(6))]
    assert sum(map(len, expected)) == len(c3.weight) == 60
    x = torch.randn(1, 6, 14, 14, dtype=torch.float64, requires_grad=True)
    out = c3(x)
    for j, maps in enumerate(expected):
        (gradient,) = torch.autograd.grad(out[0, j].sum(), x, retain_graph=True)
        assert set(gradient[0].abs().sum((1, 2)).nonzero().flatten().tolist()) == maps
        alone = sum(
            nn.functional.conv2d(x[:, [i]], c3.weight[k][None, None])
            for k, (i, o) in enumerate(zip(c3.inputs.tolist(), c3.outputs.tolist(), strict=True))
            if o == j
        )
        torch.testing.assert_close(out[:, [j]], alone + c3.bias[j])


def test_lenet5_subsampling_adds_scales_and_squashes() -> None:
    _, squash, s2, _ = create_model("lenet5", seed=0).stages[0]
    x = torch.randn(1, 6, 4, 4)
    expected = s2.weight * (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) + s2.bias
    torch.testing.assert_close(s2(x), expected)
    assert squash(torch.tensor(1.0)) == pytest.approx(1.0, abs=1e-3)  # the constants were chosen for f(1) = 1
    assert squash(torch.tensor(100.0)) == pytest.approx(1.7159)


def test_lenet5_output_is_the_distance_to_the_bitmaps() -> None:
    codes = create_model("lenet5").head.classifier.codes
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert len({tuple(row) for row in codes.tolist()}) == 10
    one = FIGURE_3[1].split()
    assert [len(line) for line in one] == [7] * 12
    assert codes[1].reshape(12, 7)[9].tolist() == [-1, 1, 1, 1, 1, 1, 1]
    rbf = RadialBasis(84, 10)
    x = torch.randn(3, 84)
    torch.testing.assert_close(rbf(x), -torch.cdist(x, rbf.codes).square(), rtol=1e-4, atol=1e-3)
    assert rbf(rbf.codes).argmax(1).tolist() == list(range(10))
    others = RadialBasis(84, 96).codes
    assert torch.equal(others, RadialBasis(84, 96).codes)
    assert len({tuple(row) for row in others.tolist()}) == 96
    assert not list(rbf.parameters())


def test_map_criterion_is_equation_9() -> None:
    recipe = Recipe("", 1, 1, 1.0, loss="map", rubbish=2.0)
    penalties = torch.rand(5, 10, dtype=torch.float64) * 8
    labels = torch.tensor([3, 1, 4, 1, 5])
    expected = [
        float(y[d]) + math.log(math.exp(-2.0) + sum(math.exp(-float(v)) for v in y))
        for y, d in zip(penalties, labels.tolist(), strict=True)
    ]
    assert training_loss(-penalties, labels, recipe).item() == pytest.approx(sum(expected) / 5)


def test_lenet5_starts_uniform_by_fan_in() -> None:
    model = create_model("lenet5", seed=0)
    c3 = model.stages[1][0]
    for layer, fan_in in ((model.stages[0][0], 25), (model.stages[0][2], 4), (model.stages[2][0], 400)):
        values = torch.cat([p.flatten() for p in layer.parameters(recurse=False)])
        assert 0.5 * 2.4 / fan_in < values.abs().max() <= 2.4 / fan_in
    for j, fan_in in ((0, 75), (8, 100), (15, 150)):
        weights = c3.weight[c3.outputs == j]
        assert 0.9 * 2.4 / fan_in < weights.abs().max() <= 2.4 / fan_in


# -- AlexNet, ZFNet, VGG


def test_local_response_norm_is_the_papers_formula() -> None:
    a = torch.rand(1, 7, 2, 2, dtype=torch.float64) * 50
    got = local_response_norm()(a)
    for i in range(7):
        window = a[0, max(0, i - 2) : i + 3]
        expected = a[0, i] / (2 + 1e-4 * window.square().sum(0)) ** 0.75
        torch.testing.assert_close(got[0, i], expected)


def test_alexnet_is_two_towers_that_meet_once() -> None:
    model = create_model("alexnet")
    convs = [stage[0] for stage in model.stages]
    assert [c.weight.shape[1] for c in convs] == [3, 48, 256, 192, 192]
    assert [type(m).__name__ for m in model.stages[0]] == ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    neck = model.head.neck
    ones = [convs[1], convs[3], convs[4], neck[0], neck[3]]
    assert all((layer.bias == 1).all() for layer in ones)
    assert all((layer.bias == 0).all() for layer in (convs[0], convs[2], model.head.classifier))
    assert neck[3].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


def test_zfnet_pools_before_it_normalises() -> None:
    with torch.device("meta"):
        model = create_model("zfnet")
        sides = [model.stages[0][0](torch.empty(1, 3, 224, 224)).shape[-1]]
        first = model.stages[0](torch.empty(1, 3, 224, 224))
        sides += [first.shape[-1], model.stages[1][0](first).shape[-1], model.stages[1](first).shape[-1]]
    assert sides == [110, 55, 26, 13]
    assert [type(m).__name__ for m in model.stages[0]][2:] == ["MaxPool2d", "LocalResponseNorm"]


def test_vgg_c_has_1x1_convolutions_and_lrn_stands_first() -> None:
    with torch.device("meta"):
        c, lrn = create_model("vgg16_c"), create_model("vgg11_lrn")
    kernels = [[m.kernel_size[0] for m in stage if isinstance(m, nn.Conv2d)] for stage in c.stages]
    assert kernels == [[3, 3], [3, 3], [3, 3, 1], [3, 3, 1], [3, 3, 1]]
    assert [type(m).__name__ for m in lrn.stages[0]] == ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]


# -- ResNet


def test_resnet_strides_where_table_1_does() -> None:
    with torch.device("meta"):
        paper, torchvision = create_model("resnet50"), create_model("resnet50.tv")
    strides = lambda model: [m.stride[0] for m in model.stages[1][0].branch if isinstance(m, nn.Conv2d)]  # noqa: E731
    assert (strides(paper), strides(torchvision)) == ([2, 1, 1], [1, 2, 1])


def test_option_a_has_no_parameters_and_pads_with_zeros() -> None:
    block = create_model("resnet20_cifar").stages[1][0]
    x = torch.randn(2, 16, 8, 8)
    short = block.shortcut(x)
    assert not list(block.shortcut.parameters())
    assert torch.equal(short[:, :16], x[:, :, ::2, ::2])
    assert short.shape == (2, 32, 4, 4)
    assert not short[:, 16:].any()


def test_he_initialisation() -> None:
    model = create_model("resnet50", seed=0)
    conv = model.stages[3][2].branch[3]
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
    assert all((m.weight == 1).all() for m in model.modules() if isinstance(m, nn.BatchNorm2d))


def test_cifar_depths_are_checked() -> None:
    assert len(create_model("resnet20_cifar", depth=14).stages[0]) == 2
    with pytest.raises(ValueError, match="depth=21; give 6n"):
        create_model("resnet20_cifar", depth=21)


# -- what is not allowed


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("resnet50", {"depth": 77}, "depths are"),
        ("resnet50", {"stride_in": "5x5"}, "1x1 or 3x3"),
        ("resnet50", {"shortcut": "Z"}, "give one of A, B, C, none"),
        ("vgg16", {"column": "X"}, "give one of A, A-LRN"),
        ("resnet50", {"in_chans": 0}, "in_chans=0; give a whole number, 1 or more"),
        ("resnet50", {"num_classes": "10"}, "num_classes='10'; give a whole number"),
        ("resnet50", {"drop_rate": "x"}, "drop_rate='x'; give a number"),
        ("resnet50", {"num_classes": -1}, "num_classes=-1; give a whole number, 0 or more"),
        ("resnet50", {"drop_rate": 1.0}, "drop_rate=1.0; give a probability"),
        ("resnet50", {"drop_path_rate": -0.1}, "drop_path_rate=-0.1; give a probability"),
    ],
)
def test_settings_that_are_not_allowed(name: str, setting: dict[str, object], said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, **setting)


def test_zfnet_and_vgg_start_as_printed() -> None:
    """N(0, 0.01^2) with biases 0 (Sec. 3); Glorot's uniform +-sqrt(6 / (fan_in + fan_out)) (VGG, Sec. 3.1)."""
    zfnet = create_model("zfnet", seed=0)
    for layer in (m for m in zfnet.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
        assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
        assert not layer.bias.any()
    conv = create_model("vgg11", seed=0).stages[2][0]
    bound = math.sqrt(6 / (9 * 128 + 9 * 256))
    assert 0.99 * bound < conv.weight.abs().max() <= bound
    assert not conv.bias.any()


def test_lenet5_multiply_adds_by_hand() -> None:
    """C3 runs as a dense convolution, with 240,000 where Table I needs 150,000."""
    by_hand = 25 * 6 * 28**2 + 25 * 6 * 16 * 10**2 + 25 * 16 * 120 + 120 * 84
    assert load()["lenet5"]["measured"]["madds"] == by_hand
    assert load()["lenet5.modern"]["measured"]["madds"] == by_hand + 84 * 10


def test_filters_are_scaled_back() -> None:
    """ZFNet, Sec. 3: a filter whose RMS exceeds 0.1 comes back to 0.1; others stay."""
    conv = nn.Conv2d(2, 3, 5)
    with torch.no_grad():
        conv.weight[0], conv.weight[1], conv.weight[2] = 0.05, 0.4, -0.2
    limit_filters(nn.Sequential(conv), 0.1)
    assert conv.weight.detach().flatten(1)[:, 0].tolist() == pytest.approx([0.05, 0.1, -0.1])
