"""Finer maps from the same weights: strides become dilations, in any network."""

import torch.nn.functional as F
from torch import Tensor, nn

from backbones.backbone import Backbone
from backbones.geometry import watch
from backbones.layers import Window

OUTPUT_STRIDES = (8, 16, 32)


def set_output_stride(backbone: Backbone, output_stride: int) -> None:
    """Let no map be coarser than `output_stride`: later strides become 1 and the windows behind them spread.

    Every output_stride-th value of the new last map is a value of the old one ("a trous"), but for gates over the
    whole map, which now see more values. Weights do not change.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride={output_stride!r}; give one of {OUTPUT_STRIDES}")
    side = 16 * backbone.min_size  # large enough that no map shrinks to a point
    windows = [
        (s.name, s.module, s.before.stride[0])
        for s in watch(backbone, (backbone.in_channels, side, side))
        if s.before and isinstance(s.module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | Window)
    ]
    for name, window, before in windows:
        stride = _side(window.stride)
        after = min(before * stride, output_stride) // min(before, output_stride)
        spread = before // min(before, output_stride)
        if after == stride and spread == 1:
            continue
        if isinstance(window, Window):
            window.set_window(after, spread)
        elif isinstance(window, nn.MaxPool2d):
            _replace(backbone, name, Trimmed(_spread_pool(window, after, spread), window, after, spread))
        elif isinstance(window, nn.AvgPool2d) and _side(window.kernel_size) > 1:
            _replace(backbone, name, Trimmed(SpreadAvgPool(window, after, spread), window, after, spread))
        else:
            window.stride = (after, after)
            if isinstance(window, nn.Conv2d):
                window.dilation = tuple(d * spread for d in window.dilation)
                window.padding = tuple(int(p) * spread for p in window.padding)
    backbone.output_stride = output_stride
    backbone._now(output_stride=output_stride)
    vars(backbone).pop("feature_info", None)


def _spread_pool(pool: nn.MaxPool2d, stride: int, spread: int) -> nn.Module:
    """The pooling with its values `spread` apart, padded at the far edges where its windows used to overhang them."""
    kernel, padding, overhang = _side(pool.kernel_size), _side(pool.padding) * spread, _overhang(pool, spread)
    if not overhang and padding <= kernel // 2:  # torch's own padding goes no further
        return nn.MaxPool2d(kernel, stride, padding, dilation=spread)
    edges = (padding, padding + overhang) * 2
    return nn.Sequential(nn.ConstantPad2d(edges, float("-inf")), nn.MaxPool2d(kernel, stride, dilation=spread))


def _overhang(pool: nn.MaxPool2d | nn.AvgPool2d, spread: int) -> int:
    """Values by which the last spread windows overhang the far edges, where those of the pooling were allowed to.

    With `ceil_mode` as far as a window of the pooling can, so that no window is added to its last one.
    """
    if pool.ceil_mode:
        return spread * (_side(pool.stride) - 1)
    kernel = _side(pool.kernel_size)
    return max(spread * (kernel - 1) - 2 * _side(pool.padding) * spread, 0) if kernel % 2 == 0 else 0


class Trimmed(nn.Module):
    """window(x) up to where the last window of the coarse pooling ends: what lies beyond it, that pooling drops."""

    def __init__(self, window: nn.Module, pool: nn.MaxPool2d | nn.AvgPool2d, stride: int, spread: int) -> None:
        super().__init__()
        self.window, self.spread, self.ceil_mode = window, spread, pool.ceil_mode
        self.reach, self.coarse_stride = _side(pool.kernel_size) - 2 * _side(pool.padding), _side(pool.stride)
        self.times = self.coarse_stride * spread // stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (self._limit(side) for side in x.shape[-2:])
        return self.window(x)[..., :height, :width]

    def _limit(self, side: int) -> int:
        coarse = -(-side // self.spread) - self.reach
        return self.times * ((-(-coarse // self.coarse_stride) if self.ceil_mode else coarse // self.coarse_stride) + 1)


class SpreadAvgPool(nn.Module):
    """The mean pooling with its values `spread` apart, which torch's own cannot do; overhangs do not count."""

    def __init__(self, pool: nn.AvgPool2d, stride: int, spread: int) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.spread = _side(pool.kernel_size), stride, spread
        self.padding, self.count_include_pad = _side(pool.padding) * spread, pool.count_include_pad
        self.overhang = _overhang(pool, spread)

    def forward(self, x: Tensor) -> Tensor:
        return self._sum(x, 0.0) / self._sum(x.new_ones(1, 1, *x.shape[-2:]), float(self.count_include_pad))

    def _sum(self, x: Tensor, padding_value: float) -> Tensor:
        x = F.pad(F.pad(x, (self.padding,) * 4, value=padding_value), (0, self.overhang) * 2)
        height, width = (side - self.spread * (self.kernel_size - 1) for side in x.shape[-2:])
        offsets = [self.spread * i for i in range(self.kernel_size)]
        windows = [x[..., i : i + height : self.stride, j : j + width : self.stride] for i in offsets for j in offsets]
        total = windows[0]
        for window in windows[1:]:
            total = total + window
        return total


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, part)
