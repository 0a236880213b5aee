"""From a recipe to an optimiser and to the course of its learning rate."""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

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


def make_optimiser(model: nn.Module, recipe: Recipe) -> Optimizer:
    """Over all trainable parameters; without `decay_norm`, biases and norms (one dimension) are not decayed."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if recipe.decay_norm or p.ndim > 1]
    kept = {id(p) for p in decayed}
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if id(p) not in kept], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if recipe.opt == "adamw":
        return AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    if recipe.opt == "rmsprop":
        return RMSprop(groups, recipe.lr, recipe.alpha, recipe.eps, recipe.momentum)
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate over its peak after `epoch` epochs, also within one. Plateaus are not known ahead."""
    if epoch < recipe.warmup_epochs:
        return 0.01 + 0.99 * epoch / recipe.warmup_epochs
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
