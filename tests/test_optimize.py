"""Networks made fast give the answers of those they were made from; what was tried is told, and remembered."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from filled import off, trained_like
from torch import Tensor, nn

import backbones
from backbones.bf16 import has_bf16
from backbones.infer import candidates, search
from backbones.infer.answers import Calibration
from backbones.infer.report import Report
from backbones.infer.search import Search
from backbones.infer.source import Candidate, Source
from backbones.timing import interleaved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of its own, and times of one run each: what is chosen does not matter here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(search, "interleaved", partial(interleaved, rounds=1, block=0.0, most=1))


def small() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2))
    return trained_like(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)))


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
        time.sleep(0.01)  # no engine does that: the module as it is, of which there is nothing to tell, is the slowest
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
    assert f"off by up to {off(net(images[:8]), fast(images[:8])):.1%} of the range" in " ".join(fast.report.notes)
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
    """As the program's build asserts; nothing that a caller may give makes torch compile anew, without freezing."""
    source = Source(small(), (torch.randn(2, 3, 16, 16),), 1)
    run = candidates.build(source, Candidate("torch", "fp32", "compiled"))
    before = run(*source.example)
    with torch.no_grad():
        assert off(source.module(*source.example), before) < 1e-4
    (images,) = source.example
    given = [images.to(memory_format=torch.channels_last), images.clone().requires_grad_(), images[:, :, :, :]]
    with torch.inference_mode():
        given.append(images.clone())
    with torch._dynamo.config.patch(error_on_recompile=True):
        for x in given:
            assert run(x).equal(before)
            with torch.inference_mode():
                assert run(x).equal(before)
    with ThreadPoolExecutor(4) as pool:
        assert all(result.equal(before) for result in pool.map(lambda _: run(*source.example), range(64)))


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
