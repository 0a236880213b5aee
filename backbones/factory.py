"""A name becomes a network, and a network becomes a file."""

import inspect
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from os import PathLike
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from backbones import models, registry
from backbones.backbone import Backbone, FeatureBackbone
from backbones.dilation import set_output_stride
from backbones.records import PROMISES, Checkpoint, Preprocessing, Recipe, Variant
from backbones.weights import file as weights_file
from backbones.weights.header import describe, short

log = logging.getLogger("backbones")

AFTERWARDS: dict[str, Callable[[Backbone, Any], None]] = {
    "global_pool": Backbone.set_global_pool,
    "drop_path_mode": Backbone.set_drop_path_mode,
    "output_stride": set_output_stride,
}
"""settings of every network, applied to the finished one"""


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    weights: str | PathLike[str] | None = None,
    drop_rate: float | None = None,
    drop_path_rate: float | None = None,
    drop_path_mode: str | None = None,
    global_pool: str | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    output_stride: int | None = None,
    seed: int | None = None,
    **settings: Any,
) -> Any:
    """Build a network by name, initialised as its paper says.

    Args:
        name: as `list_models()` prints it
        num_classes: outputs of the classifier; 0 returns pooled features (N, num_features)
        in_chans: channels of the images
        weights: a file that `backbones.save` or a training run wrote
        drop_rate: dropout before the classifier, or where the paper has it; the paper's by default
        drop_path_rate: stochastic depth of the last block; the paper's by default
        drop_path_mode: "batch" or "row": one coin per block and step, or per image; the paper's by default
        global_pool: "avg", "max", "avgmax", or "" for the last map itself
        features_only: return a `FeatureBackbone`, which maps images to a list of maps
        out_indices: which maps, as in `feature_info`; all by default
        output_stride: 8, 16 or 32: no map coarser than that, by dilation
        seed: makes the initial weights reproducible and leaves torch's own generator alone
        settings: the family's own, such as `shortcut="C"` of a ResNet

    Returns:
        a `Backbone`, (N, C, H, W) -> (N, num_classes) logits; a `FeatureBackbone` with `features_only`

    Raises:
        LookupError: no such name
        TypeError: a setting that the family does not have
        ValueError: a value that is not allowed
        NotImplementedError: what this network cannot do, and why
    """
    if out_indices is not None and not features_only:
        raise TypeError("out_indices goes with features_only=True")
    asked = {
        "num_classes": num_classes,
        "in_channels": in_chans,
        "drop_rate": drop_rate,
        "drop_path_rate": drop_path_rate,
        "drop_path_mode": drop_path_mode,
        "global_pool": global_pool,
        "output_stride": output_stride,
    }
    if in_chans is not None and "in_channels" in settings:
        raise TypeError("in_chans and in_channels are the same; give in_chans")
    given = {**settings, **{key: value for key, value in asked.items() if value is not None}}
    variant = model_info(name)
    with _seeded(seed):
        model = _build(variant, given) if weights is None else _from_file(variant, given, weights)
    return FeatureBackbone(model, out_indices) if features_only else model


def list_models(pattern: str = "*", *, can: str | Iterable[str] = ()) -> list[str]:
    """Names that match a shell pattern, in the order of their papers; `can` keeps those that keep these promises."""
    models.load()
    promises = {can} if isinstance(can, str) else set(can)
    if unknown := promises - PROMISES.keys():
        raise ValueError(f"no promise is called {sorted(unknown)}; the promises are {sorted(PROMISES)}")
    return [v.name for v in registry.variants() if fnmatchcase(v.name, pattern) and not promises & v.cannot.keys()]


def model_info(name: str) -> Variant:
    """What is known of a network before it is built. LookupError with the nearest names."""
    models.load()
    return registry.find(name)


def save(
    model: Backbone,
    path: str | PathLike[str],
    *,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    recipe: Recipe | None = None,
    metrics: Mapping[str, float] | None = None,
    data: str = "",
) -> None:
    """Write the network and what it takes to use it to one safetensors file, whole or not at all."""
    if not isinstance(model, Backbone):
        raise TypeError(
            f"{type(model).__name__} cannot be saved; save the whole network, or use safetensors for its weights"
        )
    if classes and model.num_classes and len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} class names for {model.num_classes} classes")
    now = {"num_classes": model.num_classes, "in_channels": model.in_channels, "global_pool": model.head.pool}
    changed = {"output_stride": model.output_stride, "drop_path_mode": model.drop_path_mode}
    settings = {**model.settings, **now, **changed}
    told = Checkpoint(
        model.variant.name, settings, tuple(classes), preprocessing, recipe, dict(metrics or {}), data, _versions()
    )
    weights_file.write(path, model.state_dict(), told)


def load(path: str | PathLike[str]) -> Backbone:
    """The network that `save` or a training run wrote, in eval mode; `model.checkpoint` tells the rest.

    Raises:
        FileNotFoundError: no such file
        ValueError: not one of our files, or one that was cut short or altered
        LookupError: a network that this version does not know
    """
    told, state = _read(path)
    model = _build(model_info(told.network), told.settings)
    _load_state(model, state, path)
    model.checkpoint = told
    return model.eval()


def _build(variant: Variant, given: Mapping[str, Any]) -> Backbone:
    """The network with these settings over its own; TypeError for a setting that the family does not have."""
    shape = {"num_classes": variant.num_classes, "in_channels": variant.input_size[0]}
    settings = {**shape, **variant.settings, **given}
    for promise, reason in variant.cannot.items():
        if settings.pop(promise, None):
            raise NotImplementedError(f"{variant.name} cannot {promise}={given[promise]}: {reason}")
    for key, word, lowest in (("num_classes", "num_classes", 0), ("in_channels", "in_chans", 1)):
        if not isinstance(settings[key], int) or settings[key] < lowest:
            raise ValueError(f"{word}={settings[key]!r}; give a whole number, {lowest} or more")
    for key in ("drop_rate", "drop_path_rate"):
        if not isinstance(settings.get(key, 0.0), int | float):
            raise ValueError(f"{key}={settings[key]!r}; give a number")
        if not 0 <= settings.get(key, 0.0) < 1:
            raise ValueError(f"{key}={settings[key]}; give a probability from 0 to, not including, 1")
    own = {key: value for key, value in settings.items() if key not in AFTERWARDS}
    known = inspect.signature(variant.build).parameters.keys()
    if unknown := own.keys() - known:
        raise TypeError(f"{variant.name} has no setting {sorted(unknown)}; it has {sorted(known)}")
    model: Backbone = variant.build(**own)
    model.variant, model.settings = variant, settings
    for key, change in AFTERWARDS.items():
        if settings.get(key) is not None:
            change(model, settings[key])
    return model


def _from_file(variant: Variant, given: Mapping[str, Any], path: str | PathLike[str]) -> Backbone:
    """The file's network, with another head or stem where `given` asks for one; each change is logged."""
    told, state = _read(path)
    if told.network != variant.name:
        raise ValueError(f"{path} holds {told.network}, not {variant.name}; use create_model({told.network!r}, ...)")
    shape = {key: told.settings[key] for key in ("num_classes", "in_channels")}
    model = _build(variant, {**told.settings, **given, **shape})
    if told.settings.get("aux", True) != model.settings.get("aux", True):
        log.info("%s: auxiliary heads as asked, not as in the file", variant.name)
        mine = {key: value for key, value in model.state_dict().items() if key.startswith("aux.")}
        state = {**{key: value for key, value in state.items() if not key.startswith("aux.")}, **mine}
    _load_state(model, state, path)
    model.checkpoint = told
    if (classes := given.get("num_classes", shape["num_classes"])) != shape["num_classes"]:
        log.info("%s: new classifier for %d classes, the file has %d", variant.name, classes, shape["num_classes"])
        model.reset_classifier(classes)
    if (channels := given.get("in_channels", shape["in_channels"])) != shape["in_channels"]:
        log.info(
            "%s: first convolution adapted to %d channels, the file has %d",
            variant.name,
            channels,
            shape["in_channels"],
        )
        model.reset_channels(channels)
    return model


def _read(path: str | PathLike[str]) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    """What a file tells and its tensors, read once they are known to be those of the network that it tells of."""
    told, header = weights_file.describe(path)
    variant = model_info(told.network)
    try:
        with torch.device("meta"), _at_most(len(header)):
            expected = {name: describe(tensor) for name, tensor in _build(variant, told.settings).state_dict().items()}
    except Exception as error:
        raise ValueError(
            f"{path} does not fit {told.network}: its settings do not build it ({short(str(error))})"
        ) from None
    if expected != header:
        wrong = sorted(name for name in expected.keys() | header.keys() if expected.get(name) != header.get(name))
        one = f"{short(wrong[0])} is {header.get(wrong[0], 'missing')}, not {expected.get(wrong[0], 'one of its')}"
        raise ValueError(f"{path} does not fit {told.network}: {len(wrong)} tensors differ, {one}")
    return weights_file.read(path)


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Stop a network that is far larger than its file before it is built to the end."""
    here, made = threading.get_ident(), 0

    def count(*_: object) -> None:
        nonlocal made
        made += threading.get_ident() == here
        if made > 2 * tensors + 1000:
            raise ValueError(f"the network has far more than the {tensors} tensors of the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def _load_state(model: Backbone, state: Mapping[str, torch.Tensor], path: str | PathLike[str]) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit {model.variant.name}: {error}") from None


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("backbones", "torch", "torchvision")}
