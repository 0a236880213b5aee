"""timm's Xception."""

from functools import partial

from timm import create_model

PEERS = {"xception.timm": partial(create_model, "legacy_xception")}
