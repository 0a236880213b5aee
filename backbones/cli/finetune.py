"""backbones finetune: trained weights, new images."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tyro.conf import Positional

from backbones import catalog, recipes
from backbones.cli import train
from backbones.records import Options


@dataclass(frozen=True)
class Finetune:
    """Fit trained weights to new images: first the head alone, then all parts, the lower ones more gently.

    A table says what is fixed, for how long, and at which rate each part learns. `backbones train --resume` continues.
    """

    network: Positional[str]
    """as `backbones list` prints it"""
    weights: str
    """where to start: a file, or tv:..., timm:..., hf:... (`backbones weights`)"""
    data: str
    """digits, shapes:SIDE, folder:PATH, wds:SHARDS, hf:NAME, or tv:NAME@ROOT such as tv:CIFAR10@data"""
    val_split: float = 0.0
    """share of the training images to validate on, where the data has no validation part"""
    download: bool = False
    """let torchvision fetch the data if it is not there"""
    values: Any = None
    options: Options = field(default_factory=Options)

    def run(self) -> None:
        """Carry it out."""
        origin = {key: getattr(self, key) for key in train.ORIGIN}
        recipe = recipes.finetuning(catalog.find(self.network))
        train._start(origin, recipe, self.options, train.chosen(self.values))


def arguments(args: Sequence[str]) -> type[Finetune]:
    """`Finetune` with a flag per field of the recipe."""
    entry = train.named_network(args)
    return train.with_flags(Finetune, recipes.finetuning(entry) if entry else recipes.MODERN)
