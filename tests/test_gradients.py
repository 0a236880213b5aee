"""Gradients by other means: the same as torch's, used by every run, and for nothing else."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones import create_model, train
from backbones.data import Data, open_data
from backbones.recipes import MODERN
from backbones.records import Options
from backbones.train import gradients as module
from backbones.train.gradients import QuickGradients

WINDOWS: dict[str, dict[str, Any]] = {
    "stride 2": {"kernel_size": 3, "stride": 2, "padding": 1},
    "stride 2, padded outside": {"kernel_size": 3, "stride": 2},
    "5x5": {"kernel_size": 5, "padding": 2},
    "5x5, stride 2": {"kernel_size": 5, "stride": 2, "padding": 2},
    "spread": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "spread, stride 2": {"kernel_size": 3, "stride": 2, "padding": 2, "dilation": 2},
    "uneven": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 1), "dilation": (1, 3)},
    "1x1, stride 2": {"kernel_size": 1, "stride": 2},
    "stride over values": {"kernel_size": 2, "stride": 3},
}


def gradients(conv: nn.Conv2d, x: Tensor) -> tuple[Tensor, Tensor, Any]:
    """Of the input and of the weights, under autocast as in a run; and what made the output."""
    x = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=conv.weight.dtype is not torch.float64):
        y = conv(x)
    slope = torch.randn(y.shape, generator=torch.manual_seed(2)).bfloat16()
    return *torch.autograd.grad(y, (x, conv.weight), slope.to(y.dtype)), y.grad_fn


@pytest.mark.parametrize("side", [13, 16])
@pytest.mark.parametrize("window", WINDOWS)
def test_gradients_are_those_of_float64(window: str, side: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 24, groups=24, bias=False, **WINDOWS[window])
    conv.weight.data = conv.weight.data.bfloat16().float()
    x = torch.randn(3, 24, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    with QuickGradients():
        *found, maker = gradients(conv, x)
    assert maker.name() == "_DepthwiseBackward"
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    assert [g.dtype for g in found] == [torch.bfloat16, torch.float32]
    plain = gradients(conv, x)[:2]
    exact = gradients(conv.double(), x.double())[:2]
    for ours, torchs, true in zip(found, plain, exact, strict=True):
        largest = true.abs().max()
        assert (ours - true).abs().max() <= largest * 2**-7
        assert (ours - true).abs().max() <= 1.5 * (torchs - true).abs().max() + largest * 2**-10


def others() -> dict[str, tuple[nn.Conv2d, torch.dtype]]:
    """What is not a slow depthwise convolution in bfloat16."""
    return {
        "float32": (nn.Conv2d(8, 8, 3, 2, groups=8, bias=False), torch.float32),
        "3x3": (nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), torch.bfloat16),
        "biased": (nn.Conv2d(8, 8, 3, 2, groups=8), torch.bfloat16),
        "full": (nn.Conv2d(8, 8, 3, 2, bias=False), torch.bfloat16),
        "groups of two": (nn.Conv2d(8, 8, 3, 2, groups=4, bias=False), torch.bfloat16),
        "two of each": (nn.Conv2d(8, 16, 3, 2, groups=8, bias=False), torch.bfloat16),
        "one channel": (nn.Conv2d(1, 8, 5, 2, bias=False), torch.bfloat16),
        "same": (nn.Conv2d(8, 8, 5, padding="same", groups=8, bias=False), torch.bfloat16),
        "padded beyond the window": (nn.Conv2d(8, 8, 3, 2, 4, groups=8, bias=False), torch.bfloat16),
        "reflected": (nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False, padding_mode="reflect"), torch.bfloat16),
    }


@pytest.mark.parametrize("kind", others())
def test_others_are_torchs(kind: str) -> None:
    conv, dtype = others()[kind]
    x = torch.randn(2, conv.in_channels, 16, 16)
    with QuickGradients(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert (conv(x).grad_fn.name() == "_DepthwiseBackward") == (kind == "reflected")  # padded before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_map_has_its_gradient(dtype: torch.dtype) -> None:
    x = torch.randn(2, 16, 9, 7, generator=torch.manual_seed(0)).to(dtype).contiguous(memory_format=torch.channels_last)
    slope = torch.randn(x.shape, generator=torch.manual_seed(1)).to(dtype)

    def gradient(quick: bool, x: Tensor) -> tuple[Tensor, Any]:
        x = x.detach().requires_grad_()
        with QuickGradients() if quick else nullcontext():
            mean = x.mean((2, 3), keepdim=True)
            torch.autograd.backward(x * mean.sigmoid(), slope.to(x.dtype))
        assert x.grad is not None
        return x.grad, mean.grad_fn

    (found, maker), (plain, _), (exact, _) = gradient(True, x), gradient(False, x), gradient(False, x.double())
    assert maker.name() == "_MapMeanBackward"
    assert (found - exact).abs().max() <= (plain - exact).abs().max() * 1.01
    assert gradient(True, x.contiguous())[1].name() == "MeanBackward1"


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0"])
def test_a_network_has_the_gradients_it_has_without(name: str, recompute: bool) -> None:
    """Each filter has torch's, but for rounding. A bias before another norm has none but rounding, and is left out."""
    model = create_model(name, num_classes=10, seed=0).to(memory_format=torch.channels_last).train()
    model.set_grad_checkpointing(recompute)
    images = torch.randn(4, 3, 64, 64, generator=torch.manual_seed(1))

    def slopes(mode: AbstractContextManager[Any]) -> dict[str, Tensor]:
        model.zero_grad()
        torch.manual_seed(3)  # dropout
        with torch.autocast("cpu", torch.bfloat16), mode:
            loss = nn.functional.cross_entropy(model(images), torch.arange(4))
        torch.autograd.backward(loss)
        return {weight: p.grad for weight, p in model.named_parameters() if p.grad is not None and p.ndim == 4}

    plain, ours = slopes(nullcontext()), slopes(QuickGradients())
    assert plain.keys() == ours.keys()
    assert [n for n in plain if (ours[n] - plain[n]).norm() > 0.1 * plain[n].norm()] == []


def test_a_run_computes_them_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The forward passes of the step, and of those that try the network before; also where maps are computed again."""
    computed = []
    monkeypatch.setattr(module, "_of_input", lambda x, *window: computed.append("input") or torch.zeros_like(x))
    monkeypatch.setattr(module, "_is_spread", lambda x: computed.append("mean"))
    data = open_data("shapes:32")
    few = Data(replace(data.info, images={"train": 8}), data.train.take(range(8)))
    model = create_model("efficientnet_b0", num_classes=len(data.info.classes))
    model.set_grad_checkpointing()
    recipe = replace(MODERN, epochs=1, batch_size=8)
    train.fit(model, few, recipe, Options(output=str(tmp_path / "run"), img_size=32, precision="bf16-mixed"))
    depthwise = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    slow = [m for m in depthwise if m.stride == (2, 2) or m.kernel_size == (5, 5)]
    assert (computed.count("input"), computed.count("mean")) == (3 * len(slow), 3 * len(depthwise))
