"""Folders for the hub: what they hold, that they work offline, and what goes up."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import backbones
from backbones import create_model, from_pretrained, save_pretrained
from backbones.recipes import MODERN
from backbones.records import Preprocessing

PREPROCESSING = Preprocessing(3, (32, 32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bicubic", 0.9)
FACTS: dict[str, Any] = {
    "classes": ("cat", "dog", "Käse"),
    "preprocessing": PREPROCESSING,
    "recipe": MODERN,
    "metrics": {"val_top1": 91.5},
    "data": "pets",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pretrained(create_model("resnet18.tv", num_classes=3, seed=0), tmp_path / "net", **FACTS)
    return tmp_path / "net"


def test_a_folder_holds_three_files(folder: Path) -> None:
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"]) == ("resnet18.tv", 3)
    assert config["backbones"]["preprocessing"]["size"] == [32, 32]
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: backbones\n")
    for text in ("# resnet18.tv", "Deep Residual Learning", "11,178,051 parameters", "| val_top1 | 91.5 |", "pets"):
        assert text in card
    for text in ("32x32 centre crop", "bicubic", "80 epochs of batches of 64, adamw", "projections", "from_pretrained"):
        assert text in card


def test_there_and_back_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = from_pretrained(folder)
    assert (model.variant.name, model.training) == ("resnet18.tv", False)
    assert (model.checkpoint.classes, model.checkpoint.preprocessing) == (FACTS["classes"], PREPROCESSING)
    images = torch.randn(2, 3, 40, 36)
    twin = create_model("resnet18.tv", num_classes=3, seed=0).eval()
    assert torch.equal(model(images), twin(images))
    assert torch.equal(create_model("resnet18", weights=folder).eval()(images), twin(images))
    assert from_pretrained(folder, num_classes=5)(images).shape == (2, 5)
    assert [m.shape[1] for m in from_pretrained(folder, features_only=True)(images)] == [64, 64, 128, 256, 512]


def test_what_was_known_is_handed_on(folder: Path, tmp_path: Path) -> None:
    save_pretrained(from_pretrained(folder), tmp_path / "again", metrics={"val_top1": 92.0})
    told = from_pretrained(tmp_path / "again").checkpoint
    assert (told.classes, told.data, told.metrics) == (FACTS["classes"], "pets", {"val_top1": 92.0})
    save_pretrained(from_pretrained(folder, num_classes=7, in_chans=1), tmp_path / "other")
    told = from_pretrained(tmp_path / "other").checkpoint  # of the old head and stem nothing is told
    assert (told.classes, told.metrics, told.preprocessing) == ((), {}, None)


def test_what_is_no_folder_of_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"has none of model\.safetensors"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="names no repository on the hub"):
        from_pretrained(tmp_path / "missing")


def test_what_goes_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """One commit with the three files; the hub's client itself is not tried here."""
    import huggingface_hub

    seen: dict[str, Any] = {}

    class Commit:
        commit_url = "the commit"

    class Repo:
        repo_id = "me/net"

    class Api:
        def __init__(self, token: str | None) -> None:
            seen["token"] = token

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> Repo:
            seen["repo"] = (repo_id, private, exist_ok)
            return Repo()

        def upload_folder(self, repo_id: str, folder_path: str, commit_message: str) -> Commit:
            seen["files"] = sorted(p.name for p in Path(folder_path).iterdir())
            seen["message"] = commit_message
            return Commit()

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    model = create_model("lenet5", seed=0)
    assert backbones.push_to_hub(model, "me/net", private=True, token="t", data="digits") == "the commit"
    assert seen["repo"] == ("me/net", True, True)
    assert (seen["files"], seen["message"]) == (["README.md", "config.json", "model.safetensors"], "lenet5")
