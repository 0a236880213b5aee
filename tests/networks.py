"""Which networks the tests run over."""

from backbones import list_models, model_info
from backbones.catalog import load

NAMES = list_models()
DEEP = {"resnet1202_cifar", "resnet1202_sd_cifar", "preact_resnet1001_cifar", "resnet1001_cifar"}
"""thousands of layers: by default only its counts are tested; its blocks are those of shallower names"""

SAME_KIND = {"column", "wide", "skip_reduction_layer_input", "count_include_pad", "zero_pad"}
"""settings that are words or truths, but make networks too alike, or only huge ones, to be a kind of their own"""


def is_size(value: object) -> bool:
    """Numbers, also in tuples, change a network's size and not its kind; truths and words change the kind."""
    if isinstance(value, tuple):
        return all(map(is_size, value))
    return isinstance(value, int | float) and not isinstance(value, bool)


def smallest_of_each_kind() -> list[str]:
    """Of the networks that differ in numbers only, the smallest; what holds for it holds for the kind.

    Kinds of more than 26 M parameters wait for `make test-all`, but for the smallest of each family.
    """
    kinds: dict[object, str] = {}
    for name in sorted(NAMES, key=lambda n: load()[n]["measured"]["params"]):
        variant = model_info(name)
        kind = {k: v for k, v in variant.settings.items() if k not in SAME_KIND and not is_size(v)}
        kinds.setdefault((variant.build, str(sorted(kind.items()))), name)
    families = {load()[name]["family"]: name for name in reversed(kinds.values())}
    return [n for n in kinds.values() if load()[n]["measured"]["params"] < 26e6 or n in families.values()]


KINDS = smallest_of_each_kind()
SMALLEST = {load()[name]["family"]: name for name in reversed(KINDS)}.values()
"""The smallest network of each family."""
