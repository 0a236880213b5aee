"""timm's ports of the authors' Caffe release, and its own networks of that name."""

from functools import partial

from timm import create_model

NAMES = ("se_resnet50", "se_resnet101", "se_resnet152", "se_resnext50_32x4d", "se_resnext101_32x4d", "senet154")

PEERS = {name: partial(create_model, f"legacy_{name.replace('_', '', 1)}", drop_rate=0.0) for name in NAMES[:-1]}
PEERS |= {f"{name}.timm": partial(create_model, name.replace("_", "", 1)) for name in NAMES[:-1]}
PEERS["senet154.timm"] = partial(create_model, "senet154")
PEERS["senet154"] = partial(create_model, "legacy_senet154", drop_rate=0.0)
