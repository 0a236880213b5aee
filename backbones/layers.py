"""What several families share and is nobody's own: initialisations, padding, random paths, recomputation, the heads."""

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Init = Callable[[nn.Module], None]
DropPathMode = Literal["batch", "row"]
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


class Window(nn.Module):
    """Base of what pads or shifts for a window: `dilation` tells it how far apart the values now lie."""

    stride = 1
    spread = 1

    def set_window(self, stride: int, spread: int) -> None:
        """The window that follows now has this stride, and its values lie `spread` apart."""
        self.stride, self.spread = stride, spread


class SamePad(Window):
    """TensorFlow's SAME padding for the window that follows: ceil(side / stride) values come out, the odd pixel of
    padding lies at the far edge. (N, C, H, W) -> (N, C, H + few, W + few).

    Once spread, the old positions of the window keep their padding.
    """

    def __init__(self, kernel_size: int, stride: int, value: float = 0.0) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.value = kernel_size, stride, value
        self.windows = stride

    def forward(self, x: Tensor) -> Tensor:
        edges: list[int] = []
        for side in (x.shape[-1], x.shape[-2]):
            coarse = -(-side // self.spread)
            total = max((-(-coarse // self.windows) - 1) * self.windows + self.kernel_size - coarse, 0)
            near, reach = total // 2 * self.spread, (self.kernel_size - 1) * self.spread
            far = (-(-side // self.stride) - 1) * self.stride + reach + 1 - side - near
            edges += [near, max(far, 0)]
        return F.pad(x, edges, value=self.value)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}"


class Draws:
    """The coins of one network's random paths: a pure function of (seed, step, place), so that runs resume exactly."""

    seed = 0
    step = 0
    rows = (0, 1)
    """where the first image of this process stands among those of the step, and how far on the next one stands"""
    progress = 1.0
    """share of the full drop rates that holds now, for schedules that raise them in the course of a run"""

    def coin(self, place: object) -> float:
        """Uniform in [0, 1). Places that give the same `place` share the coin."""
        return random.Random(f"{self.seed}/{self.step}/{place}").random()


class RandomPath(nn.Module):
    """Base of whatever draws in training. `Backbone` gives every instance its place and the network's draws."""

    place: int
    draws: Draws
    rate: float


class DropPath(RandomPath):
    """Stochastic depth: skip a whole branch with probability `rate`.

    mode "batch" (Huang et al. 2016, eq. 2 and 5): one coin falls per step and place, and a dropped branch is not
    computed: the result is 0. In evaluation the branch is scaled by its survival probability 1 - rate. mode "row":
    one coin per image, survivors are divided by 1 - rate in training, and evaluation takes the branch as it is.
    """

    def __init__(self, rate: float, mode: DropPathMode = "batch") -> None:
        super().__init__()
        self.rate, self.mode = rate, mode

    def forward(self, branch: nn.Module, x: Tensor) -> Tensor:
        if not self.rate:
            return branch(x)
        rate = self.rate * self.draws.progress
        if not self.training:
            return (1 - rate) * branch(x) if self.mode == "batch" else branch(x)
        if self.mode == "batch":
            return x.new_zeros(()) if self.draws.coin(self.place) < rate else branch(x)
        first, apart = self.draws.rows
        kept = [self.draws.coin((self.place, first + apart * i)) >= rate for i in range(len(x))]
        return branch(x) * (x.new_tensor(kept) / (1 - rate)).view(-1, 1, 1, 1)

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}, mode={self.mode}"


def recomputed(module: nn.Module, *inputs: Any) -> Any:
    """module(*inputs), whose own maps are not kept but computed again in the backward pass: the same gradients."""
    return checkpoint(module, *inputs, use_reentrant=False, context_fn=partial(_recompute_contexts, module))


def _recompute_contexts(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _fixed_statistics(module)


@contextmanager
def _fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms use the batch but do not record it: for a forward pass that runs a second time."""
    before = [(m, m.momentum, m.num_batches_tracked) for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm, _, _ in before:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, batches in before:
            norm.momentum, norm.num_batches_tracked = momentum, batches


class Head(nn.Module):
    """classifier(dropout(neck(pool(x)))). (N, C, H, W) -> (N, num_classes).

    `grid` is the side of the pooled map: 1 for a global mean, 7 for VGG's fully connected layers, which read 7 x 7.
    """

    pools_first = True
    """whether the classifier reads pooled features; SqueezeNet's reads the map"""

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


class AuxHead(nn.Module):
    """An auxiliary classifier of training: head(trunk(pool(x))). (N, C, H, W) -> (N, num_classes).

    `pool` is the paper's mean over 5x5 values, stride 3. A map too small for that, or for the trunk's `least` side,
    is pooled to `least` adaptively, so that small images can be trained on.
    """

    def __init__(self, trunk: nn.Module, head: Head, least: int) -> None:
        super().__init__()
        self.pool: nn.Module = nn.AvgPool2d(5, 3)
        self.trunk, self.head, self.least = trunk, head, least

    def forward(self, x: Tensor) -> Tensor:
        side = min(x.shape[-2:])
        fits = side >= 5 + 3 * (self.least - 1)
        return self.head(self.trunk(self.pool(x) if fits else F.adaptive_avg_pool2d(x, self.least)))
