"""Finer maps from the same weights: strides become dilations, in any network."""

from torch import nn

from backbones.backbone import Backbone
from backbones.geometry import watch

OUTPUT_STRIDES = (8, 16, 32)


def set_output_stride(backbone: Backbone, output_stride: int) -> None:
    """Let no map be coarser than `output_stride`: later strides become 1 and the windows behind them spread.

    Every output_stride-th value of the new last map is a value of the old one ("a trous"). Weights do not change.
    """
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f"output_stride={output_stride}; give one of {OUTPUT_STRIDES}")
    side = 16 * backbone.min_size  # large enough that no map shrinks to a point
    windows = [
        (s.name, s.module, s.before.stride[0])
        for s in watch(backbone, (backbone.in_channels, side, side))
        if s.before and isinstance(s.module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d)
    ]
    for name, window, before in windows:
        stride = _side(window.stride)
        after = min(before * stride, output_stride) // min(before, output_stride)
        spread = before // min(before, output_stride)
        if after == stride and spread == 1:
            continue
        if isinstance(window, nn.MaxPool2d):
            _replace(backbone, name, _spread_pool(window, after, spread))
            continue
        window.stride = (after, after)
        if isinstance(window, nn.Conv2d):
            window.dilation = tuple(d * spread for d in window.dilation)
            window.padding = tuple(int(p) * spread for p in window.padding)
        elif _side(window.kernel_size) > 1:
            raise NotImplementedError(f"{name}: an average over {window.kernel_size} values cannot be spread")
    backbone.output_stride = output_stride
    vars(backbone).pop("feature_info", None)


def _spread_pool(pool: nn.MaxPool2d, stride: int, spread: int) -> nn.Module:
    """The pooling with its values `spread` apart, padded at the far edges where its windows used to overhang them."""
    kernel, padding = _side(pool.kernel_size), _side(pool.padding) * spread
    reach = spread * (kernel - 1)
    spread_pool = nn.MaxPool2d(kernel, stride, padding, dilation=spread)
    overhang = reach - 2 * padding
    if overhang <= 0 or not (pool.ceil_mode or kernel % 2 == 0):
        return spread_pool
    return nn.Sequential(nn.ConstantPad2d((0, overhang, 0, overhang), float("-inf")), spread_pool)


def _side(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[0]


def _replace(module: nn.Module, name: str, part: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, part)
