"""Weights of others under our names: which twin they make, what is changed and said, what is refused and why."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import backbones
from backbones import create_model, list_models, loading, model_info
from backbones.build import build_on_meta
from backbones.dilation import set_output_stride
from backbones.recognise import Source, Wish, recognise, twins
from backbones.weights.convert import Network, Peer
from backbones.weights.peers import PEERS

CASES = [(peer, network) for peer in PEERS.values() for network in peer.networks]
IMAGES = torch.randn(2, 3, 64, 65, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "backbones")
    return caplog


@pytest.fixture(scope="module")
def resnet18(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(theirs.state_dict(), path)
    return theirs, path


def logits(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


# -- weights bring their function


def header(peer: Peer, network: Network) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the peer's file."""
    model = build_on_meta(model_info(network.ours), network.settings)
    state = model.state_dict()
    return {slot.name: tuple(slot.there(state[key]).shape) for key, slot in peer.slots(model).items()}


def recognised(name: str, shapes: Mapping[str, tuple[int, ...]], **wish: Any) -> Network:
    return recognise(Wish(name, model_info(name), {}, **wish), Source(Path("x"), "x"), shapes).network


def functions(network: Network) -> tuple[str, dict[str, Any]]:
    return network.ours, {key: value for key, value in network.settings.items() if key != "aux"}


@pytest.mark.parametrize(
    ("peer", "network"), [pytest.param(p, n, id=f"{p.name}-{n.name}-{n.ours}") for p, n in CASES if not n.kwargs]
)
def test_a_file_makes_the_twin_it_was_trained_with(peer: Peer, network: Network) -> None:
    """Under the plain name; where equal names and shapes are several functions, an error asks which."""
    shapes = header(peer, network)
    plain = network.ours.partition(".")[0]
    alike = [(p, n) for p, n in CASES if n.ours in twins(plain) and not n.kwargs and set(header(p, n)) == set(shapes)]
    several = {str(functions(n)) for _, n in alike}
    if plain in list_models():
        if len(several) == 1:
            assert functions(recognised(plain, shapes)) == functions(network)
        else:
            with pytest.raises(ValueError, match="equal shapes, but several functions; say whose it is"):
                recognised(plain, shapes)
    assert (
        recognised(plain if plain in list_models() else network.ours, shapes, source=f"{peer.name}:{network.name}")
        == network
    )
    if "." in network.ours and len({str(functions(n)) for _, n in alike if n.ours == network.ours}) == 1:
        assert functions(recognised(network.ours, shapes)) == functions(network)


OTHERS = [
    pytest.param(name, peer, network, id=f"{name}-{peer.name}-{network.name}")
    for name in list_models()
    if "." in name
    for peer, network in CASES
    if network.ours in set(twins(name)) - {name} and not network.kwargs
    if not [n for n in peer.networks if n.ours == name and not n.kwargs]
]


@pytest.mark.parametrize(("name", "peer", "network"), OTHERS)
def test_no_twin_takes_anothers_file(name: str, peer: Peer, network: Network) -> None:
    """Asked for by its dotted name, with a file of a peer that has no network of its function."""
    with pytest.raises(ValueError, match=r"these are the weights of|misfits|no .* has"):
        recognised(name, header(peer, network), source=peer.name)


def test_the_twin_is_said(resnet18: tuple[nn.Module, Path], said: pytest.LogCaptureFixture) -> None:
    theirs, path = resnet18
    model = create_model("resnet18", weights=path)
    assert model.variant.name == "resnet18.tv"
    assert "weights of torchvision's resnet18, so this is resnet18.tv" in said.text
    assert torch.equal(logits(model), logits(theirs))
    assert model.checkpoint.source == "resnet18.pth, torchvision's resnet18"
    assert model.checkpoint.settings == model.settings


def test_who_insists_is_warned(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    theirs = torchvision.models.resnet50(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "v1.5.pth")
    model = create_model("resnet50", weights=tmp_path / "v1.5.pth", departures=())
    assert model.variant.name == "resnet50"
    assert [r.levelname for r in said.records] == ["WARNING"]
    assert "whose function may differ, in resnet50 as asked" in said.text
    assert not torch.allclose(logits(model), logits(theirs))


def test_a_file_of_ours_brings_its_twin_too(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    backbones.save(create_model("resnet18.tv", num_classes=3, seed=0), tmp_path / "a.safetensors")
    model = create_model("resnet18", weights=tmp_path / "a.safetensors")
    assert (model.variant.name, model.num_classes) == ("resnet18.tv", 3)
    assert "holds resnet18.tv, so this is it" in said.text
    with pytest.raises(ValueError, match=r"holds resnet18\.tv, not resnet34"):
        create_model("resnet34", weights=tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"does not fit resnet18:\n  no place for: stages\.1\.0\.shortcut\.0\.weight"):
        create_model("resnet18", weights=tmp_path / "a.safetensors", departures=())
    backbones.save(create_model("resnet50.tv", seed=0), tmp_path / "b.safetensors")
    assert create_model("resnet50", weights=tmp_path / "b.safetensors", departures=()).variant.name == "resnet50"
    assert "holds resnet50.tv, whose function may differ, in resnet50 as asked" in said.text


# -- what the user wants changed


def test_another_head_and_stem(resnet18: tuple[nn.Module, Path], said: pytest.LogCaptureFixture) -> None:
    theirs, path = resnet18
    model = create_model("resnet18", weights=path, num_classes=7, in_chans=1, seed=1)
    assert "new classifier for 7 classes, the file has 1000" in said.text
    assert "first convolution adapted to 1 channels, the file has 3" in said.text
    grey = IMAGES[:, :1]
    torch.testing.assert_close(
        model.eval().forward_features(grey),
        create_model("resnet18", weights=path).eval().forward_features(grey.expand(-1, 3, -1, -1)),
        rtol=1e-3,
        atol=1e-4,
    )
    assert logits(model, grey).shape == (2, 7)
    assert (model.settings["num_classes"], model.settings["in_channels"]) == (7, 1)
    six = create_model("resnet18", weights=path, in_chans=6)
    torch.testing.assert_close(logits(six, IMAGES.repeat(1, 2, 1, 1)), logits(theirs), rtol=1e-3, atol=1e-4)
    headless = create_model("resnet18", weights=path, num_classes=0)
    assert logits(headless).shape == (2, 512)
    maps = create_model("resnet18", weights=path, features_only=True, out_indices=(4,))(IMAGES)
    assert maps[0].shape == (2, 512, 2, 3)


def test_a_file_has_its_own_classes_and_channels(tmp_path: Path) -> None:
    theirs = torchvision.models.resnet18(weights=None, num_classes=5)
    theirs.conv1 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
    torch.save(theirs.state_dict(), tmp_path / "five.pth")
    model = create_model("resnet18", weights=tmp_path / "five.pth")
    assert (model.num_classes, model.in_channels) == (5, 4)
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    save_file(state, tmp_path / "none.safetensors")
    assert create_model("resnet18", weights=tmp_path / "none.safetensors").num_classes == 0
    assert create_model("resnet18", weights=tmp_path / "none.safetensors", num_classes=3).num_classes == 3


def test_the_background_class_is_left_out(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    """1001 classes are TensorFlow's: the first is none of ImageNet's."""
    theirs = torchvision.models.resnet18(weights=None, num_classes=1001).eval()
    torch.save(theirs.state_dict(), tmp_path / "tf.pth")
    model = create_model("resnet18", weights=tmp_path / "tf.pth")
    torch.testing.assert_close(logits(model), logits(theirs)[:, 1:])
    assert "the first of its 1001 classes, the background, is left out" in said.text
    assert create_model("resnet18", weights=tmp_path / "tf.pth", num_classes=1001).num_classes == 1001


def test_auxiliary_heads_as_the_file_or_as_asked(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    theirs = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    torch.save(theirs.state_dict(), tmp_path / "with.pth")
    assert create_model("googlenet", weights=tmp_path / "with.pth").aux
    assert not create_model("googlenet", weights=tmp_path / "with.pth", aux=False).aux
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("aux")}
    torch.save(state, tmp_path / "without.pth")
    assert not create_model("googlenet", weights=tmp_path / "without.pth").aux
    assert create_model("googlenet", weights=tmp_path / "without.pth", aux=True).aux
    assert "auxiliary heads as asked, not as in the file" in said.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(
    dtype: torch.dtype, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    theirs = torchvision.models.squeezenet1_1(weights=None).to(dtype)
    save_file(theirs.state_dict(), tmp_path / "half.safetensors")
    model = create_model("squeezenet1_1", weights=tmp_path / "half.safetensors")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert f"{str(dtype).removeprefix('torch.')}, read as float32" in said.text


def test_wrappers_are_taken_off(
    resnet18: tuple[nn.Module, Path], tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    theirs, _ = resnet18
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "trained.pth")
    assert torch.equal(logits(create_model("resnet18", weights=tmp_path / "trained.pth")), logits(theirs))
    assert "'module.' left out" in said.text


def test_nan_is_reported(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    theirs = torchvision.models.squeezenet1_1(weights=None)
    theirs.classifier[1].bias.data[0] = float("nan")
    torch.save(theirs.state_dict(), tmp_path / "nan.pth")
    create_model("squeezenet1_1", weights=tmp_path / "nan.pth")
    assert "NaN or infinite values in head.classifier.bias" in said.text


# -- what is refused


def test_a_misfit_is_shown_with_its_reason(resnet18: tuple[nn.Module, Path]) -> None:
    with pytest.raises(
        ValueError, match=r"these are the weights of torchvision's resnet18: use 'resnet18\.tv'"
    ) as error:
        create_model("resnet34", weights=resnet18[1])
    text = str(error.value)
    assert "missing: layer1.2.conv1.weight (64, 64, 3, 3)" in text
    assert len(text.splitlines()) <= 23
    with pytest.raises(ValueError, match=r"these are the weights of torchvision's resnet18: use 'resnet18\.tv'"):
        create_model("vgg16", weights=resnet18[1])
    with pytest.raises(ValueError, match="no library whose files are read has lenet5"):
        create_model("lenet5", weights=resnet18[1])


def test_one_tensor_too_many_or_of_another_shape(resnet18: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = dict(resnet18[0].state_dict())
    save_file({**state, "more": torch.zeros(2, 3)}, tmp_path / "more.safetensors")
    with pytest.raises(ValueError, match=r"no place for: more \(2, 3\)"):
        create_model("resnet18", weights=tmp_path / "more.safetensors")
    save_file({**state, "bn1.bias": torch.zeros(63)}, tmp_path / "shape.safetensors")
    with pytest.raises(ValueError, match=r"shape: bn1.bias is \(63,\), the network has \(64,\)"):
        create_model("resnet18", weights=tmp_path / "shape.safetensors")
    del state["bn1.bias"]
    save_file(state, tmp_path / "less.safetensors")
    with pytest.raises(ValueError, match=r"missing: bn1.bias \(64,\)"):
        create_model("resnet18", weights=tmp_path / "less.safetensors")


def test_two_spellings_of_one_tensor(tmp_path: Path) -> None:
    """The older one and today's, in one file: neither is dropped in silence."""
    state = dict(torchvision.models.densenet121(weights=None, num_classes=3).state_dict())
    name = "features.denseblock1.denselayer1.norm1.bias"
    save_file({name.replace("norm1", "norm.1") if n == name else n: t for n, t in state.items()}, tmp_path / "a")
    assert create_model("densenet121", weights=tmp_path / "a").num_classes == 3
    save_file({**state, name.replace("norm1", "norm.1"): torch.zeros(64)}, tmp_path / "b")
    with pytest.raises(ValueError, match=r"no place for: features\.denseblock1\.denselayer1\.norm"):
        create_model("densenet121", weights=tmp_path / "b")


def test_a_source_that_nobody_is(resnet18: tuple[nn.Module, Path]) -> None:
    with pytest.raises(LookupError, match="source='tim'; give one of torchvision"):
        create_model("resnet18", weights=resnet18[1], source="tim")
    with pytest.raises(ValueError, match="departures="):
        create_model("resnet18", weights=resnet18[1], departures=("x",))
    with pytest.raises(TypeError, match="give either that or weights"):
        create_model("resnet18", weights=resnet18[1], pretrained=True)


# -- out again


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_written_as_a_peers_file(suffix: str, tmp_path: Path) -> None:
    ours = create_model("resnet18.tv", num_classes=3, seed=0).eval()
    backbones.save(ours, tmp_path / f"out{suffix}", to="torchvision")
    theirs = torchvision.models.resnet18(weights=None, num_classes=3)
    PEERS["torchvision"].restore(theirs, tmp_path / f"out{suffix}")
    assert torch.equal(logits(theirs), logits(ours))


def test_a_function_that_the_peer_has_not_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match="torchvision has no network with the function of this resnet50"):
        backbones.save(create_model("resnet50"), tmp_path / "out.pth", to="torchvision")
    with pytest.raises(LookupError, match=r"but efficientnet_b5 with {'bn_eps': 1e-05}"):
        backbones.save(create_model("efficientnet_b5.tv", bn_eps=1e-4), tmp_path / "out.pth", to="timm")
    with pytest.raises(LookupError, match="no network with the function of this resnext50_32x4d"):
        backbones.save(create_model("resnext50_32x4d", bn_eps=1e-3), tmp_path / "out.pth", to="torchvision")
    with pytest.raises(LookupError, match="to='tim'; give one of torchvision"):
        backbones.save(create_model("resnet18.tv"), tmp_path / "out.pth", to="tim")
    with pytest.raises(ValueError, match=r"torchvision reads .safetensors, .pth, .pt and .bin files"):
        backbones.save(create_model("squeezenet1_1"), tmp_path / "out.h5", to="torchvision")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.set_global_pool("max"),
        lambda model: model.set_bn_eps(1e-2),
        lambda model: model.set_conv_bias(True),
        lambda model: set_output_stride(model, 8),
        lambda model: setattr(model.stages[3][1], "activation", nn.SiLU()),
    ],
)
def test_a_network_that_was_changed_is_not_written_as_what_it_was(change: Any, tmp_path: Path) -> None:
    model = create_model("resnet18.tv", seed=0).eval()
    change(model)
    with pytest.raises(LookupError, match=r"torchvision has no network with the function of this resnet18\.tv"):
        backbones.save(model, tmp_path / "out.pth", to="torchvision")
    if not isinstance(getattr(model.stages[3][1], "activation", None), nn.SiLU):
        backbones.save(model, tmp_path / "ours.safetensors")
        assert torch.equal(logits(backbones.load(tmp_path / "ours.safetensors")), logits(model))


def test_a_network_of_other_tensors_is_not_saved(tmp_path: Path) -> None:
    model = create_model("resnet18.tv", seed=0)
    model.head.classifier = nn.Linear(512, 9)
    for to in (None, "torchvision"):
        with pytest.raises(ValueError, match=r"shape: head\.classifier\.weight is \(9, 512\)"):
            backbones.save(model, tmp_path / "out.safetensors", to=to)
    assert list(tmp_path.iterdir()) == []


def test_usual_settings_that_are_given_change_nothing(tmp_path: Path) -> None:
    model = create_model("squeezenet1_1", conv_bias=False, global_pool="avg")
    backbones.save(model, tmp_path / "a.pth", to="torchvision")
    backbones.save(create_model("mobilenet_v2_x0_35.tv", bn_eps=1e-5), tmp_path / "b.pth", to="timm")


def test_auxiliary_heads_go_where_the_peer_has_them(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    model = create_model("inception_v3.tv", num_classes=3, seed=0).eval()
    backbones.save(model, tmp_path / "timm.pth", to="timm")
    assert "as timm's inception_v3, aux_logits=True" in said.text
    backbones.save(model, tmp_path / "cv.pth", to="pytorchcv")
    assert "without its auxiliary heads, which pytorchcv's has not" in said.text
    again = create_model("inception_v3.tv", weights=tmp_path / "cv.pth")
    images = torch.randn(1, 3, 96, 97)
    assert torch.equal(logits(again, images), logits(model, images))


def test_what_is_asked_against_the_weights_is_warned_of(
    resnet18: tuple[nn.Module, Path], said: pytest.LogCaptureFixture
) -> None:
    model = create_model("resnet18", weights=resnet18[1], bn_eps=1e-3)
    assert "bn_eps=0.001 as asked, which weights of torchvision's resnet18 were not trained with" in said.text
    assert (model.stem[1].eps, model.checkpoint.settings["bn_eps"]) == (1e-3, 1e-3)


def test_settings_of_the_head_and_sizes_with_weights(resnet18: tuple[nn.Module, Path]) -> None:
    _, path = resnet18
    assert create_model("resnet18", weights=path, num_classes=0, global_pool="").eval()(IMAGES).shape == (2, 512, 2, 3)
    assert create_model("resnet18", weights=path, global_pool="max").head.pool == "max"
    for wrong in ({"in_chans": 0}, {"in_chans": 2.5}, {"num_classes": "10"}, {"num_classes": True}):
        with pytest.raises(ValueError, match="give a whole number"):
            create_model("resnet18", weights=path, **wrong)


def test_other_kinds_of_numbers_are_refused(resnet18: tuple[nn.Module, Path], tmp_path: Path) -> None:
    state = dict(resnet18[0].state_dict())
    save_file({**state, "conv1.weight": (50 * state["conv1.weight"]).to(torch.int8)}, tmp_path / "int8.safetensors")
    with pytest.raises(ValueError, match=r"conv1\.weight is int8, of another kind of number"):
        create_model("resnet18", weights=tmp_path / "int8.safetensors")


def test_a_name_is_found_for_any_number_of_classes(tmp_path: Path) -> None:
    for name, ours in (("mobilenet_v2", "mobilenet_v2.tv"), ("squeezenet1_1", "squeezenet1_1")):
        theirs = torchvision.models.get_model(name, weights=None, num_classes=2)
        torch.save(theirs.state_dict(), tmp_path / "two.pth")
        assert loading.name_of(tmp_path / "two.pth", "torchvision") == ours


def test_a_folder_of_timms_says_its_network(tmp_path: Path) -> None:
    state = timm.create_model("tf_efficientnet_b0", num_classes=3).state_dict()
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="equal shapes, but several functions"):
        create_model("efficientnet_b0", weights=tmp_path)
    for name, ours in (("tf_efficientnet_b0", "efficientnet_b0"), ("efficientnet_b0", "efficientnet_b0.tv")):
        config = {"architecture": name, "num_classes": 3, "pretrained_cfg": {}}
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert create_model("efficientnet_b0", weights=tmp_path).variant.name == ours
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "efficientnet_blur_b0", "pretrained_cfg": {}}))
    with pytest.raises(LookupError, match="'efficientnet_blur_b0', whose function no network here has"):
        create_model("efficientnet_b0", weights=tmp_path)


def test_a_dotted_name_decides_and_it_is_said(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    save_file(timm.create_model("tf_efficientnet_b0").state_dict(), tmp_path / "b0.safetensors")
    assert create_model("efficientnet_b0.tv", weights=tmp_path / "b0.safetensors").variant.name == "efficientnet_b0.tv"
    assert "equal shapes are 2 functions; taken as efficientnet_b0.tv, as named" in said.text
    assert "files of timm's efficientnet_blur_b0 have the same tensors and another function" in said.text


def test_twins_are_all_of_one_plain_name() -> None:
    assert twins("resnet50") == twins("resnet50.tv") == ["resnet50", "resnet50.tv"]
