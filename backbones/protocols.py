"""Which printed accuracies may stand in one column: those of one way of looking at one set of images."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

PROTOCOLS = {
    "one-crop": "one crop of each validation image, as papers and authors' releases print",
    "10-crops": "mean over 10 crops, as papers print",
    "12-crops": "mean over 12 crops, as papers print",
    "144-crops": "mean over 144 crops, as papers print",
    "one-crop-subset": "one crop of the 48,238 images that are not blacklisted, as papers print",
    "publisher": "one crop of each validation image, as torchvision states of the best weights that it publishes",
}
"""name -> what it means; all on ImageNet-1k's validation images, one network"""
IMAGES = {
    "ImageNet-1k validation": "",
    "ImageNet-1k validation, the 48,238 images that are not blacklisted": "-subset",
}
ONE_CROP = re.compile(r"(one|single|1)\b.*\b(crop|view)\b")
CROPS = re.compile(r"(\d+) crops\b(?! and)")


def is_ensemble(claim: Mapping[str, Any]) -> bool:
    """Whether a claim is of several networks together."""
    return "networks" in claim["protocol"]


def protocol_of(claim: Mapping[str, Any]) -> str | None:
    """The protocol of a claim of the catalog. None where it compares with no other: ensembles, scales, CIFAR."""
    if claim["data"] not in IMAGES or is_ensemble(claim):
        return None
    crops = CROPS.match(claim["protocol"])
    how = "one-crop" if ONE_CROP.match(claim["protocol"]) else f"{crops[1]}-crops" if crops else ""
    name = how + IMAGES[claim["data"]]
    return name if name in PROTOCOLS else None


def accuracies(entry: Mapping[str, Any], protocol: str) -> list[dict[str, Any]]:
    """Every accuracy of a network of the catalog under one protocol, best first: top1, top5, input_size, its source.

    `how` is the protocol in words; `tag` says who states it: the paper, or the publisher of weights, authors included.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}; give one of {', '.join(PROTOCOLS)}")
    own = entry["input_size"][1]
    if protocol == "publisher":
        found = [
            {**w, "source": f"torchvision, {w['weights']}", "how": "one crop", "tag": "publisher"}
            for w in entry["published"]
        ]
    else:
        found = [
            {**claim, "how": claim["protocol"], "tag": stated_by(claim)}
            for claim in entry["reported"]
            if claim["top1"] is not None and protocol_of(claim) == protocol
        ]
    keys = ("top1", "top5", "source", "how", "tag")
    return sorted(
        ({key: place[key] for key in keys} | {"input_size": place["input_size"] or own} for place in found),
        key=lambda place: -place["top1"],
    )


def stated_by(claim: Mapping[str, Any]) -> str:
    """Paper, or publisher: a claim of the catalog may be from a release of the authors."""
    return "publisher" if claim["source"].startswith("authors'") else "paper"


def most(entries: Iterable[Mapping[str, Any]]) -> str:
    """The protocol under which most of these networks have an accuracy."""
    entries = list(entries)
    return max(PROTOCOLS, key=lambda protocol: sum(bool(accuracies(entry, protocol)) for entry in entries))
