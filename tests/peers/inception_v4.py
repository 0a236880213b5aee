"""timm's Inception-v4: the function of the authors' release."""

from functools import partial

from timm import create_model

PEERS = {"inception_v4.timm": partial(create_model, "inception_v4", pretrained=False)}
