"""The run that follows a recipe."""

from backbones.train.report import Result
from backbones.train.run import BEST, LAST, RUN_FILE, answers, fit, input_of

__all__ = ["BEST", "LAST", "RUN_FILE", "Result", "answers", "fit", "input_of"]
