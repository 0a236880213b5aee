"""What is peculiar to SENet: the gate, where it stands, and what it costs."""

import math

import pytest
import torch
from torch import nn

from backbones import create_model
from backbones.models.senet import SqueezeExcite


def test_excitation_is_equations_2_to_4() -> None:
    gate = SqueezeExcite(8, 2).double()
    x = torch.randn(3, 8, 5, 4, dtype=torch.float64)
    w1, w2 = gate.squeeze.weight[:, :, 0, 0], gate.excite.weight[:, :, 0, 0]
    z = x.sum((2, 3)) / (5 * 4)
    s = 1 / (1 + torch.exp(-((z @ w1.T + gate.squeeze.bias).clamp(min=0) @ w2.T + gate.excite.bias)))
    torch.testing.assert_close(gate(x), s[:, :, None, None] * x)


@pytest.mark.parametrize(("name", "base"), [("se_resnet50", "resnet50"), ("se_resnext50_32x4d", "resnext50_32x4d")])
@pytest.mark.parametrize("reduction", [4, 16])
def test_parameters_are_equation_5(name: str, base: str, reduction: int) -> None:
    """2 / r times the sum of N_s C_s^2 over the stages, and the biases, which the equation leaves out."""
    with torch.device("meta"):
        more, plain = create_model(name, reduction=reduction), create_model(base)
    stages = list(zip((3, 4, 6, 3), (256, 512, 1024, 2048), strict=True))
    weights = sum(2 * n * c * c // reduction for n, c in stages)
    biases = sum(n * (c // reduction + c) for n, c in stages)
    assert count(more) - count(plain) == weights + biases


@pytest.mark.parametrize(("reduction", "printed"), [(2, 45.7e6), (4, 35.7e6), (8, 30.7e6), (16, 28.1e6), (32, 26.9e6)])
def test_parameters_by_reduction_are_table_10s(reduction: int, printed: float) -> None:
    with torch.device("meta"):
        assert count(create_model("se_resnet50", reduction=reduction)) == pytest.approx(printed, rel=0.004)


def test_with_open_gates_it_is_resnet() -> None:
    """Gates near 1 leave the network that it is built on; only its max-pooling is shifted."""
    ours, plain = create_model("se_resnet50", num_classes=5, seed=0).eval(), create_model("resnet50", num_classes=5)
    plain.stages[0][0] = nn.MaxPool2d(3, 2, ceil_mode=True)
    for gate in (m for m in ours.modules() if isinstance(m, SqueezeExcite)):
        nn.init.zeros_(gate.excite.weight)
        nn.init.constant_(gate.excite.bias, 30.0)
    plain.load_state_dict({k: v for k, v in ours.state_dict().items() if "squeeze" not in k and "excite" not in k})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), plain.eval()(images))


def test_vgg_is_excited_after_every_convolution() -> None:
    """Sec. 3.3: after the non-linearity that follows each convolution; Sec. 5.1: with batch normalisation."""
    with torch.device("meta"):
        model = create_model("se_vgg16")
    units = [block for stage in model.stages for block in list(stage)[:-1]]
    assert len(units) == 13
    assert {tuple(type(m).__name__ for m in unit) for unit in units} == {
        ("Conv2d", "BatchNorm2d", "ReLU", "SqueezeExcite")
    }
    assert [unit[3].squeeze.out_channels for unit in units] == [unit[0].out_channels // 16 for unit in units]
    assert all(isinstance(stage[-1], nn.MaxPool2d) for stage in model.stages)


def test_senet154_is_what_the_appendix_says() -> None:
    with torch.device("meta"):
        model = create_model("senet154")
    assert [m.out_channels for m in model.stem if isinstance(m, nn.Conv2d)] == [64, 64, 128]
    blocks = [b for stage in model.stages for b in stage if not isinstance(b, nn.MaxPool2d)]
    assert len(blocks) == 3 + 8 + 36 + 3
    convs = [[m for m in b.branch if isinstance(m, nn.Conv2d)] for b in blocks]
    assert all(2 * a.out_channels == b.out_channels == c.out_channels for a, b, c in convs)
    assert {b.groups for _, b, _ in convs} == {64}
    projections = [b.shortcut[0] for b in blocks if not isinstance(b.shortcut, nn.Identity)]
    assert [(p.kernel_size[0], p.stride[0]) for p in projections] == [(1, 1), (3, 2), (3, 2), (3, 2)]
    assert model.head.dropout.p == 0.2
    layers = sum(map(len, convs)) + len([m for m in model.stem if isinstance(m, nn.Conv2d)]) + 1
    assert layers == 154


@pytest.mark.parametrize("name", ["se_resnet50", "se_vgg16"])
def test_starts_as_he_says(name: str) -> None:
    """Sec. 5.1: N(0, 2 / fan-in), in the gates too; biases 0."""
    model = create_model(name, seed=0)
    gate = [m for m in model.modules() if isinstance(m, SqueezeExcite)][-1]
    channels = gate.squeeze.in_channels
    layers = {gate.squeeze: channels, gate.excite: channels // 16, model.head.classifier: model.num_features}
    if name == "se_vgg16":
        layers |= {model.stages[4][0][0]: 9 * 512, model.head.neck[3]: 4096}
    for layer, fan_in in layers.items():
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / fan_in), rel=0.02)
        assert not layer.bias.any()


@pytest.mark.parametrize(
    ("name", "reduction", "said"),
    [("se_resnet50", 0, "reduction=0; give 1 to 256"), ("se_vgg16", 65, "reduction=65; give 1 to 64")],
)
def test_reductions_that_are_not_allowed(name: str, reduction: int, said: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=said):
        create_model(name, reduction=reduction)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
