"""stem -> stages -> head: the forward pass that every network shares, and what it tells and lets change."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple, Self, get_args

import torch
from torch import Tensor, nn

from backbones.drawing import drawn_now
from backbones.geometry import newest, watch
from backbones.layers import POOLS, AuxHead, Draws, DropPath, DropPathMode, Head, Init, RandomPath, recomputed
from backbones.records import Checkpoint, Variant


class Feature(NamedTuple):
    """One map that `features` returns."""

    name: str
    channels: int
    reduction: int
    """its true stride, in pixels of the image"""
    receptive_field: int
    """side of the square of pixels that one value sees through sliding windows; gates over the whole map apart"""


class FeatureInfo(tuple[Feature, ...]):
    """The maps of `features`, finest first."""

    def channels(self) -> list[int]:
        return [f.channels for f in self]

    def reduction(self) -> list[int]:
        return [f.reduction for f in self]

    def module_name(self) -> list[str]:
        return [f.name for f in self]


class WithAux(NamedTuple):
    """What a network with auxiliary heads returns in training."""

    logits: Tensor
    aux: tuple[Tensor, ...]
    """(N, num_classes) of each auxiliary head, first one first"""


class Backbone(nn.Module):
    """stem -> stages -> head: the forward pass that every family shares.

    `min_size` is the smallest height and width of an image; `init` the paper's initialisation, applied to every layer.
    `aux` are auxiliary heads, each under the (stage, block) whose map it reads: they run in training only. Parts may
    hand on a tuple of maps, the newest last (a cell with two inputs); heads and features read the newest.
    """

    variant: Variant
    """which network this is; `variant`, `settings` and `checkpoint` are set by `create_model` and `load`"""
    settings: Mapping[str, Any]
    """what it was built with"""
    checkpoint: Checkpoint
    """what its file told, if it came from one"""

    output_stride: int | None = None
    """what `set_output_stride` limited the maps to"""

    drop_path_mode: DropPathMode | None = None
    """what `set_drop_path_mode` chose"""

    def __init__(
        self,
        *,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        head: Head,
        in_channels: int,
        min_size: int,
        init: Init,
        aux: Mapping[tuple[int, int], AuxHead] | None = None,
    ) -> None:
        super().__init__()
        self.stem, self.stages, self.head = stem, nn.Sequential(*stages), head
        self.aux = nn.ModuleDict({f"stages_{stage}_{block}": tap for (stage, block), tap in (aux or {}).items()})
        self.in_channels, self.min_size, self.init = in_channels, min_size, init
        self.draws = Draws()
        for place, path in enumerate(m for m in self.modules() if isinstance(m, RandomPath)):
            path.place, path.draws = place, self.draws
        self._checkpointing, self._frozen_parts = False, list[nn.Module]()
        if not any(p.is_meta for p in self.parameters()):  # which have no values to draw
            with drawn_now():
                self.apply(init)

    # -- the forward pass

    def forward(self, images: Tensor) -> Tensor | WithAux:
        """(N, C, H, W) -> (N, num_classes) logits. ValueError for images the network cannot read.

        In training, a network with auxiliary heads returns `WithAux`: its logits and theirs.
        """
        aux: list[Tensor] = []
        logits = self.head(self._last_map(images, aux))
        return WithAux(logits, tuple(aux)) if aux else logits

    def forward_features(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> the last map."""
        return self._last_map(images)

    def _last_map(self, images: Tensor, aux: list[Tensor] | None = None) -> Tensor:
        self._check(images)
        x: Any = images
        for name, part in self._feature_parts().items():
            x = self._run(name, part, x, aux)
        return newest(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map -> (N, num_classes), or (N, num_features) with `pre_logits`."""
        return self.head(x, pre_logits=pre_logits)

    def features(self, images: Tensor) -> list[Tensor]:
        """The map after the stem, where there is one, and after each stage; finest first."""
        self._check(images)
        x, maps = images, []
        for name, part in self._feature_parts().items():
            x = self._run(name, part, x)
            maps.append(newest(x))
        return maps

    def _feature_parts(self) -> dict[str, nn.Module]:
        stem = {} if isinstance(self.stem, nn.Identity) else {"stem": self.stem}
        return {**stem, **{f"stages.{i}": stage for i, stage in enumerate(self.stages)}}

    def _check(self, images: Tensor) -> None:
        if images.ndim != 4:
            raise ValueError(f"images of shape {tuple(images.shape)}; give (N, C, H, W): one image is images[None]")
        _, channels, height, width = images.shape
        if channels != self.in_channels:
            raise ValueError(
                f"images with {channels} channels, the network reads {self.in_channels}; "
                f"convert them, or build the network with in_chans={channels}"
            )
        if min(height, width) < self.min_size:
            raise ValueError(
                f"images of {height}x{width}, the smallest is {self.min_size}x{self.min_size}; resize them"
            )
        dtype = next((p.dtype for p in self.parameters()), images.dtype)
        if not images.is_floating_point():
            raise ValueError(f"images of {images.dtype}, the network reads {dtype}; scale them to [0, 1] and normalise")
        device = images.device.type
        casts = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        if images.dtype != dtype and not casts:
            raise ValueError(f"images of {images.dtype}, the network reads {dtype}; use images.to({dtype})")

    def _run(self, name: str, part: nn.Module, x: Any, aux: list[Tensor] | None = None) -> Any:
        """Whole, or block by block to recompute each and to append the auxiliary heads' logits to `aux`."""
        recompute = self._checkpointing and self.training and torch.is_grad_enabled()
        taps = dict(self.aux.items()) if self.training and aux is not None else {}
        blocks = list(part.children()) if isinstance(part, nn.Sequential) and (recompute or taps) else []
        if not any(any(block.children()) for block in blocks):
            blocks = [part]
        for index, block in enumerate(blocks):
            x = recomputed(block, x) if recompute and any(block.children()) else block(x)
            tap = f"{name.replace('.', '_')}_{index}"
            if aux is not None and tap in taps:
                aux.append(taps[tap](newest(x)))
        return x

    # -- what the network tells of itself

    @property
    def num_features(self) -> int:
        """Length of the vector that the classifier reads."""
        return self.head.num_features

    @property
    def num_classes(self) -> int:
        return self.head.num_classes

    @cached_property
    def feature_info(self) -> FeatureInfo:
        """Name, channels, true stride and receptive field of every map of `features`."""
        side = max(self.variant.input_size[1] if hasattr(self, "variant") else 0, self.min_size)
        seen = {s.name: s for s in watch(self, (self.in_channels, side, side))}
        infos = []
        for name in self._feature_parts():
            geometry = seen[name].after
            if geometry is None:
                raise RuntimeError(f"{name} of {type(self).__name__} has no single stride")
            infos.append(Feature(name, seen[name].map.shape[1], geometry.stride[0], max(geometry.receptive_field)))
        return FeatureInfo(infos)

    # -- what the user may change

    def get_classifier(self) -> nn.Module:
        return self.head.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, initialised classifier for `num_classes`; 0 returns features. Other weights stay."""
        like = next(self.parameters())
        for head in (m for m in self.modules() if isinstance(m, Head)):
            head.reset(num_classes)
            head.classifier.to(like.device, like.dtype).apply(self.init)
        if num_classes and not self.head.pool:
            self.head.pool = "avg"
        if global_pool is not None:
            self.set_global_pool(global_pool)
        self._now(num_classes=num_classes, global_pool=self.head.pool)
        if hasattr(self, "checkpoint"):  # what it told of the old classifier
            self.checkpoint = replace(self.checkpoint, classes=(), metrics={})

    def set_global_pool(self, global_pool: str) -> None:
        """How the last map becomes the head's grid: "avg", "max", their mean "avgmax"; "" returns the map itself."""
        if global_pool not in POOLS:
            raise ValueError(f"global_pool={global_pool!r}; give one of {POOLS}")
        if not global_pool and self.num_classes:
            raise ValueError(f"global_pool='' returns the last map, not {self.num_classes} classes; give num_classes=0")
        self.head.pool = global_pool
        self._now(global_pool=global_pool)

    def _now(self, **settings: Any) -> None:
        """Keep what was changed, so that the network can be built again as it is."""
        if hasattr(self, "settings"):
            self.settings = {**self.settings, **settings}

    def reset_channels(self, in_channels: int) -> None:
        """Read images of `in_channels`: 1 sums the filters that read the image, n repeats and rescales them.

        Where each channel has filters of its own, 1 lets all of them read it, and n repeats them with the weights
        that the next convolution gives to what they find.
        """
        before, side = self.in_channels, self.min_size
        seen = [s for s in watch(self, (before, side, side)) if isinstance(s.module, nn.Conv2d)]
        convs: list[Any] = [s.module for s in seen]
        readers = [
            c for s, c in zip(seen, convs, strict=True) if s.before == seen[0].before and c.in_channels == before
        ]
        if not readers or any(conv.groups not in (1, before) for conv in readers):
            raise NotImplementedError(
                f"{in_channels} channels: {seen[0].name} does not read the image's {before} directly; "
                f"build the network with in_chans={in_channels} and without weights"
            )
        for conv in readers:
            weight, separate = conv.weight.detach(), conv.groups > 1
            if separate and in_channels > 1:
                mix = convs[convs.index(conv) + 1]
                conv.weight = nn.Parameter(_tiled(weight, 0, before, in_channels))
                mix.weight = nn.Parameter(_tiled(mix.weight.detach(), 1, before, in_channels) * before / in_channels)
                conv.out_channels = mix.in_channels = len(conv.weight)
            elif not separate:
                tiled = _tiled(weight, 1, before, in_channels) * before / in_channels
                conv.weight = nn.Parameter(weight.sum(1, keepdim=True) if in_channels == 1 else tiled)
            conv.in_channels, conv.groups = in_channels, in_channels if separate else 1
        self.in_channels = in_channels
        self._now(in_channels=in_channels)
        if hasattr(self, "checkpoint"):
            self.checkpoint = replace(self.checkpoint, preprocessing=None)

    def set_bn_eps(self, eps: float) -> None:
        """What every batch norm adds to the variance: other libraries' weights were trained with another eps."""
        if not (isinstance(eps, int | float) and 0 < eps < 1):
            raise ValueError(f"bn_eps={eps!r}; give a number between 0 and 1, such as 1e-5")
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = eps
        self._now(bn_eps=eps)

    def set_conv_bias(self, conv_bias: bool) -> None:
        """Give every convolution a bias, zero where the paper has none: some libraries keep one before a norm."""
        for conv in (m for m in self.modules() if isinstance(m, nn.Conv2d) and m.bias is None and conv_bias):
            conv.bias = nn.Parameter(conv.weight.new_zeros(conv.out_channels))
        self._now(conv_bias=conv_bias)

    def set_drop_path_mode(self, mode: DropPathMode) -> None:
        """Draw stochastic depth once per "batch", as its paper does, or per "row": each image for itself."""
        if mode not in get_args(DropPathMode):
            raise ValueError(f"drop_path_mode={mode!r}; give one of {', '.join(get_args(DropPathMode))}")
        paths = [m for m in self.modules() if isinstance(m, DropPath)]
        if not paths:
            raise NotImplementedError(
                f"drop_path_mode={mode!r}: {type(self).__name__} has no branches that are dropped one by one; "
                "leave it out"
            )
        for path in paths:
            path.mode = mode
        self.drop_path_mode = mode
        self._now(drop_path_mode=mode)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute maps in the backward pass instead of keeping them: less memory, the same gradients."""
        self._checkpointing = enable

    def freeze(self, stages: int) -> None:
        """Fix the parameters and batch statistics of the stem and the first `stages` stages; -1 frees all of them."""
        if not -1 <= stages <= len(self.stages):
            raise ValueError(f"freeze(stages={stages}): the network has {len(self.stages)} stages; give -1 to that")
        self._frozen_parts = [] if stages < 0 else [self.stem, *self.stages[:stages]]
        frozen = {p for part in self._frozen_parts for p in part.parameters()}
        for parameter in [*self.stem.parameters(), *self.stages.parameters()]:
            parameter.requires_grad_(parameter not in frozen)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen_parts:
            part.eval()
        return self


class FeatureBackbone(nn.Module):
    """A backbone without its head. (N, C, H, W) -> list of maps, finest first; stages past the last are dropped."""

    def __init__(self, backbone: Backbone, out_indices: Sequence[int] | None = None) -> None:
        super().__init__()
        if isinstance(out_indices, int):
            raise TypeError(f"out_indices={out_indices}; give several, such as ({out_indices},)")
        names = list(backbone._feature_parts())
        wanted = range(len(names)) if out_indices is None else out_indices
        if not wanted or any(not -len(names) <= i < len(names) for i in wanted):
            raise ValueError(
                f"out_indices={tuple(wanted)}; the network has {len(names)} maps: give 0 to {len(names) - 1}"
            )
        self.out_indices = sorted({i % len(names) for i in wanted})
        self.feature_info = FeatureInfo(backbone.feature_info[i] for i in self.out_indices)
        dropped = len(names) - 1 - self.out_indices[-1]
        backbone.stages = backbone.stages[: len(backbone.stages) - dropped]
        backbone.head, backbone.aux = Head(0, 0), nn.ModuleDict()
        self.backbone = backbone

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.backbone.features(images)
        return [maps[i] for i in self.out_indices]


def _tiled(weight: Tensor, dim: int, channels: int, wanted: int) -> Tensor:
    """What belongs to `channels` along one dimension, repeated and cut for `wanted` of them."""
    repeats = [weight] * -(-wanted // channels)
    return torch.cat(repeats, dim).narrow(dim, 0, weight.shape[dim] // channels * wanted)
