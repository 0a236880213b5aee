"""Keras' networks and files: made and saved by Keras itself, read here, and written back for it to load."""

import json
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import pytest
import torch
from parity_missing import MISSING
from torch import Tensor, nn

from backbones import create_model, list_models, model_info
from backbones.backbone import Backbone
from backbones.weights.convert import Network
from backbones.weights.keras import CAFFE, KERAS, PREPROCESSING, STD, UNSCALED, normalisation
from backbones.weights.keras_files import canonical, has_names, kind, write
from backbones.weights.keras_network import KerasNetwork
from backbones.weights.reader import opened

pytestmark = pytest.mark.filterwarnings("ignore")  # of Keras itself
needs_keras = pytest.mark.skipif(find_spec("keras") is None, reason="KERAS IS NOT INSTALLED: nothing is compared")

QUICK = ("MobileNetV2-0.35", "MobileNet-0.25", "DenseNet121", "NASNetMobile", "EfficientNetB0")
SMALLEST = (*QUICK, "ResNet50", "ResNet50V2", "InceptionV3", "InceptionResNetV2", "Xception", "VGG16")
SUFFIXES = (".weights.h5", ".h5")


def told(network: Network) -> str:
    return "-".join([network.name, *map(str, network.kwargs.values())])


def each(quick: tuple[str, ...]) -> list[object]:
    cases = [(told(n), n) for n in KERAS.networks]
    return [pytest.param(n, id=name, marks=() if name in quick else pytest.mark.slow) for name, n in cases]


def side(network: Network) -> tuple[int, int]:
    """Small, odd and not square where Keras' function is ours there: VGG's matrices and MobileNet's padding decide."""
    if network.name.startswith("VGG"):
        return 224, 224
    return (96, 128) if network.name == "MobileNet" else (107, 112)


def ours_of(network: Network) -> Backbone:
    without = {"aux": False} if "aux" in model_info(network.ours).settings else {}
    return create_model(network.ours, **network.settings, **without).eval()


def randomised(network: Network, images: Tensor) -> Backbone:
    """Random weights, and statistics of these images that have been shaken."""
    generator = torch.Generator().manual_seed(0)
    model = ours_of(network).double()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        if name.endswith((".squeeze", ".excite")):  # strong gates make deep networks chaotic: 1e-15 grows to 1e-6
            layer.weight.data *= 0.1
        if layer.bias is not None:
            layer.bias.data.uniform_(-0.1, 0.1, generator=generator)
    for norm in norms:
        norm.train().momentum = None
        norm.bias.data.uniform_(-0.2, 0.2, generator=generator)
        if network.name not in UNSCALED:
            norm.weight.data.uniform_(0.5, 1.0, generator=generator)
    with torch.no_grad():
        model(images)
    for norm in norms:
        norm.eval()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        spread = norm.running_var.sqrt()
        norm.running_mean += 0.1 * spread * torch.randn(len(spread), generator=generator, dtype=spread.dtype)
        norm.running_var *= torch.empty_like(spread).uniform_(0.8, 1.25, generator=generator)
    return model.float().double()  # values that files of float32 hold


def there(network: Network, model: Backbone) -> dict[str, Tensor]:
    """Our tensors as Keras has them."""
    state, unscaled = model.state_dict(), network.name in UNSCALED
    slots = KERAS.slots(model).items()
    return {s.name: s.there(state[key]) for key, s in slots if not (unscaled and s.name.endswith("/gamma"))}


def read(path: Path) -> dict[str, Tensor]:
    with opened(path) as file:
        names = canonical(file.header, json.loads(file.metadata["attributes"]))
        tensors = file.load()
    return {name: tensors[old] for old, name in names.items()}


def by_layer(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for layer, names in groupby(tensors, lambda name: name.partition("/")[0]):
        yield layer, {name.partition("/")[2]: tensors[name] for name in names}


@needs_keras
@pytest.mark.parametrize("network", each(SMALLEST))
def test_names_shapes_and_order_are_keras_own(network: Network) -> None:
    theirs = KERAS.create(network)
    with torch.device("meta"):
        mine = {**normalisation(network), **there(network, ours_of(network))}
    state = theirs.state_dict()
    assert {name: tuple(t.shape) for name, t in mine.items()} == {name: tuple(t.shape) for name, t in state.items()}
    assert [name for name, _ in by_layer(mine)] == [name for name, _ in by_layer(state)]
    assert isinstance(theirs, KerasNetwork)
    for layer, (name, variables) in zip((x for x in theirs.keras.layers if x.weights), by_layer(mine), strict=True):
        classes = {"conv2d": "Conv2D", "dense": "Dense", "batch_normalization": "BatchNormalization"}
        classes |= {"depthwise_conv2d": "DepthwiseConv2D", "separable_conv2d": "SeparableConv2D"}
        assert type(layer).__name__ == classes.get(kind(name, variables), "Normalization")


@needs_keras
@pytest.mark.parametrize("network", each(QUICK))
def test_same_logits_in_double_precision(network: Network) -> None:
    height, width = side(network)
    images = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = randomised(network, images)
    theirs = KERAS.create(network._replace(kwargs={**network.kwargs, "input_shape": (height, width, 3)}))
    theirs.load_state_dict(there(network, ours), strict=False)
    theirs = theirs.eval().double()
    with torch.inference_mode():
        mine, expected = ours(images), theirs(images)
    span = expected.max() - expected.min()
    assert (expected[0] - expected[1]).abs().max() > 1e-3 * span, "the images make no difference"
    assert (mine - expected).abs().max() < 1e-9 * span


@needs_keras
def test_mobilenet_parts_where_a_map_has_an_odd_side() -> None:
    """As its departure says: Keras pads the far edge there, TensorFlow's SAME both."""
    network = next(n for n in KERAS.networks if n.kwargs == {"alpha": 0.25})
    ours = ours_of(network)
    for side, same in ((64, True), (72, False)):
        theirs = KERAS.create(network._replace(kwargs={**network.kwargs, "input_shape": (side, side, 3)})).eval()
        theirs.load_state_dict(there(network, ours))
        images = torch.randn(1, 3, side, side)
        with torch.inference_mode():
            expected = theirs(images)
            assert bool((ours(images) - expected).abs().max() < 1e-4 * (expected.max() - expected.min())) == same


@needs_keras
@pytest.mark.parametrize("network", each(QUICK))
def test_files_of_both_layouts_come_and_go(tmp_path: Path, network: Network) -> None:
    theirs, model = KERAS.create(network), ours_of(network)
    generator = torch.Generator().manual_seed(0)
    random = {name: torch.rand(t.shape, generator=generator) for name, t in there(network, model).items()}
    theirs.load_state_dict(random, strict=False)
    before = {name: tensor.clone() for name, tensor in KERAS.tensors(theirs).items()}
    for suffix in SUFFIXES:
        KERAS.save(theirs, tmp_path / f"theirs{suffix}")
        found = read(tmp_path / f"theirs{suffix}")
        assert found.keys() == before.keys()
        assert all(torch.equal(found[name], before[name]) for name in before)
        state = {key: s.here(found[s.name]) for key, s in KERAS.slots(model).items() if s.name in found}
        rest = {key: KERAS.constant(key, t.shape) for key, t in model.state_dict().items() if key not in state}
        model.load_state_dict({**state, **{key: t for key, t in rest.items() if t is not None}})
        mine = {slot.name: slot.there(model.state_dict()[key]) for key, slot in KERAS.slots(model).items()}
        KERAS.write(tmp_path / f"ours{suffix}", mine, network)
        theirs.load_state_dict({name: torch.zeros_like(tensor) for name, tensor in before.items()})
        after = KERAS.restore(theirs, tmp_path / f"ours{suffix}")
        assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("network", each(QUICK))
def test_older_files_without_names_are_read_by_the_order_of_layers(tmp_path: Path, network: Network) -> None:
    with torch.device("meta"):
        model = ours_of(network)
    shapes = {**normalisation(network), **there(network, model)}
    mine = {name: torch.full(t.shape, float(i)) for i, (name, t) in enumerate(shapes.items())}
    write(tmp_path / "a.weights.h5", mine)
    with opened(tmp_path / "a.weights.h5") as file:
        attributes, names, tensors = json.loads(file.metadata["attributes"]), list(file.header), file.load()
    assert has_names(names, attributes)
    assert not has_names(names, {})
    with pytest.raises(ValueError, match=r"an older \.weights\.h5 file; say which network it holds"):
        canonical(names, {})
    layers = [(layer, kind(layer, variables)) for layer, variables in by_layer(mine)]
    old = [name.replace("layers/", "_layer_checkpoint_dependencies/") for name in names]
    for spelled in (canonical(names, {}, layers), canonical(old, {}, layers), canonical(names, attributes)):
        found = {
            name: tensors[path.replace("_layer_checkpoint_dependencies", "layers")] for path, name in spelled.items()
        }
        assert found.keys() == mine.keys()
        assert all(torch.equal(found[name], mine[name]) for name in mine)


def test_the_spellings_of_ten_years() -> None:
    """Keras 1, Keras 2 with its numbers, a depthwise layer of Keras 2, slashes in names, a network in a network."""
    weights = {
        "block1_conv1": ["block1_conv1_W_1:0", "block1_conv1_b_1:0"],
        "batchnormalization_2": ["batchnormalization_2_running_mean:0", "batchnormalization_2_running_std:0"],
        "conv2d_95": ["conv2d_95/kernel:0"],
        "conv2d_103": ["conv2d_103_1/kernel:0"],
        "conv_dw_1": ["conv_dw_1/depthwise_kernel:0"],
        "sep": ["sep/depthwise_kernel:0", "sep/pointwise_kernel:0"],
        "conv1/bn": ["conv1/bn/gamma:0", "conv1/bn/moving_variance:0"],
        "resnet50": ["conv1_conv/kernel:0", "conv1_conv/bias:0", "conv1_bn/gamma:0", "conv2_bn/gamma:0", "c/kernel"],
        "fc1000": ["fc1000/kernel:0"],
    }
    attributes = {f"model_weights/{layer}": {"weight_names": names} for layer, names in weights.items()}
    paths = [f"model_weights/{layer}/{name}" for layer, names in weights.items() for name in names]
    spelled = canonical([*paths, "optimizer_weights/x", "model_weights/top_level_model_weights/y"], attributes)
    assert [KERAS.respell(name) for name in spelled.values()] == [
        *("block1_conv1/kernel", "block1_conv1/bias", "batch_normalization/moving_mean"),
        *("batch_normalization/moving_variance", "conv2d/kernel", "conv2d_1/kernel", "conv_dw_1/kernel"),
        *("sep/depthwise_kernel", "sep/pointwise_kernel", "conv1_bn/gamma", "conv1_bn/moving_variance"),
        *("conv1_conv/kernel", "resnet50/bias", "conv1_bn/gamma", "conv2_bn/gamma", "c/kernel", "predictions/kernel"),
    ]


def test_long_lists_are_cut_as_keras_cuts_them(tmp_path: Path) -> None:
    names = [f"{i:04}{'x' * 60}" for i in range(2000)]
    write(tmp_path / "a.h5", {f"{name}/kernel": torch.zeros(1, 1) for name in names})
    with opened(tmp_path / "a.h5") as file:
        root = json.loads(file.metadata["attributes"])["/"]
    parts = [root[f"layer_names{i}"] for i in range(2)]
    assert [name for part in parts for name in part] == names


def test_a_norm_without_gamma_takes_ones_only(tmp_path: Path) -> None:
    network = next(n for n in KERAS.networks if n.name == "InceptionV3")
    tensors = {"batch_normalization/gamma": torch.ones(2), "batch_normalization/beta": torch.zeros(2)}
    KERAS.write(tmp_path / "a.h5", tensors, network)
    tensors["batch_normalization/gamma"] *= 2
    with pytest.raises(ValueError, match="InceptionV3's norms have no gamma, and 1 of ours are not 1"):
        KERAS.write(tmp_path / "b.h5", tensors, network)
    with pytest.raises(ValueError, match=r"Keras reads \.weights\.h5 and, in its older layout, \.h5 files"):
        KERAS.write(tmp_path / "b.pth", tensors, network._replace(name="Xception"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.h5"]


def test_what_efficientnets_files_expect_of_images() -> None:
    network = next(n for n in KERAS.networks if n.name == "EfficientNetB0")
    expected = PREPROCESSING["EfficientNetB0"]
    own = normalisation(network)
    published = {**own, "normalization/variance": torch.tensor(STD)}
    untouched = {**own, "normalization/mean": torch.zeros(3), "normalization/variance": torch.ones(3)}
    for tensors in (own, published, {}):
        assert KERAS.preprocessing(network, tensors).std == pytest.approx(expected.std)
        assert KERAS.preprocessing(network, tensors).mean == pytest.approx(expected.mean)
    assert KERAS.preprocessing(network, untouched).std == (1.0, 1.0, 1.0)


@needs_keras
def test_images_are_what_keras_preprocessing_makes_of_them() -> None:
    """Pixels through our mean and deviation, turned for Keras, are those of its own preprocess_input."""
    from keras import applications as k

    pixels = torch.randint(0, 256, (1, 4, 5, 3)).float()
    modules = {"VGG16": k.vgg16, "VGG19": k.vgg19, "Xception": k.xception, "InceptionV3": k.inception_v3}
    modules |= {"InceptionResNetV2": k.inception_resnet_v2, "MobileNet": k.mobilenet, "MobileNetV2": k.mobilenet_v2}
    modules |= {f"ResNet{depth}": k.resnet for depth in (50, 101, 152)}
    modules |= {f"ResNet{depth}V2": k.resnet_v2 for depth in (50, 101, 152)}
    modules |= {f"DenseNet{depth}": k.densenet for depth in (121, 169, 201)}
    modules |= {"NASNetMobile": k.nasnet, "NASNetLarge": k.nasnet}
    assert modules.keys() == {name for name in PREPROCESSING if not name.startswith("EfficientNet")}
    for name, module in modules.items():
        expected = PREPROCESSING[name]
        mine = (pixels / 255 - torch.tensor(expected.mean)) / torch.tensor(expected.std)
        theirs = torch.as_tensor(module.preprocess_input(pixels.numpy().copy()).copy())
        torch.testing.assert_close(mine.flip(-1) if name in CAFFE else mine, theirs, atol=1e-4, rtol=1e-5)


def test_every_network_is_kerass_or_says_why_not() -> None:
    theirs = {network.ours for network in KERAS.networks}
    reasons = MISSING["keras"]
    missing = [name for name in list_models() if name not in theirs]
    assert not [name for name in missing if not any(fnmatchcase(name, pattern) for pattern in reasons)]
    assert not [pattern for pattern in reasons if not any(fnmatchcase(name, pattern) for name in missing)]
    assert theirs <= set(list_models())
