"""Images with labels: where they come from, how they are read, changed and put into batches."""

from backbones.data.augment import Lighting
from backbones.data.decode import read_image
from backbones.data.loader import EpochSampler, Loaded, make_loader, set_epoch
from backbones.data.parts import Data, Part
from backbones.data.sources import open_data
from backbones.data.survey import check_part, colours_of
from backbones.data.transforms import eval_transform, mixer, preprocessing_for, train_transform

__all__ = [
    "Data",
    "EpochSampler",
    "Lighting",
    "Loaded",
    "Part",
    "check_part",
    "colours_of",
    "eval_transform",
    "make_loader",
    "mixer",
    "open_data",
    "preprocessing_for",
    "read_image",
    "set_epoch",
    "train_transform",
]
