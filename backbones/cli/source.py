"""What a command is given: a run, a file of ours, or the name of a network with weights."""

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from backbones.records import Preprocessing

if TYPE_CHECKING:
    from backbones.backbone import Backbone

log = logging.getLogger("backbones")


def opened(source: str, weights: str | None, needs: bool) -> "tuple[Backbone, Preprocessing | None, str]":
    """The network, how its images are prepared, and whose its weights are."""
    from backbones import create_model, model_info
    from backbones.evaluate import usual_preprocessing

    if Path(source).exists() or os.sep in source or source.endswith(".safetensors"):
        if weights is not None:
            raise ValueError(f"{source} has weights of its own; leave out --weights {weights}")
        model = network_in(Path(source))
        if needs and model.checkpoint.preprocessing is None:
            raise ValueError(f"{source} does not say its preprocessing; save it with that, or leave the images outside")
        return model, model.checkpoint.preprocessing, source
    name = model_info(source).name
    if weights is None:
        raise ValueError(
            f"{name} has no weights; give --weights, which `backbones weights {name}` lists, or --weights random"
        )
    if weights == "random":
        log.warning("%s: random weights, as before training: its answers mean nothing", source)
        model = create_model(source, seed=0).eval()
        return model, usual_preprocessing(model) if needs else None, "random, seed 0"
    model = create_model(source, weights=weights).eval()
    return model, model.checkpoint.preprocessing or usual_preprocessing(model), weights


def network_in(source: Path) -> "Backbone":
    """The network of a run folder or file."""
    from backbones import load
    from backbones.train import BEST, LAST

    file = source
    if source.is_dir():
        kept = [source / name for name in (BEST, LAST) if (source / name).exists()]
        if not kept:
            raise FileNotFoundError(f"{source} has no {BEST}; give the folder of a run, or a .safetensors file")
        file = kept[0]
        if file.name == LAST:
            print(f"{source} was stopped before it had a best network; this is its last", file=sys.stderr)
    return load(file)
