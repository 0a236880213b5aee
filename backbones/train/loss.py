"""What a training step minimises, and what it holds the weights to."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.backbone import WithAux
from backbones.records import Recipe


def training_loss(output: Tensor | WithAux, labels: Tensor, recipe: Recipe) -> Tensor:
    """(N, classes) and (N,) labels or (N, classes) shares -> one number; auxiliary heads add theirs, weighted.

    "map" is LeNet-5's criterion (eq. 9): with penalties y = -logits, the mean of y_label + log(e^-j + sum_i e^-y_i).
    That is the cross entropy with one more class, rubbish, whose penalty is always j.
    "bce" asks of every class by itself whether it is there: the mean over images and classes, as timm takes it.
    """
    if isinstance(output, WithAux):
        auxiliary = sum(training_loss(logits, labels, recipe) for logits in output.aux)
        return training_loss(output.logits, labels, recipe) + recipe.aux_weight * auxiliary
    logits = output
    if recipe.loss == "bce":
        classes = logits.shape[1]
        shares = labels if labels.ndim == 2 else F.one_hot(labels, classes)
        targets = shares.to(logits.dtype) * (1 - recipe.smoothing) + recipe.smoothing / classes
        return F.binary_cross_entropy_with_logits(logits, targets)
    if recipe.loss == "map":
        logits = F.pad(logits, (0, 1), value=-recipe.rubbish)
    return F.cross_entropy(logits, labels, label_smoothing=recipe.smoothing)


@torch.no_grad()
def limit_filters(model: nn.Module, max_rms: float) -> None:
    """Scale every filter of every convolution whose root mean square exceeds `max_rms` back to it (ZFNet, Sec. 3)."""
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        rms = conv.weight.square().mean((1, 2, 3), keepdim=True).sqrt()
        conv.weight.mul_((max_rms / rms).clamp(max=1.0))
