"""From a word to a dataset: `digits`, `shapes`, `folder:PATH`, `wds:PATTERN`, `hf:NAME`, `tv:NAME@ROOT`."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import torch

from backbones.data.folder import open_folder
from backbones.data.huggingface import open_huggingface
from backbones.data.parts import ArrayPart, Data, Found, Part
from backbones.data.shapes import open_shapes
from backbones.data.shards import open_shards
from backbones.data.survey import moments
from backbones.data.tv import SETS, open_tv
from backbones.records import DataInfo

FORMS = (
    "data is given as one of\n"
    "  digits               1,797 handwritten digits that scikit-learn brings along\n"
    "  shapes               drawn as they are needed: 27 classes of shape, texture and place, 64 pixels a side;\n"
    "                       also as in shapes:224,train=2000,noise=0.05 with a share of wrong labels\n"
    "  folder:PATH          your own, as in folder:photos with photos/train/<class>/*.jpg, photos/val/<class>/*.jpg\n"
    "  wds:PATTERN          WebDataset shards, as in wds:DIR with train-*.tar and val-*.tar (`backbones data pack`\n"
    "                       makes them), or 'wds:https://host/train-{000..099}.tar' with --val-split 0.1\n"
    "  hf:NAME              of the Hugging Face hub, as in hf:OWNER/NAME or hf:OWNER/NAME@CONFIG, or its formats in a\n"
    "                       folder, as in hf:./photos\n"
    f"  tv:NAME@ROOT         torchvision's, as in tv:CIFAR10@~/data; NAME is {', '.join(SETS)}"
)
DIGITS_TRAIN = 1297
SPLIT_SEED = 0
"""of the draw that holds out a share of every class"""


def open_data(
    spec: str, *, channels: int | None = None, val_split: float = 0.0, download: bool = False, whole: bool = False
) -> Data:
    """The dataset that a word names.

    Args:
        spec: `digits`, `shapes`, `folder:PATH`, `wds:PATTERN`, `hf:NAME` or `tv:NAME@ROOT`
        channels: convert the images to 1 (gray) or 3 (RGB); the source's own if not given
        val_split: share of the training images to hold out as `val`, where the source has no such part
        download: let torchvision download what is missing
        whole: take data without parts as they are, all of it as `val`: to test on, not to train
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"images can have 1 channel (gray) or 3 (RGB), not {channels}; choose channels=1 or 3")
    if not 0 <= val_split < 1:
        raise ValueError(f"--val-split is a share from 0 up to, not including, 1, such as 0.2; it was {val_split}")
    kind, colon, rest = spec.partition(":")
    name, _, root = rest.partition("@")
    openers: dict[str, Callable[[], Found]] = {
        "digits": lambda: _digits(channels or 1),
        "shapes": lambda: open_shapes(rest, channels or 3),
        "folder": lambda: open_folder(rest, channels or 3, val_split, whole),
        "wds": lambda: open_shards(rest, channels or 3, val_split, whole),
        "hf": lambda: open_huggingface(rest, channels or 3, val_split, whole),
        "tv": lambda: open_tv(name, root, channels, download),
    }
    complete = {
        "digits": not colon,
        "shapes": True,
        "folder": bool(rest),
        "wds": bool(rest),
        "hf": bool(rest),
        "tv": bool(name and root),
    }
    if not complete.get(kind):
        raise ValueError(f"no data is called {spec!r}; {FORMS}")
    found = openers[kind]()
    if val_split:
        found = _hold_out(found, val_split)
    mean, covariance = moments(found.train)
    info = DataInfo(
        name=found.name,
        classes=found.classes,
        channels=found.channels,
        size=found.size,
        mean=tuple(mean.tolist()),
        std=tuple(covariance.diagonal().clamp(min=255**-2).sqrt().tolist()),  # one gray level, where all are the same
        images={name: len(part) for name, part in found.parts.items()},
        split=found.split,
        mirror=found.mirror,
    )
    return Data(info, found.train, found.val, found.test)


def _digits(channels: int) -> Found:
    """The test part of UCI's handwritten digits: 13 writers, one after the other. (N, 1, 8, 8)"""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("digits come with scikit-learn; run: pip install scikit-learn") from error
    bundled = load_digits()
    images = (torch.as_tensor(bundled.images)[:, None] * (255 / 16)).round().to(torch.uint8)
    labels = [int(label) for label in bundled.target]
    return Found(
        name="digits",
        classes=tuple("0123456789"),
        channels=channels,
        size=(8, 8),
        mirror=False,
        split=f"the first {DIGITS_TRAIN:,} images train, the other {len(labels) - DIGITS_TRAIN} test, in the published "
        "order: the writers follow one another, so test is by other hands, which a random split would mix",
        train=ArrayPart(images[:DIGITS_TRAIN], labels[:DIGITS_TRAIN], "digits train", channels),
        test=ArrayPart(images[DIGITS_TRAIN:], labels[DIGITS_TRAIN:], "digits test", channels),
        ordered=True,
    )


def _hold_out(found: Found, share: float) -> Found:
    """The source with a share of its training part made into `val`."""
    if found.val is not None:
        raise ValueError(
            f"{found.name} has its own val part of {len(found.val):,} images; leave out --val-split (it was {share})"
        )
    if found.ordered:
        held_out = list(range(len(found.train)))[-max(1, round(share * len(found.train))) :]
        how = f"val is the last {len(held_out)} of the training images, so that it too is by other hands"
    else:
        held_out = _stratified(found.train, share)
        how = f"val is {share:.0%} of the training images of every class, drawn at random with a fixed seed"
    kept = sorted(set(range(len(found.train))) - set(held_out))
    if not held_out or not kept:
        raise ValueError(
            f"--val-split {share} of {len(found.train):,} images leaves one part empty; choose another share"
        )
    train, val = found.train.take(kept), found.train.take(held_out)
    return replace(found, train=train, val=val, split=f"{found.split}; {how}")


def _stratified(part: Part, share: float) -> list[int]:
    """Numbers of the images to hold out: of every class its share, at least one, but never its last."""
    by_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(part.labels):
        by_class[label].append(index)
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    held_out: list[int] = []
    for label in sorted(by_class):
        members = by_class[label]
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out += [members[i] for i in torch.randperm(len(members), generator=generator)[:count].tolist()]
    return sorted(held_out)
