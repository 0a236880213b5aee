"""Keras' two HDF5 layouts: what their datasets are called, in one spelling `layer/variable`, and how to write them.

The older layout (.h5) has a group for each layer and names its variables; the newer one (.weights.h5) has groups such
as `layers/conv2d_7/vars/0`, counted by class in the order of the layers, and keeps a layer's name as an attribute.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, bfloat16

from backbones.weights.file import in_place

VARIABLES = {  # class -> its variables, in the order of the files
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}
OLD = {  # of Keras 1
    "W": "kernel",
    "b": "bias",
    "running_mean": "moving_mean",
    "running_std": "moving_variance",
    "convolution2d": "conv2d",
    "batchnormalization": "batch_normalization",
    "separableconvolution2d": "separable_conv2d",
}
VARIABLE = re.compile(
    r"(?:.*?[/_])?(?P<name>depthwise_kernel|pointwise_kernel|kernel|bias|gamma|beta|moving_mean|moving_variance"
    r"|running_mean|running_std|mean|variance|count|W|b)(?:_\d+)?(?::\d+)?"
)
COUNTED = re.compile(r"(?:.+/)?layers/([a-z0-9_]+?)(?:_(\d+))?/vars/(\d+)")
NO_WEIGHTS = ("optimizer", "top_level_model_weights", "model_weights/top_level_model_weights")
LAYERS_OF_2 = ("_layer_checkpoint_dependencies", "layers")
"""what the newer layout's first group was called in Keras 2, and is now"""
WRITTEN_AS = {"backend": b"tensorflow", "keras_version": b"2.15.0"}
"""of the older layout, which Keras 3 only reads"""
LARGEST_ATTRIBUTE = 64512
"""bytes; longer lists are cut into several attributes"""


def canonical(
    names: Iterable[str], attributes: Mapping[str, Mapping[str, Any]], layers: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Path in the file -> `layer/variable`. ValueError for a file without the names of layers where they are needed.

    Args:
        names: paths of the datasets
        attributes: group -> attribute -> string or strings
        layers: name and class of the network's layers in the order of its files; older .weights.h5 files hold no names
    """
    paths = {name: name.removeprefix("model_weights/") for name in names if not name.startswith(NO_WEIGHTS)}
    matches = ((name, COUNTED.fullmatch(path.replace(*LAYERS_OF_2))) for name, path in paths.items())
    counted = {name: match for name, match in matches if match}
    found = _counted(counted, attributes, layers) if counted else _named(paths, attributes)
    ranks = _ranks(layer for layer, _ in found.values())
    return {path: f"{ranks.get(layer, layer)}/{variable}" for path, (layer, variable) in found.items()}


def has_names(names: Iterable[str], attributes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the file tells which layer is which; if not, `canonical` needs the network's layers."""
    groups = {name.rpartition("/")[0] for name in names if "/vars/" in name and not name.startswith(NO_WEIGHTS)}
    return all("name" in attributes.get(group, {}) for group in groups)


def _counted(
    counted: Mapping[str, re.Match[str]],
    attributes: Mapping[str, Mapping[str, Any]],
    layers: Sequence[tuple[str, str]],
) -> dict[str, tuple[str, str]]:
    sizes: dict[str, int] = {}
    for name in counted:
        group = name.rpartition("/")[0]
        sizes[group] = sizes.get(group, 0) + 1
    by_class = {kind: [name for name, k in layers if k == kind] for kind in VARIABLES}
    found = {}
    for name, match in counted.items():
        kind, number, variable = match[1], int(match[2] or 0), int(match[3])
        group = name.rpartition("/")[0]
        layer = attributes.get(group, {}).get("name")
        if layer is None:
            if not layers:
                raise ValueError(f"{group} has no layer's name: an older .weights.h5 file; say which network it holds")
            layer = by_class[kind][number] if number < len(by_class.get(kind, ())) else f"{kind}_{number}"
        known = VARIABLES.get(kind, ())
        if kind == "batch_normalization" and sizes[group] == 3:  # made without gamma
            known = known[1:]
        found[name] = (str(layer), known[variable] if variable < len(known) else str(variable))
    return found


def _named(paths: Mapping[str, str], attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[str, str]]:
    groups = {
        f"{group}/{weight}": group.removeprefix("model_weights/")
        for group, told in attributes.items()
        for key, weights in told.items()
        if key.startswith("weight_names")
        for weight in weights
    }
    found: dict[str, tuple[str, str]] = {}
    layers: dict[str, list[str]] = {}
    for name, path in paths.items():
        match = VARIABLE.fullmatch(path)
        variable = match["name"] if match else path.rpartition("/")[2]
        layer = groups.get(name, path.partition("/")[0])
        found[name] = (layer, OLD.get(variable, variable))
        layers.setdefault(layer, []).append(found[name][1])
    for name, (layer, variable) in found.items():
        if layers[layer].count(variable) > 1:  # a network inside a network: its own layers are the parents
            layer = paths[name].split("/")[-2]
        if variable == "depthwise_kernel" and "pointwise_kernel" not in layers[found[name][0]]:
            variable = "kernel"  # of Keras 2
        found[name] = (layer.replace("/", "_"), variable)
    return found


def _ranks(layers: Iterable[str]) -> dict[str, str]:
    """Names with numbers from 0 up: other networks of the same process may have counted before."""
    counted: dict[str, dict[str, int]] = {}
    for layer in layers:
        stem, _, number = layer.rpartition("_") if layer.rpartition("_")[2].isdigit() else (layer, "", "0")
        if OLD.get(stem, stem) in VARIABLES:
            counted.setdefault(OLD.get(stem, stem), {})[layer] = int(number)
    return {
        layer: f"{kind}_{rank}" if rank else kind
        for kind, numbers in counted.items()
        for rank, layer in enumerate(sorted(numbers, key=lambda name: numbers[name]))
    }


def kind(layer: str, variables: Mapping[str, Tensor]) -> str:
    """The class of a layer with these variables."""
    for name, of in (("gamma", "batch_normalization"), ("beta", "batch_normalization"), ("count", "normalization")):
        if name in variables:
            return of
    if "pointwise_kernel" in variables:
        return "separable_conv2d"
    shape = variables["kernel"].shape
    if len(shape) == 2:
        return "dense"
    return "depthwise_conv2d" if shape[3] == 1 and shape[0] > 1 else "conv2d"


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file that Keras loads: .weights.h5 or the older .h5. `tensors` are in the order of Keras' layers."""
    try:
        import h5py
    except ImportError:
        raise ImportError(f"h5py writes {path.name}; pip install 'backbones[keras]'") from None
    if path.suffix not in (".h5", ".hdf5"):
        raise ValueError(f"{path.name}: Keras reads .weights.h5 and, in its older layout, .h5 files; give one of these")
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, variable = name.rpartition("/")
        tensor = tensor.float() if tensor.dtype == bfloat16 else tensor  # which numpy has not
        layers.setdefault(layer, {})[variable] = tensor.detach().cpu().contiguous()
    with in_place(path) as temporary, h5py.File(temporary, "w") as file:
        (_write_counted if path.name.endswith(".weights.h5") else _write_named)(file, layers)


def _write_counted(file: Any, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
    made: dict[str, int] = {}
    for layer, variables in layers.items():
        of = kind(layer, variables)
        group = file.create_group(f"layers/{of}_{made[of]}/vars" if of in made else f"layers/{of}/vars")
        made[of] = made.get(of, 0) + 1
        group.attrs["name"] = layer
        for i, variable in enumerate(v for v in VARIABLES[of] if v in variables):
            group[str(i)] = variables[variable].numpy()


def _write_named(file: Any, layers: Mapping[str, Mapping[str, Tensor]]) -> None:
    _write_list(file, "layer_names", list(layers))
    file.attrs.update(WRITTEN_AS)
    for layer, variables in layers.items():
        names = [v for v in VARIABLES[kind(layer, variables)] if v in variables]
        group = file.create_group(layer)
        _write_list(group, "weight_names", [f"{layer}/{v}" for v in names])
        for variable in names:
            group[f"{layer}/{variable}"] = variables[variable].numpy()


def _write_list(group: Any, name: str, values: Sequence[str]) -> None:
    encoded = [value.encode() for value in values]
    longest = max(map(len, encoded), default=1)
    step = LARGEST_ATTRIBUTE // longest
    if len(encoded) <= step:
        group.attrs[name] = encoded
        return
    for part, start in enumerate(range(0, len(encoded), step)):
        group.attrs[f"{name}{part}"] = encoded[start : start + step]
