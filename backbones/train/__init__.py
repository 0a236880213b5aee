"""The run that follows a recipe."""

from backbones.train.folder import BEST, LAST, SETTINGS_FILE
from backbones.train.grow import Copied, grow_from
from backbones.train.loaders import input_of
from backbones.train.optimise import norm_momentum, plan
from backbones.train.report import Result
from backbones.train.run import fit

__all__ = ["BEST", "LAST", "SETTINGS_FILE", "Copied", "Result", "fit", "grow_from", "input_of", "norm_momentum", "plan"]
