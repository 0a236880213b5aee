"""pytorchcv's BN-Inception, without the biases that its batch norms take away again."""

from pytorchcv.model_provider import get_model
from torch import nn


def without_biases() -> nn.Module:
    model = get_model("bninception")
    for conv in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        conv.bias = None
    return model


PEERS = {"inception_v2.caffe": without_biases}
FIXED = ("inception_v2.caffe",)
