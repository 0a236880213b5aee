"""Images with labels: where they come from, how they are read, changed and put into batches."""

from backbones.data.augment import Lighting
from backbones.data.decode import read_image
from backbones.data.loader import EpochSampler, Loaded, end_workers, make_loader, seed_of, set_epoch, workers_by_default
from backbones.data.pack import pack
from backbones.data.parts import Data, Part
from backbones.data.sources import open_data
from backbones.data.survey import Bad, check_all, check_data, check_part, colours_of, leave_out, told
from backbones.data.transforms import eval_transform, mixer, preprocessing_for, split, train_transform

__all__ = [
    "Bad",
    "Data",
    "EpochSampler",
    "Lighting",
    "Loaded",
    "Part",
    "check_all",
    "check_data",
    "check_part",
    "colours_of",
    "end_workers",
    "eval_transform",
    "leave_out",
    "make_loader",
    "mixer",
    "open_data",
    "pack",
    "preprocessing_for",
    "read_image",
    "seed_of",
    "set_epoch",
    "split",
    "told",
    "train_transform",
    "workers_by_default",
]
