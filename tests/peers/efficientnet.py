"""timm's port of the authors' EfficientNet, and torchvision's."""

from functools import partial

from timm import create_model
from torchvision.models import get_model

PEERS = {f"efficientnet_b{size}": partial(create_model, f"tf_efficientnet_b{size}") for size in range(8)}
PEERS |= {f"efficientnet_b{size}.tv": partial(get_model, f"efficientnet_b{size}", weights=None) for size in range(8)}
