"""Which recipe a run follows, and how it is sized to the data."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from backbones.records import DataInfo, Recipe

LEAST_STEPS = 20  # an epoch of fewer steps sees too few different gradients
LEAST_BATCH = 8  # fewer images have no batch statistics to speak of
SETTLED = 20  # time constants of running statistics in a run: after 5, 0.7 % of the first variance, 1, can be too much
PHOTOGRAPH = 64  # pixels: from this size on, the part of an image that one sees may change
TOLD_ONLY = ("source", "deviations", "elsewhere", "own")  # of a recipe: say what it is, and do nothing
PHOTOGRAPHS: dict[str, Any] = {
    "crop": "area",
    "scale": (0.25, 1.0),
    "auto_augment": "trivialaugment",
    **dict.fromkeys(("rotate", "translate", "zoom", "shear"), 0.0),
}

MODERN = Recipe(
    source="this library: short, and strong on small data",
    own=True,
    epochs=80,
    batch_size=64,
    lr=0.005,
    opt="adamw",
    weight_decay=0.05,
    decay_norm=False,
    sched="cosine",
    warmup_epochs=5,
    clip_grad=1.0,
    model_ema=True,
    model_ema_decay=0.99,
    hflip=0.5,
    smoothing=0.1,
    rotate=15.0,
    translate=0.1,
    zoom=0.15,
    shear=15.0,
)
NEEDS: dict[str, tuple[str, ...]] = {  # field -> the field, and its values, without which it does nothing
    **dict.fromkeys(("alpha", "eps"), ("opt", "rmsprop")),
    "nesterov": ("opt", "sgd"),
    **dict.fromkeys(("decay_norm", "decay_depthwise"), ("weight_decay", "")),
    **dict.fromkeys(("milestones", "milestone_rates"), ("sched", "step")),
    "decay_rate": ("sched", "step", "plateau", "exponential"),
    "decay_epochs": ("sched", "exponential"),
    "patience_epochs": ("sched", "plateau"),
    **dict.fromkeys(("warmup_rate", "warmup_ramp"), ("warmup_epochs", "")),
    "rubbish": ("loss", "map"),
    "model_ema_decay": ("model_ema", ""),
    "scale": ("crop", "side", "area"),
    **dict.fromkeys(("ratio", "random_interpolation"), ("crop", "area")),
    **dict.fromkeys(("crop_from", "fixed_crops"), ("crop", "side")),
    **dict.fromkeys(("crop_pad", "pad_mode"), ("crop", "pad")),
    "magnitude": ("auto_augment", "randaugment"),
}
OURS = (
    "patience_epochs",
    "rubbish",
    "warmup_rate",
    "warmup_ramp",
    "aux_weight",
    "model_ema_decay",
    "decay_norm",
)
QUIET = ("decay_depthwise", "pad_mode", "crop_from")  # told where they are not as usual

ZERO_ON = (0.0, math.inf, "0 or more")
ABOVE_0 = (math.ulp(0.0), math.inf, "a number above 0")
BELOW_1 = (0.0, math.nextafter(1, 0), "0 or more, below 1")
UP_TO_1 = (0.0, 1.0, "a number from 0 to 1")
FACTOR = (math.ulp(0.0), 1.0, "a number above 0, up to 1")
ALLOWED: dict[str, tuple[float, float, str]] = {  # field -> least, most, and both in words
    **dict.fromkeys(("epochs", "batch_size"), (1, math.inf, "1 or more")),
    **dict.fromkeys(("lr", "eps", "decay_epochs", "clip_grad", "max_filter_rms"), ABOVE_0),
    **dict.fromkeys(("weight_decay", "freeze_stages", "freeze_epochs", "patience_epochs", "warmup_epochs"), ZERO_ON),
    **dict.fromkeys(("rubbish", "aux_weight", "crop_pad", "lighting", "mixup", "cutmix"), ZERO_ON),
    **dict.fromkeys(("brightness", "contrast", "saturation"), ZERO_ON),
    **dict.fromkeys(("momentum", "alpha", "smoothing", "model_ema_decay", "drop_rate", "drop_path_rate"), BELOW_1),
    **dict.fromkeys(("warmup_rate", "hflip", "translate", "reprob", "cutout"), UP_TO_1),
    **dict.fromkeys(("layer_decay", "bn_momentum", "decay_rate"), FACTOR),
    "zoom": BELOW_1,
    "rotate": (0.0, 180.0, "0 to 180 degrees"),
    "shear": (0.0, 89.0, "0 to 89 degrees"),
    "hue": (0.0, 0.5, "0 to 0.5"),
    "magnitude": (0, 30, "0 to 30"),
}


def choose(name: str, entry: Mapping[str, Any]) -> Recipe:
    """The recipe of that name for a network of the catalog: `modern`, or `paper`, the network's own.

    LookupError where the paper does not have the network. The loss is part of the network in both: LeNet-5 puts out
    distances, which the cross entropy of a linear layer does not suit.
    """
    own = from_json(entry["recipe"]) if entry["recipe"] else None
    if name == "modern":
        return replace(MODERN, loss="map", smoothing=0.0) if own and own.loss == "map" else MODERN
    if name != "paper":
        raise ValueError(f"recipe {name!r}; give modern or paper")
    if own is None:
        raise LookupError(f"{entry['name']} is not in its paper, which has no recipe for it; use --recipe modern")
    return own


def from_json(values: Mapping[str, Any]) -> Recipe:
    """The recipe of a JSON object, whose lists were tuples."""
    return Recipe(**tuples(values))


def tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a JSON object, with tuples for its lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def finetuning(entry: Mapping[str, Any]) -> Recipe:
    """How trained weights of a network of the catalog are fitted to new images: the head first, then all, gently below.

    Every stage is fixed for three epochs, in which the new head learns; then each learns at 0.75 of the rate of the
    next. A fifth of the epochs and of the rate of `modern`.
    """
    modern = choose("modern", entry)
    return replace(
        modern,
        source="this library: modern, for weights that are trained already",
        epochs=20,
        lr=modern.lr / 5,
        warmup_epochs=1.0,
        layer_decay=0.75,
        freeze_stages=sum(feature["name"].startswith("stages") for feature in entry["measured"]["features"]),
        freeze_epochs=3,
    )


def size_to(
    recipe: Recipe,
    info: DataInfo,
    chosen: Mapping[str, Any] | None = None,
    *,
    side: int | None = None,
    stages: int | None = None,
    bn_momentum: float | None = None,
) -> tuple[Recipe, list[str]]:
    """The recipe with the `chosen` values as it fits this data, and a sentence for all that differs from its source.

    The rules: epochs stay epochs. A chosen batch is kept. Else, where an epoch has fewer than 20 steps, the batch is
    halved until it has, down to 8 images. A chosen rate is kept. Else that of sgd and rmsprop follows the batch in
    proportion (Goyal et al. 2017), that of adamw by the square root. A warm-up takes at most a tenth of the run, and a
    start with fixed stages a fifth. Statistics of batch norm forget fast enough for the run. Mirroring is left out
    where it changes the class. `modern` crops and distorts photographs as one does, and shifts and turns small images.
    Crops and milestones are fractions already and need no sizing.

    Args:
        recipe: as its source has it
        info: of the data
        chosen: field -> value, in place of the recipe's
        side: of the network's input; without it, images of unknown size count as small
        stages: of the network; more cannot be fixed
        bn_momentum: of the network's own batch norms, which holds where the recipe gives none
    """
    source, chosen = recipe, chosen or {}
    recipe, notes = _modern_for(recipe, info, chosen, side)
    recipe = check(replace(recipe, **chosen))
    if stages is not None and recipe.freeze_stages > stages:
        raise ValueError(f"freeze_stages={recipe.freeze_stages}: the network has {stages}; give 0 to {stages}")
    notes = [*recipe.deviations, *notes]
    images, batch_size = info.images["train"], recipe.batch_size
    while "batch_size" not in chosen and batch_size >= 2 * LEAST_BATCH and images / batch_size < LEAST_STEPS:
        batch_size //= 2
    if batch_size != source.batch_size:
        share = batch_size / source.batch_size
        lr = recipe.lr if "lr" in chosen else source.lr * (share**0.5 if recipe.opt == "adamw" else share)
        rate = (
            f"the rate stays {lr:.4g}, as given"
            if "lr" in chosen
            else f"a rate of {lr:.4g} in place of {source.lr:.4g}"
        )
        law = "" if "lr" in chosen else f", {'by the square root' if recipe.opt == 'adamw' else 'in proportion'}"
        why = "as given" if "batch_size" in chosen else f"{images} images make too few steps"
        notes.append(f"batches of {batch_size} images in place of {source.batch_size}: {why}; {rate}{law}")
        recipe = replace(recipe, batch_size=batch_size, lr=lr)
    most = recipe.epochs / 10
    if recipe.warmup_epochs > most and "warmup_epochs" not in chosen:
        notes.append(f"a warm-up of {most:g} epochs, in place of {recipe.warmup_epochs:g}: the run is short")
        recipe = replace(recipe, warmup_epochs=most)
    whole = max(1, recipe.epochs // 5)
    if recipe.freeze_epochs > whole and "freeze_epochs" not in chosen:
        notes.append(f"stages are fixed for {whole} epochs, in place of {recipe.freeze_epochs}: the run is short")
        recipe = replace(recipe, freeze_epochs=whole)
    if recipe.freeze_stages and recipe.freeze_epochs >= recipe.epochs:
        notes.append(f"stages stay fixed for the whole run: {recipe.freeze_epochs} of {recipe.epochs} epochs")
    least = min(0.1, SETTLED * recipe.batch_size / (images * recipe.epochs))
    own = bn_momentum if recipe.bn_momentum is None else recipe.bn_momentum
    if own is not None and own < least and "bn_momentum" not in chosen:
        notes.append(f"batch norm takes in {least:.2g} of each batch, in place of {own:g}: few steps")
        recipe = replace(recipe, bn_momentum=least)
    if recipe.sched == "exponential" and recipe.decay_epochs >= recipe.epochs:
        notes.append(f"the rate does not fall: it would after {recipe.decay_epochs:g} epochs (--decay-epochs)")
    if recipe.hflip and not info.mirror:
        notes.append(f"no mirroring: it would change the class of {info.name}")
        recipe = replace(recipe, hflip=0.0)
    return recipe, notes


def _modern_for(
    recipe: Recipe, info: DataInfo, chosen: Mapping[str, Any], side: int | None
) -> tuple[Recipe, list[str]]:
    """`modern` as it is for images of this size: their own, or that of the network's input where it is smaller."""
    seen = min([*(info.size or ()), *([side] if side else ())], default=0)
    if seen < PHOTOGRAPH or not recipe.own or "crop" in chosen or "auto_augment" in chosen:
        return recipe, []
    told = f"the network sees {seen} pixels a side: crops of random area and TrivialAugment, in place of small shifts"
    return replace(recipe, **PHOTOGRAPHS), [told]


def in_force(values: Mapping[str, Any]) -> list[str]:
    """The fields of a recipe that do something in it."""
    told = {field.name: field.default for field in fields(Recipe) if field.name not in TOLD_ONLY}
    acts = {field: any(values[on] == v if v else values[on] for v in which) for field, (on, *which) in NEEDS.items()}
    acts["decay_rate"] &= not values["milestone_rates"]
    meant = ("momentum", "decay_norm", "decay_depthwise", "warmup_ramp")  # no, and 0, say something here
    usual = [field for field in QUIET if values[field] == told[field]]
    return [f for f in told if acts.get(f, True) and f not in usual and (values[f] or f in meant)]


def origin(field: str, values: Mapping[str, Any]) -> str:
    """Where the value of a recipe's field is printed; that of a crop's aspect, where that of its size is."""
    if field == "ratio" and field not in values["elsewhere"]:
        return origin("scale", values)
    value = tuple(v) if isinstance(v := values[field], list) else v
    ours = field in OURS and value == Recipe.__dataclass_fields__[field].default
    source = values["source"].partition(":")[0]
    return values["elsewhere"].get(field, "not printed; this library" if ours and not values["own"] else source)


def check(recipe: Recipe) -> Recipe:
    """The recipe itself; ValueError for values that cannot be followed."""
    for field, (least, most, words) in ALLOWED.items():
        value = getattr(recipe, field)
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            raise ValueError(f"{field}={value}; give {words}")
    if not all(0 < m < 1 for m in recipe.milestones) or list(recipe.milestones) != sorted(set(recipe.milestones)):
        raise ValueError(f"milestones={recipe.milestones}; give fractions of the run, between 0 and 1, in order")
    if not all(math.isfinite(r) and r > 0 for r in recipe.milestone_rates):
        raise ValueError(f"milestone_rates={recipe.milestone_rates}; give factors of --lr above 0")
    if recipe.milestone_rates and len(recipe.milestone_rates) != len(recipe.milestones):
        raise ValueError(f"{len(recipe.milestone_rates)} milestone rates for {len(recipe.milestones)} milestones")
    (low, high), (flat, tall) = recipe.scale, recipe.ratio
    ends = {"area": (0.0, 1.0), "side": (1.0, math.inf)}.get(recipe.crop, (0.0, math.inf))
    if not (ends[0] <= low <= high <= ends[1] and low > 0 and math.isfinite(high)):
        end = f"up to {ends[1]:g}" if recipe.crop == "area" else "of 1 or more" if recipe.crop == "side" else ""
        raise ValueError(f"scale={recipe.scale}; give two numbers above 0 {end}".rstrip() + ", the smaller one first")
    if not 0 < flat <= tall < math.inf:
        raise ValueError(f"ratio={recipe.ratio}; give two numbers above 0, the smaller one first, such as 0.75 1.33")
    if recipe.freeze_epochs and not recipe.freeze_stages:
        raise ValueError("--freeze-epochs needs --freeze-stages: how many stages, from the first on, stay fixed")
    if recipe.sched == "step" and not recipe.milestones:
        raise ValueError("--sched step needs --milestones, such as 0.5 0.75: fractions of the run")
    if recipe.sched == "plateau" and recipe.warmup_epochs:
        raise ValueError("a warm-up before --sched plateau is not defined; use step, cosine or constant")
    if recipe.loss == "map" and (recipe.mixup or recipe.cutmix or recipe.smoothing):
        raise ValueError("--loss map takes plain labels: set --mixup, --cutmix and --smoothing to 0")
    return recipe
