"""Networks made fast give the answers of those they were made from; what was tried is told, and remembered."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from networks import SMALLEST
from torch import Tensor, nn

import backbones
from backbones import create_model, model_info
from backbones.bf16 import has_bf16
from backbones.catalog import load
from backbones.infer import candidates, search
from backbones.infer.answers import Calibration
from backbones.infer.packed import pack
from backbones.infer.report import Report
from backbones.infer.search import Search
from backbones.infer.source import Candidate, Source
from backbones.timing import interleaved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

NORMS_LEFT = {"densenet": 1.0, "preact_resnet": 0.6, "wide_resnet": 0.6, "senet_others": 0.5, "nasnet": 0.05}
"""share of the norms that nothing can take in, at most: those that come before a convolution; none elsewhere"""
MANY_LAYERS = {
    "nasnet_a_6_768_cifar",
    "inception_v4",
    "inception_resnet_v1",
    "fractalnet40_cifar",
    "se_resnet110_cifar",
}


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and times of one run each: what is chosen does not matter here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(search, "interleaved", partial(interleaved, rounds=1, block=0.0, most=1))


def trained_like(module: nn.Module) -> nn.Module:
    """With statistics and scales that folding must not lose."""
    chance = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=chance)
            part.running_var.uniform_(0.5, 1.5, generator=chance)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=chance)
                nn.init.normal_(part.bias, 0, 0.1, generator=chance)
    return module.eval()


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2))
    return trained_like(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


def off(mine: Tensor, theirs: Tensor) -> float:
    return float((mine - theirs).detach().abs().max() / (mine.max() - mine.min()).detach())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n in MANY_LAYERS else []) for n in sorted(SMALLEST)]
)
def test_folding_changes_nothing(name: str) -> None:
    """In double precision, where only the folding itself could; and packed in single, for another batch too."""
    channels, height, width = model_info(name).input_size
    side = (height, width) if height < 100 else (max(64, load()[name]["measured"]["min_size"]),) * 2
    model = trained_like(create_model(name, seed=0))
    images = torch.randn(2, channels, *side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        single = Source(model, (images,), 1)
        packed = pack(single.folded(), (images,), torch.float32)
        assert single.any_batch
        three = torch.cat([images, images[:1]])
        plain, fast = model(three), packed(three)
        folded = Source(model.double(), (images.double(),), 1).folded()
        expected = model(three.double())
        assert off(expected, folded(three.double())) < 1e-11
        assert off(expected, fast.double()) < 1e-5 + 4 * off(expected, plain.double())
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    left = sum("batch_norm" in str(node.target) for node in folded.graph.nodes)
    assert left <= NORMS_LEFT.get(load()[name]["family"], 0) * norms


def test_a_norm_before_unpadded_convolutions_is_folded_into_them() -> None:
    """Two that read it, one of them in groups: scaled by hand, channel by channel."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.one, self.two = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 2, groups=2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return self.one(y).mean((2, 3)) + self.two(y).mean((2, 3))

    net = trained_like(Net()).double()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = Source(net, (images,), 1).folded()
    assert not any("batch_norm" in str(node.target) for node in folded.graph.nodes)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-12, atol=1e-12)


def test_a_norm_after_convolutions_beside_each_other_is_folded_into_each() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.norm = nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 3, 1), nn.BatchNorm2d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(torch.cat([self.one(x), self.two(x)], 1))

    net = trained_like(Net()).double()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = Source(net, (images,), 1).folded()
    assert not any("batch_norm" in str(node.target) for node in folded.graph.nodes)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-12, atol=1e-12)


def test_a_norm_before_a_border_of_zeros_stays() -> None:
    net = trained_like(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1))).double()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    folded = Source(net, (images,), 1).folded()
    assert any("batch_norm" in str(node.target) for node in folded.graph.nodes)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("swapped", [False, True])
def test_additions_within_convolutions(swapped: bool) -> None:
    """x + conv(x), relu after it; the sum also where the convolution stands first, and where it is read twice."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            y = torch.relu(y + x if swapped else x + y)
            z = self.two(y)
            return torch.relu(z + y) + z  # z is read twice: nothing may take it in

    net, images = Net().eval(), torch.randn(3, 4, 6, 6)
    packed = pack(Source(net, (images,), 1).folded(), (images,), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), net(images), rtol=1e-5, atol=1e-6)
        assert packed(images).equal(packed(images))  # nothing is written over


def test_exact_is_within_a_ten_thousandth_and_everything_is_told() -> None:
    net, images = small(), torch.randn(4, 3, 16, 16)
    fast = backbones.optimize(net, images, precision="exact")
    assert off(net(images), fast(images)) < 1e-4
    assert fast(images[:1]).shape == (1, 5)
    assert fast(torch.cat([images] * 3)).shape == (12, 5)
    trials = {trial.candidate.name: trial for trial in fast.report.trials}
    assert {"torch fp32 as it is", "torch fp32 folded", "openvino fp32", "onnxruntime fp32"} <= set(trials)
    measured = [t for t in trials.values() if t.ms_low is not None]
    assert fast.report.taken.ms <= 1.02 * min(t.ms for t in measured)
    assert all(t.verdict for t in trials.values())
    assert all(t.error is not None and t.error <= 1e-4 for t in measured)
    assert "taken" in str(fast.report)


def test_a_second_call_searches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, images = small(), torch.randn(1, 3, 16, 16)
    monkeypatch.setattr("backbones.timing.machine.busy", lambda _: None)  # whoever else computes: it is believed
    first = backbones.optimize(net, images, precision="exact", engine="openvino")
    monkeypatch.setattr(Search, "run", lambda _: pytest.fail("searched again"))
    other = small()
    nn.init.ones_(other[-1].weight)  # the values of the weights are not part of what is remembered
    again = backbones.optimize(other, images, precision="exact", engine="openvino")
    assert again.report.remembered
    assert again.report.chosen == first.report.chosen
    assert off(other(images), again(images)) < 1e-4
    with pytest.raises(pytest.fail.Exception):
        backbones.optimize(net, images.repeat(2, 1, 1, 1), precision="exact", engine="openvino")


def test_from_many_threads_at_a_time() -> None:
    net, images = small(), torch.randn(32, 1, 3, 16, 16)
    fast = backbones.optimize(net, images[0], precision="exact", engine="openvino")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(fast, images))
    with torch.no_grad():
        assert all(off(net(x), y) < 1e-4 for x, y in zip(images, answers, strict=True))
    throughput = backbones.optimize(net, images[0], precision="exact", goal="throughput", engine="openvino")
    assert all(y.equal(z) or off(y, z) < 1e-4 for y, z in zip(answers, throughput.map(images), strict=True))


def test_parts_of_a_batch_beside_each_other() -> None:
    net, images = small(), torch.randn(8, 3, 16, 16)
    source = Source(net, (images,), 2)
    cuts = [c for c in candidates.plan(source, "exact", "latency", "openvino") if c.engine == "openvino"]
    assert [(c.parts, c.streams) for c in cuts] == [(1, 1), (2, 2), (4, 2)]
    alone = [(c.parts, c.streams) for c in candidates.plan(source, "exact", "throughput", "openvino")]
    assert alone == [(1, 1), (1, 2), (4, 2)]
    for candidate in cuts:
        run = candidates.build(source, candidate)
        for batch in (images, images[:3]):
            assert off(net(batch), run(batch)) < 1e-4
            assert run(batch).equal(run(batch))


class Fragile(nn.Module):
    """Its classes hang on the ninth binary digit, which bfloat16 does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[[[1.0]]], [[[1.0 + 2**-9]]]]))
            self.conv.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_auto_takes_no_precision_that_changes_answers() -> None:
    """Each image has one sign: its sign decides the class, by 2^-9 of what it is."""
    values = torch.tensor([1.0, -1.0]).repeat(20) * torch.linspace(1, 2, 40)
    images = values[:, None, None, None].expand(40, 1, 8, 8).contiguous()
    fast = backbones.optimize(Fragile(), images[:1], calibration=images)
    assert fast.report.taken.candidate.precision == "fp32"
    less = [t for t in fast.report.trials if t.candidate.precision == "bf16" and t.agreement is not None]
    assert less or not has_bf16()
    assert all(t.verdict.startswith(("same answer on", "off by")) for t in less)
    assert "same first answer as the module on 100.00% of 40" in " ".join(fast.report.notes)


def test_int8_is_checked_on_labelled_images() -> None:
    net, images = small(), torch.randn(64, 3, 16, 16)
    labels = net(images).argmax(1)
    fast = backbones.optimize(net, images[:8], precision="int8", calibration=(images, labels), engine="openvino")
    assert fast.report.taken.candidate.precision == "int8"
    assert fast.report.taken.agreement == pytest.approx(1 + fast.report.taken.accuracy_change / 100)
    untold = backbones.optimize(net, images[:8], calibration=images, engine="openvino")
    assert {t.verdict for t in untold.report.trials if t.candidate.precision == "int8"} == {
        "not tried: int8 needs classes of the images, or a tolerance"
    }


def test_int8_may_be_far_off_where_answers_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """MobileNet v2 trained with smoothed labels: logits off by 41 % of their range, answers the same on 99.8 %."""
    net, images = small(), torch.randn(64, 3, 16, 16)
    asked = {"precision": "int8", "calibration": images, "engine": "openvino"}
    monkeypatch.setattr(search, "WRONG", 0.0)
    assert backbones.optimize(net, images[:8], **asked).report.taken.error > 0
    monkeypatch.setattr(search, "ALIEN", 1.1)
    with pytest.raises(ValueError, match="of the images only: more than rounding explains"):
        backbones.optimize(net, images[:8], **asked, fresh=True)


def test_without_the_engines_torch_is_made_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda _: None)
    monkeypatch.setattr(candidates.torch_engine, "has_compiler", lambda: False)
    net, images = small(), torch.randn(2, 3, 16, 16)
    fast = backbones.optimize(net, images, precision="exact")
    assert fast.report.taken.candidate.engine == "torch"
    verdicts = {t.candidate.name: t.verdict for t in fast.report.trials}
    assert "pip install 'backbones[infer]'" in verdicts["openvino fp32"]
    assert verdicts["torch fp32 compiled"] == "no C++ compiler here"
    assert off(net(images), fast(images)) < 1e-4


@pytest.mark.slow
def test_compiled_weights_are_frozen() -> None:
    """As the program's build asserts; the call is the same in inference mode, where it would be compiled anew."""
    source = Source(small(), (torch.randn(2, 3, 16, 16),), 1)
    run = candidates.build(source, Candidate("torch", "fp32", "compiled"))
    before = run(*source.example)
    with torch.no_grad():
        assert off(source.module(*source.example), before) < 1e-4
    with torch.inference_mode():
        assert run(*source.example).equal(before)


def test_several_tensors_in_and_out() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": x + 2 * y, "rest": torch.relu(x - y)}

    x, y = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    fast = backbones.optimize(Net(), (x, y), precision="exact")
    for name, value in Net()(x, y).items():
        torch.testing.assert_close(fast(x, y)[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"precision": "fp16"}, "give one of auto, exact, bf16, int8"),
        ({"goal": "speed"}, "latency, throughput"),
        ({"engine": "tvm"}, "auto, torch, openvino, onnxruntime"),
        ({"precision": "int8"}, "calibration="),
        ({"calibration": torch.zeros(0, 3, 16, 16)}, "no images"),
        ({"calibration": "photos/"}, "calibration is a str"),
        ({"calibration": [object()]}, "calibration has a object"),
        ({"calibration": (torch.zeros(4, 3, 16, 16), torch.zeros(3))}, "4 images and 3 classes"),
        (
            {"engine": "torch", "precision": "int8", "calibration": torch.zeros(4, 3, 16, 16)},
            "does not compute in int8",
        ),
        ({"tolerance": 0.1}, "tolerance"),
        ({"calibration": torch.zeros(4, 3, 8, 8)}, "as the network will see"),
    ],
)
def test_mistakes(asked: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        backbones.optimize(small(), torch.randn(1, 3, 16, 16), **asked)


def test_operators_that_write_over_what_they_read() -> None:
    """Nothing is moved past them: an activation and an addition in place, before a sum."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(4, 4, 3, padding="same"), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 2
            y, z = self.conv(x), self.norm(x)
            x = nn.functional.relu_(x)
            x = x + y
            x.add_(1)
            return self.last(z) + nn.functional.relu_(x)

    net, images = trained_like(Net()), torch.randn(2, 4, 6, 6)
    packed = pack(Source(net, (images,), 1).folded(), (images,), torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(packed(images), net(images), rtol=1e-5, atol=1e-5)
        assert "conv2d" not in packed.code
        torch.testing.assert_close(packed(images[:1]), net(images[:1]), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_folded_is_left() -> None:
    """A norm and a bias that are computed; a linear layer whose features are not what the norm scales."""

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.gain = nn.Conv2d(4, 4, 1), nn.Parameter(torch.rand(4))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = nn.functional.batch_norm(self.conv(x), self.norm.running_mean, self.norm.running_var, 1 + self.gain)
            return self.norm(nn.functional.conv2d(y, self.conv.weight, 3 * self.gain))

    features = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval()
    assert isinstance(features[1], nn.BatchNorm1d)
    with torch.no_grad():
        features[1].weight.copy_(torch.rand(8) + 1)
    for net, x in ((trained_like(Computed()), torch.randn(2, 4, 3, 3)), (features, torch.randn(2, 8, 8))):
        with torch.no_grad():
            torch.testing.assert_close(Source(net, (x,), 1).folded()(x), net(x), rtol=1e-5, atol=1e-5)


def test_a_single_output_has_no_classes_to_compare() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1)).eval()
    images = torch.randn(8, 3, 8, 8)
    fast = backbones.optimize(net, images[:1], precision="exact", calibration=images, engine="openvino")
    assert fast.report.taken.agreement is None
    assert (fast(images[:1]) - net(images[:1])).abs().max() < 1e-4


def test_a_module_that_cannot_be_exported_is_computed_as_it_is() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x - 1

    images = torch.randn(4, 3, 8, 8)
    fast = backbones.optimize(Net(), images, precision="exact")
    assert fast.report.chosen == "torch fp32 as it is"
    assert fast(images).equal(Net()(images))
    assert all("failed" in t.verdict or "not tried" in t.verdict for t in fast.report.trials[1:])


def test_what_is_remembered_is_told_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other images, other agreement; and int8 that was taken with classes is not taken without."""
    monkeypatch.setattr("backbones.timing.machine.busy", lambda _: None)
    net, images = small(), torch.randn(64, 3, 16, 16)
    labels = net(images).argmax(1)
    backbones.optimize(net, images[:4], calibration=(images, labels), engine="openvino")
    again = backbones.optimize(net, images[:4], calibration=(images[:8], labels[:8]), engine="openvino")
    assert again.report.remembered
    assert again.report.calibrated == 8
    assert "of 8 calibration images" in " ".join(again.report.notes)
    unlabelled = backbones.optimize(net, images[:4], calibration=images, engine="openvino")
    assert unlabelled.report.taken.candidate.precision != "int8"


def test_a_search_that_had_no_time_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backbones.timing.machine.busy", lambda _: None)
    net, images = small(), torch.randn(2, 3, 16, 16)
    first = backbones.optimize(net, images, precision="exact", budget_s=0)
    assert first.report.chosen == "torch fp32 as it is"
    assert not backbones.optimize(net, images, precision="exact", engine="auto").report.remembered


def test_wrong_images_and_training() -> None:
    fast = backbones.optimize(small(), torch.randn(1, 3, 16, 16), precision="exact", engine="torch", budget_s=0)
    with pytest.raises(ValueError, match=r"optimized for \(N, 3, 16, 16\) float32 on cpu and got \(1, 3, 20, 20\)"):
        fast(torch.randn(1, 3, 20, 20))
    with pytest.raises(ValueError, match="float64"):
        fast(torch.randn(1, 3, 16, 16).double())
    with pytest.raises(ValueError, match="cannot be trained"):
        fast.train()


def test_the_module_is_left_as_it_is() -> None:
    net = small().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    backbones.optimize(net, torch.randn(2, 3, 16, 16), precision="exact", engine="torch", budget_s=5)
    assert net.training
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_calibration_in_every_form() -> None:
    images, labels = torch.randn(6, 1, 2, 2), torch.arange(6)
    example = (images[:1],)

    class Pairs:
        def __len__(self) -> int:
            return 6

        def __getitem__(self, place: int) -> tuple[Tensor, int]:
            return images[place], int(labels[place])

    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    for given in ((images, labels), batches, Pairs()):
        found = Calibration.of(given, example)
        assert found.images.equal(images)
        assert found.labels is not None
        assert found.labels.equal(labels)
    for given in (images, [images[:2], images[2:]], list(images)):
        found = Calibration.of(given, example)
        assert found.images.equal(images)
        assert found.labels is None


def test_a_report_is_kept_as_json() -> None:
    fast = backbones.optimize(small(), torch.randn(1, 3, 16, 16), precision="exact", engine="torch", budget_s=2)
    assert Report.from_json(fast.report.to_json()) == fast.report
