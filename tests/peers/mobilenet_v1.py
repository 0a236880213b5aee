"""timm's MobileNet."""

from functools import partial

from timm import create_model

PEERS = {"mobilenet_v1.timm": partial(create_model, "mobilenetv1_100")}
