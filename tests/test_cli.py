"""The command line, as a user types it."""

import json
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import backbones
from backbones import create_model, recipes
from backbones.catalog import load
from backbones.cli import convert
from backbones.data import open_data
from backbones.records import Options, Recipe
from backbones.train.folder import write_settings
from backbones.weights.peers import PEERS

BACKBONES = (sys.executable, "-m", "backbones")
FLAGS = ("--val-split", "0.1", "--opt", "sgd", "--lr", "0.05", "--model-ema", "False")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli") / "run"
    done = subprocess.run(
        [*BACKBONES, "train", "lenet5.modern", "--data", "digits", "--epochs", "6", "--output", str(folder), *FLAGS],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "test accuracy" in done.stdout
    assert "no mirroring" in done.stdout
    return folder


def test_help_names_every_field_of_the_recipe_and_its_value(run) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("train", "alexnet", "--recipe", "paper", "--help")
    assert code == 0
    flags = {f.name for f in fields(Recipe)} - {*recipes.TOLD_ONLY} | {f.name for f in fields(Options)}
    assert [f for f in flags if f"--{f.replace('_', '-')}" not in out] == []
    recipe = load()["alexnet"]["recipe"]
    assert f"(recipe: {recipe['batch_size']})" in out
    assert f"(recipe: {recipe['sched']})" in out
    _, modern, _ = run("train", "--help")
    assert "(recipe: cosine)" in modern


def test_list(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("list", "vgg1[16]*")
    names = [line.split()[0] for line in out.splitlines()[1:] if line[:1] not in ("", " ")]
    assert names == ["vgg11", "vgg11_bn", "vgg11_lrn", "vgg16_c", "vgg16", "vgg16_bn"]
    assert "138 M" in out
    assert "15.5 G" in out
    code, _, err = run("list", "nothing*")
    assert (code, "no network matches 'nothing*'" in err) == (2, True)
    _, out, _ = run("list", "resnet50", "--json")
    assert json.loads(out)[0]["measured"]["params"] == 25_557_032


def test_info_explain_recipe(run) -> None:  # type: ignore[no-untyped-def]
    _, out, _ = run("info", "resnet50")
    for said in (
        "Deep Residual Learning",
        "2015",
        "25,557,032",
        "3,800,000,000",
        "3,857,973,248",
        "Table 1",
        "10 crops",
    ):
        assert said in out
    _, out, _ = run("info", "vgg16")
    assert "cannot drop_path_rate" in out
    _, out, _ = run("explain", "resnet50.tv")
    assert "stride in the 3x3" in out
    assert "Table 1" in out
    _, out, _ = run("explain", "resnet50")
    assert "is the paper's own network" in out
    assert "resnet50.tv" in out
    _, out, _ = run("recipe", "vgg16")
    assert "Sec. 3.1" in out
    assert "74" in out
    for command in ("info", "explain", "recipe"):
        code, _, err = run(command, "resnet5O")
        assert (code, "Did you mean 'resnet50'" in err) == (2, True)


def test_mistakes_are_told_in_a_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for args, said in (
        (("train",), "give a network and its data"),
        (("train", "lenet5"), "give a network and its data"),
        (("train", "lenet6", "--data", "digits"), "Did you mean 'lenet5'"),
        (("train", "lenet5", "--data", "nothing"), "folder:"),
        (("train", "lenet5", "--data", f"folder:{tmp_path}/none"), "none"),
        (("train", "vgg11", "--data", "digits", "--drop-path-rate", "0.1"), "cannot drop_path_rate=0.1"),
        (("train", "lenet5.modern", "--data", "digits", "--recipe", "paper"), "use --recipe modern"),
        (("train", "lenet5", "--data", "digits", "--early-stop", "3", "--output", f"{tmp_path}/r"), "--val-split"),
        (("train", "--resume", str(tmp_path)), "has no run to continue"),
        (("train", "--resume", str(tmp_path), "--val-split", "0.3", "--epochs", "3"), "--val-split --epochs"),
        (("train", "lenet5", "--data", "digits", "--sched", "step"), "--milestones"),
        (("train", "lenet5", "--data", "digits", "--hflip", "7"), "from 0 to 1"),
        (("train", "lenet5", "--data", "digits", "--img-size", "0"), "--img-size 0"),
        (("train", "lenet5", "--data", "digits", "--img-size", "200000"), "not fit into memory"),
        (("train", "lenet5", "--data", "digits", "--devices", "0", "--output", f"{tmp_path}/d"), "--devices 0"),
        (("train", "lenet5", "--resume", str(tmp_path)), "leave out --network"),
        (("eval", str(tmp_path), "--data", "digits"), "has no best.safetensors"),
        (("eval", str(tmp_path / "x.safetensors"), "--data", "digits"), "no file"),
        (("predict", str(tmp_path / "x.safetensors"), "a.png"), "no file"),
    ):
        code, out, err = run(*args)
        assert code == 2, args
        assert said in out + err, args
        assert "Traceback" not in out + err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("command", "code"), [("explain resnet50", 141), ("cost resnet50 --format csv", 141), ("list", 1)]
)
def test_a_reader_who_has_gone_gets_no_traceback(command: str, code: int) -> None:
    """141 as shells tell it; rich, which prints the tables, has its own way to end."""
    process = subprocess.Popen([*BACKBONES, *command.split()], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()  # before anything is printed: that takes a process a while
    _, told = process.communicate()
    assert (process.returncode, told) == (code, b"")


def test_a_run_from_anybodys_weights_is_resumed_as_what_they_made(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    """The twin, with the settings that the weights brought: the name alone would build another function."""
    model = create_model("resnet18.tv", num_classes=10, in_chans=1, bn_eps=1e-4)
    backbones.save(model, tmp_path / "twin.safetensors")
    folder, seen = tmp_path / "run", list[Any]()

    def fit(model: Any, data: Any, recipe: Any, options: Any, *, notes: Any, origin: Any, **_: Any) -> None:
        seen.append((model.variant.name, model.stem[1].eps))
        write_settings(folder, recipe, options, notes, origin, {})
        (folder / "checkpoints").mkdir(exist_ok=True)
        raise KeyboardInterrupt

    monkeypatch.setattr("backbones.train.fit", fit)
    folder.mkdir()
    assert run("train", "resnet18", "--data", "digits", "--weights", str(tmp_path / "twin.safetensors"))[0] == 130
    assert run("train", "--resume", str(folder))[0] == 130
    assert seen == [("resnet18.tv", 1e-4)] * 2


def test_the_commands_know_every_peer() -> None:
    """Their help is shown without torch, so they name the peers themselves."""
    assert get_args(convert.Against) == tuple(PEERS)


def test_weights_there_and_back(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    theirs = torchvision.models.squeezenet1_1(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    ours, again = tmp_path / "ours.safetensors", tmp_path / "again.pth"
    code, out, _ = run("convert", str(tmp_path / "theirs.pth"), str(ours))
    assert (code, out.strip()) == (0, f"{ours}: squeezenet1_1, 52 tensors, for backbones")
    assert run("convert", str(ours), str(again), "--to", "torchvision")[0] == 0
    back = torch.load(again, weights_only=True)
    assert all(torch.equal(back[name], tensor) for name, tensor in theirs.state_dict().items())
    code, out, _ = run("parity", "squeezenet1_1", "--against", "torchvision", "--weights", str(again), "--json")
    (report,) = json.loads(out)
    assert (code, report["changed"], report["fp64"]["top1"]) == (0, 0, 1.0)
    _, out, _ = run("parity", "squeezenet1_1", "--against", "torchvision", "--weights", str(again), "--images", "2")
    assert "52 of 52 tensors equal to the last bit" in out
    for args, said in (
        (("convert", str(tmp_path / "none.pth"), "x.safetensors"), "no file"),
        (("convert", "tv:IMAGENET1K_V1", "x.safetensors"), "say which with network=..., or --network"),
        (("convert", str(again), str(tmp_path / "x.txt"), "--to", "timm"), "timm has no network"),
        (("convert", str(again), str(tmp_path / "x.txt"), "--to", "torchvision"), "give one of these"),
        (("convert", str(again), str(tmp_path / "x.pth")), "say whose file with to="),
        (("parity", "resnet18", "--against", "torchvision", "--weights", str(again)), "does not fit resnet18.tv"),
        (("parity", "squeezenet1_1", "--against", "torchvision", "--images", "0"), "give one or more"),
        (("parity", "lenet5", "--against", "timm"), "timm has no network of the function of lenet5"),
    ):
        code, out, err = run(*args)
        assert (code, said in err) == (2, True), (args, err)
    assert not (tmp_path / "x.txt").exists()


def test_eval(run, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = run("eval", str(trained), "--data", "digits", "--json")
    assert code == 0
    figures = json.loads(out)
    assert (figures["part"], figures["images"], len(figures["classes"])) == ("test", 500, 10)
    report = (trained / "report.md").read_text()
    assert f"{figures['top1']:.2f} %" in report
    _, out, _ = run(
        "eval", str(trained / "last.safetensors"), "--data", "digits", "--part", "val", "--val-split", "0.1"
    )
    for said in ("top-1", "top-5", "cross entropy", "calibration error", "class 9", "130"):
        assert said in out
    code, out, _ = run("eval", str(trained), "--data", "digits", "--part", "val", "--json")
    assert (code, json.loads(out)["images"]) == (0, 130), "the run knows what it held out"
    shutil.copy(trained / "last.safetensors", tmp_path)
    code, _, err = run("eval", str(tmp_path / "last.safetensors"), "--data", "digits", "--part", "val")
    assert (code, "has no val part" in err) == (2, True)


def test_eval_of_a_run_that_was_stopped(run, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(trained / "last.safetensors", tmp_path)
    code, out, err = run("eval", str(tmp_path), "--data", "digits", "--json")
    assert (code, json.loads(out)["images"]) == (0, 500)
    assert "was stopped before it had a best network" in err


def test_eval_refuses_other_classes(run, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for label in ("cat", "dog"):
        for part in ("train", "val"):
            (tmp_path / part / label).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / part / label / "a.png")
    code, _, err = run("eval", str(trained), "--data", f"folder:{tmp_path}")
    assert code == 2
    assert "knows the classes 0, 1, 2" in err
    assert "has cat, dog" in err


def test_predict(run, trained: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    part = open_data("digits").test
    paths = []
    for i in range(20):
        paths.append(str(tmp_path / f"{part.labels[i]}_{i}.png"))
        Image.fromarray(part.image(i)[0].numpy()).save(paths[-1])
    code, out, _ = run("predict", str(trained), *paths, "--json", "--top", "3")
    assert code == 0
    results = json.loads(out)
    assert [r["path"] for r in results] == paths
    assert all(set(r) == {"path", "top"} and len(r["top"]) == 3 for r in results)
    assert all(set(t) == {"class", "probability"} for r in results for t in r["top"])
    right = sum(Path(r["path"]).name[0] == r["top"][0]["class"] for r in results)
    assert right >= 14
    assert all(r["top"][0]["probability"] >= r["top"][1]["probability"] for r in results)
    (tmp_path / "broken.png").write_bytes(b"not an image")
    code, out, err = run("predict", str(trained), paths[0], str(tmp_path / "broken.png"), str(tmp_path / "gone.png"))
    assert code == 2
    assert out.startswith(paths[0])
    assert "broken.png" in err
    assert "gone.png" in err


def test_train_on_a_folder_and_on_cifar10(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Pictures that differ by colour, as files and in CIFAR-10's own format; a network that learns tells them apart."""
    random = np.random.default_rng(0)
    images = random.integers(0, 90, (120, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(120) % 3
    for i, label in enumerate(labels):
        images[i, :, :, label] += 120
    for i, label in enumerate(labels):
        folder = tmp_path / "pictures" / ("train" if i < 90 else "val") / ("red", "green", "blue")[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i]).save(folder / f"{i}.png")
    flags = ("--epochs", "8", "--workers", "0")
    folder = f"folder:{tmp_path / 'pictures'}"
    code, out, err = run("train", "resnet20_cifar", "--data", folder, "--output", str(tmp_path / "a"), *flags)
    assert code == 0, err
    assert "val accuracy" in out
    code, out, _ = run("eval", str(tmp_path / "a"), "--data", folder, "--json")
    assert json.loads(out)["top1"] > 80
    alone = f"folder:{tmp_path / 'pictures' / 'val'}"  # only classes, no parts: all of it is tested
    code, out, _ = run("eval", str(tmp_path / "a"), "--data", alone, "--json")
    assert (json.loads(out)["part"], json.loads(out)["images"]) == ("val", 30)

    write_cifar10(tmp_path / "cifar", images, labels)
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10,
        "_check_integrity",
        lambda self: (Path(self.root) / "cifar-10-batches-py").exists(),
    )
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    data = f"tv:CIFAR10@{tmp_path / 'cifar'}"
    code, out, err = run("train", "resnet20_cifar", "--data", data, "--output", str(tmp_path / "b"), *flags)
    assert code == 0, err
    assert "test accuracy" in out
    told = json.loads((tmp_path / "b" / "recipe.json").read_text())
    assert (told["network"], told["data"], told["recipe"]["epochs"]) == ("resnet20_cifar", data, 8)
    shutil.rmtree(tmp_path / "cifar")
    code, _, err = run("train", "resnet20_cifar", "--data", data, "--output", str(tmp_path / "c"), *flags)
    assert (code, "--download" in err) == (2, True)


def write_cifar10(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """torchvision's layout: five training batches and a test batch, each an array of rows and a list of labels."""
    import pickle

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}))
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        rows = images[20 * i : 20 * i + 20].transpose(0, 3, 1, 2).reshape(20, -1)
        batch = {"data": rows, "labels": labels[20 * i : 20 * i + 20].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
