"""pytorchcv's ShuffleNet with the authors' release's conv1, and its concatenations turned round to theirs."""

from functools import partial

from pytorchcv.models.shufflenet import ShuffleNet, ShuffleUnit
from torch import Tensor, nn

from backbones import list_models, model_info
from backbones.models.shufflenet_v1 import STEMS, STEMS_OF_8, TABLE_1


def pooled_first(unit: nn.Module, inputs: tuple[Tensor], out: Tensor) -> Tensor:
    """(branch, pooled input) -> (pooled input, branch)."""
    return out.roll(inputs[0].shape[1], 1)


def peer(groups: int, width: float) -> nn.Module:
    channels = [[int(row.channels[groups] * width)] * (1 + row.repeat) for row in TABLE_1]
    stem = STEMS_OF_8.get(width, STEMS[width]) if groups == 8 else STEMS[width]
    model = ShuffleNet(channels, stem, groups)
    for unit in (m for m in model.modules() if isinstance(m, ShuffleUnit) and m.downsample):
        unit.register_forward_hook(pooled_first)
    return model


IMPOSSIBLE = {(groups, width) for groups in (2, 4) for width in (0.25, 0.5)}  # it does not round to whole groups
PEERS = {
    name: partial(peer, **settings)
    for name in list_models("shufflenet_v1_*")
    if tuple((settings := dict(model_info(name).settings)).values()) not in IMPOSSIBLE
}
FIXED = set(PEERS)
