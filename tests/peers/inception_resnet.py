"""timm's Inception-ResNet-v2: the function of the authors' release."""

from functools import partial

from timm import create_model

PEERS = {"inception_resnet_v2.slim": partial(create_model, "inception_resnet_v2", pretrained=False)}
