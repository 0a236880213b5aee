"""The run that follows a recipe."""

from backbones.train.folder import BEST, LAST, SETTINGS_FILE
from backbones.train.loaders import answers, input_of
from backbones.train.report import Result
from backbones.train.run import fit

__all__ = ["BEST", "LAST", "SETTINGS_FILE", "Result", "answers", "fit", "input_of"]
