"""What tests of fast networks share: statistics as if trained, and how far answers are apart."""

import torch
from torch import Tensor, nn


def trained_like(module: nn.Module) -> nn.Module:
    """With statistics and scales that folding must not lose."""
    chance = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=chance)
            part.running_var.uniform_(0.5, 1.5, generator=chance)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=chance)
                nn.init.normal_(part.bias, 0, 0.1, generator=chance)
    return module.eval()


def off(mine: Tensor, theirs: Tensor) -> float:
    """Largest difference over the range of the first."""
    return float((mine - theirs).detach().abs().max() / (mine.max() - mine.min()).detach())
