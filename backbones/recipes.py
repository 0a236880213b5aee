"""Which recipe a run follows, and how it is sized to the data."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backbones.records import DataInfo, Recipe

LEAST_STEPS = 20  # an epoch of fewer steps sees too few different gradients
SHARES = ("momentum", "smoothing", "hflip", "translate", "zoom", "reprob", "model_ema_decay", "alpha")  # from 0 to 1
LEAST_BATCH = 8  # fewer images have no batch statistics to speak of

MODERN = Recipe(
    source="this library: short, and strong on small data",
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


def size_to(recipe: Recipe, info: DataInfo, chosen: frozenset[str] = frozenset()) -> tuple[Recipe, list[str]]:
    """The recipe as it fits this data, and a sentence for everything that differs from its source.

    The rule: epochs stay epochs. Where an epoch has fewer than 20 steps the batch is halved until it has, down to 8
    images, unless batch or rate was `chosen`; the rate of sgd and rmsprop falls in proportion (Goyal et al. 2017), that
    of adamw by the square root. A warm-up takes at most a tenth of the run. Mirroring is left out where it changes the
    class. Crops and milestones are fractions already and need no sizing.
    """
    notes = list(check(recipe).deviations)
    images, batch_size = info.images["train"], recipe.batch_size
    while batch_size >= 2 * LEAST_BATCH and images / batch_size < LEAST_STEPS and not {"batch_size", "lr"} & chosen:
        batch_size //= 2
    if batch_size != recipe.batch_size:
        share = batch_size / recipe.batch_size
        lr = recipe.lr * (share**0.5 if recipe.opt == "adamw" else share)
        notes.append(
            f"batches of {batch_size} images and a rate of {lr:g}, in place of {recipe.batch_size} and {recipe.lr:g}: "
            f"{images} images make too few steps"
        )
        recipe = replace(recipe, batch_size=batch_size, lr=lr)
    if recipe.warmup_epochs > recipe.epochs / 10 and "warmup_epochs" not in chosen:
        notes.append(
            f"a warm-up of {recipe.epochs / 10:g} epochs, in place of {recipe.warmup_epochs:g}: the run is short"
        )
        recipe = replace(recipe, warmup_epochs=recipe.epochs / 10)
    if recipe.sched == "exponential" and recipe.decay_epochs >= recipe.epochs:
        notes.append(f"the rate does not fall: it would after {recipe.decay_epochs:g} epochs (--decay-epochs)")
    if recipe.hflip and not info.mirror:
        notes.append(f"no mirroring: it would change the class of {info.name}")
        recipe = replace(recipe, hflip=0.0)
    return recipe, notes


def check(recipe: Recipe) -> Recipe:
    """The recipe itself; ValueError for values that cannot be followed."""
    positive = {key: getattr(recipe, key) for key in ("epochs", "batch_size", "lr", "decay_epochs", "eps")}
    if wrong := {key: value for key, value in positive.items() if value <= 0}:
        raise ValueError(f"{wrong}: give values above 0")
    if recipe.aux_weight < 0:
        raise ValueError(f"aux_weight={recipe.aux_weight}; give 0 or more")
    outside = {key: value for key in SHARES if not 0 <= (value := getattr(recipe, key)) <= 1}
    if outside:
        raise ValueError(f"{outside}: give values from 0 to 1")
    if recipe.sched == "step" and not recipe.milestones:
        raise ValueError("--sched step needs --milestones, such as 0.5 0.75: fractions of the run")
    if recipe.sched == "plateau" and recipe.warmup_epochs:
        raise ValueError("a warm-up before --sched plateau is not defined; use step, cosine or constant")
    if any(not 0 < m < 1 for m in recipe.milestones):
        raise ValueError(f"milestones={recipe.milestones}; give fractions of the run, between 0 and 1")
    if recipe.milestone_rates and len(recipe.milestone_rates) != len(recipe.milestones):
        raise ValueError(f"{len(recipe.milestone_rates)} milestone rates for {len(recipe.milestones)} milestones")
    if recipe.loss == "map" and (recipe.mixup or recipe.cutmix or recipe.smoothing):
        raise ValueError("--loss map takes plain labels: set --mixup, --cutmix and --smoothing to 0")
    return recipe
