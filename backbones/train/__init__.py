"""The run that follows a recipe."""

from backbones.train.folder import BEST, LAST, SETTINGS_FILE
from backbones.train.report import Result
from backbones.train.run import answers, fit, input_of

__all__ = ["BEST", "LAST", "SETTINGS_FILE", "Result", "answers", "fit", "input_of"]
