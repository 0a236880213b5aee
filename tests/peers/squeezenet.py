"""torchvision's SqueezeNets, and pytorchcv's with the simple bypass, whose last pooling reads 13x13 maps only."""

from functools import partial

from pytorchcv.model_provider import get_model
from torchvision import models

PEERS = {
    "squeezenet1_0": partial(models.squeezenet1_0, weights=None),
    "squeezenet1_1": partial(models.squeezenet1_1, weights=None),
    "squeezenet1_0_simple_bypass": partial(get_model, "squeezeresnet_v1_0"),
}
FIXED = ("squeezenet1_0_simple_bypass",)
