"""Predicted latency: against known laws, and a worker that times as it is told."""

import random
from math import exp
from pathlib import Path
from typing import Any

import pytest
import torch

from backbones import catalog, create_model, model_info
from backbones.build import build_on_meta
from backbones.choose import prediction
from backbones.choose.cache import Cache
from backbones.choose.latency import Setting
from backbones.choose.prediction import MODULE, calibrate, features, fit, predict
from backbones.choose.probing import Prober, module_seconds
from backbones.cost.calls import calls, made
from backbones.machine import Machine


def test_calibration() -> None:
    assert calibrate([]) == (1.0, 2.0)
    factor, spread = calibrate([(1.2, 1.0), (2.4, 2.0), (0.6, 0.5)])
    assert factor == pytest.approx(1.2)
    assert spread == pytest.approx(exp(0.03))  # they agree to the last digit
    draw = random.Random(0)
    for known in (3, 5, 30):  # nine of ten others lie inside, however few are known
        inside = 0
        for _ in range(3000):
            factor, spread = calibrate([(exp(draw.gauss(0, 0.1)), 1.0) for _ in range(known)])
            inside += 1 / spread <= exp(draw.gauss(0, 0.1)) / factor <= spread
        assert inside / 3000 == pytest.approx(0.9, abs=0.03), known


def test_features_and_fits() -> None:
    """The work of all calls is the network's multiply-adds; a law of time is found again."""
    for name in ("resnet18", "mobilenet_v2", "googlenet", "shufflenet_v1_g3_x1_0"):
        model = create_model(name)
        seen = calls(model, (3, 224, 224))
        assert seen.pop(MODULE) > 20
        work = sum(
            n * features(c)[1] for c, n in seen.items() if features(c)[0].startswith(("aten.conv", "aten.addmm"))
        )
        assert work == catalog.load()[name]["measured"]["madds"], name
        law = {c: 1e-6 * features(c)[1] ** 0.9 * features(c)[2] ** 0.1 for c in seen}
        a, b, c = fit(law)[""]
        assert (exp(a), b, c) == (
            pytest.approx(1e-6, rel=0.01),
            pytest.approx(0.9, abs=0.01),
            pytest.approx(0.1, abs=0.01),
        )


def test_calls_can_be_made_again() -> None:
    """Every call of a few networks, with real tensors: the last one gives the logits' shape."""
    for name in ("resnet20_cifar", "squeezenet1_1", "se_shufflenet_v1_g3_x1_0", "vgg11_lrn"):
        variant = model_info(name)
        seen = list(calls(build_on_meta(variant, {}), variant.input_size, 2))
        with torch.inference_mode():
            outs = [
                made(call, lambda shape, strides, dtype, _: torch.zeros(shape, dtype=dtype))()
                for call in seen
                if call != MODULE
            ]
        shapes = [tuple(out.shape) for out in outs if isinstance(out, torch.Tensor)]
        assert (2, variant.num_classes) in shapes or (2, variant.num_classes, 1, 1) in shapes, name


def test_probes() -> None:
    """What there is no time for is left out, the last ones first; a larger call takes longer."""
    relu = [f'["aten.relu.default", [{{"t": [[{n}], [1], "float32", false]}}], {{}}]' for n in (10, 10_000_000)]
    with torch.inference_mode():
        prober = Prober("cpu")
        small, large = prober.times(relu, 0.5, lambda: None)
        assert 0 < small < large
        assert prober.times(relu, -1.0, lambda: None) == [None, None]
        bad = relu[0].replace('"float32"', '"bfloat16"').replace("aten.relu.default", "aten.addmm.default")
        assert prober.times([relu[0], bad], 0.1, lambda: None)[1] is None  # and what fails
        assert module_seconds() > 0


class FakeWorker:
    """Times every call as a law says, the first `room` of each question; counts as the real one does."""

    room, questions = 10_000, list[tuple[str, float]]()

    def __init__(self, threads: int) -> None:
        pass

    def close(self) -> None:
        pass

    def ask(self, do: str, **given: Any) -> dict[str, Any]:
        self.questions.append((do, given.get("seconds", 0.0)))
        if do == "profile":
            variant = model_info(given["network"])
            return calls(build_on_meta(variant, {}), (3, given["img_size"], given["img_size"]), given["batch_size"])
        times = [1e-9 * features(c)[1] if i < self.room else None for i, c in enumerate(given["calls"])]
        return {"seconds": times, "module": 0.0}


def test_predictions_from_probes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(prediction, "Worker", FakeWorker)
    FakeWorker.questions.clear()
    machine = Cache(Machine("cpu", 1, 1, "system", ""), {})
    new, anchor = (Setting(name, 96, 1, 1, "cpu") for name in ("resnet18", "alexnet"))

    def by_law(setting: Setting) -> float:
        seen = calls(build_on_meta(model_info(setting.network), {}), (3, 96, 96))
        return 1e3 * sum(n * 1e-9 * features(c)[1] for c, n in seen.items() if c != MODULE)

    (told,) = predict([new], machine, {anchor: 3 * by_law(anchor)}).values()
    assert told.ms == pytest.approx(3 * by_law(new))  # as far off as the one that is known
    assert told.probed == pytest.approx(1)
    assert [do for do, _ in FakeWorker.questions] == ["profile", "profile", "probe"]
    assert predict([new], machine, {anchor: 3 * by_law(anchor)}) == {new: told}
    assert len(FakeWorker.questions) == 3  # the second time from the cache
    monkeypatch.setattr(FakeWorker, "room", 20)
    other = Setting("resnet34", 128, 1, 1, "cpu")
    part = predict([other], machine, {})[other]
    assert 0.1 < part.probed < 1
    assert part.ms == pytest.approx(
        1e3
        * sum(n * 1e-9 * features(c)[1] for c, n in machine.counted("profiles", [other])[other].items() if c != MODULE),
        rel=0.3,
    )  # the rest is fitted to calls of its kind
    before = len(FakeWorker.questions)
    predict([other], machine, {}, seconds=0.0)
    assert len(FakeWorker.questions) == before
    machine.file.write_text('{"profiles": null, "costs": []}')
    assert machine.counted("profiles", [new]) == {}
    machine.keep_counted("profiles", {new: {}})
