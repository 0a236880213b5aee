"""Which networks the tests run over."""

from backbones import list_models, model_info
from backbones.catalog import load

NAMES = list_models()
DEEP = {"resnet1202_cifar"}
"""thousands of layers: by default only its counts are tested; its blocks are those of shallower names"""


def smallest_of_each_kind() -> list[str]:
    """Of the networks that differ in depth and width only, the smallest; what holds for it holds for the kind."""
    kinds: dict[object, str] = {}
    for name in sorted(NAMES, key=lambda n: load()[n]["measured"]["params"]):
        variant = model_info(name)
        kind = {k: v for k, v in variant.settings.items() if k not in ("depth", "column", "wide")}
        kinds.setdefault((variant.build, str(sorted(kind.items()))), name)
    return list(kinds.values())


KINDS = smallest_of_each_kind()
