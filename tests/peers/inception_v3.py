"""torchvision's Inception v3, without its auxiliary classifier."""

from functools import partial

from torchvision.models import inception_v3

PEERS = {
    "inception_v3.tv": partial(
        inception_v3, weights=None, aux_logits=False, transform_input=False, init_weights=False, num_classes=1000
    )
}
