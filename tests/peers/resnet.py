"""torchvision's ResNet, which strides in the 3x3; pytorchcv's, which strides in the first 1x1 as the paper does."""

from functools import partial

from pytorchcv.model_provider import get_model as pytorchcv
from torchvision.models import get_model

PEERS = {f"resnet{depth}.tv": partial(get_model, f"resnet{depth}", weights=None) for depth in (18, 34, 50, 101, 152)}
PEERS |= {f"resnet{depth}": partial(pytorchcv, f"resnet{depth}") for depth in (50, 101, 152)}
FIXED = ("resnet50", "resnet101", "resnet152")
