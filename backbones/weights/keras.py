"""keras.applications: what its networks are here, what they expect of images, and its layouts of our tensors.

Keras keeps filters as (height, width, in, out) and matrices as (in, out); VGG's first matrix reads its map by rows,
columns, channels. The networks from Caffe read blue first: their first filters are turned, so that ours read red first.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.records import Preprocessing
from backbones.weights import keras_files
from backbones.weights.convert import Leaf, Network, Peer, Slot, family, leaves, own_tensors
from backbones.weights.keras_layers import LAYERS, Graph, Separable

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

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODES = {  # as Keras calls them; in pixels of [0, 1], red first
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,) * 3),
    "tf": ((0.5,) * 3, (0.5,) * 3),
    "torch": (MEAN, STD),
}
INPUTS = {  # family -> mode, side of the images
    "VGG": ("caffe", 224),
    "ResNet": ("caffe", 224),
    "ResNetV2": ("tf", 224),
    "InceptionV": ("tf", 299),
    "InceptionResNetV": ("tf", 299),
    "Xception": ("tf", 299),
    "MobileNet": ("tf", 224),
    "MobileNetV": ("tf", 224),
    "DenseNet": ("torch", 224),
    "NASNetMobile": ("tf", 224),
    "NASNetLarge": ("tf", 331),
}
SIDES = (224, 240, 260, 300, 380, 456, 528, 600)  # of EfficientNet B0 to B7


def _preprocessing(name: str) -> Preprocessing:
    if name.startswith("EfficientNet"):
        mode, side = "torch", SIDES[int(name[-1])]
    else:
        mode, side = INPUTS["ResNetV2" if name.endswith("V2") and name.startswith("ResNet") else name.rstrip("0123456789")]
    mean, std = MODES[mode]
    return Preprocessing(3, (side, side), mean, std)


PREPROCESSING = {network.name: _preprocessing(network.name) for network in NETWORKS}
"""what the published weights expect; Keras leaves the resizing to its users. EfficientNet does it in its own layers"""

BLUE_FIRST = ("vgg", "resnet")
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
            blue_first = number == 0 and model.in_channels == 3 and family(model) in BLUE_FIRST
            for key, tensor in own_tensors(module).items():
                if key != "num_batches_tracked":
                    found[f"{name}.{key}"] = _slot(layer, key, module, tensor.shape, blue_first)
        place = {name: i for i, name in enumerate(graph.order())}
        return dict(sorted(found.items(), key=lambda item: place[item[1].name.partition("/")[0]]))

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
        theirs.keras.save_weights(path) if path.name.endswith(".weights.h5") else theirs.keras.save(path)

    def restore(self, theirs: nn.Module, path: Path) -> Mapping[str, Tensor]:
        assert isinstance(theirs, KerasNetwork)
        theirs.keras.load_weights(path)
        return self.tensors(theirs)


class KerasNetwork(nn.Module):
    """Keras' network on its torch backend. (N, 3, H, W), normalised as `PREPROCESSING` says -> (N, classes) logits.

    State dicts have our spelling of its names. ImportError where Keras is missing or has another backend.
    """

    def __init__(self, network: Network, dtype: str = "float32") -> None:
        super().__init__()
        self.network, self.dtype = network, dtype
        with _computing(dtype):
            self.keras = _built(network)
        variables = {f"{layer.name}/{v.path}": v for layer in self.keras.layers for v in layer.weights}
        told = {layer.name: {"weight_names": [v.path for v in layer.weights]} for layer in self.keras.layers}
        spelled = keras_files.canonical(variables, told)
        self.variables = {spelled[path]: variable for path, variable in variables.items()}
        self.load_state_dict(normalisation(network), strict=False)

    def forward(self, images: Tensor) -> Tensor:
        if "normalization/mean" in self.variables:  # which it does once more
            mean, variance = (self.variables[f"normalization/{v}"].value.view(-1, 1, 1) for v in ("mean", "variance"))
            images = (images * variance.sqrt() + mean) * 255
        elif PREPROCESSING[self.network.name].mean == MODES["caffe"][0]:
            images = images.flip(1)
        with _computing(self.dtype):
            return self.keras(images.permute(0, 2, 3, 1), training=self.training)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {name: variable.value.detach() for name, variable in self.variables.items()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        if strict and (odd := sorted(state.keys() ^ self.variables.keys())):
            raise RuntimeError(f"{self.network.name}: names without partner, such as {odd[:8]}")
        for name in state.keys() & self.variables.keys():
            self.variables[name].assign(state[name])
        for layer in self.keras.layers:
            layer.finalize_state() if hasattr(layer, "finalize_state") else None
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def double(self) -> "KerasNetwork":
        """Another one: Keras casts its inputs to the type that it was built with."""
        twin = KerasNetwork(self.network, "float64")
        twin.load_state_dict(self.state_dict())
        return twin.train(self.training)


def normalisation(network: Network) -> dict[str, Tensor]:
    """What EfficientNet's first layer holds to expect `PREPROCESSING`."""
    if not network.name.startswith("EfficientNet"):
        return {}
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (MEAN, STD))
    tensors = {"mean": mean.float(), "variance": std.square().float(), "count": torch.zeros((), dtype=torch.int32)}
    return {f"normalization/{name}": tensor for name, tensor in tensors.items()}


NASNET_MOBILE = {
    "input_shape": (224, 224, 3),
    "penultimate_filters": 1056,
    "num_blocks": 4,
    "stem_block_filters": 32,
    "skip_reduction": False,
    "filter_multiplier": 2,
    "name": "nasnet_mobile",
}
"""Keras' own refuses the torch backend, unlike the function that it calls with these values"""


def _built(network: Network) -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
        from keras.src.applications.nasnet import NASNet
    except ImportError:
        raise ImportError("keras is not installed; pip install keras h5py") from None
    if keras.backend.backend() != "torch":
        raise ImportError(f"keras computes with {keras.backend.backend()}; set KERAS_BACKEND=torch before it is imported")
    if network.name == "NASNetMobile":
        return NASNet(weights=None, classifier_activation=None, **{**NASNET_MOBILE, **network.kwargs})
    return getattr(keras.applications, network.name)(weights=None, classifier_activation=None, **network.kwargs)


@contextmanager
def _computing(dtype: str) -> Iterator[None]:
    """Keras in this type: on torch its norms and means take float64 for float32."""
    import keras
    from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE as table

    before = keras.config.floatx(), table["float64"]
    keras.config.set_floatx(dtype)
    table["float64"] = dtype
    try:
        yield
    finally:
        keras.config.set_floatx(before[0])
        table["float64"] = before[1]


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
        filters = (filters.flip(1) if blue_first else filters).permute(axes)
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


KERAS = KerasPeer(
    name="keras",
    networks=NETWORKS,
    layers=LAYERS,
    create=KerasNetwork,
    respell=_respell,
    suffix=".weights.h5",
)
