"""What happens to an image between the file and the network, in evaluation and in training."""

from collections.abc import Callable

from torch import Tensor

from backbones.data.augment import (
    Affine,
    Chain,
    Cover,
    Lighting,
    Mirror,
    Normalise,
    PadThenCrop,
    Resize,
    ScaleThenCrop,
    Step,
    ToFloat,
)
from backbones.records import DataInfo, Preprocessing, Recipe

Mixer = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""images (N, C, H, W) and labels (N,) -> mixed images and shares of the classes (N, num_classes)"""


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


def eval_transform(preprocessing: Preprocessing) -> Step:
    """uint8 (C, H, W) -> float32 (C, *size), always the same: resize, centre crop, scale to [0, 1], normalise."""
    _check(preprocessing)
    return Chain((_fit(preprocessing), ToFloat(), Normalise(preprocessing.mean, preprocessing.std)))


def train_transform(
    preprocessing: Preprocessing, recipe: Recipe, info: DataInfo, colours: tuple[Tensor, Tensor] | None = None
) -> Step:
    """uint8 (C, H, W) -> float32 (C, *size), with the recipe's random changes; those it does not ask for cost nothing.

    Args:
        preprocessing: as in evaluation
        recipe: says which changes, and how large
        info: says whether a mirrored image keeps its class; if not, `recipe.hflip` is not done
        colours: from `colours_of`, needed where `recipe.lighting` is not 0
    """
    _check(preprocessing)
    steps = _crop(preprocessing, recipe)
    if recipe.hflip and info.mirror:
        steps.append(Mirror(recipe.hflip))
    steps.append(ToFloat())
    if recipe.rotate or recipe.translate or recipe.zoom or recipe.shear:
        steps.append(Affine(preprocessing.size, recipe.rotate, recipe.translate, recipe.zoom, recipe.shear))
    if recipe.lighting:
        if colours is None:
            raise ValueError(f"the recipe has lighting={recipe.lighting}; give colours=colours_of(data.train)")
        steps.append(Lighting(recipe.lighting, *colours))
    steps.append(Normalise(preprocessing.mean, preprocessing.std))
    if recipe.reprob:
        from torchvision.transforms import v2  # here and below, because torchvision takes 5 seconds to load

        steps.append(v2.RandomErasing(recipe.reprob))
    return Chain(tuple(steps))


def mixer(recipe: Recipe, num_classes: int) -> Mixer | None:
    """The recipe's mixing of the images of a batch, one of mixup and CutMix at a time; None where it has none.

    Draws from torch's global generator: seed it per step where a run must be repeatable.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    from torchvision.transforms import v2

    mixers: list[Mixer] = []
    if recipe.mixup:
        mixers.append(v2.MixUp(alpha=recipe.mixup, num_classes=num_classes))
    if recipe.cutmix:
        mixers.append(v2.CutMix(alpha=recipe.cutmix, num_classes=num_classes))
    return mixers[0] if len(mixers) == 1 else v2.RandomChoice(mixers)


def _fit(preprocessing: Preprocessing) -> Step:
    """uint8 (C, H, W) -> (C, *size) without chance."""
    if preprocessing.crop == 1.0:
        return Resize(preprocessing.size, preprocessing.interpolation)
    return Cover(preprocessing.size, preprocessing.crop, preprocessing.interpolation)


def _crop(preprocessing: Preprocessing, recipe: Recipe) -> list[Step]:
    """uint8 (C, H, W) -> (C, *size) as `recipe.crop` has it."""
    size, interpolation = preprocessing.size, preprocessing.interpolation
    if recipe.crop == "side":
        if recipe.scale[0] < 1:
            raise ValueError(
                f"crop='side' has scale={recipe.scale}: the image would be smaller than the crop; begin at 1 or more"
            )
        return [ScaleThenCrop(size, recipe.scale, interpolation)]
    if recipe.crop == "area":
        from torchvision.transforms import v2

        mode = v2.InterpolationMode("nearest-exact" if interpolation == "nearest" else interpolation)
        return [v2.RandomResizedCrop(size, recipe.scale, recipe.ratio, interpolation=mode, antialias=True)]
    if recipe.crop == "pad":
        return [Resize(size, interpolation), PadThenCrop(recipe.crop_pad)]
    return [_fit(preprocessing)]


def _check(preprocessing: Preprocessing) -> None:
    if not len(preprocessing.mean) == len(preprocessing.std) == preprocessing.channels:
        raise ValueError(
            f"preprocessing for {preprocessing.channels} channels has {len(preprocessing.mean)} means and "
            f"{len(preprocessing.std)} deviations; give one of each per channel"
        )
    if not 0 < preprocessing.crop <= 1:
        raise ValueError(f"crop is a share above 0 up to 1, such as 0.875; it was {preprocessing.crop}")
