"""What happens to an image between the file and the network, in evaluation and in training."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from backbones.data.augment import AnyAreaCrop, CentralSquare, Cutout, FixedCrop, Lighting, SideResize
from backbones.records import DataInfo, Preprocessing, Recipe

Transform = Callable[[Tensor], Tensor]
"""uint8 (C, H, W) -> float32 (C, *size)"""
Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""images (N, C, H, W) and labels (N,) -> mixed images and shares of the classes (N, num_classes)"""
GREY = 128  # what comes in from outside where a policy turns or shifts an image


def preprocessing_for(info: DataInfo, size: tuple[int, int], channels: int, crop: float = 1.0) -> Preprocessing:
    """The preprocessing with the colours of a dataset, for a network that takes (channels, *size)."""
    if channels == info.channels:
        return Preprocessing(channels, size, info.mean, info.std, crop=crop)
    if info.channels == 1:
        return Preprocessing(channels, size, info.mean * channels, info.std * channels, crop=crop)
    raise ValueError(
        f"{info.name} was opened with {info.channels} channels, the network takes {channels}; "
        f"open it with open_data(..., channels={channels})"
    )


def eval_transform(preprocessing: Preprocessing) -> Transform:
    """uint8 (C, H, W) -> float32 (C, *size), always the same: resize, centre crop, scale to [0, 1], normalise."""
    _check(preprocessing)
    return v2.Compose([*_fit(preprocessing), *_normalised(preprocessing)])


def train_transform(
    preprocessing: Preprocessing, recipe: Recipe, info: DataInfo, colours: tuple[Tensor, Tensor] | None = None
) -> Transform:
    """uint8 (C, H, W) -> float32 (C, *size), with the recipe's random changes; what it does not ask for costs nothing.

    Args:
        preprocessing: as in evaluation
        recipe: says which changes, and how large
        info: says whether a mirrored image keeps its class; if not, `recipe.hflip` is not done
        colours: from `colours_of`, needed where `recipe.lighting` is not 0
    """
    _check(preprocessing)
    steps = _crop(preprocessing, recipe)
    if recipe.hflip and info.mirror:
        steps.append(v2.RandomHorizontalFlip(recipe.hflip))
    steps += _colours(preprocessing, recipe)
    to_float, normalise = _normalised(preprocessing)
    steps.append(to_float)
    if recipe.rotate or recipe.translate or recipe.zoom or recipe.shear:
        steps.append(
            v2.RandomAffine(
                recipe.rotate,
                translate=(recipe.translate, recipe.translate),
                scale=(1 - recipe.zoom, 1 + recipe.zoom),
                shear=recipe.shear or None,
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if recipe.lighting:
        if colours is None:
            raise ValueError(f"the recipe has lighting={recipe.lighting}; give colours=colours_of(data.train)")
        steps.append(Lighting(recipe.lighting, *colours))
    steps.append(normalise)
    if recipe.reprob:
        steps.append(v2.RandomErasing(recipe.reprob))
    if recipe.cutout:
        steps.append(Cutout(recipe.cutout))
    return v2.Compose(steps)


def split(transform: Transform) -> tuple[Transform, Transform]:
    """One for each image, and one for a batch of what it gives: together the transform, to the last bit.

    Where it ends with scaling and normalising, these wait for the batch, and images are handed over in uint8.
    """
    steps = list(transform.transforms) if isinstance(transform, v2.Compose) else []
    if len(steps) > 2 and isinstance(steps[-2], v2.ToDtype) and isinstance(steps[-1], v2.Normalize):
        return v2.Compose(steps[:-2]), v2.Compose(steps[-2:])
    return transform, nn.Identity()


def mixer(recipe: Recipe, num_classes: int) -> Mixer | None:
    """The recipe's mixing of the images of a batch, one of mixup and CutMix at a time; None where it has none.

    Draws from torch's global generator: seed it per step where a run must be repeatable.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    mixers: list[Mixer] = []
    if recipe.mixup:
        mixers.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixers.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    return mixers[0] if len(mixers) == 1 else v2.RandomChoice(mixers)


def _fit(preprocessing: Preprocessing) -> list[nn.Module]:
    """uint8 (C, H, W) -> (C, *size) without chance. The aspect is kept for a square input and given up for others."""
    height, width = (round(side / preprocessing.crop) for side in preprocessing.size)
    box = [height] if height == width else [height, width]  # one number is the shorter side
    return [v2.Resize(box, _mode(preprocessing), antialias=True), v2.CenterCrop(list(preprocessing.size))]


def _crop(preprocessing: Preprocessing, recipe: Recipe) -> list[nn.Module]:
    """uint8 (C, H, W) -> (C, *size) as `recipe.crop` has it."""
    size, mode = preprocessing.size, _mode(preprocessing)
    if recipe.crop == "side":
        if recipe.scale[0] < 1:
            raise ValueError(
                f"crop='side' has scale={recipe.scale}: the image would be smaller than the crop; begin at 1 or more"
            )
        smallest, largest = (round(share * max(size)) for share in recipe.scale)
        squared = [CentralSquare()] if recipe.crop_from == "square" else []
        crop = FixedCrop(size) if recipe.fixed_crops else v2.RandomCrop(size)
        return [SideResize(smallest, largest, recipe.crop_from == "squashed", mode), *squared, crop]
    if recipe.crop == "area":
        if recipe.random_interpolation:
            return [AnyAreaCrop(size, recipe.scale, recipe.ratio)]
        return [v2.RandomResizedCrop(size, recipe.scale, recipe.ratio, mode, antialias=True)]
    if recipe.crop == "pad":
        if recipe.pad_mode == "reflect" and recipe.crop_pad >= min(size):
            raise ValueError(
                f"crop_pad={recipe.crop_pad} reflects more than an image of {size[0]}x{size[1]} has; give less"
            )
        return [*_fit(preprocessing), v2.RandomCrop(size, padding=recipe.crop_pad, padding_mode=recipe.pad_mode)]
    return _fit(preprocessing)


def _colours(preprocessing: Preprocessing, recipe: Recipe) -> list[nn.Module]:
    """uint8 (C, H, W) -> the same: a drawn policy, then brightness, contrast, saturation and hue in random order."""
    steps: list[nn.Module] = []
    jitter = (recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue)
    if (recipe.auto_augment or any(jitter)) and preprocessing.channels not in (1, 3):
        raise ValueError(
            f"auto_augment and changes of brightness, contrast, saturation and hue take images of 1 or 3 channels; "
            f"these have {preprocessing.channels}: set them to nothing and 0"
        )
    if recipe.auto_augment == "autoaugment":
        steps.append(v2.AutoAugment(interpolation=_mode(preprocessing), fill=GREY))
    if recipe.auto_augment == "randaugment":
        steps.append(v2.RandAugment(magnitude=recipe.magnitude, interpolation=_mode(preprocessing), fill=GREY))
    if recipe.auto_augment == "trivialaugment":
        steps.append(v2.TrivialAugmentWide(interpolation=_mode(preprocessing), fill=GREY))
    if any(jitter):
        steps.append(v2.ColorJitter(*jitter))
    return steps


def _normalised(preprocessing: Preprocessing) -> tuple[nn.Module, nn.Module]:
    """uint8 -> float32 in [0, 1] -> less the mean, over the deviation."""
    return v2.ToDtype(torch.float32, scale=True), v2.Normalize(preprocessing.mean, preprocessing.std)


def _mode(preprocessing: Preprocessing) -> v2.InterpolationMode:
    name = preprocessing.interpolation
    return v2.InterpolationMode("nearest-exact" if name == "nearest" else name)


def _check(preprocessing: Preprocessing) -> None:
    if not len(preprocessing.mean) == len(preprocessing.std) == preprocessing.channels:
        raise ValueError(
            f"preprocessing for {preprocessing.channels} channels has {len(preprocessing.mean)} means and "
            f"{len(preprocessing.std)} deviations; give one of each per channel"
        )
    if not 0 < preprocessing.crop <= 1:
        raise ValueError(f"crop is a share above 0 up to 1, such as 0.875; it was {preprocessing.crop}")
