"""Published weights in create_model: fetched, recognised, adapted, and what the checkpoint tells of them."""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save
from server import COMMIT, Page, Server, serving

import backbones
from backbones import create_model, from_pretrained, save_pretrained
from backbones.weights import hub, sources

IMAGES = torch.randn(2, 3, 64, 65, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def at_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The hub's client and torch's cache, in this process, at this server and in an empty folder."""
    with serving() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        yield server


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "backbones")
    return caplog


def test_timm_from_the_hub(at_hub: Server, said: pytest.LogCaptureFixture) -> None:
    theirs = timm.create_model("resnet18").eval()
    at_hub.add_repo("timm/resnet18.a1_in1k", {hub.WEIGHTS: Page(save(theirs.state_dict()))})
    model = create_model("resnet18", weights="timm:a1_in1k").eval()
    with torch.no_grad():
        assert torch.equal(model(IMAGES), theirs(IMAGES))
    told = model.checkpoint
    assert (model.variant.name, len(told.classes), told.classes[1]) == ("resnet18.tv", 1000, "goldfish")
    assert told.preprocessing is not None
    assert (told.preprocessing.size, told.preprocessing.crop) == ((224, 224), 0.95)
    assert f"hf:timm/resnet18.a1_in1k@{COMMIT} sha256 " in told.source
    assert f"timm:a1_in1k: hf:timm/resnet18.a1_in1k@{COMMIT}" in said.text
    grey = create_model("resnet18", weights="timm:a1_in1k", num_classes=5, in_chans=1, features_only=False)
    assert (grey.num_classes, grey.in_channels, grey.checkpoint.classes) == (5, 1, ())


def test_a_repository_says_its_own_network(at_hub: Server) -> None:
    """`tf_efficientnet_b0` and `efficientnet_b0` have equal tensors; config.json tells which it is."""
    for name, ours in (("tf_efficientnet_b0", "efficientnet_b0"), ("efficientnet_b0", "efficientnet_b0.tv")):
        theirs = timm.create_model(name, num_classes=3).eval()
        config = json.dumps({"architecture": name, "num_classes": 3, "pretrained_cfg": {}}).encode()
        files = {hub.WEIGHTS: Page(save(theirs.state_dict())), hub.CONFIG: Page(config)}
        at_hub.add_repo(f"me/{name}", files)
        model = create_model("efficientnet_b0", weights=f"hf:me/{name}").eval()
        with torch.no_grad():
            torch.testing.assert_close(model(IMAGES), theirs(IMAGES), rtol=1e-4, atol=1e-5)
        assert (model.variant.name, model.num_classes) == (ours, 3)
        assert from_pretrained(f"me/{name}").variant.name == ours
        with pytest.raises(ValueError, match=f"these are the weights of {ours}, not of resnet50"):
            create_model("resnet50", weights=f"hf:me/{name}")


def test_a_repository_of_our_own(at_hub: Server, tmp_path: Path) -> None:
    save_pretrained(create_model("lenet5", seed=0), tmp_path / "net", classes=list("0123456789"), data="digits")
    at_hub.add_repo(
        "me/lenet", {name: Page((tmp_path / "net" / name).read_bytes()) for name in (hub.WEIGHTS, hub.CONFIG)}
    )
    for model in (from_pretrained("me/lenet"), create_model("lenet5", weights=f"hf:me/lenet@{COMMIT}").eval()):
        assert (model.variant.name, model.checkpoint.data) == ("lenet5", "digits")
        images = torch.randn(1, 1, 32, 32)
        assert torch.equal(model(images), backbones.load(tmp_path / "net" / hub.WEIGHTS)(images))


def test_torchvisions_own_list(
    at_hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: pytest.LogCaptureFixture
) -> None:
    theirs = torchvision.models.resnet18(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    body = (tmp_path / "weights.pth").read_bytes()
    name = f"resnet18-{hashlib.sha256(body).hexdigest()[:8]}.pth"
    known = sources.default(["resnet18.tv"])
    here = dataclasses.replace(known, place=at_hub.add(f"/models/{name}", Page(body)))
    monkeypatch.setattr(sources, "find", lambda weights, names: here)
    model = create_model("resnet18", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(model(IMAGES), theirs(IMAGES))
    assert "resnet18: pretrained=True takes tv:IMAGENET1K_V1" in said.text
    assert model.checkpoint.metrics == {"top1": 69.758, "top5": 89.078}
    assert model.checkpoint.data == "ImageNet-1k"
    backbones.save(
        model, tmp_path / "ours.safetensors", classes=model.checkpoint.classes, preprocessing=here.preprocessing
    )
    assert len(backbones.load(tmp_path / "ours.safetensors").checkpoint.classes) == 1000


def test_nobody_publishes_any() -> None:
    with pytest.raises(LookupError, match="no published weights fit lenet5"):
        create_model("lenet5", pretrained=True)
    with pytest.raises(LookupError, match="resnet50 has no weights called 'tv:V9'; it has tv:IMAGENET1K_V1"):
        create_model("resnet50", weights="tv:V9")
