"""A network of ours, of another library, or of a file: what `backbones cost` counts."""

import runpy
from pathlib import Path
from typing import Any

import torch
from torch import nn

Shape = tuple[int, int, int]


def find(spec: str, size: int | None = None) -> tuple[nn.Module, Shape]:
    """The module, without values, and the shape of its images; `size` replaces their side.

    `spec` is a name of ours, torchvision:NAME, timm:NAME, or FILE.py:FUNCTION.
    """
    where, colon, name = spec.rpartition(":")
    if not colon:
        module, shape = _ours(spec)
    elif where == "torchvision":
        module, shape = _torchvision(name)
    elif where == "timm":
        module, shape = _timm(name)
    elif where.endswith(".py"):
        module, shape = _from_file(Path(where), name)
    else:
        raise LookupError(f"{spec!r}: give a name of ours, torchvision:NAME, timm:NAME or FILE.py:FUNCTION")
    if size is not None and size < 1:
        raise ValueError(f"size={size}; give the side of the image in pixels")
    return module, (shape[0], size, size) if size else shape


def _ours(name: str) -> tuple[nn.Module, Shape]:
    from backbones.build import build_on_meta
    from backbones.factory import model_info

    variant = model_info(name)
    return build_on_meta(variant, {}), variant.input_size


def _torchvision(name: str) -> tuple[nn.Module, Shape]:
    from torchvision import models

    try:
        with torch.device("meta"):
            module = models.get_model(name, weights=None)
    except ValueError as error:
        raise LookupError(f"torchvision: {error}; torchvision.models.list_models() names them") from error
    side = getattr(models.get_model_weights(name).DEFAULT.transforms(), "crop_size", [224])[0]
    return module, (3, side, side)


def _timm(name: str) -> tuple[nn.Module, Shape]:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm is not installed; run: pip install timm") from error
    try:
        with torch.device("meta"):
            module: Any = timm.create_model(name)
    except RuntimeError as error:
        raise LookupError(f"timm: {error}; timm.list_models() names them") from error
    return module, tuple(module.default_cfg["input_size"])


def _from_file(path: Path, name: str) -> tuple[nn.Module, Shape]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    function = runpy.run_path(str(path)).get(name)
    if not callable(function):
        raise LookupError(f"{path} has no function {name!r} that makes a module")
    with torch.device("meta"):
        module = function()
    if not isinstance(module, nn.Module):
        raise TypeError(f"{path}:{name} returned {type(module).__name__}; it must return a torch.nn.Module")
    return module, tuple(getattr(module, "input_size", (3, 224, 224)))
