"""Our file: what it keeps, and how it refuses what is not whole, ours and unaltered."""

import errno
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import backbones
from backbones import create_model
from backbones.recipes import MODERN
from backbones.records import Preprocessing
from backbones.weights import file as weights_file

PREPROCESSING = Preprocessing(3, (32, 32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.1), "bicubic", 0.9)
CLASSES = ("cat", "dog", "Käse")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = create_model("resnet20_cifar", num_classes=3, shortcut="B", global_pool="max", output_stride=8, seed=0)
    path = tmp_path / "deep" / "model.safetensors"
    backbones.save(
        model,
        path,
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        recipe=MODERN,
        metrics={"val_top1": 91.5},
        data="pets",
    )
    return path


def test_a_file_tells_everything(saved: Path) -> None:
    model = backbones.load(saved)
    told = model.checkpoint
    assert (told.network, told.classes, told.data) == ("resnet20_cifar", CLASSES, "pets")
    assert (told.preprocessing, told.recipe, told.metrics) == (PREPROCESSING, MODERN, {"val_top1": 91.5})
    assert told.settings["shortcut"] == "B"
    assert told.versions.keys() == {"backbones", "torch", "torchvision"}
    assert (model.head.pool, model.num_classes, model.training) == ("max", 3, False)
    twin = create_model("resnet20_cifar", num_classes=3, shortcut="B", global_pool="max", seed=0).eval()
    images = torch.randn(1, 3, 40, 36)
    torch.testing.assert_close(model(images), twin(images))
    again = saved.with_name("again.safetensors")
    backbones.save(model, again, classes=told.classes)
    assert torch.equal(backbones.load(again)(images), model(images))


def test_it_is_plain_safetensors(saved: Path) -> None:
    with safe_open(saved, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["checkpoint"])["recipe"] == json.loads(json.dumps(asdict(MODERN)))


def change(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


def test_damage_is_refused(saved: Path, tmp_path: Path) -> None:
    whole = saved.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not a whole safetensors file"):
            backbones.load(saved)
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    saved.write_bytes(flipped)
    with pytest.raises(ValueError, match="altered after it was written"):
        backbones.load(saved)
    saved.write_bytes(whole)
    change(saved, b"91.5", b"99.5")
    with pytest.raises(ValueError, match="altered after it was written"):
        backbones.load(saved)
    saved.write_bytes(whole)
    change(saved, b"backbones 1", b"backbones 9")
    with pytest.raises(ValueError, match="'backbones 9', this version reads 'backbones 1'"):
        backbones.load(saved)


def test_strangers_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, foreign)
    with pytest.raises(ValueError, match="somebody else"):
        backbones.load(foreign)
    pickle = tmp_path / "weights.pth"
    torch.save({"x": torch.zeros(1)}, pickle)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        backbones.load(pickle)
    with pytest.raises(FileNotFoundError, match=r"no file '.*missing\.safetensors'"):
        backbones.load(tmp_path / "missing.safetensors")


def test_the_wrong_network_is_refused(saved: Path) -> None:
    with pytest.raises(ValueError, match="holds resnet20_cifar, not resnet32_cifar"):
        create_model("resnet32_cifar", weights=saved)
    assert create_model("resnet20_cifar", weights=saved).num_classes == 3
    with pytest.raises(ValueError, match="2 class names for 3 classes"):
        backbones.save(backbones.load(saved), saved, classes=("a", "b"))
    state = create_model("resnet20_cifar").state_dict()
    told = backbones.load(saved).checkpoint
    weights_file.write(saved, dict(list(state.items())[:-1]), told)
    with pytest.raises(ValueError, match="does not fit resnet20_cifar"):
        backbones.load(saved)


def forge(path: Path, told_json: str, state: dict[str, torch.Tensor]) -> None:
    """A file whose digest matches: anybody can compute it."""
    metadata = {"format": "backbones 1", "checkpoint": told_json, "digest": weights_file._digest(state, told_json)}
    save_file(state, path, metadata)


NONSENSE = [1, True, "x", [], [1], {}, {"a": 1}, 1e300, 10**30, float("nan"), "x" * 10**5, [[[[[[1]]]]]], ["x"] * 10**5]


def test_hostile_records_are_refused(saved: Path) -> None:
    told, state = weights_file.read(saved)
    whole = asdict(told)
    forge(saved, json.dumps(whole), state)
    assert backbones.load(saved).checkpoint == told
    lies = ["", "null", "[]", "3", "{}", '"x"', "{", "[" * 10**6, '{"a":' * 10**6, "1" * 5000, r'"\ud800"']
    for key in whole:
        lies += [json.dumps({**whole, key: value}) for value in NONSENSE if type(value) not in (list, type(whole[key]))]
    lies += [json.dumps({**whole, "classes": [["a"]]}), json.dumps({**whole, "metrics": {"a": [1]}})]
    for key in ("network", "settings"):
        lies.append(json.dumps({k: v for k, v in whole.items() if k != key}))
    for key in ("preprocessing", "recipe"):
        for name in whole[key]:
            values = [{}, [[1]], {"a": 1}, [None]][name == "elsewhere" :]  # which may be empty
            lies += [json.dumps({**whole, key: {**whole[key], name: value}}) for value in values]
        lies += [json.dumps({**whole, key: {"channels": 3}}), json.dumps({**whole, key: {**whole[key], "extra": 1}})]
    for lie in lies:
        forge(saved, lie, state)
        with pytest.raises(ValueError, match="does not tell which network it holds") as error:
            backbones.load(saved)
        assert len(str(error.value)) < 1000


def test_hostile_settings_build_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, state = weights_file.read(saved)
    monkeypatch.setattr(weights_file, "read_tensors", lambda *_: pytest.fail("tensors were read"))
    for key in told.settings:
        for value in (*NONSENSE, -1, 99_998, 1e4):
            if key == "output_stride" and value is True:  # 1 in disguise, and all the same to the tensors
                continue
            forge(saved, json.dumps({**asdict(told), "settings": {**told.settings, key: value}}), state)
            with pytest.raises(ValueError, match=r"does not (tell which network|fit resnet20_cifar)"):
                backbones.load(saved)
    for settings in ({"width": 3}, {"depth": 6 * 16_000 + 2}):
        forge(saved, json.dumps({**asdict(told), "settings": {**told.settings, **settings}}), state)
        with pytest.raises(ValueError, match="does not fit resnet20_cifar"):
            backbones.load(saved)
    forge(saved, json.dumps({**asdict(told), "network": "x" * 900}), state)
    with pytest.raises(LookupError, match="no network is called"):
        backbones.load(saved)
    forge(saved, json.dumps(asdict(told)), {**state, "stem.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"shape: stem\.0\.weight is \(1,\) float32, the network has \(16, 3, 3, 3\)"):
        create_model("resnet20_cifar", weights=saved)


def test_a_write_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weights_file, "write_tensors", full)
    with pytest.raises(OSError, match=f"No space left on device: '{saved}'"):
        backbones.save(create_model("lenet5"), saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]
