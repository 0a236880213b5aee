"""Networks as files for other programs: opened here with those programs' own libraries, by hand."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import backbones
from backbones import create_model, export
from backbones.data import eval_transform
from backbones.infer import extras
from backbones.infer.differences import pictures
from backbones.infer.openvino import core
from backbones.infer.preprocess import Fit
from backbones.records import Preprocessing

COLOURS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
NAMES = ("cat", "dog", "größer", "owl")
SUFFIX = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2", "safetensors": ".safetensors"}
Opened = tuple[dict[str, object], Callable[[Tensor], dict[str, Tensor]]]


class Anybodys(nn.Module):
    """A network of nobody's library, with dropout, a batch norm and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.second, self.drop, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(images)).relu()
        return self.last(self.drop((x + self.second(x)).relu().amax((2, 3))))


@pytest.fixture(scope="module")
def network() -> Anybodys:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Anybodys()
        model(torch.randn(64, 3, 16, 16) * 2 + 1)  # statistics
    return model


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of ours that reads gray images."""
    model = create_model("lenet5.modern", num_classes=4, seed=0)
    with torch.no_grad():
        model.get_classifier().weight.mul_(20)  # probabilities that differ
    file = tmp_path_factory.mktemp("ours") / "lenet.safetensors"
    told = Preprocessing(1, model.variant.input_size[1:], (0.4,), (0.3,), "bicubic", 0.8)
    backbones.save(model, file, classes=NAMES, preprocessing=told)
    return file


def opened(path: Path) -> Opened:
    """What the file tells of itself, and its outputs by name, through its own library alone."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]

        def run(images: Tensor) -> dict[str, Tensor]:
            outputs = session.run(names, {"input": images.numpy()})
            return dict(zip(names, map(torch.from_numpy, outputs), strict=True))

        return json.loads(session.get_modelmeta().custom_metadata_map["backbones"]), run
    if path.suffix == ".xml":
        model = core().read_model(path)
        compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        names = [output.get_any_name() for output in model.outputs]
        told = json.loads(model.get_rt_info("backbones").astype(str))
        return told, lambda x: {n: torch.from_numpy(compiled({"input": x.numpy()})[n].copy()) for n in names}
    extra = {"backbones.json": ""}
    module = torch.export.load(path, extra_files=extra).module()
    told = json.loads(extra["backbones.json"])

    def call(images: Tensor) -> dict[str, Tensor]:
        outputs = module(images)
        return dict(zip(told["outputs"], [outputs] if isinstance(outputs, Tensor) else outputs, strict=True))

    return told, call


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_the_matrices_resize_as_torchvision_does(interpolation: str, size: tuple[int, int]) -> None:
    """Of larger and smaller, wide and high images; torch rounds its weights too, hence a step here or there."""
    told = Preprocessing(3, size, *COLOURS, interpolation, 0.875)
    for height, width in ((90, 70), (64, 64), (73, 73), (30, 55), (301, 200), (48, 81)):
        images = pictures(2, height, width, 3, torch.Generator().manual_seed(height))
        expected = torch.stack([eval_transform(told)(image.permute(2, 0, 1)) for image in images])
        steps = ((Fit(told)(images) - expected) * torch.tensor(told.std).reshape(3, 1, 1) * 255).abs().round()
        assert steps.max() <= {"nearest": 0, "bilinear": 1, "bicubic": 2}[interpolation]
        assert (steps > 0).float().mean() < 0.03


@pytest.mark.parametrize("to", ["onnx", "openvino", "pt2"])
def test_anybodys_network_gives_its_logits_elsewhere(to: str, network: Anybodys, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"net.v1{SUFFIX[to]}"
    made = export(network, torch.randn(1, 3, 20, 14), path, to=to, class_names=NAMES)
    assert network.training, "left as it was"
    told, run = opened(path)
    assert {**told, "path": str(path), "parity": json.loads(Path(f"{path}.json").read_text())["parity"]} == json.loads(
        Path(f"{path}.json").read_text()
    )
    assert (told["classes"], told["network"], told["precision"]) == (list(NAMES), "Anybodys", "fp32")
    assert made.relative < 1e-5
    assert sorted(f.name for f in path.parent.iterdir()) == sorted(
        {path.name, f"{path.name}.json"} | ({"net.v1.bin"} if to == "openvino" else set())
    )
    network.eval()
    for batch in (1, 2, 5):
        images = torch.randn(batch, 3, 20, 14)
        (name, got), *_ = run(images).items()
        assert name == "logits"
        torch.testing.assert_close(got, network(images), rtol=1e-4, atol=1e-5)
    network.train()


@pytest.mark.parametrize("to", ["onnx", "openvino", "pt2"])
def test_a_picture_gets_the_same_answer_as_from_predict(to: str, ours: Path, tmp_path: Path, run) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run(
        "export", str(ours), "--to", to, "--preprocess", "inside", "--output", f"{tmp_path}/n{SUFFIX[to]}"
    )
    assert (code, err) == (0, "")
    assert "predict's preprocessing" in out
    told, compute = opened(tmp_path / f"n{SUFFIX[to]}")
    assert told["preprocessing"]["interpolation"] == "bicubic"
    for height, width in ((80, 50), (33, 120), (29, 29)):
        picture = pictures(1, height, width, 1, torch.Generator().manual_seed(width))[0]
        file = tmp_path / "picture.png"
        Image.fromarray(picture[..., 0].numpy()).save(file)
        (said,) = json.loads(run("predict", str(ours), str(file), "--json", "--top", "4")[1])
        expected = {t["class"]: t["probability"] for t in said["top"]}
        outputs = compute(torch.stack([picture] * 3))
        assert list(outputs) == ["probabilities", "label"]
        assert outputs["probabilities"].shape == (3, 4)
        assert outputs["label"].dtype == torch.int64
        found = dict(zip(told["classes"], outputs["probabilities"][2].tolist(), strict=True))
        assert found == pytest.approx(expected, abs=5e-3)
        assert told["classes"][int(outputs["label"][2])] == said["top"][0]["class"]


def test_int8_tells_how_often_it_agrees(run, ours: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    folder = tmp_path / "pictures" / "deep"
    folder.mkdir(parents=True)
    for i in range(12):
        picture = pictures(1, 40 + i, 50, 1, torch.Generator().manual_seed(i))[0, ..., 0]
        Image.fromarray(picture.numpy()).save(folder / f"{i}.png")
    (folder / "notes.txt").write_text("no image")
    flags = ("--to", "openvino", "--int8", "--calibration", str(folder.parent), "--json")
    for preprocess in ("outside", "inside"):
        path = tmp_path / f"{preprocess}.xml"
        code, out, err = run("export", str(ours), *flags, "--preprocess", preprocess, "--output", str(path))
        assert code == 0, err
        assert "FakeQuantize" in path.read_text()
        (parity,) = json.loads(out)["parity"]
        assert parity["relative"] > 0
        model, same = backbones.load(ours), []
        _, compute = opened(path)
        for file in folder.glob("*.png"):
            picture = torch.from_numpy(np.array(Image.open(file)))[None]
            ready = eval_transform(model.checkpoint.preprocessing)(picture)[None]
            (answer, *_) = compute(ready if preprocess == "outside" else picture[..., None]).values()
            same.append(answer.argmax() == model(ready).argmax())
        assert parity["top1"] == pytest.approx(sum(same) / 12)


def test_a_signal_after_openvino(ours: Path, tmp_path: Path) -> None:
    """OpenVINO's stacks for signals are there as long as they are used: see `core`."""
    export(backbones.load(ours), torch.randn(1, 1, 32, 32), tmp_path / "net.xml", to="openvino")
    code = """if True:
        import signal, subprocess, sys
        from backbones.infer.formats import FORMATS

        first, second = (FORMATS["openvino"].open(sys.argv[1]) for _ in range(2))
        del first
        del second
        signal.signal(signal.SIGCHLD, lambda *_: print("ended"))
        subprocess.run(["true"])
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "net.xml")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "ended\n"), done.stderr


def test_our_own_file_is_without_auxiliary_heads(tmp_path: Path) -> None:
    model = create_model("googlenet", num_classes=3, seed=0)
    assert len(model.aux)
    made = export(model, torch.randn(1, 3, 64, 64), tmp_path / "g.safetensors", to="safetensors", class_names="abc")
    again = backbones.load(tmp_path / "g.safetensors")
    assert (len(again.aux), again.checkpoint.classes, made.relative, len(model.aux)) == (0, ("a", "b", "c"), 0.0, 2)


def test_what_fails_leaves_the_old_file_and_nothing_else(network: Anybodys, tmp_path: Path) -> None:
    class Decides(Anybodys):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) * (2 if images.sum() > 0 else 1)

    path = tmp_path / "net.onnx"
    path.write_text("old")
    with pytest.raises(Exception, match=r"(?i)data-dependent"):
        export(Decides(), torch.randn(1, 3, 16, 16), path)
    assert [(f.name, f.read_text()) for f in tmp_path.iterdir()] == [("net.onnx", "old")]


def test_a_disk_that_fails_between_two_files_leaves_no_mixed_pair(
    network: Anybodys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO's network is two files; the one that is opened goes before the other one changes."""
    path, replace = tmp_path / "n.xml", os.replace
    export(network, torch.zeros(1, 3, 16, 16), path, to="openvino")

    def fail(source: str, target: str) -> None:
        if str(target) == str(path):
            raise OSError("the disk is full")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="the disk is full"):
        export(network, torch.zeros(1, 3, 16, 16), path, to="openvino")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["n.bin", "n.xml.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{ours} --to onnx --output net.bin", "ends in .onnx"),
        ("{ours} --to onnx --output /dev/null/net.onnx", "/dev/null"),
        ("{ours} --to openvino --int8", "--calibration FOLDER"),
        ("{ours} --to onnx --int8 --calibration {folder}", "no images in it"),
        ("{ours} --to openvino --int8 --calibration {folder}/none", "is no folder"),
        ("{ours} --to safetensors --preprocess inside --output net.safetensors", "no operators"),
        ("{ours} --to safetensors --output {ours}", "exists already"),
        ("{ours} --to pt2 --weights tv:DEFAULT", "leave out --weights"),
        ("{ours} --to pt2 --img-size 2", "smallest"),
        ("resnet18 --to onnx", "--weights random"),
        ("resnet19 --to onnx", "Did you mean 'resnet18'"),
        ("runs/none --to onnx", "no file"),
    ],
)
def test_mistakes_are_told(  # type: ignore[no-untyped-def]
    arguments: str, said: str, ours: Path, tmp_path: Path, run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("export", *arguments.format(ours=ours, folder=tmp_path).split())
    assert (code, said in err) == (2, True), err
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_go_together(network: Anybodys, tmp_path: Path) -> None:
    images, told = torch.randn(1, 3, 16, 16), Preprocessing(3, (16, 16), *COLOURS)
    broken = Anybodys()
    broken.last.bias.data[1] = float("nan")
    for error, said, given in (
        (ValueError, "to='tflite'", {"to": "tflite"}),
        (ValueError, "3 class names for 4", {"class_names": "abc"}),
        (ValueError, "needs preprocessing", {"preprocess": "inside"}),
        (
            ValueError,
            r"\(3, 16, 16\).*\(3, 8, 8\)",
            {"preprocess": "inside", "preprocessing": told, "example": images[..., :8, :8]},
        ),
        (ValueError, "offered for openvino", {"calibration": [images]}),
        (ValueError, "float32 images", {"example": images.byte()}),
        (ValueError, "module.float", {"module": Anybodys().half()}),
        (ValueError, "NaN", {"module": broken}),
        (ValueError, "returns", {"module": nn.Conv2d(3, 4, 1)}),
    ):
        arguments = {"module": network, "example": images, "path": tmp_path / "net.onnx", **given}
        with pytest.raises(error, match=said):
            export(**arguments)
    with pytest.raises(TypeError, match=r"safetensors\.torch"):
        export(network, images, tmp_path / "net.safetensors", to="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_named(network: Anybodys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnxruntime.*pip install 'backbones\[infer\]'"):
        export(network, torch.randn(1, 3, 16, 16), tmp_path / "net.onnx")


@pytest.mark.parametrize("before", [False, True])
def test_nobody_is_counted(before: bool, tmp_path: Path) -> None:
    """openvino and nncf make an identity in the home folder before they send anything: openvino when it is imported.

    Who has imported it himself before has that file, but no export of ours is counted any more.
    """
    theirs = "import openvino, openvino_telemetry; assert openvino_telemetry.Telemetry().consent; "
    code = "from backbones.infer.extras import need; need('openvino', 'nncf'); import nncf, openvino; "
    code += "openvino.convert_model(torch.nn.Identity(), example_input=torch.ones(1))"
    after = "; assert not openvino_telemetry.Telemetry().consent"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", "import torch; " + (theirs + code + after if before else code)],
        env={**{k: v for k, v in os.environ.items() if k != "CI"}, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert before or not (tmp_path / "intel").exists()
