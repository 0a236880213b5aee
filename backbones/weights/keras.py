"""keras.applications: what its networks are here, what they expect of images, and its layouts of our tensors.

Keras keeps filters as (height, width, in, out) and matrices as (in, out); VGG's first matrix reads its map by rows,
columns, channels. The networks from Caffe read blue first: their first filters are turned, so that ours read red first.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.records import Preprocessing
from backbones.weights import keras_files
from backbones.weights.convert import Leaf, Network, Peer, Slot
from backbones.weights.keras_graph import Graph, Separable
from backbones.weights.keras_layers import LAYERS
from backbones.weights.keras_network import KerasNetwork
from backbones.weights.layers import family, leaves, own_tensors

CAFFE_EPS: dict[str, Any] = {"bn_eps": 1.001e-5}
WIDTHS = {0.25: "_x0_25", 0.35: "_x0_35", 0.5: "_x0_5", 0.75: "_x0_75", 1.0: "", 1.3: "_x1_3", 1.4: "_x1_4"}

NETWORKS = (
    Network("VGG16", "vgg16"),
    Network("VGG19", "vgg19"),
    *(Network(f"ResNet{depth}", f"resnet{depth}", {**CAFFE_EPS, "conv_bias": True}) for depth in (50, 101, 152)),
    *(Network(f"ResNet{depth}V2", f"preact_resnet{depth}.keras", CAFFE_EPS) for depth in (50, 101, 152)),
    Network("InceptionV3", "inception_v3.keras"),
    Network("InceptionResNetV2", "inception_resnet_v2.slim"),
    Network("Xception", "xception"),
    Network("MobileNet", "mobilenet_v1.keras"),
    Network("MobileNetV2", "mobilenet_v2"),
    *(Network(f"DenseNet{depth}", f"densenet{depth}", CAFFE_EPS) for depth in (121, 169, 201)),
    Network("NASNetMobile", "nasnet_a_4_1056.keras"),
    Network("NASNetLarge", "nasnet_a_6_4032.keras"),
    *(Network(f"EfficientNetB{size}", f"efficientnet_b{size}") for size in range(8)),
    *(
        Network("MobileNet", f"mobilenet_v1{WIDTHS[width]}.keras", kwargs={"alpha": width})
        for width in (0.75, 0.5, 0.25)
    ),
    *(
        Network("MobileNetV2", f"mobilenet_v2{WIDTHS[width]}", kwargs={"alpha": width})
        for width in (0.35, 0.5, 0.75, 1.3, 1.4)
    ),
)

CAFFE = ("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152")
"""they read blue first"""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {  # as Keras calls them; in pixels of [0, 1], red first
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "torch": (MEAN, STD),
}
SIDES = {"InceptionV3": 299, "InceptionResNetV2": 299, "Xception": 299, "NASNetLarge": 331}
SIDES |= {f"EfficientNetB{size}": side for size, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))}
"""of the images, where it is not 224"""


def _preprocessing(name: str) -> Preprocessing:
    mode = "caffe" if name in CAFFE else "torch" if name.startswith(("DenseNet", "EfficientNet")) else "tf"
    side, (mean, std) = SIDES.get(name, 224), MODES[mode]
    return Preprocessing(3, (side, side), mean, std)


PREPROCESSING = {network.name: _preprocessing(network.name) for network in NETWORKS}
"""what the published weights expect; Keras leaves the resizing to its users. EfficientNet does it in its own layers"""

UNSCALED = ("InceptionV3", "InceptionResNetV2")
"""their norms have no gamma"""
VARIABLES = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CLASSIFIERS = ("fc1000", "probs", "Logits")
"""what older files call it"""


@dataclass(frozen=True)
class KerasPeer(Peer):
    """Names are `layer/variable`, as `keras_files.canonical` spells them."""

    def slots(self, model: Backbone) -> dict[str, Slot]:
        """In the order of Keras' own files, by which it loads them."""
        graph = self.layers[family(model)](model)
        assert isinstance(graph, Graph)
        ours = [(name, module) for name, module in leaves(model) if not name.startswith("aux.")]  # Keras has no such
        theirs = graph if model.num_classes else graph[:-1]
        found = {}
        for number, ((name, module), layer) in enumerate(zip(ours, theirs, strict=True)):
            blue_first = number == 0 and model.in_channels == 3 and family(model) in ("vgg", "resnet")
            for key, tensor in own_tensors(module).items():
                if key != "num_batches_tracked":
                    found[f"{name}.{key}"] = _slot(layer, key, module, tensor.shape, blue_first)
        place = {name: i for i, name in enumerate(graph.order())}
        return dict(sorted(found.items(), key=lambda item: place[item[1].name.partition("/")[0]]))

    def spelled(self, names: Iterable[str], metadata: Mapping[str, str], model: Backbone) -> dict[str, str]:
        """By the layers' names; in older .weights.h5 files, which lack them, by the layers' order."""
        attributes, names = json.loads(metadata.get("attributes", "{}")), list(names)
        layers: list[tuple[str, str]] = []
        if not keras_files.has_names(names, attributes):
            state, made = model.state_dict(), dict[str, dict[str, Tensor]]()
            for key, slot in self.slots(model).items():
                layer, _, variable = slot.name.rpartition("/")
                made.setdefault(layer, {})[variable] = slot.there(state[key])
            layers = [(layer, keras_files.kind(layer, variables)) for layer, variables in made.items()]
        return {self.respell(name): old for old, name in keras_files.canonical(names, attributes, layers).items()}

    def beside(self, names: Iterable[str]) -> set[str]:
        """An optimiser's, of a file that keeps the whole model."""
        return {name for name in names if name.startswith(keras_files.NO_WEIGHTS)}

    def image_sizes(self, theirs: nn.Module) -> Sequence[tuple[int, int]]:
        """Those that it was made for."""
        assert isinstance(theirs, KerasNetwork)
        return [theirs.size]

    def constant(self, key: str, shape: torch.Size) -> Tensor | None:
        """A norm without gamma multiplies by one."""
        return torch.ones(shape) if key.endswith(".weight") and len(shape) == 1 else super().constant(key, shape)

    def ignores(self, name: str) -> bool:
        """EfficientNet's normalisation of the images is part of their preprocessing here."""
        return name.startswith("normalization/")

    def preprocessing(self, network: Network, tensors: Mapping[str, Tensor]) -> Preprocessing:
        """What the file's network expects: EfficientNet's files hold the mean and variance of their images.

        In the published ones the variance is the deviation, which their network, unlike any other, divides by in full.
        """
        told = PREPROCESSING[network.name]
        if "normalization/mean" not in tensors:
            return told
        mean, variance = (tensors[f"normalization/{name}"].double().flatten() for name in ("mean", "variance"))
        std = variance if torch.allclose(variance, variance.new_tensor(STD), atol=1e-6) else variance.sqrt()
        return Preprocessing(len(mean), told.size, tuple(mean.tolist()), tuple(std.tolist()))

    def write(self, path: Path, tensors: Mapping[str, Tensor], network: Network) -> None:
        """.weights.h5, or .h5 in the older layout. ValueError for a norm whose weights Keras has no place for.

        EfficientNet is given the normalisation for one made with `weights=None` or the path of this file.
        """
        tensors = {**normalisation(network), **tensors}
        if network.name in UNSCALED:
            gammas = {name for name in tensors if name.endswith("/gamma")}
            if scaled := sorted(name for name in gammas if not torch.all(tensors[name] == 1)):
                raise ValueError(
                    f"{path.name}: {network.name}'s norms have no gamma, and {len(scaled)} of ours are not 1, such as "
                    f"{scaled[0]}; multiply it into what follows, or write another format"
                )
            tensors = {name: tensor for name, tensor in tensors.items() if name not in gammas}
        keras_files.write(Path(path), tensors)

    def save(self, theirs: nn.Module, path: Path) -> None:
        """Its own layout, or the whole network in the older one."""
        assert isinstance(theirs, KerasNetwork)
        (theirs.keras.save_weights if path.name.endswith(".weights.h5") else theirs.keras.save)(path)

    def restore(self, theirs: nn.Module, path: Path) -> Mapping[str, Tensor]:
        assert isinstance(theirs, KerasNetwork)
        theirs.keras.load_weights(path)
        return self.tensors(theirs)


def normalisation(network: Network) -> dict[str, Tensor]:
    """What EfficientNet's first layer holds to expect `PREPROCESSING`."""
    if not network.name.startswith("EfficientNet"):
        return {}
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))
    tensors = {"mean": mean.float(), "variance": std.square().float(), "count": torch.zeros((), dtype=torch.int32)}
    return {f"normalization/{name}": tensor for name, tensor in tensors.items()}


def _slot(layer: str | Leaf, key: str, module: nn.Module, shape: torch.Size, blue_first: bool) -> Slot:
    name = layer if isinstance(layer, str) else layer.name
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return Slot(f"{name}/{VARIABLES[key]}", _same, _same)
    if key == "bias":
        return Slot(f"{name}/bias", _same, _same)
    depthwise = isinstance(module, nn.Conv2d) and module.groups > 1
    separable = ("depthwise_" if depthwise else "pointwise_") if isinstance(layer, Separable) else ""
    inner = layer.shape if isinstance(layer, Leaf) else tuple(shape[1:]) if len(shape) == 4 else (shape[1], 1, 1)
    dense = len(shape) == 2 and not (isinstance(layer, Leaf) and inner[1:] == (1, 1))
    axes = (2, 3, 0, 1) if depthwise else (2, 3, 1, 0)
    return Slot(f"{name}/{separable}kernel", *_turns(shape, (shape[0], *inner), axes, dense, blue_first))


def _turns(
    shape: torch.Size, full: tuple[int, ...], axes: tuple[int, ...], dense: bool, blue_first: bool
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """There: as filters (out, in, height, width), the axes in their order, flat where theirs is a matrix. And back."""
    turned = [full[axis] for axis in axes]
    back = [axes.index(i) for i in range(4)]

    def there(ours: Tensor) -> Tensor:
        filters = ours.reshape(full)
        filters = (filters.flip(1) if blue_first and not filters.is_meta else filters).permute(axes)
        return filters.reshape(-1, full[0]) if dense else filters.contiguous()

    def here(theirs: Tensor) -> Tensor:
        filters = theirs.reshape(turned).permute(back)
        return (filters.flip(1) if blue_first else filters).reshape(shape).contiguous()

    return there, here


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _respell(name: str) -> str:
    """The names of 2015 to 2019."""
    layer, _, variable = name.rpartition("/")
    if layer in CLASSIFIERS:
        layer = "predictions"
    return f"{layer}/{variable}"


BLUE = "Keras' reads blue first; its first filters are turned, so this network reads red first"
NORMALISES = "Keras' normalises the images itself; this network expects them normalised, as its preprocessing tells"

KERAS = KerasPeer(
    name="keras",
    networks=NETWORKS,
    layers=LAYERS,
    create=lambda network: KerasNetwork(network, network.name in CAFFE, normalisation(network)),
    respell=_respell,
    suffix=".weights.h5",
    classes="classes",
    hides={
        **dict.fromkeys(CAFFE, BLUE),
        **{n.name: NORMALISES for n in NETWORKS if n.name.startswith("EfficientNet")},
    },
)
