"""torchvision's AlexNet."""

from functools import partial

from torchvision.models import alexnet

PEERS = {"alexnet.tv": partial(alexnet, weights=None)}
