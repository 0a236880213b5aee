"""What goes wrong in a run: images, numbers, memory, folders. Each is said in words, and nothing is lost."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damaged import hostile_folder
from rich.console import Console
from torch import nn

import backbones
from backbones import create_model, train
from backbones.data import Data, open_data
from backbones.recipes import MODERN
from backbones.records import Options, Recipe
from backbones.train import diagnose, preflight
from backbones.train.folder import locked
from backbones.train.loop import Loop

QUICK = replace(MODERN, epochs=2, batch_size=16, warmup_epochs=0.0, model_ema=False)


@pytest.fixture(scope="module")
def digits() -> Data:
    data = open_data("digits", val_split=0.1)
    train_part, val = data.train.take(range(96)), data.val.take(range(32))
    return Data(replace(data.info, images={"train": 96, "val": 32}), train_part, val)


def fit(data: Data, folder: Path, recipe: Recipe = QUICK, resume: bool = False, **settings: Any) -> train.Result:
    channels, classes = data.info.channels, len(data.info.classes)
    model = create_model("lenet5.modern", num_classes=classes, in_chans=channels, seed=0)
    options = Options(output=str(folder), workers=0, **settings)
    return train.fit(model, data, recipe, options, resume=resume, console=Console(quiet=True))


def listed(folder: Path) -> list[str]:
    with open(folder / "bad_images.csv", newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


# -- images


def test_a_hostile_folder_trains_to_the_end_with_the_exact_list(tmp_path: Path) -> None:
    """A twentieth of the images cannot be used, as many again are odd but whole."""
    bad = [str(path) for path in hostile_folder(tmp_path / "photos", 200)]
    assert len(bad) == 20
    data = open_data(f"folder:{tmp_path / 'photos'}")
    with pytest.raises(ValueError, match=r"20 of 400 images cannot be used; .*--on-bad-image skip") as error:
        fit(data, tmp_path / "strict")
    assert [line.split(": ")[0].strip() for line in str(error.value).splitlines()[1:]] == bad
    assert not (tmp_path / "strict" / "checkpoints").exists()
    result = fit(data, tmp_path / "run", on_bad_image="skip")
    assert len(result.history) == 2
    assert result.metrics.images == 190
    assert listed(tmp_path / "run") == bad


def test_too_many_bad_images_stop_a_run(tmp_path: Path) -> None:
    hostile_folder(tmp_path / "photos", 40, share=0.2)
    with pytest.raises(ValueError, match="16 of 80 images cannot be used, more than 10%: too many to leave out"):
        fit(open_data(f"folder:{tmp_path / 'photos'}"), tmp_path / "run", on_bad_image="skip")


def test_images_that_break_during_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noted by whom it meets, and the next one takes their place; without skip the run ends and names the file."""
    hostile_folder(tmp_path / "photos", 40, share=0.0)
    data = open_data(f"folder:{tmp_path / 'photos'}")
    broken = Path(data.train.where(7))
    whole = broken.read_bytes()
    start = Loop.run

    def run(self: Loop) -> None:
        broken.write_bytes(whole[:300])
        start(self)

    monkeypatch.setattr(Loop, "run", run)
    with pytest.raises(ValueError, match=broken.name):
        fit(data, tmp_path / "strict")
    broken.write_bytes(whole)
    result = fit(data, tmp_path / "run", on_bad_image="skip")
    assert len(result.history) == 2
    assert listed(tmp_path / "run") == [str(broken)]


# -- numbers


class Poisoned(nn.Module):
    """Its output is not a number."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 0


def test_the_first_bad_module_is_named() -> None:
    images = torch.ones(2, 3, 8, 8)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), Poisoned()), nn.Sigmoid())
    assert diagnose.first_bad(model, images) == (
        "1.2 (Poisoned) is the first to put out values that are not (its own weights are finite)"
    )
    assert int(model[1][1].num_batches_tracked) == 0
    with torch.no_grad():
        model[0].bias[1] = torch.inf
    assert "0 (Conv2d) is the first" in str(diagnose.first_bad(model, images))
    assert "its bias is not finite" in str(diagnose.first_bad(model, images))
    assert diagnose.first_bad(nn.Conv2d(3, 4, 1), images) is None
    assert "the images themselves" in str(diagnose.first_bad(model, images * torch.nan))


def test_a_loss_that_is_not_finite_stops_the_run(digits: Data, tmp_path: Path) -> None:
    """The message has step, rate, checkpoint and module; the checkpoint before is one to go on from."""
    recipe = replace(QUICK, lr=1e12, opt="sgd", clip_grad=None, smoothing=0.0)
    with pytest.raises(FloatingPointError) as error:
        fit(digits, tmp_path / "run", recipe, checkpoint_every_steps=1)
    for said in ("in step 2 (epoch 1, learning rate", "the last checkpoint is step-", "smaller --lr"):
        assert said in str(error.value)


def test_an_exploding_loss_counts_too() -> None:
    model = nn.Linear(1, 1)
    assert diagnose.diagnosis(900.0, 0.9, model, torch.ones(1, 1)) is None
    told = diagnose.diagnosis(2000.0, 1.5, model, torch.ones(1, 1))
    assert told == "the loss is 2000, from 1.5 at first; all modules put out finite values"


# -- memory and folders


def test_a_batch_that_does_not_fit_is_told_what_does(
    digits: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By estimate, before the start; taken in as many parts as it says, it fits."""
    monkeypatch.setattr(preflight, "_free", lambda: 2_500_000)
    with pytest.raises(MemoryError, match=r"96 images of 32x32 at a time do not fit .*--accumulate (\d+)") as error:
        fit(digits, tmp_path / "run", replace(QUICK, batch_size=96))
    parts = int(str(error.value).split("--accumulate ")[1].split(",")[0])
    assert 1 < parts < 96
    result = fit(digits, tmp_path / "parts", replace(QUICK, batch_size=96), accumulate=parts)
    assert len(result.history) == 2


def test_one_run_at_a_time(digits: Data, tmp_path: Path) -> None:
    fit(digits, tmp_path / "run", replace(QUICK, epochs=1))
    before = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()}
    with locked(tmp_path / "run"), pytest.raises(ValueError, match="another process trains in"):
        fit(digits, tmp_path / "run", resume=True)
    after = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "run").iterdir()}
    assert {key: value for key, value in after.items() if key != ".lock"} == {
        key: value for key, value in before.items() if key != ".lock"
    }


def test_a_run_goes_on_with_the_images_it_began_with(digits: Data, tmp_path: Path) -> None:
    fit(digits, tmp_path / "run", replace(QUICK, epochs=1))
    fewer = Data(digits.info, digits.train.take(range(80)), digits.val)
    with pytest.raises(ValueError, match=r"not those with which this run began \(96 and 80\)"):
        fit(fewer, tmp_path / "run", resume=True)


def test_a_run_that_does_not_say_how_it_began(digits: Data, tmp_path: Path) -> None:
    fit(digits, tmp_path / "run", replace(QUICK, epochs=1))
    file = tmp_path / "run" / "recipe.json"
    told = json.loads(file.read_text())
    del told["threads"]
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"does not say with what the run began \(threads\).*start a new run"):
        fit(digits, tmp_path / "run", resume=True)


def test_other_versions_are_said(digits: Data, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(digits, tmp_path / "run", replace(QUICK, epochs=1))
    file = tmp_path / "run" / "recipe.json"
    told = json.loads(file.read_text())
    told["here"]["torch"] = "1.0"
    file.write_text(json.dumps(told))
    model = create_model("lenet5.modern", num_classes=10, in_chans=1)
    options = Options(output=str(tmp_path / "run"), workers=0)
    train.fit(model, digits, QUICK, options, resume=True, console=Console(width=500))
    assert "torch was 1.0 and is" in capsys.readouterr().out


# -- what a recipe does in the course of a run


def test_frozen_stages_learn_later(digits: Data, tmp_path: Path) -> None:
    """The stem and two stages stay as they were for two of four epochs, statistics too; the snapshots show it."""
    recipe = replace(QUICK, epochs=4, freeze_stages=2, freeze_epochs=2, lr=0.01)
    model = create_model("resnet20_cifar", num_classes=10, in_chans=1, seed=0)
    first = {key: value.clone() for key, value in model.state_dict().items()}
    options = Options(output=str(tmp_path / "run"), workers=0, snapshot_epochs=1)
    train.fit(model, digits, recipe, options, console=Console(quiet=True))
    fixed = ("stem", "stages.0", "stages.1")
    for epoch in range(1, 5):
        then = backbones.load(tmp_path / "run" / f"snapshot-{epoch:03d}.safetensors").state_dict()
        changed = {key for key in first if not torch.equal(then[key], first[key])}
        assert any(key.startswith(fixed) for key in changed) == (epoch > 2)
        assert {"stages.2.0.residual.0.conv.weight", "head.classifier.weight"} & changed
    assert not (tmp_path / "run" / "snapshot-005.safetensors").exists()
    assert os.path.exists(tmp_path / "run" / "best.safetensors")
