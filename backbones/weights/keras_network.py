"""Keras' own networks, to compare ours with: made with random weights, on its torch backend."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from backbones.weights import keras_files
from backbones.weights.convert import Network


class KerasNetwork(nn.Module):
    """Keras' network on its torch backend. (N, 3, H, W), normalised as for ours -> (N, classes) logits.

    `blue_first` turns the images' channels round for it; `state` is what it holds beside weights. State dicts have our
    spelling of its names. ImportError where Keras is missing or has another backend.
    """

    def __init__(self, network: Network, blue_first: bool, state: Mapping[str, Tensor], dtype: str = "float32") -> None:
        super().__init__()
        self.network, self.blue_first, self.dtype = network, blue_first, dtype
        with _computing(dtype):
            self.keras = _built(network)
        self.size: tuple[int, int] = self.keras.input_shape[1:3]
        variables = {f"{layer.name}/{v.path}": v for layer in self.keras.layers for v in layer.weights}
        told = {layer.name: {"weight_names": [v.path for v in layer.weights]} for layer in self.keras.layers}
        spelled = keras_files.canonical(variables, told)
        self.variables = {spelled[path]: variable for path, variable in variables.items()}
        self.load_state_dict(state, strict=False)

    def forward(self, images: Tensor) -> Tensor:
        if "normalization/mean" in self.variables:  # which it does once more
            mean, variance = (self.variables[f"normalization/{v}"].value.view(-1, 1, 1) for v in ("mean", "variance"))
            images = (images * variance.sqrt() + mean) * 255
        elif self.blue_first:
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
            if hasattr(layer, "finalize_state"):
                layer.finalize_state()
        return torch.nn.modules.module._IncompatibleKeys([], [])

    def double(self) -> "KerasNetwork":
        """Another one: Keras casts its inputs to the type that it was built with."""
        return KerasNetwork(self.network, self.blue_first, self.state_dict(), "float64").train(self.training)


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


SIZE = (107, 112)
"""small, odd and not square, so that paddings show"""
SIZES = {"VGG16": (224, 224), "VGG19": (224, 224), "MobileNet": (96, 128)}
"""where matrices read the map, and where the padding is fixed"""


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    try:
        import keras
    except ImportError:
        raise ImportError("keras is not installed; pip install keras h5py") from None
    if (backend := keras.backend.backend()) != "torch":
        raise ImportError(f"keras computes with {backend}; set KERAS_BACKEND=torch before it is imported")
    return keras


def _built(network: Network) -> Any:
    make = getattr(_keras().applications, network.name)
    if network.name == "NASNetMobile":
        from keras.src.applications.nasnet import NASNet

        make = partial(NASNet, **NASNET_MOBILE)
    shape = {"input_shape": (*SIZES.get(network.name, SIZE), 3)}
    return make(weights=None, classifier_activation=None, **{**shape, **network.kwargs})


@contextmanager
def _computing(dtype: str) -> Iterator[None]:
    """Keras in this type: on torch its norms and means would take float64 for float32."""
    config = _keras().config
    from keras.src.backend.common.dtypes import BIT64_TO_BIT32_DTYPE as table

    before = config.floatx(), config.dtype_policy(), table["float64"]
    config.set_floatx(dtype)
    config.set_dtype_policy(dtype)
    table["float64"] = dtype
    try:
        yield
    finally:
        config.set_floatx(before[0])
        config.set_dtype_policy(before[1])
        table["float64"] = before[2]
