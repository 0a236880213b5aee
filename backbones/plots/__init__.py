"""Pictures, each also as data. They take plain numbers and return altair charts; `save` writes SVG, PNG and CSV."""

from backbones.plots.history import curves
from backbones.plots.matrix import confusion, confusion_rows
from backbones.plots.mosaic import filter_rows, filters, mistake_rows, mistakes
from backbones.plots.style import save

__all__ = ["confusion", "confusion_rows", "curves", "filter_rows", "filters", "mistake_rows", "mistakes", "save"]
