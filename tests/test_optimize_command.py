"""backbones optimize, and eval and predict with --fast: the figures of the plain network, and who computed them."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

import backbones
from backbones.infer import search
from backbones.records import Preprocessing
from backbones.timing import interleaved

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Run = Callable[..., tuple[int, str, str]]
DIGITS = tuple("0123456789")


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of one run each, on one thread."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "interleaved", partial(interleaved, rounds=1, block=0.0, most=1))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = backbones.create_model("lenet5.modern", seed=0)
    path = tmp_path_factory.mktemp("network") / "lenet.safetensors"
    backbones.save(model, path, classes=DIGITS, preprocessing=Preprocessing(1, (32, 32), (0.3,), (0.4,)))
    return path


def test_every_candidate_is_told(run: Run, file: Path) -> None:
    code, out, err = run("optimize", str(file), "--precision", "exact", "--calibration", "digits", "--format", "json")
    assert code == 0, err
    told = json.loads(out)
    names = {f"{t['candidate']['engine']} {t['candidate']['precision']}" for t in told["trials"]}
    assert names == {"torch fp32", "openvino fp32", "onnxruntime fp32"}
    assert told["calibrated"] == 256
    assert all(t["agreement"] == 1.0 for t in told["trials"] if t["agreement"] is not None)
    code, out, err = run("optimize", str(file), "--precision", "exact", "--engine", "torch")
    assert code == 0, err
    assert "torch fp32 folded" in out
    assert "lenet5.modern, batch 1, 32 x 32 pixels" in out


def test_a_name_is_computed_with_random_weights(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    code, out, _ = run("optimize", "lenet5", "--precision", "exact", "--engine", "torch", "--budget", "0")
    assert code == 0
    assert "weights: random, seed 0" in out
    assert "not tried: the time was spent" in out


def test_eval_is_the_same(run: Run, file: Path) -> None:
    figures = []
    for flags in ((), ("--fast",)):
        code, out, err = run("eval", str(file), "--data", "digits", "--workers", "0", "--json", *flags)
        assert code == 0, err
        figures.append(json.loads(out))
    plain, fast = figures
    assert fast["top1"] == pytest.approx(plain["top1"], abs=0.5)
    assert fast["networks"][0]["computed_by"]
    assert "computed_by" not in plain["networks"][0]


def test_predict_is_the_same(run: Run, file: Path, tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    names = []
    for number in range(20):  # more than a batch
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(torch.randint(0, 256, (32, 32), dtype=torch.uint8, generator=chance).numpy()).save(names[-1])
    (tmp_path / "3.png").write_bytes(b"no picture")
    said = []
    for flags in ((), ("--fast",)):
        code, out, err = run("predict", str(file), *names, "--top", "1", "--json", *flags)
        assert code == 2
        assert "3.png" in err
        said.append(json.loads(out))
    assert [one["path"] for one in said[1]] == [name for name in names if not name.endswith("/3.png")]
    for plain, fast in zip(*said, strict=True):
        assert plain["top"][0]["class"] == fast["top"][0]["class"]
        assert plain["top"][0]["probability"] == pytest.approx(fast["top"][0]["probability"], abs=0.05)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--batch-size", "0"), "--batch-size 0; give 1 or more"),
        (("--precision", "int8"), "calibration="),
        (("--weights", "random"), "has weights of its own"),
        (("--calibration", "folder:nowhere"), "nowhere"),
    ],
)
def test_mistakes(run: Run, file: Path, flags: tuple[str, ...], said: str) -> None:
    code, _, err = run("optimize", str(file), *flags)
    assert code == 2
    assert said in err


def test_fast_is_for_crops_of_one_size(run: Run, file: Path) -> None:
    code, _, err = run("eval", str(file), "--data", "digits", "--protocol", "dense", "--fast")
    assert code == 2
    assert "crops are of one size" in err
