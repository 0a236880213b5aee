"""SqueezeNet (1602.07360): what is peculiar to it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from backbones import create_model
from backbones.models.squeezenet import TABLE_1, BypassedFire, Fire


def test_table_1_follows_the_metaparameters() -> None:
    """Sec. 5.2: expand filters start at 128 and grow by 128 every second module; half are 3x3; an eighth squeezes."""
    for i, row in enumerate(TABLE_1.values()):
        expand = 128 + 128 * (i // 2)
        assert row == (expand / 8, expand / 2, expand / 2)


def test_fire_by_hand() -> None:
    fire, x = create_model("squeezenet1_0", seed=0).stages[0][1], torch.randn(2, 96, 5, 6)
    s = F.relu(F.conv2d(x, fire.squeeze.weight, fire.squeeze.bias))
    one = F.relu(F.conv2d(s, fire.expand1x1.weight, fire.expand1x1.bias))
    three = F.relu(F.conv2d(s, fire.expand3x3.weight, fire.expand3x3.bias, padding=1))
    torch.testing.assert_close(fire(x), torch.cat([one, three], 1))


def test_conv10_classifies_every_place_before_the_mean() -> None:
    model, last = create_model("squeezenet1_0", num_classes=5, seed=0).eval(), torch.randn(2, 512, 3, 4)
    conv10 = model.get_classifier()
    torch.testing.assert_close(model.forward_head(last), F.relu(conv10(last)).mean((2, 3)))
    torch.testing.assert_close(model.forward_head(last, pre_logits=True), last.mean((2, 3)))
    model.set_global_pool("max")
    torch.testing.assert_close(model.forward_head(last), F.relu(conv10(last)).amax((2, 3)))
    model.reset_classifier(0)
    torch.testing.assert_close(model.forward_head(last), last.amax((2, 3)))
    model.set_global_pool("")
    assert torch.equal(model.forward_head(last), last)


@pytest.mark.parametrize(
    ("name", "identities", "convolutions"),
    [
        ("squeezenet1_0", [], []),
        ("squeezenet1_0_simple_bypass", [3, 5, 7, 9], []),
        ("squeezenet1_0_complex_bypass", [3, 5, 7, 9], [2, 4, 6, 8]),
    ],
)
def test_bypasses_are_where_figure_2_draws_them(name: str, identities: list[int], convolutions: list[int]) -> None:
    model = create_model(name, drop_path_rate=0.0, seed=0)
    blocks = [m for stage in model.stages for m in stage if isinstance(m, Fire | BypassedFire)]
    shortcuts = {number: getattr(block, "shortcut", None) for number, block in enumerate(blocks, start=2)}
    assert [n for n, shortcut in shortcuts.items() if isinstance(shortcut, nn.Identity)] == identities
    assert [n for n, shortcut in shortcuts.items() if isinstance(shortcut, nn.Conv2d)] == convolutions
    for n in convolutions:
        assert shortcuts[n].weight.shape == (
            TABLE_1[n].e1x1 + TABLE_1[n].e3x3,
            blocks[n - 2].fire.squeeze.in_channels,
            1,
            1,
        )
    for block in (b for b in blocks if isinstance(b, BypassedFire)):
        x = torch.randn(1, block.fire.squeeze.in_channels, 4, 4)
        torch.testing.assert_close(block(x), block.fire(x) + block.shortcut(x))


def test_stochastic_depth_grows_with_the_module() -> None:
    model = create_model("squeezenet1_0_simple_bypass", drop_path_rate=0.8)
    assert [m.drop_path.rate for m in model.modules() if isinstance(m, BypassedFire)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8]
    )


@pytest.mark.parametrize(("version", "sides"), [("1_0", [111, 55, 27, 13]), ("1_1", [113, 56, 28, 14])])
def test_poolings_cover_the_far_edge(version: str, sides: list[int]) -> None:
    """At the 227 pixels of the release."""
    with torch.device("meta"):
        maps = create_model(f"squeezenet{version}").features(torch.empty(1, 3, 227, 227))
    assert [m.shape[-1] for m in maps] == sides


def test_initialisation() -> None:
    """Caffe's xavier: uniform within sqrt(3 / fan_in), of deviation sqrt(1 / fan_in); conv10 N(0, 0.01^2)."""
    model = create_model("squeezenet1_0_complex_bypass", seed=0)
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        assert not conv.bias.any()
        if conv is model.get_classifier():
            assert conv.weight.std().item() == pytest.approx(0.01, rel=0.01)
            continue
        fan_in = conv.in_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx(math.sqrt(1 / fan_in), rel=0.05)
        assert conv.weight.abs().max() <= math.sqrt(3 / fan_in)
    model.reset_classifier(300)
    assert model.get_classifier().weight.std().item() == pytest.approx(0.01, rel=0.01)


@pytest.mark.parametrize("setting", [{"version": "1.2"}, {"bypass": "both"}])
def test_settings_that_are_not_allowed(setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"versions are 1\.0, 1\.1, bypasses none, simple, complex"):
        create_model("squeezenet1_0", **setting)
