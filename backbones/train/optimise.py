"""From a recipe to an optimiser and to the course of its learning rate."""

import math
from bisect import bisect_right

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from backbones.records import Recipe


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
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)


def rate(recipe: Recipe, epoch: float) -> float:
    """The learning rate over its peak after `epoch` epochs, also within one. Plateaus are not known ahead."""
    if epoch < recipe.warmup_epochs:
        return 0.01 + 0.99 * epoch / recipe.warmup_epochs
    if recipe.sched == "cosine":
        done = (epoch - recipe.warmup_epochs) / max(recipe.epochs - recipe.warmup_epochs, 1e-9)
        return (1 + math.cos(math.pi * min(done, 1.0))) / 2
    if recipe.sched == "step":
        passed = bisect_right(recipe.milestones, epoch / recipe.epochs)
        if recipe.milestone_rates:
            return (1.0, *recipe.milestone_rates)[passed]
        return recipe.decay_rate**passed
    return 1.0
