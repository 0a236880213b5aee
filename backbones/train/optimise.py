"""From a recipe to an optimiser and to the course of its learning rate."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from backbones.backbone import Backbone
from backbones.records import Recipe


class RMSprop(Optimizer):
    """RMSProp as TensorFlow defines it: eps under the root, mean squares from 1 on, the rate inside the momentum.

    square <- alpha square + (1 - alpha) g^2;  step <- momentum step + lr g / sqrt(square + eps);  w <- w - step.
    """

    def __init__(self, params: Iterable[Any], lr: float, alpha: float, eps: float, momentum: float) -> None:
        super().__init__(params, {"lr": lr, "alpha": alpha, "eps": eps, "momentum": momentum, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in (p for p in group["params"] if p.grad is not None):
                gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
                state = self.state[parameter]
                if not state:
                    state["square"], state["momentum"] = torch.ones_like(parameter), torch.zeros_like(parameter)
                state["square"].lerp_(gradient.square(), 1 - group["alpha"])
                change = gradient / (state["square"] + group["eps"]).sqrt()
                state["momentum"].mul_(group["momentum"]).add_(change, alpha=group["lr"])
                parameter.sub_(state["momentum"])
        return loss


class Row(NamedTuple):
    """What a recipe does with one part of a network."""

    part: str
    parameters: int
    factor: float
    """its rate over that of the head"""
    decayed: int
    """how many of its parameters are decayed"""
    frozen: float
    """it stays fixed for so many epochs"""


def plan(model: Backbone, recipe: Recipe) -> list[Row]:
    """Part by part, in the order of the forward pass, what `make_optimiser` and the freezing of the recipe do."""
    exempt = _exempt(model, recipe)
    rows = []
    for place, (name, part) in enumerate(_parts(model).items()):
        parameters = [p for p in part.parameters() if _learns(p, place, recipe)]
        count = sum(p.numel() for p in part.parameters())
        decayed = sum(p.numel() for p in parameters if recipe.weight_decay and id(p) not in exempt)
        frozen = recipe.freeze_epochs if _thaws(place, recipe) else 0 if parameters or not count else math.inf
        rows.append(Row(name, count, _factor(model, place, recipe), decayed, frozen))
    return rows


def make_optimiser(model: Backbone, recipe: Recipe, fused: bool = False) -> Optimizer:
    """Over all parameters that learn, now or when the recipe thaws them; each group's rate is `factor` times --lr.

    Without `decay_norm`, biases and norms (one dimension) are not decayed; without `decay_depthwise`, depthwise filters
    are not. With `layer_decay` the head's factor is 1 and each stage's is that many times the next one's.
    `fused` updates each weight of adamw in one pass over memory. Not of sgd, which torch then lets stop where some
    weights have no gradient yet, such as those of a dropped branch.
    """
    exempt, groups = _exempt(model, recipe), dict[tuple[float, bool], list[nn.Parameter]]()
    for place, part in enumerate(_parts(model).values()):
        for parameter in (p for p in part.parameters() if _learns(p, place, recipe)):
            key = _factor(model, place, recipe), id(parameter) not in exempt
            groups.setdefault(key, []).append(parameter)
    told = [
        {"params": p, "lr": recipe.lr * factor, "factor": factor, "weight_decay": recipe.weight_decay * decayed}
        for (factor, decayed), p in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]
    if recipe.opt == "adamw":
        return AdamW(told, lr=recipe.lr, betas=(recipe.momentum, 0.999), fused=fused or None)
    if recipe.opt == "rmsprop":
        return RMSprop(told, recipe.lr, recipe.alpha, recipe.eps, recipe.momentum)
    return SGD(told, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def norm_momentum(model: nn.Module) -> float | None:
    """The smallest share of a batch that a batch norm of the network takes in; None where it has none."""
    norms = (m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    return min((momentum for momentum in norms if momentum is not None), default=None)


def set_norm_momentum(model: nn.Module, momentum: float) -> None:
    """Let batch norms take so large a share of each batch into their running statistics."""
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = momentum


def _parts(model: Backbone) -> dict[str, nn.Module]:
    """Stem, stages and heads: places 0, 1 to n, and n + 1 on."""
    stages = {f"stages.{index}": stage for index, stage in enumerate(model.stages)}
    return {"stem": model.stem, **stages, "head": model.head, **({"aux": model.aux} if len(model.aux) else {})}


def _factor(model: Backbone, place: int, recipe: Recipe) -> float:
    below = max(len(model.stages) + 1 - place, 0)
    return 1.0 if recipe.layer_decay is None else recipe.layer_decay**below


def _thaws(place: int, recipe: Recipe) -> bool:
    """Whether this part is fixed at first. `Backbone.freeze(n)` fixes the stem and n stages."""
    return bool(recipe.freeze_epochs and recipe.freeze_stages) and place <= recipe.freeze_stages


def _learns(parameter: nn.Parameter, place: int, recipe: Recipe) -> bool:
    return parameter.requires_grad or _thaws(place, recipe)


def _exempt(model: nn.Module, recipe: Recipe) -> set[int]:
    """The parameters that are not decayed."""
    flat = [] if recipe.decay_norm else [p for p in model.parameters() if p.ndim <= 1]
    convs = [] if recipe.decay_depthwise else [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    depthwise = [m.weight for m in convs if m.groups > 1 and m.groups == m.in_channels]
    return {id(p) for p in (*flat, *depthwise)}


def rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate over its peak after `epoch` epochs, also within one. Plateaus are not known ahead."""
    if epoch < recipe.warmup_epochs:
        risen = epoch / recipe.warmup_epochs if recipe.warmup_ramp else 0.0
        return recipe.warmup_rate + (1 - recipe.warmup_rate) * risen
    if recipe.sched == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    if recipe.sched == "linear":
        return max(0.0, (recipe.epochs - epoch) / max(recipe.epochs - recipe.warmup_epochs, 1e-9))
    if recipe.sched == "exponential":
        return recipe.decay_rate ** math.floor(epoch / recipe.decay_epochs)
    if recipe.sched == "step":
        passed = bisect_right(recipe.milestones, epoch / recipe.epochs)
        if recipe.milestone_rates:
            return (1.0, *recipe.milestone_rates)[passed]
        return recipe.decay_rate**passed
    return 1.0
