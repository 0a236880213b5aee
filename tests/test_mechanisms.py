"""The mechanisms that the base offers to families: auxiliary heads, pairs of maps, padding, random paths, optimiser."""

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import backbones
from backbones import create_model
from backbones.backbone import Backbone, WithAux
from backbones.cost import measure_cost
from backbones.dilation import SpreadAvgPool, set_output_stride
from backbones.layers import AuxHead, DropPath, Head, SamePad, he_init
from backbones.records import Recipe
from backbones.train.loss import training_loss
from backbones.train.optimise import RMSprop, rate


def block(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, stride, 1), nn.BatchNorm2d(out_channels), nn.ReLU())


class Tapped(Backbone):
    """Two stages of two blocks; an auxiliary head reads the first block of the second stage."""

    def __init__(self, num_classes: int = 5, aux: bool = True) -> None:
        trunk = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU())
        tap = AuxHead(trunk, Head(6 * 4, num_classes, grid=2, drop_rate=0.5), least=2)
        stages = [nn.Sequential(block(4, 4), block(4, 4)), nn.Sequential(block(4, 8, 2), block(8, 8))]
        super().__init__(
            stem=block(3, 4, 2),
            stages=stages,
            head=Head(8, num_classes),
            in_channels=3,
            min_size=4,
            init=he_init,
            aux={(1, 0): tap} if aux else None,
        )


def test_auxiliary_heads_run_in_training_only() -> None:
    torch.manual_seed(0)
    model, images = Tapped(), torch.randn(2, 3, 40, 40)
    out = model.train()(images)
    assert isinstance(out, WithAux)
    assert [x.shape for x in (out.logits, *out.aux)] == [(2, 5), (2, 5)]
    ran = []
    model.aux.register_forward_hook(lambda *_: ran.append(1))
    assert isinstance(model.eval()(images), Tensor)
    assert not ran
    assert isinstance(Tapped(aux=False).train()(images), Tensor)
    assert model.train().forward_features(images).shape == (2, 8, 10, 10)


def test_auxiliary_heads_read_their_blocks_map() -> None:
    torch.manual_seed(0)
    model, images = Tapped().train(), torch.randn(2, 3, 40, 40)
    seen = []
    model.stages[1][0].register_forward_hook(lambda m, args, out: seen.append(out))
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    (got,) = model(images).aux
    tap = model.aux["stages_1_0"]
    torch.testing.assert_close(got, tap.head(tap.trunk(F.avg_pool2d(seen[0], 5, 3))))


def test_auxiliary_heads_are_counted_apart_and_reset_together() -> None:
    with_aux, without = measure_cost(Tapped(), (3, 40, 40)), measure_cost(Tapped(aux=False), (3, 40, 40))
    assert (with_aux.params, with_aux.madds) == (without.params, without.madds)
    assert (with_aux.aux_params, without.aux_params) == (8 * 6 + 6 + 24 * 5 + 5, 0)
    model = Tapped().train()
    model.reset_classifier(3)
    assert [x.shape[1] for x in (model(torch.randn(2, 3, 40, 40)).logits, *model(torch.randn(2, 3, 40, 40)).aux)] == [
        3,
        3,
    ]


def test_auxiliary_heads_take_small_maps() -> None:
    assert Tapped().train()(torch.randn(2, 3, 8, 8)).aux[0].shape == (2, 5)


def test_auxiliary_heads_with_gradient_checkpointing() -> None:
    torch.manual_seed(0)
    model, images = Tapped().train(), torch.randn(2, 3, 40, 40)
    twin = copy.deepcopy(model)
    twin.set_grad_checkpointing()
    for net in (model, twin):
        torch.manual_seed(1)
        out = net(images)
        (out.logits.square().sum() + out.aux[0].square().sum()).backward()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


def test_the_loss_weighs_auxiliary_heads() -> None:
    logits, labels = torch.randn(3, 4, 5), torch.tensor([1, 0, 4, 2])
    recipe = Recipe("", 1, 1, 1.0, smoothing=0.1, aux_weight=0.4)
    main, first, second = (F.cross_entropy(x, labels, label_smoothing=0.1) for x in logits)
    got = training_loss(WithAux(logits[0], (logits[1], logits[2])), labels, recipe)
    torch.testing.assert_close(got, main + 0.4 * (first + second))


class Cell(nn.Module):
    """(previous, current) -> (current, a sum of both)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.previous, self.current = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return pair[1], self.previous(pair[0]) + self.current(pair[1])


class Fork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (self.conv(x),) * 2


def test_pairs_of_maps_travel_and_the_newest_is_read() -> None:
    model = Backbone(
        stem=Fork(),
        stages=[nn.Sequential(Cell(4), Cell(4)), nn.Sequential(Cell(4))],
        head=Head(4, 5),
        in_channels=3,
        min_size=4,
        init=he_init,
    ).eval()
    images = torch.randn(2, 3, 16, 16)
    maps = model.features(images)
    assert [m.shape for m in maps] == [(2, 4, 8, 8)] * 3
    assert torch.equal(model.forward_features(images), maps[-1])
    assert torch.equal(model(images), model.head(maps[-1]))
    assert [(f.reduction, f.receptive_field) for f in model.feature_info] == [(2, 3), (2, 11), (2, 15)]
    model.train().set_grad_checkpointing()
    model(images).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("side", [7, 8, 9, 30, 37])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 2), (1, 2), (7, 2), (3, 1), (2, 2)])
def test_same_padding_is_tensorflows(kernel: int, stride: int, side: int) -> None:
    """ceil(side / stride) values; the total padding as TensorFlow documents it, the smaller half before."""
    padded = SamePad(kernel, stride)(torch.zeros(1, 1, side, side) + 1)
    out = math.ceil(side / stride)
    total = max((out - 1) * stride + kernel - side, 0)
    assert padded.shape[-1] == side + total
    assert F.max_pool2d(padded, kernel, stride).shape[-1] == out
    assert int((padded[0, 0, side // 2] != 0).nonzero()[0]) == total // 2


class Strided(Backbone):
    """Windows of every kind behind one another, each with SAME padding or torch's own; `even` has more of 2x2."""

    def __init__(self, even: bool) -> None:
        parts = [
            [SamePad(3, 2), nn.Conv2d(3, 4, 3, 2)],
            [SamePad(3, 2, float("-inf")), nn.MaxPool2d(3, 2)],
            [nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1)],
            [nn.AvgPool2d(2), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1)],
            [nn.AvgPool2d(3, 2, 1, count_include_pad=False), SamePad(5, 2), nn.Conv2d(4, 4, 5, 2)],
            [nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2)],
        ]
        del parts[4 if even else 3]
        stages = [nn.Sequential(*part) for part in parts]
        super().__init__(stem=nn.Identity(), stages=stages, head=Head(4, 5), in_channels=3, min_size=64, init=he_init)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("side", [128, 130, 131, 240, 250])
@pytest.mark.parametrize("even", [True, False])
def test_finer_maps_contain_the_coarse_ones(even: bool, side: int, output_stride: int) -> None:
    torch.manual_seed(0)
    model = Strided(even).double().eval()
    images = torch.randn(1, 3, side, side, dtype=torch.float64)
    with torch.inference_mode():
        coarse, strides = model.features(images), model.feature_info.reduction()
        set_output_stride(model, output_stride)
        fine = model.features(images)
    assert strides == [2, 4, 8, 32, 64]
    finer = model.feature_info.reduction()
    assert finer == [min(s, output_stride) for s in strides]
    for before, after, stride, now in zip(coarse, fine, strides, finer, strict=True):
        times = stride // now
        torch.testing.assert_close(after[..., ::times, ::times][..., : before.shape[-1], : before.shape[-1]], before)


def test_spread_means_are_means() -> None:
    x = torch.randn(1, 2, 9, 11)
    for pool in (nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2)):
        torch.testing.assert_close(
            SpreadAvgPool(pool, 1, 1)(x)[..., ::2, ::2][..., : pool(x).shape[2], : pool(x).shape[3]], pool(x)
        )
    same = SpreadAvgPool(nn.AvgPool2d(3, 1, 1, count_include_pad=False), 1, 2)(x)
    alone = nn.AvgPool2d(3, 1, 1, count_include_pad=False)(x[..., ::2, ::2])
    torch.testing.assert_close(same[..., ::2, ::2], alone)


def test_paths_drawn_per_image() -> None:
    model = create_model("resnet20_cifar", drop_path_rate=0.5, drop_path_mode="row", seed=0)
    path = model.stages[2][2].drop_path
    assert (path.rate, path.mode) == (0.5, "row")
    x, model.draws.step = torch.ones(64, 3, 4, 4), 5
    out = path.train()(nn.Identity(), x)
    assert set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(out, path(nn.Identity(), x))
    per_image = out.flatten(1)
    assert torch.equal(per_image.amax(1), per_image.amin(1))
    model.draws.step = 6
    assert not torch.equal(out, path(nn.Identity(), x))
    assert torch.equal(path.eval()(nn.Identity(), x), x)
    path.train()
    model.draws.progress = 0.0
    assert torch.equal(path(nn.Identity(), x), x)
    for name in ("resnet20_cifar", "googlenet"):
        with pytest.raises(ValueError, match="drop_path_mode='image'; give one of batch, row"):
            create_model(name, drop_path_mode="image")
    with pytest.raises(NotImplementedError, match="GoogLeNet has no branches"):
        create_model("googlenet", drop_path_mode="row")


def test_the_mode_of_random_paths_is_saved(tmp_path: Path) -> None:
    model = create_model("resnet20_cifar", drop_path_rate=0.5, seed=0)
    model.set_drop_path_mode("row")
    backbones.save(model, tmp_path / "model.safetensors")
    again, images = backbones.load(tmp_path / "model.safetensors"), torch.randn(1, 3, 32, 32)
    assert again.drop_path_mode == "row"
    with torch.inference_mode():
        assert torch.equal(again(images), model.eval()(images))


def test_files_with_auxiliary_heads_load_without_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, images = create_model("googlenet", num_classes=4, seed=0).eval(), torch.randn(1, 3, 64, 64)
    backbones.save(model, tmp_path / "with.safetensors")
    with caplog.at_level("INFO", "backbones"):
        without = create_model("googlenet", num_classes=4, aux=False, weights=tmp_path / "with.safetensors").eval()
    assert "auxiliary heads" in caplog.text
    backbones.save(without, tmp_path / "without.safetensors")
    back = create_model("googlenet", aux=True, weights=tmp_path / "without.safetensors").eval()
    with torch.inference_mode():
        assert torch.equal(without(images), model(images))
        assert torch.equal(back(images), model(images))
    assert not without.aux
    assert len(back.aux) == 2


def test_half_way_paths_drop_half_as_often() -> None:
    path = DropPath(0.6, "row").train()
    model = create_model("resnet20_cifar")
    path.place, path.draws = 0, model.draws
    model.draws.progress = 0.5
    out = path(nn.Identity(), torch.ones(4000, 1, 1, 1))
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert out.max().item() == pytest.approx(1 / 0.7)
    path.mode = "batch"
    assert path.eval()(nn.Identity(), torch.ones(1)).item() == pytest.approx(0.7)


def test_rmsprop_is_tensorflows() -> None:
    """ms from 1; mom <- momentum mom + lr g / sqrt(ms + eps), step by step in plain Python."""
    weight = nn.Parameter(torch.tensor([0.5, -2.0], dtype=torch.float64))
    optimiser = RMSprop([{"params": [weight], "weight_decay": 0.1}], lr=0.3, alpha=0.9, eps=0.01, momentum=0.8)
    values, square, step = [0.5, -2.0], [1.0, 1.0], [0.0, 0.0]
    for k in range(4):
        gradient = torch.tensor([1.0 + k, -0.2 * k], dtype=torch.float64)
        weight.grad = gradient.clone()
        optimiser.step()
        for i in range(2):
            g = gradient[i].item() + 0.1 * values[i]
            square[i] = 0.9 * square[i] + 0.1 * g * g
            step[i] = 0.8 * step[i] + 0.3 * g / math.sqrt(square[i] + 0.01)
            values[i] -= step[i]
    assert weight.tolist() == pytest.approx(values)
    again = RMSprop([nn.Parameter(weight.detach().float())], lr=0.3, alpha=0.9, eps=0.01, momentum=0.8)
    again.load_state_dict(optimiser.state_dict())
    (state,) = again.state.values()  # both buffers follow their parameter, as they must to another device
    assert {value.dtype for value in state.values()} == {torch.float32}


def test_linear_and_exponential_rates() -> None:
    linear = Recipe("", 10, 1, 1.0, sched="linear")
    assert [rate(linear, e) for e in (0, 5, 10)] == [1.0, 0.5, 0.0]
    exponential = Recipe("", 10, 1, 1.0, sched="exponential", decay_rate=0.94, decay_epochs=2)
    assert [rate(exponential, e) for e in (0, 1.9, 2, 4.5)] == pytest.approx([1, 1, 0.94, 0.94**2])
