"""What others publish for our networks, as far as it is known without asking anybody.

torchvision's weights are as the installed torchvision lists them; timm's as `timm.json` does, which `make catalog`
writes.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from backbones.records import Preprocessing
from backbones.weights import timm, torchvision
from backbones.weights.convert import Network
from backbones.weights.hub import Repo

TIMM_FILE = Path(__file__).with_name("timm.json")
TRANSFORM_INPUT = ("googlenet", "inception_v3")
"""torchvision's networks that, with weights, turn its usual mean and std into 0.5 and 0.5 themselves; ours do not"""


@dataclass(frozen=True)
class Published:
    """Weights that somebody publishes, and the network of ours that they fit."""

    weights: str
    """as `weights=` takes it: tv:IMAGENET1K_V2, timm:a1_in1k"""
    network: str
    """ours that computes their function"""
    settings: Mapping[str, Any]
    """over that variant's own"""
    peer: str
    """torchvision or timm"""
    peer_network: str
    tag: str
    """the weights' name among those of the peer's network"""
    place: str | Repo
    """a URL, or a repository on the Hugging Face Hub"""
    preprocessing: Preprocessing | None
    """None where a repository does not tell"""
    num_classes: int
    """0 where they have no classifier, or none of use"""
    top1: float | None = None
    """in percent, on ImageNet-1k, as the publisher states it; None where it does not"""
    top5: float | None = None
    licence: str = ""
    """as the publisher states it; "" where it does not"""
    recipe: str = ""
    """link to how they were made"""
    bytes: int | None = None

    @property
    def short(self) -> str:
        """The peer and the tag, which several networks may have."""
        return f"{'tv' if self.peer == 'torchvision' else self.peer}:{self.tag}"

    @property
    def full(self) -> str:
        """The peer, its network and the tag."""
        return self.short.replace(":", f":{self.peer_network}.", 1)


def published(names: Iterable[str]) -> list[Published]:
    """All that fits one of these networks of ours, torchvision's first; the network is not asked."""
    names = set(names)
    tv = [w for n in torchvision.NETWORKS if n.ours in names and not n.kwargs for w in _torchvision(n)]
    by_timm = [w for n in timm.NETWORKS if n.ours in names and not n.kwargs for w in _timm(n)]
    count = Counter(w.short for w in tv + by_timm)
    return [w if count[w.short] == 1 else replace(w, weights=w.full) for w in tv + by_timm]


def default(names: Iterable[str]) -> Published:
    """What `pretrained=True` takes: torchvision's default, or the first of timm's. LookupError where there is none."""
    found = some(names)
    return next((w for w in found if w.peer == "timm" or w.tag == _enum(w.peer_network).DEFAULT.name), found[0])


def some(names: Iterable[str]) -> list[Published]:
    """`published`, or LookupError where there is nothing."""
    names = list(names)
    if found := published(names):
        return found
    raise LookupError(f"no published weights fit {names[0]}; train it, or give a file of weights")


def _enum(name: str) -> Any:
    from torchvision.models import get_model_weights

    return get_model_weights(name)


def _torchvision(network: Network) -> Iterator[Published]:
    """What torchvision's enum says of the weights of one of its networks."""
    for weights in _enum(network.name):
        meta, transform = weights.meta, weights.transforms()
        (crop,), (resize,) = transform.crop_size, transform.resize_size
        half = network.name in TRANSFORM_INPUT
        mean, std = ((0.5,) * 3, (0.5,) * 3) if half else (tuple(transform.mean), tuple(transform.std))
        scores = meta["_metrics"].get("ImageNet-1K", {})
        top1, top5 = (None if math.isnan(v) else v for v in (scores.get(k, math.nan) for k in ("acc@1", "acc@5")))
        yield Published(
            weights=f"tv:{weights.name}",
            network=network.ours,
            settings=network.settings,
            peer="torchvision",
            peer_network=network.name,
            tag=weights.name,
            place=weights.url,
            preprocessing=Preprocessing(3, (crop, crop), mean, std, transform.interpolation.value, crop / resize),
            num_classes=len(meta["categories"] or ()),
            top1=top1,
            top5=top5,
            licence=meta.get("license", ""),
            recipe=meta.get("recipe", ""),
            bytes=round(meta["_file_size"] * 2**20),
        )


@cache
def _timm_file() -> dict[str, dict[str, dict[str, Any]]]:
    return json.loads(TIMM_FILE.read_text())


def _timm(network: Network) -> Iterator[Published]:
    for tag, told in _timm_file().get(network.name, {}).items():
        yield of_timm(network, tag, Repo(told["repo"]), told)


def of_timm(network: Network, tag: str, place: Repo, told: Mapping[str, Any]) -> Published:
    """What a description in timm's words says. ValueError where it says what cannot be: it may be anybody's."""
    return Published(
        weights=f"timm:{tag}",
        network=network.ours,
        settings=network.settings,
        peer="timm",
        peer_network=network.name,
        tag=tag,
        place=place,
        preprocessing=_preprocessing(told) if "input_size" in told else None,
        num_classes=int(_number(told.get("num_classes", 0), "num_classes", 0, 1_000_000)),
        licence=str(told.get("license") or ""),
        recipe=str(told.get("origin_url") or ""),
    )


def _preprocessing(told: Mapping[str, Any]) -> Preprocessing:
    """From timm's words for it."""
    channels, height, width = map(int, _numbers(told, "input_size", 3, 1, 10_000))
    mean, std = _numbers(told, "mean", channels, -1000, 1000), _numbers(told, "std", channels, 1e-6, 1000)
    interpolation = told.get("interpolation", "bilinear")
    if interpolation not in ("bilinear", "bicubic", "nearest"):
        raise ValueError(f"interpolation={interpolation!r}; bilinear, bicubic or nearest was expected")
    crop = _number(told.get("crop_pct", 1.0), "crop_pct", 0.01, 10)
    return Preprocessing(channels, (height, width), mean, std, interpolation, crop)


def _numbers(told: Mapping[str, Any], key: str, count: int, low: float, high: float) -> tuple[float, ...]:
    values = told.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise ValueError(f"{key}={values!r}; a list of {count} was expected")
    return tuple(_number(value, key, low, high) for value in values)


def _number(value: Any, key: str, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{key}={value!r}; a number from {low:g} to {high:g} was expected")
    return value


def twins(name: str) -> list[str]:
    """The name, and where it is plain, its dotted ones that somebody has weights for: resnet50, resnet50.tv."""
    ours = dict.fromkeys(n.ours for n in (*torchvision.NETWORKS, *timm.NETWORKS))
    return [name, *(n for n in ours if n.startswith(f"{name}."))]


def classes(weights: Published) -> tuple[str, ...]:
    """The names of the classes, where they are ImageNet-1k's."""
    by_timm = isinstance(weights.place, Repo) and weights.place.id.startswith("timm/") and weights.tag.endswith("in1k")
    if weights.num_classes != 1000 or not (by_timm or weights.peer == "torchvision"):
        return ()
    return tuple(_enum("resnet50").DEFAULT.meta["categories"])
