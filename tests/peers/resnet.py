"""torchvision's ResNet."""

from functools import partial

from torchvision.models import get_model

PEERS = {f"resnet{depth}.tv": partial(get_model, f"resnet{depth}", weights=None) for depth in (18, 34, 50, 101, 152)}
