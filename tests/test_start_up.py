"""From a file to a network without a draw or a copy: what is filled, what is drawn as ever, what is imported."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread
from zlib import crc32

import pytest
import torch
from networks import KINDS
from torch import nn
from torch.utils import deterministic

import backbones
from backbones import create_model, model_info
from backbones.backbone import Backbone
from backbones.build import build
from backbones.drawing import DRAWING, undrawn
from backbones.layers import Head

HEAVY = (
    "torchvision",
    "torch._dynamo",
    "sympy",
    "PIL",
    "rich",
    "huggingface_hub",
    "timm",
    "onnx",
    "openvino",
    "lightning",
)
BUILD = [
    "backbones.create_model('resnet20_cifar')",
    "backbones.load(sys.argv[1])",
    "backbones.create_model('resnet20_cifar', weights=sys.argv[1])",
    "backbones.create_model('squeezenet1_1', weights=sys.argv[2])",
]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    backbones.save(create_model("resnet20_cifar", num_classes=3, seed=0), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("code", BUILD)
def test_a_first_network_imports_nothing_heavy(code: str, saved: Path, tmp_path: Path) -> None:
    backbones.save(create_model("squeezenet1_1"), tmp_path / "theirs.safetensors", to="torchvision")
    told = f"import sys, backbones\n{code}\nprint([m for m in {HEAVY} if m in sys.modules])"
    command = [sys.executable, "-c", told, str(saved), str(tmp_path / "theirs.safetensors")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_nothing_is_drawn_for_what_a_file_holds(saved: Path) -> None:
    before = torch.get_rng_state()
    backbones.load(saved)
    create_model("resnet20_cifar", weights=saved, in_chans=1, drop_rate=0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_classifier_is_drawn_as_ever(saved: Path) -> None:
    model = create_model("resnet20_cifar", weights=saved, num_classes=7, seed=5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = build(model.variant, {"num_classes": 3})
        expected.reset_classifier(7)
    assert torch.equal(model.head.classifier.weight, expected.head.classifier.weight)
    assert torch.equal(model.stem[0].weight, backbones.load(saved).stem[0].weight)


def test_tables_that_no_file_holds_are_there(tmp_path: Path) -> None:
    model = create_model("lenet5", seed=0).eval()
    backbones.save(model, tmp_path / "lenet.safetensors")
    images = torch.rand(2, 1, 32, 32)
    assert torch.equal(backbones.load(tmp_path / "lenet.safetensors")(images), model(images))


@pytest.fixture
def filled_with_nan(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that nothing was written to holds NaN."""
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", KINDS)
def test_drawing_once_is_drawing(name: str, filled_with_nan: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor gets what its last draw gives: here a number for each function and its arguments."""
    for function in DRAWING:
        monkeypatch.setattr(nn.init, function, partial(numbered, function))
    once = create_model(name).state_dict()
    monkeypatch.setattr("backbones.build.drawn_once", nullcontext)
    twice = create_model(name).state_dict()
    assert [key for key, tensor in twice.items() if not tensor.equal(once[key])] == []


def numbered(function: str, tensor: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
    with torch.no_grad():
        return tensor.fill_(crc32(repr((function, args, sorted(kwargs.items()))).encode()) / 2**32)


class Halved(Backbone):
    """Halves what its layer drew."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        conv = nn.Conv2d(in_channels, 256, 3)
        conv.weight.data.mul_(0.5)
        head = Head(256, num_classes)
        super().__init__(stem=conv, stages=[], head=head, in_channels=in_channels, min_size=3, init=lambda _: None)


def test_a_network_of_others_may_read_what_its_layers_drew(filled_with_nan: None) -> None:
    weight = build(replace(model_info("resnet18"), build=Halved, settings={}), {}).stem.weight
    assert float(weight.detach().abs().max()) == pytest.approx(
        0.5 / 27**0.5, rel=0.01
    )  # torch draws within 1 / sqrt(fan_in)


def test_drawing_in_inference_mode() -> None:
    """Its tensors do not count what is written to them."""
    with torch.inference_mode():
        deviation = float(create_model("resnet20_cifar", seed=0).stem[0].weight.std())
    assert deviation == pytest.approx((2 / 27) ** 0.5, rel=0.2)  # He, 3x3 of 3 channels


def test_other_threads_draw_as_ever() -> None:
    originals = [getattr(nn.init, name) for name in DRAWING]
    seen: list[torch.Tensor] = []
    with undrawn():
        mine = nn.init.uniform_(torch.full((3,), 9.0))
        other = Thread(target=lambda: seen.append(nn.init.uniform_(torch.full((3,), 9.0))))
        other.start()
        other.join()
    assert mine.tolist() == [9.0] * 3
    assert seen[0].max() < 1
    assert [getattr(nn.init, name) for name in DRAWING] == originals


def test_a_mapped_network_trains_and_leaves_its_file_alone(saved: Path) -> None:
    whole = saved.read_bytes()
    model, kept = backbones.load(saved).train(), backbones.load(saved)
    before = {name: tensor.clone() for name, tensor in kept.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    optimiser.step()
    assert saved.read_bytes() == whole
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.state_dict().items())
    moved = [name for name, tensor in model.named_parameters() if not torch.equal(before[name], tensor)]
    assert len(moved) == len(list(model.parameters()))
    backbones.save(model, saved)  # in place of the file that both are mapped from
    saved.unlink()
    assert all(torch.equal(before[name], tensor) for name, tensor in kept.state_dict().items())


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
def test_one_bit_anywhere_is_noticed(place: float, saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[int(place * len(content))] ^= 4
    other = saved.with_name("other.safetensors")
    other.write_bytes(content)
    with pytest.raises(ValueError, match="altered after it was written"):
        backbones.load(other)


def test_nan_in_a_file_of_ours_is_reported(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    backbones.load(saved)
    assert not caplog.records
    model = backbones.load(saved)
    model.head.classifier.bias.data[1] = float("nan")
    backbones.save(model, saved)
    backbones.load(saved)
    assert "net.safetensors: NaN or infinite values in head.classifier.bias" in caplog.text
