"""What several families share and is nobody's own: initialisations, random paths, the head."""

import random
from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

Init = Callable[[nn.Module], None]
POOLS = ("avg", "max", "avgmax", "")


def gaussian_init(std: float) -> Init:
    """Weights N(0, std^2), biases 0; norms are left at weight 1, bias 0."""

    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    return init


def he_init(module: nn.Module) -> None:
    """Weights N(0, 2 / fan_in), biases 0 (He et al. 2015, eq. 10); norms are left at weight 1, bias 0."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Draws:
    """The coins of one network's random paths: a pure function of (seed, step, place), so that runs resume exactly."""

    seed = 0
    step = 0

    def coin(self, place: int) -> float:
        """Uniform in [0, 1)."""
        return random.Random(f"{self.seed}/{self.step}/{place}").random()


class DropPath(nn.Module):
    """Stochastic depth: skip a whole branch with probability `rate` (Huang et al. 2016, eq. 2 and 5).

    In training one coin falls per step and place, and a dropped branch is not computed: the result is 0. In
    evaluation the branch is scaled by its survival probability 1 - rate.
    """

    place: int
    draws: Draws

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: nn.Module, x: Tensor) -> Tensor:
        if not self.rate:
            return branch(x)
        if not self.training:
            return (1 - self.rate) * branch(x)
        return x.new_zeros(()) if self.draws.coin(self.place) < self.rate else branch(x)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


class Head(nn.Module):
    """classifier(dropout(neck(pool(x)))). (N, C, H, W) -> (N, num_classes).

    `grid` is the side of the pooled map: 1 for a global mean, 7 for VGG's fully connected layers, which read 7 x 7.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        classifier: Callable[[int, int], nn.Module] = nn.Linear,
        neck: nn.Module | None = None,
        grid: int = 1,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features, self.grid, self.pool = num_features, grid, "avg"
        self._new_classifier = classifier
        self.neck = neck or nn.Identity()
        self.dropout = nn.Dropout(drop_rate)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """Put a new classifier in place; 0 classes leave the features as they are."""
        if num_classes < 0:
            raise ValueError(f"num_classes={num_classes}; give a number of classes, or 0 for pooled features")
        self.num_classes = num_classes
        self.classifier = self._new_classifier(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if not self.pool:
            return x
        if x.shape[-2:] != (self.grid, self.grid):
            x = self._pooled(x)
        x = self.dropout(self.neck(x.flatten(1)))
        return x if pre_logits else self.classifier(x)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return F.adaptive_max_pool2d(x, self.grid)
        mean = F.adaptive_avg_pool2d(x, self.grid)
        return mean if self.pool == "avg" else (mean + F.adaptive_max_pool2d(x, self.grid)) / 2
