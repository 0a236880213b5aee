"""backbones eval: protocols, ensembles, anybody's weights, timm's columns, several processes."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import backbones
from backbones.data import open_data
from backbones.evaluate import results
from backbones.records import Preprocessing

DIGITS = tuple("0123456789")
TOLD = Preprocessing(1, (32, 32), (0.3,), (0.4,))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two untrained networks of one kind; the second has its classes the other way round."""
    folder = tmp_path_factory.mktemp("networks")
    for seed, classes in ((0, DIGITS), (1, DIGITS[::-1])):
        model = backbones.create_model("lenet5.modern", seed=seed)
        backbones.save(model, folder / f"{seed}.safetensors", classes=classes, preprocessing=TOLD)
    return folder / "0.safetensors", folder / "1.safetensors"


def evaluated(run, *args: object) -> dict:  # type: ignore[no-untyped-def, type-arg]
    code, out, err = run("eval", *map(str, args), "--workers", "0", "--json")
    assert code == 0, err
    return json.loads(out)


def test_an_ensemble_of_files(run, files: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]
    """By another road: whole images through both networks, the second's answers turned round."""
    test = open_data("digits").test
    pixels = torch.stack([torchvision.transforms.v2.functional.resize(image, [32]) for image, _ in test])
    images, labels = (pixels / 255 - 0.3) / 0.4, np.array(test.labels)
    with torch.inference_mode():
        first, second = (backbones.load(file)(images).softmax(1).numpy() for file in files)
    mean = (first + second[:, ::-1]) / 2
    found = evaluated(run, *files, "--data", "digits")
    assert found["top1"] == pytest.approx(100 * (mean.argmax(1) == labels).mean())
    assert found["loss"] == pytest.approx(-np.log(mean[range(500), labels]).mean(), rel=1e-4)
    assert [n["network"] for n in found["networks"]] == ["lenet5.modern"] * 2
    alone = evaluated(run, files[1], "--data", "digits")
    assert alone["top1"] == pytest.approx(100 * (second[:, ::-1].argmax(1) == labels).mean())
    assert (found["protocol"], found["networks"][0]["views"], found["images"]) == ("single", 1, 500)


def test_protocols_are_told(run, files: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    code, out, err = run("eval", str(files[0]), "--data", "digits", "--protocol", "10-crop", "--scales", "36", "40")
    assert code == 0, err
    for said in ("20 views per image, shorter side 36, 40, crops of 32", "AlexNet, Sec. 4.1", "500", "95 % interval"):
        assert said in out
    assert "mirror images too" in caplog.text, "a mirrored digit is no digit"
    found = evaluated(run, files[0], "--data", "digits", "--protocol", "dense", "--scales", "48")
    assert found["networks"][0] == {
        "source": str(files[0]),
        "network": "lenet5.modern",
        "views": 2,
        "scales": [48],
        "size": [32, 32],
    }
    for args, said in (
        ((str(files[0]), "--protocol", "10-crop"), "give scales, such as 37"),
        ((str(files[0]), "--protocol", "dense", "--crop", "2"), "above 0 up to 1"),
        (("resnet18",), "1 sources, 1 of them names of networks, and 0 --weights"),
        ((str(files[0]), "--weights", "x.pth"), "0 of them names of networks, and 1 --weights"),
        ((str(files[0]), "--csv", "no/such/folder.csv"), "no folder"),
        ((str(files[0]), "--csv", str(files[0].parent)), "is a folder; give a file in it"),
        ((str(files[0]), "--workers", "-1"), "workers=-1; give a number of processes"),
        (
            (str(files[0]), "--protocol", "dense", "--scales", "0"),
            "(0,): the shorter side of an image must be 1 or more\n",
        ),
    ):
        code, _, err = run("eval", "--workers", "0", *args, "--data", "digits")
        assert (code, said in err) == (2, True), (args, err)
    for args, said in ((("--top", "0", "x.png"), "--top 0; give how many"), ((), "no images; give some")):
        code, _, err = run("predict", str(files[0]), *args)
        assert (code, said in err) == (2, True), (args, err)


def test_a_name_with_anybodys_weights(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:  # type: ignore[no-untyped-def]
    """torchvision's file tells neither classes nor preprocessing: what is taken for them is said."""
    for label in ("n01", "n02"):
        (tmp_path / "data" / label).mkdir(parents=True)
        Image.new("RGB", (80, 70), "red").save(tmp_path / "data" / label / "a.png")
    torch.save(torchvision.models.squeezenet1_1(weights=None, num_classes=2).state_dict(), tmp_path / "theirs.pth")
    args = ("eval", "squeezenet1_1", "--weights", str(tmp_path / "theirs.pth"), "--data", f"folder:{tmp_path / 'data'}")
    flags = ("--size", "64", "--crop", "0.9", "--workers", "0", "--csv", str(tmp_path / "results.csv"))
    for protocol in (), ("--protocol", "multi-scale", "--scales", "64", "72"):
        code, out, err = run(*args, *(flags if not protocol else flags[:2] + flags[4:]), *protocol)
        assert code == 0, err
        assert "squeezenet1_1 on folder" in " ".join(out.split())
    assert "does not name its classes; they are taken in the data's order: n01, n02" in caplog.text
    assert "taken as ImageNet's usually are" in caplog.text
    with (tmp_path / "results.csv").open() as file:
        single, several = csv.DictReader(file)
    assert tuple(single) == results.COLUMNS
    assert list(single.values()) == [
        *("squeezenet1_1", "64", "50.000", "50.000", "", "", "0.72", "0.9", "bilinear"),
    ]
    assert (several["model"], several["crop_pct"]) == ("squeezenet1_1 (multi-scale at 64 72)", "")
    (tmp_path / "data" / "n02" / "b.png").write_bytes(b"no image")
    code, _, err = run(*args, "--workers", "1")
    assert code == 2
    assert "b.png" in err
    assert "Traceback" not in err


def test_a_file_with_other_columns_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("model,top1\nx,3\n")
    with pytest.raises(ValueError, match="has the columns model,top1"):
        results.append(path, dict.fromkeys(results.COLUMNS, "1"))
    assert path.read_text() == "model,top1\nx,3\n"
    path.write_text(",".join(results.COLUMNS))  # without an end of line
    results.append(path, dict.fromkeys(results.COLUMNS, "1"))
    assert path.read_text().splitlines()[1] == ",".join("1" * 9)


def test_torchrun(run, files: tuple[Path, Path]) -> None:  # type: ignore[no-untyped-def]
    args = ("eval", *map(str, files), "--data", "digits", "--batch-size", "30", "--json", "--workers", "0")
    started = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "backbones",
    ]
    done = subprocess.run([*started, *args], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == run(*args)[1], "printed once, the same"


def test_a_run_is_tested_on_the_images_that_it_held_out(  # type: ignore[no-untyped-def]
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """20 images, of which training saw 16: `eval` counts the other four, and says so where it counts all."""
    for i in range(20):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (32, 32), 12 * i).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.png")
    data, model = f"folder:{tmp_path / 'photos'}", backbones.create_model("lenet5.modern", num_classes=2, seed=0)
    for name, share in (("one", 0.2), ("two", 0.4)):
        (tmp_path / name).mkdir()
        backbones.save(model, tmp_path / name / "best.safetensors", classes=("a", "b"), preprocessing=TOLD)
        (tmp_path / name / "recipe.json").write_text(json.dumps({"data": data, "val_split": share}))
    one, two = tmp_path / "one", tmp_path / "two"
    assert evaluated(run, one, "--data", data)["images"] == 4
    monkeypatch.chdir(tmp_path)
    assert evaluated(run, one / "best.safetensors", "--data", "folder:./photos", "--val-split", "0.2")["images"] == 4
    assert not caplog.text
    for args in (("--val-split", "0.4"), (str(two),)):
        code, _, err = run("eval", str(one), *args, "--data", data, "--workers", "0")
        assert code == 2
        assert "val means other images for each" in err
    (one / "best.safetensors").rename(tmp_path / "alone.safetensors")
    assert evaluated(run, "alone.safetensors", "--data", data)["images"] == 20
    assert "all training images of folder:" in caplog.text
    (two / "recipe.json").write_text("{")
    code, _, err = run("eval", str(two), "--data", data)
    assert (code, "recipe.json is not what a run wrote" in err) == (2, True)
