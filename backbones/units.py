"""Amounts as people write them: 5M parameters, 200MB, 20ms."""

import re

CONVENTION = (
    "madds: multiply-adds of convolutions and matrix products (FLOPs are twice that); params: trained values, buffers "
    "apart; activations: values that operators write; all of one image, or of the batch that is given"
)
"""what the counts mean, beside every table of them"""

_FACTORS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_NUMBER = r"\s*((?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*"


def parse(text: str, unit: str = "") -> float:
    """5M is 5e6, 600M, 1.5G; with unit "B": 200MB, 16GiB; with unit "s": 20ms. ValueError says what would do."""
    if unit == "s" and (m := re.fullmatch(rf"{_NUMBER}(ms|us|s)\s*", text)):
        return _positive(text, float(m[1]) * {"s": 1.0, "ms": 1e-3, "us": 1e-6}[m[2]])
    if unit != "s" and (m := re.fullmatch(rf"{_NUMBER}([kKMGT]?i?)\s*{unit}?\s*", text)):
        factor = _FACTORS.get(m[2].replace("K", "k") if m[2] != "Ki" else m[2])
        if factor:
            return _positive(text, float(m[1]) * factor)
    examples = {"": "5M, 600M or 1.5G", "B": "200MB or 16GiB", "s": "20ms or 0.5s"}
    raise ValueError(f"{text!r} is no amount; write it as {examples[unit]}")


def _positive(text: str, value: float) -> float:
    if value <= 0:
        raise ValueError(f"{text!r} is nothing; give more than zero")
    return value


def si(number: float) -> str:
    """Three digits and a letter: 4.09 G."""
    rounded = float(f"{number:.3g}")  # first, for 999.6 M is 1 G
    for unit, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if rounded >= unit:
            return f"{rounded / unit:.3g}{letter}"
    return f"{rounded:.3g}"
