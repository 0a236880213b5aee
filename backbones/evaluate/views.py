"""The papers' ways of looking at a test image: which views of it a network sees, and what of its answers is averaged.

A mean over views, scales and networks is a mean of probabilities (after the softmax), as AlexNet, GoogLeNet and VGG
take it, every view with the same weight.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from backbones.backbone import Backbone
from backbones.data import eval_transform
from backbones.records import Preprocessing

log = logging.getLogger("backbones")
_centre_crop = cache(eval_transform)

Cut = Callable[[Tensor, int, InterpolationMode], Iterator[Tensor]]
"""uint8 (C, H, W) at one scale, side of the crop -> its views, one at a time"""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""mean and deviation of its colours, as most libraries have them"""
REFERENCE = 224
"""side of the crop that the scales of a `Protocol` go with"""


@dataclass(frozen=True)
class Protocol:
    """One way of looking at a test image."""

    name: str
    source: str
    """whose it is"""
    views: int
    """of an image at one scale"""
    averaged: str
    """what the answer is a mean of"""
    scales: tuple[int, ...] = ()
    """shorter side of the image in pixels for crops of 224, others in proportion; () is the network's own"""
    cut: Cut | None = None
    """from the image at one scale to its views; None is the network's own preprocessing"""
    dense: bool = False
    """whether the views are whole images, over which fully connected layers slide"""

    @property
    def mirrors(self) -> bool:
        """Whether each view comes with its mirror image."""
        return self.cut is not None


def ten_crops(image: Tensor, side: int, mode: InterpolationMode) -> Iterator[Tensor]:
    """Corners and centre of the image's central square, each with its mirror image (AlexNet, Sec. 2 and 4.1)."""
    square = F.center_crop(image, [min(image.shape[-2:])])
    yield from _mirrored(F.five_crop(square, [side, side]))


def crops_of_squares(image: Tensor, side: int, mode: InterpolationMode) -> Iterator[Tensor]:
    """Of three squares the corners, the centre and the whole square resized, each with its mirror image.

    The squares are those at the two ends and in the middle of the longer side (GoogLeNet, Sec. 7).
    """
    height, width = image.shape[-2:]
    short = min(height, width)
    middle = F.center_crop(image, [short])
    for square in (image[:, :short, :short], middle, image[:, height - short :, width - short :]):
        yield from _mirrored(F.five_crop(square, [side, side]))
        yield from _mirrored([F.resize(square, [side, side], mode, antialias=True)])


def whole(image: Tensor, side: int, mode: InterpolationMode) -> Iterator[Tensor]:
    """The uncropped image and its mirror image (VGG, Sec. 3.2)."""
    yield from _mirrored([image])


def _mirrored(views: Sequence[Tensor]) -> Iterator[Tensor]:
    for view in views:
        yield view
        yield view.flip(-1)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("single", "usual since ResNeXt, Sec. 4", 1, "nothing: one centre crop"),
        Protocol("10-crop", "AlexNet, Sec. 4.1", 10, "the probabilities of 10 crops of every scale", cut=ten_crops),
        Protocol(
            "144-crop",
            "GoogLeNet, Sec. 7",
            36,
            "the probabilities of 3 squares x 6 crops x 2 mirror images of every scale",
            scales=(256, 288, 320, 352),
            cut=crops_of_squares,
        ),
        Protocol(
            "dense",
            "VGG, Sec. 3.2 and 4",
            2,
            "the class scores over all positions, then the probabilities of every scale and mirror image",
            cut=whole,
            dense=True,
        ),
        Protocol(
            "multi-scale",
            "ResNet, Sec. 3.4, in the form of VGG, mirror images too",
            2,
            "the class scores over all positions, then the probabilities of every scale and mirror image",
            scales=(224, 256, 384, 480, 640),
            cut=whole,
            dense=True,
        ),
    )
}


@dataclass(frozen=True)
class Views:
    """A protocol made ready for one network. `views(image)` gives what it sees of an image, one view at a time."""

    protocol: Protocol
    preprocessing: Preprocessing
    scales: tuple[int, ...] = ()
    """shorter sides of the image, in pixels; none for `single`, whose preprocessing says it"""

    def __len__(self) -> int:
        return self.protocol.views * max(1, len(self.scales))

    def __call__(self, image: Tensor) -> Iterator[Tensor]:
        """uint8 (C, H, W) -> float32 views (C, H', W')"""
        told = self.preprocessing
        if self.protocol.cut is None:
            yield _centre_crop(told)(image)
            return
        mode = InterpolationMode("nearest-exact" if told.interpolation == "nearest" else told.interpolation)
        for scale in self.scales:
            rescaled = F.resize(image, [scale], mode, antialias=True)
            for view in self.protocol.cut(rescaled, told.size[0], mode):
                scaled = F.to_dtype(view, torch.float32, scale=True)
                yield F.normalize(scaled, list(told.mean), list(told.std))

    def told(self) -> dict[str, object]:
        """What a table of results says of it, for JSON."""
        told = self.preprocessing
        seen = {"views": len(self), "scales": list(self.scales), "size": list(told.size)}
        return seen if self.scales else {**seen, "crop": told.crop}

    def __str__(self) -> str:
        height, width = self.preprocessing.size
        crop = f"{height} pixels" if height == width else f"{height}x{width} pixels"
        if not self.scales:
            share = self.preprocessing.crop
            return f"{self.protocol.name}: 1 view per image, a centre crop of {crop}, {share:.4g} of the image's side"
        shorter = f"shorter side {', '.join(map(str, self.scales))}"
        how = "whole" if self.protocol.dense else f"crops of {crop}"
        return f"{self.protocol.name}: {len(self)} views per image, {shorter}, {how}"


def prepare(
    protocol: str,
    preprocessing: Preprocessing,
    *,
    size: int | None = None,
    crop: float | None = None,
    scales: Sequence[int] = (),
) -> Views:
    """A protocol by name, for a network with this preprocessing.

    Args:
        protocol: a name of `PROTOCOLS`
        preprocessing: of the network
        size: side of the crop, the network's own by default
        crop: side of the crop over the shorter side of the image, the network's own by default
        scales: shorter sides of the image, in place of the protocol's
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r}; give one of {', '.join(PROTOCOLS)}")
    wanted = PROTOCOLS[protocol]
    if size is not None and size < 1:
        raise ValueError(f"size={size}; give the side of the crop in pixels")
    if crop is not None and not 0 < crop <= 1:
        raise ValueError(f"crop={crop}; give the crop's share of the image's shorter side, above 0 up to 1")
    if wanted.cut is None and scales:
        raise ValueError(f"{protocol} takes no scales; give size and crop, whose quotient is the image's shorter side")
    if crop is not None and (scales or wanted.scales):
        raise ValueError(f"crop={crop} beside the scales {tuple(scales) or wanted.scales}; leave out one of the two")
    told = replace(
        preprocessing,
        size=preprocessing.size if size is None else (size, size),
        crop=preprocessing.crop if crop is None else crop,
    )
    if wanted.cut is None:
        return Views(wanted, told)
    side = told.size[0]
    if told.size[1] != side:
        raise ValueError(f"{protocol} is for square crops, the network takes {told.size}; give a size")
    if not scales and not wanted.scales and not wanted.dense and told.crop == 1:
        raise ValueError(
            f"{protocol} cuts crops out of a larger image, and this network is made for whole ones of {side} pixels; "
            f"give scales, such as {round(side * 256 / REFERENCE)}"
        )
    own = tuple(round(scale * side / REFERENCE) for scale in wanted.scales) or (round(side / told.crop),)
    scales = tuple(scales) or own
    least = 1 if wanted.dense else side
    if min(scales) < least:
        why = "" if wanted.dense else ", the crop's side"
        raise ValueError(f"scales {scales}: the shorter side of an image must be {least} or more{why}")
    return Views(wanted, told, scales)


def usual_preprocessing(model: Backbone) -> Preprocessing:
    """What most published weights were trained with, for those that do not say; a log line tells what was taken."""
    _, height, width = model.variant.input_size
    if model.in_channels != 3:
        raise ValueError(
            f"the weights do not say how images of {model.in_channels} channels are to be prepared; give a file of ours"
        )
    taken = Preprocessing(3, (height, width), *IMAGENET, crop=model.variant.crop)
    log.warning(
        "%s: the weights do not say how images are to be prepared; taken as ImageNet's usually are: mean %s, "
        "deviation %s, %s",
        model.variant.name,
        taken.mean,
        taken.std,
        taken.interpolation,
    )
    return taken
