"""torchvision's VGG, whose layers stand in the same order."""

from functools import partial

from torchvision.models import get_model

PEERS = {
    f"vgg{depth}{norm}": partial(get_model, f"vgg{depth}{norm}", weights=None, init_weights=False)
    for depth in (11, 13, 16, 19)
    for norm in ("", "_bn")
}
