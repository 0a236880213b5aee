"""The file of published weights: named by a user, looked for on this machine, fetched."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from torch.hub import get_dir

from backbones.weights import hub, timm
from backbones.weights.download import download
from backbones.weights.hub import Repo
from backbones.weights.published import Published, classes, default, of_timm, published, some, twins

__all__ = [
    "PREFIXES",
    "Fetched",
    "Published",
    "Repo",
    "cached",
    "default",
    "fetch",
    "find",
    "published",
    "some",
    "twins",
]

PREFIXES = ("tv:", "timm:", "hf:")
"""of what `weights=` takes and is no file"""


@dataclass(frozen=True)
class Fetched:
    """Published weights on this machine."""

    path: Path
    """a .pth or .safetensors file"""
    origin: str
    """URL or hf:OWNER/REPO@COMMIT, and the file's sha256"""
    published: Published | None
    """None for a repository that does not say which network of the peers' it holds"""
    classes: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    """an hf: repository's own config.json; it comes from the network, do not trust it"""


def find(weights: str, names: Iterable[str]) -> Published | Repo:
    """What `weights` names: tv:TAG, timm:TAG or timm:TAG@REVISION for one of these networks, or hf:OWNER/REPO.

    Where two of the peer's networks have that tag, it is ARCHITECTURE.TAG, which may always be given.
    """
    names = list(names)
    prefix = weights.partition(":")[0]
    if f"{prefix}:" not in PREFIXES:
        raise LookupError(f"no file and no published weights are called {weights!r}; give tv:..., timm:..., or hf:...")
    if prefix == "hf":
        return hub.parse(weights)
    asked, at, revision = weights.partition("@")
    fitting = some(names)
    found = [w for w in fitting if asked in (w.short, w.full)]
    if not found:
        there = ", ".join(w.weights for w in fitting)
        raise LookupError(f"{names[0]} has no weights called {asked!r}; it has {there}")
    if len(found) > 1:
        raise LookupError(f"{asked!r} is of {len(found)} networks; give {' or '.join(w.full for w in found)}")
    (one,) = found
    if not at:
        return one
    if not isinstance(one.place, Repo):
        raise ValueError(f"{weights!r} asks for a revision, {asked} has none; leave out @{revision}")
    return replace(one, weights=f"{one.weights}@{revision}", place=hub.parse(f"{one.place.id}@{revision}"))


def cached(weights: Published) -> Path | None:
    """The file, if it is on this machine already."""
    if isinstance(weights.place, Repo):
        return hub.cached(weights.place)
    path = _checkpoint(weights.place)
    return path if path.is_file() else None


def fetch(weights: Published | Repo) -> Fetched:
    """The file, downloaded if needed and compared with its hash.

    Raises:
        ConnectionError: it is not here, and its host cannot be reached, fell silent or does not have it
        PermissionError: a repository wants a login
        LookupError: no such repository or revision, or no safetensors file in it
        ValueError: the file, or a repository's config.json, is not what it should be
    """
    if isinstance(weights, Repo):
        stored = hub.fetch(weights)
        config = hub.config(stored.repo)
        told = _of_config(config, stored.repo)
        return Fetched(stored.path, f"{stored.repo} sha256 {stored.sha256}", told, _labels(config, told), config)
    try:
        if isinstance(weights.place, Repo):
            stored = hub.fetch(weights.place)
            path, origin, sha256 = stored.path, str(stored.repo), stored.sha256
        else:
            path, origin = _checkpoint(weights.place), weights.place
            sha256 = download(origin, path, _stated_sha256(path.name))
    except ConnectionError as error:
        fitting = published(twins(weights.network.partition(".")[0]))
        here = ", ".join(w.weights for w in fitting if cached(w)) or "no others that fit"
        raise ConnectionError(
            f"{weights.network} {weights.weights}: {error}; this machine has {here}; a file may be given instead"
        ) from None
    return Fetched(path, f"{origin} sha256 {sha256}", weights, _labels({}, weights))


def _checkpoint(url: str) -> Path:
    """Where torchvision keeps what it fetches, and looks for it."""
    return Path(get_dir(), "checkpoints", Path(urlsplit(url).path).name)


def _stated_sha256(name: str) -> str:
    """resnet50-11ad3fa6.pth tells the start of its sha256."""
    match = re.search(r"-([0-9a-f]{8,64})\.[^.]+$", name)
    return match[1] if match else ""


def _of_config(config: Mapping[str, Any], repo: Repo) -> Published | None:
    """What the config.json of a repository for timm says, where it is one and we have that network."""
    told = config.get("pretrained_cfg", config)  # older ones are flat
    if "backbones" in config or not isinstance(told, dict):
        return None
    network = next((n for n in timm.NETWORKS if n.name == config.get("architecture")), None)
    if network is None and "pretrained_cfg" in config:
        raise LookupError(f"{repo} holds timm's {config.get('architecture')!r}, whose function no network here has")
    if network is None:
        return None
    shape = {"num_classes": config["num_classes"]} if "num_classes" in config else {}
    try:
        return replace(of_timm(network, str(told.get("tag", "")), repo, {**told, **shape}), weights=str(repo))
    except ValueError as error:
        raise ValueError(f"config.json of {repo}: {error}") from None


def of_folder(folder: Path) -> Published | None:
    """What the config.json of a folder says, where it is timm's. ValueError if it is no JSON of that."""
    if not (path := folder / hub.CONFIG).is_file():
        return None
    return _of_config(hub.read_config(path, str(folder)), Repo(str(folder)))


def _labels(config: Mapping[str, Any], weights: Published | None) -> tuple[str, ...]:
    """The names of the classes: as a repository tells, or ImageNet-1k's."""
    told = config.get("label_names")
    if weights is None:
        return ()
    if isinstance(told, list) and len(told) == weights.num_classes and all(isinstance(label, str) for label in told):
        return tuple(told)
    return classes(weights)
