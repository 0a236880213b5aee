"""A network of ours, of another library, or of a file: what `backbones cost` counts."""

import inspect
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

Shape = tuple[int, int, int]
SIDE = 224
"""of an image, where a module does not tell"""


def find(spec: str, size: int | None = None) -> tuple[nn.Module, Shape]:
    """The module, and the shape of its images; `size` replaces their side.

    `spec` is a name of ours, torchvision:NAME, timm:NAME, or FILE.py:NAME, a module or a function that makes one.
    """
    if size is not None and size < 1:
        raise ValueError(f"size={size}; give the side of the image in pixels, 1 or more")
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
        raise LookupError(f"{spec!r}: give a name of ours, torchvision:NAME, timm:NAME or FILE.py:NAME")
    return module, (shape[0], size, size) if size else shape


def _ours(name: str) -> tuple[nn.Module, Shape]:
    from backbones.build import build_on_meta
    from backbones.factory import model_info

    variant = model_info(name)
    return build_on_meta(variant, {}), variant.input_size


def _torchvision(name: str) -> tuple[nn.Module, Shape]:
    from torchvision import models

    try:
        builder = models.get_model_builder(name)
    except ValueError as error:
        raise LookupError(f"torchvision: {error}; torchvision.models.list_models() names them") from error
    settings = dict.fromkeys({"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys())
    module = _without_values(lambda: builder(**settings))
    if isinstance(side := getattr(module, "image_size", None), int):
        return module, (3, side, side)
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    side = (getattr(transforms, "crop_size", None) or getattr(transforms, "resize_size", None) or [SIDE])[0]
    return module, (3, side, side)


def _timm(name: str) -> tuple[nn.Module, Shape]:
    try:
        import timm
    except ImportError as error:
        raise ImportError("timm is not installed; run: pip install timm") from error
    if not timm.is_model(name):
        raise LookupError(f"timm: no model {name!r}; timm.list_models() names them")
    module: Any = _without_values(lambda: timm.create_model(name))
    return module, tuple(module.default_cfg["input_size"])


def _from_file(path: Path, name: str) -> tuple[nn.Module, Shape]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    with _running(path):
        found = runpy.run_path(str(path)).get(name)
        module = found if isinstance(found, nn.Module) or not callable(found) else _without_values(found)
    if found is None:
        raise LookupError(f"{path} has no {name!r}; give the name of a module, or of a function that makes one")
    if not isinstance(module, nn.Module):
        does = "returned" if callable(found) else "is"
        raise TypeError(f"{path}:{name} {does} {type(module).__name__}; it must be a torch.nn.Module or return one")
    own = getattr(module, "input_size", None)
    return module, tuple(own) if isinstance(own, (tuple, list)) and len(own) == 3 else (3, SIDE, SIDE)


def _without_values(make: Callable[[], Any]) -> Any:
    """With shapes alone, which takes no memory; with values where a module needs some while it is built."""
    try:
        with torch.device("meta"):
            return make()
    except Exception:
        return make()


@contextmanager
def _running(path: Path) -> Iterator[None]:
    """A file that imports what lies beside it; whatever fails in it is a ValueError that names the line."""
    folder, known = path.resolve().parent, set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    except (Exception, SystemExit) as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        if isinstance(error, SyntaxError) and error.filename == str(path):
            lines.append(error.lineno)
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        says = getattr(error, "msg", None) or str(error)
        raise ValueError(f"{where}: {type(error).__name__}: {says}") from error
    finally:
        sys.path.remove(str(folder))
        for name in sys.modules.keys() - known:  # another file may have another module of this name beside it
            if Path(getattr(sys.modules[name], "__file__", None) or "").parent == folder:
                del sys.modules[name]
