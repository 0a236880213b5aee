"""Training: the schedule, the sizing, the run's folder, resuming, stopping, refusing."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import nn

import backbones
from backbones import create_model, train
from backbones.catalog import load
from backbones.data import Data, open_data
from backbones.evaluate import Member, answers, measure, prepare
from backbones.recipes import MODERN, choose
from backbones.records import Options, Recipe
from backbones.train import precision, preflight
from backbones.train.average import Average
from backbones.train.loop import Loop
from backbones.train.store import Store

QUICK = replace(MODERN, epochs=2, warmup_epochs=0.0, model_ema=False)


@pytest.fixture(scope="module")
def digits() -> Data:
    """The first 200 training digits, the last 40 of them to validate on, and 60 of the test part."""
    data = open_data("digits", val_split=0.1)
    small = {"train": data.train.take(range(160)), "val": data.val.take(range(40)), "test": data.test.take(range(60))}
    info = replace(data.info, images={name: len(part) for name, part in small.items()})
    return Data(info, **small)


def lenet(seed: int = 0) -> backbones.Backbone:
    return create_model("lenet5.modern", num_classes=10, in_chans=1, seed=seed)


def fit(
    data: Data, folder: Path, recipe: Recipe = QUICK, model: nn.Module | None = None, **settings: object
) -> train.Result:
    options = Options(output=str(folder), **{k: v for k, v in settings.items() if k != "resume"})
    console = Console(file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        return train.fit(model or lenet(), data, recipe, options, resume=bool(settings.get("resume")), console=console)


def weights(folder: Path, name: str = train.LAST) -> torch.Tensor:
    return torch.cat([p.flatten() for p in backbones.load(folder / name).parameters()])


def test_moving_average_follows_soon_and_then_smoothly() -> None:
    """By hand: from 0 towards 1, first by 1 - 1/10, then by 1 - 2/11, and at last by 1 - 0.9 of what is left."""
    model = nn.BatchNorm1d(1)
    average = Average(model, decay=0.9)
    with torch.no_grad():
        model.bias.fill_(1.0)
        model.num_batches_tracked.fill_(7)
    for expected in (0.9, 0.9 + 0.1 * 9 / 11):
        average.update()
        with average.applied():
            assert model.bias.item() == pytest.approx(expected)
            assert model.num_batches_tracked == 7
        assert model.bias.item() == 1.0
    average.steps, average._kept["bias"] = 10_000, torch.zeros(1)
    average.update()
    assert average._kept["bias"].item() == pytest.approx(0.1)


# -- a run


def test_a_run_leaves_its_folder(digits: Data, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    result = fit(digits, folder, replace(QUICK, epochs=8, lr=0.01))
    assert result.part == "test"
    assert result.metrics.images == 60
    assert result.metrics.top1 > 40  # ten classes; a network that learns nothing has 10
    names = {file.name for file in folder.iterdir()}
    pictures = {f"{p}.{s}" for p in ("curves", "confusion", "mistakes", "filters") for s in ("svg", "png", "csv")}
    assert names == pictures | {
        "recipe.json",
        "metrics.csv",
        "report.md",
        "best.safetensors",
        "last.safetensors",
        "checkpoints",
        ".lock",
    }
    rows = list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 9))
    best = max(float(row["val_top1"]) for row in rows)
    told = backbones.load(folder / "best.safetensors").checkpoint
    assert told.metrics["val_top1"] == best
    assert told.metrics["test_top1"] == result.metrics.top1
    assert int(told.metrics["epoch"]) == next(int(r["epoch"]) for r in rows if float(r["val_top1"]) == best)
    assert (told.classes, told.data, told.recipe) == (digits.info.classes, "digits", replace(QUICK, epochs=8, lr=0.01))
    report = (folder / "report.md").read_text()
    assert f"{result.metrics.top1:.2f} %" in report
    assert "curves.svg" in report
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["epochs"] == 8
    best = Member(backbones.load(folder / "best.safetensors"), prepare("single", told.preprocessing))
    assert measure(*answers([best], digits.test, 7), 10).top1 == result.metrics.top1
    losses = [float(row["train_loss"]) for row in rows]
    assert losses[-1] < losses[0]


def test_a_run_is_reproducible(digits: Data, tmp_path: Path) -> None:
    recipe = replace(QUICK, drop_rate=0.2, mixup=0.5)
    runs = [
        fit(digits, tmp_path / str(i), recipe, create_model("lenet5.modern", drop_rate=0.2, seed=seed), seed=seed)
        for i, seed in enumerate((0, 0, 1))
    ]
    first, second, other = (weights(run.folder) for run in runs)
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sched", ["cosine", "plateau"])
@pytest.mark.parametrize("ema", [False, True])
def test_resuming_ends_where_the_whole_run_ends(
    digits: Data, tmp_path: Path, sched: str, ema: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third epoch and continued: weights and figures of the run that was never stopped, bit for bit."""
    recipe = replace(QUICK, epochs=4, sched=sched, model_ema=ema, model_ema_decay=0.9)
    whole = fit(digits, tmp_path / "whole", recipe)
    step = Loop._train_step

    def stop(self: Loop, batches: object) -> float:
        if self.epoch == 2 and self.done == 1:
            raise RuntimeError("the power is gone")
        return step(self, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_train_step", stop)
        with pytest.raises(RuntimeError, match="power"):
            fit(digits, tmp_path / "stopped", recipe)
    again = fit(digits, tmp_path / "stopped", recipe, model=lenet(seed=5), resume=True)
    assert torch.equal(weights(again.folder), weights(whole.folder))
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in again.history]
    assert strip == [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert torch.equal(weights(again.folder, train.BEST), weights(whole.folder, train.BEST))


@pytest.mark.parametrize("opt", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_weights_that_learn_later_than_others(digits: Data, tmp_path: Path, opt: str, precision: str) -> None:
    """Of stages that are thawed, and of branches that are dropped: they have no gradient in the first steps."""
    network = create_model("resnet20_cifar", drop_path_rate=0.5, num_classes=10, in_chans=1)
    before = [p.detach().clone() for p in network.parameters()]
    recipe = replace(QUICK, opt=opt, freeze_stages=2, freeze_epochs=1)
    fit(digits, tmp_path / "run", recipe, network, precision=precision)
    after = backbones.load(tmp_path / "run" / train.LAST).parameters()
    assert not any(torch.equal(was, now) for was, now in zip(before, after, strict=True))


def test_a_run_keeps_the_precision_it_began_with(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it goes on, on a machine that would have chosen another."""
    for i, has in enumerate((True, False)):
        monkeypatch.setattr(precision, "has_bf16", lambda _, has=has: has)
        folder, name = tmp_path / str(i), "bf16-mixed" if has else "32-true"
        assert fit(digits, folder, replace(QUICK, epochs=1)).precision == name
        monkeypatch.setattr(precision, "has_bf16", lambda _, has=has: not has)
        assert fit(digits, folder, replace(QUICK, epochs=1), resume=True).precision == name
        assert json.loads((folder / "recipe.json").read_text())["options"]["precision"] == name
        assert f"| precision | {name} |" in (folder / "report.md").read_text()


@pytest.mark.parametrize("ema", [False, True])
def test_resuming_a_finished_run_changes_nothing(digits: Data, tmp_path: Path, ema: bool) -> None:
    recipe = replace(QUICK, model_ema=ema)
    first = fit(digits, tmp_path / "run", recipe)
    before = weights(first.folder), weights(first.folder, train.BEST)
    again = fit(digits, tmp_path / "run", recipe, model=lenet(seed=5), resume=True)
    assert torch.equal(weights(again.folder), before[0])
    assert torch.equal(weights(again.folder, train.BEST), before[1])
    assert again.history == first.history
    assert again.metrics == first.metrics


def test_runs_never_share_a_folder(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = replace(QUICK, epochs=1)
    folders = [train.fit(lenet(), digits, recipe, console=Console(quiet=True)).folder for _ in range(3)]
    assert len(set(folders)) == 3


def test_best_is_the_average_when_there_is_one(digits: Data, tmp_path: Path) -> None:
    recipe = replace(QUICK, epochs=1, model_ema=True)
    result = fit(digits, tmp_path / "run", recipe)
    assert torch.equal(weights(result.folder, train.BEST), weights(result.folder, train.LAST))
    plain = fit(digits, tmp_path / "plain", replace(recipe, model_ema=False))
    assert not torch.equal(weights(plain.folder), weights(result.folder))


def test_without_validation_best_is_last(digits: Data, tmp_path: Path) -> None:
    data = Data(digits.info, digits.train, test=digits.test)
    result = fit(data, tmp_path / "run")
    assert torch.equal(weights(result.folder, train.BEST), weights(result.folder, train.LAST))
    assert "val_top1" not in result.history[0]
    with pytest.raises(ValueError, match="--val-split"):
        fit(data, tmp_path / "other", early_stop=2)


def test_early_stop(digits: Data, tmp_path: Path) -> None:
    result = fit(digits, tmp_path / "run", replace(QUICK, epochs=30, lr=1e-9), early_stop=2)
    assert len(result.history) == 3


@pytest.mark.parametrize("network", ["resnet20_cifar", "lenet5"])
def test_others_train_too(digits: Data, tmp_path: Path, network: str) -> None:
    recipe = replace(choose("modern", load()[network]), epochs=1, cutmix=0.0)
    model = create_model(network, num_classes=10, in_chans=1, drop_path_rate=0.3 if "resnet" in network else None)
    result = fit(
        digits, tmp_path / network, recipe, model, precision="bf16-mixed" if "resnet" in network else "32-true"
    )
    assert len(result.history) == 1
    assert math.isfinite(result.metrics.loss)


# -- before the first step


def test_mistakes_cost_seconds(digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(digits, tmp_path / "run", replace(QUICK, epochs=1))
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()}
    with pytest.raises(ValueError, match="holds a run; continue it with --resume"):
        fit(digits, tmp_path / "run")
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()} == before
    with pytest.raises(ValueError, match=r"--img-size 16; lenet5\.modern reads 32 pixels or more"):
        fit(digits, tmp_path / "small", img_size=16)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="give another --output"):
        fit(digits, tmp_path / "full")


def test_preflight_leaves_the_network_alone(digits: Data) -> None:
    model = create_model("resnet20_cifar", num_classes=10, in_chans=1, seed=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert preflight.check_step(model, (32, 32), QUICK, Options(), 160, 1) > 0
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_diverging_run_says_so(digits: Data, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="smaller --lr"):
        fit(digits, tmp_path / "run", replace(QUICK, epochs=5, lr=1e12, opt="sgd", clip_grad=None, smoothing=0.0))


def test_an_image_that_breaks_during_the_run_is_named(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(pixels).save(tmp_path / "data" / part / label / f"{i}.png")
    broken = tmp_path / "data" / "train" / "dog" / "5.png"
    data = open_data(f"folder:{tmp_path / 'data'}")
    broken.write_bytes(broken.read_bytes()[:200])
    model = create_model("resnet20_cifar", num_classes=2)
    with pytest.raises(ValueError, match=r"train/dog/5\.png"):
        fit(data, tmp_path / "run", replace(QUICK, batch_size=4), model)


# -- another process


def _hear_ctrl_c() -> None:
    """A shell's background jobs ignore it, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(*args: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "backbones", "train", *args]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=_hear_ctrl_c
    )


def wait_for(file: Path, epochs: int, process: "subprocess.Popen[str]") -> None:
    for _ in range(1200):
        if file.exists() and file.read_text().count("\n") > epochs:
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise AssertionError(process.communicate()[0])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_process_can_go_on(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "run"
    process = start("lenet5.modern", "--data", "digits", "--epochs", "400", "--output", str(folder))
    wait_for(folder / "metrics.csv", 2, process)
    process.send_signal(how)
    told = process.communicate(timeout=240)[0]
    if how == signal.SIGINT:
        assert process.returncode == 130
        step = int(told.split("after step ")[1].split(";")[0])  # no checkpoint was due then: the signal made it
        assert Store(folder / "checkpoints").newest()[0]["step"] == step
        assert f"--resume {folder}" in told.replace("\n", "")
        assert "Traceback" not in told
        assert backbones.load(folder / train.LAST).num_classes == 10
    written = json.loads((folder / "recipe.json").read_text())
    done = len((folder / "metrics.csv").read_text().splitlines()) - 1
    written["recipe"]["epochs"] = done + 1
    (folder / "recipe.json").write_text(json.dumps(written))
    folder = folder.rename(tmp_path / "moved")
    process = start("--resume", str(folder), "--workers", "0")
    told = process.communicate(timeout=120)[0]
    assert process.returncode == 0, told
    assert "test accuracy" in told
    assert len((folder / "metrics.csv").read_text().splitlines()) == done + 2
    assert json.loads((folder / "recipe.json").read_text())["notes"] == written["notes"] != []


def test_two_processes_make_one_run(tmp_path: Path) -> None:
    """Each sees half of every batch; the first tests, and every dropped branch is expected to have no gradient."""
    folder = tmp_path / "run"
    flags = ("--epochs", "1", "--devices", "2", "--workers", "0", "--drop-path-rate", "0.5", "--batch-size", "256")
    process = start("resnet20_cifar", "--data", "digits", "--output", str(folder), *flags)
    told = process.communicate(timeout=240)[0]
    assert process.returncode == 0, told
    assert told.count("test accuracy") == told.count("parameters") == told.count("no mirroring") == 1
    assert len((folder / "metrics.csv").read_text().splitlines()) == 2
