"""A name becomes a network, and a network becomes a file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from backbones import models, registry
from backbones.backbone import Backbone, FeatureBackbone
from backbones.build import build
from backbones.records import PROMISES, Checkpoint, Preprocessing, Recipe, Variant


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    weights: str | PathLike[str] | None = None,
    source: str | None = None,
    departures: Sequence[str] | None = None,
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
    """Build a network by name, initialised as its paper says, or with anybody's weights.

    Weights bring their function: under a plain name, the twin that they were trained with is built, and a log line
    says so. `model.variant` tells which.

    Args:
        name: as `list_models()` prints it
        num_classes: outputs of the classifier; 0 returns pooled features (N, num_features)
        in_chans: channels of the images
        pretrained: take torchvision's default weights, or timm's where it has none (`backbones weights NAME`)
        weights: a file or folder of ours; a .safetensors, .pth, .pt, .bin or .h5 file of torchvision, timm, pytorchcv
            or keras; or published ones: "tv:IMAGENET1K_V2", "timm:a1_in1k", "hf:OWNER/REPO@REVISION"
        source: whose file it is, where the file does not tell: "timm", or "timm:tf_efficientnet_b0"
        departures: () insists on the named network whatever the weights were trained with
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
        LookupError: no such name, no such published weights
        FileNotFoundError, ConnectionError, PermissionError: the weights are not here, and not to be had
        TypeError: a setting that the family does not have
        ValueError: a value that is not allowed
        NotImplementedError: what this network cannot do, and why
    """
    if out_indices is not None and not features_only:
        raise TypeError("out_indices goes with features_only=True")
    if departures:
        raise ValueError(f"departures={departures!r}; give (), or a dotted name for the network that departs so")
    if pretrained and weights is not None:
        raise TypeError("pretrained=True takes the default weights; give either that or weights")
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
        if weights is None and not pretrained and source is None:
            model = build(variant, given)
        else:
            model = _with_weights(name, variant, given, weights, source, pretrained, departures is not None)
    return FeatureBackbone(model, out_indices) if features_only else model


def _with_weights(
    name: str,
    variant: Variant,
    given: Mapping[str, Any],
    weights: str | PathLike[str] | None,
    source: str | None,
    pretrained: bool,
    insists: bool,
) -> Backbone:
    from backbones import loading, recognise  # here, because a network without weights needs nothing of them

    if source is not None:
        recognise.networks(source)  # is there such a one?
    wish = recognise.Wish(name, variant, given, source, insists)
    if pretrained:
        weights = loading.default(wish)
    return build(variant, given) if weights is None else loading.load(wish, weights)


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
    to: str | None = None,
    classes: Sequence[str] = (),
    preprocessing: Preprocessing | None = None,
    recipe: Recipe | None = None,
    metrics: Mapping[str, float] | None = None,
    data: str = "",
) -> None:
    """Write the network and what it takes to use it to one safetensors file, whole or not at all.

    With `to="timm"`, "torchvision", "pytorchcv" or "keras" the weights alone, as that library reads them: a
    .safetensors, .pth or .h5 file by the suffix of `path`.
    """
    if not isinstance(model, Backbone):
        raise TypeError(
            f"{type(model).__name__} cannot be saved; save the whole network, or use safetensors for its weights"
        )
    if to is not None:
        from backbones import writing

        if classes or preprocessing or recipe or metrics or data:
            raise TypeError(f"to={to!r} writes the weights alone; leave out what goes with them")
        writing.export(model, path, to)
        return
    if Path(path).suffix in (".pth", ".pt", ".bin", ".h5"):
        raise ValueError(f"{path}: our file is a safetensors file; name it so, or say whose file with to=...")
    if classes and model.num_classes and len(classes) != model.num_classes:
        raise ValueError(f"{len(classes)} class names for {model.num_classes} classes")
    from backbones import loading, writing
    from backbones.weights import file as weights_file

    writing.check(model)
    told = Checkpoint(
        model.variant.name,
        model.settings,
        tuple(classes),
        preprocessing,
        recipe,
        dict(metrics or {}),
        data,
        loading.versions(),
        model.checkpoint.source if hasattr(model, "checkpoint") else "",
    )
    weights_file.write(path, model.state_dict(), told)


def load(path: str | PathLike[str]) -> Backbone:
    """The network that `save` or a training run wrote, in eval mode; `model.checkpoint` tells the rest.

    Its tensors are mapped from the file until they are changed: the file may be removed or replaced by another, as
    `save` does, but not written into meanwhile.

    Raises:
        FileNotFoundError: no such file
        ValueError: not one of our files, or one that was cut short or altered
        LookupError: a network that this version does not know
    """
    from backbones import loading

    models.load()
    return loading.load_ours(path).eval()


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
