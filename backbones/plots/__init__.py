"""Pictures, each also as data. They take plain numbers and return altair charts; `save` writes SVG, PNG and CSV."""

from backbones.plots.errors import timeline, timeline_rows
from backbones.plots.growth import scaling, scaling_rows
from backbones.plots.history import curves
from backbones.plots.matrix import confusion, confusion_rows
from backbones.plots.mosaic import filter_rows, filters, mistake_rows, mistakes
from backbones.plots.page import Picture, page
from backbones.plots.shares import stage_rows, stages
from backbones.plots.style import DARK, LIGHT, Theme, save, write
from backbones.plots.tradeoff import accuracy, accuracy_rows

__all__ = [
    "DARK",
    "LIGHT",
    "Picture",
    "Theme",
    "accuracy",
    "accuracy_rows",
    "confusion",
    "confusion_rows",
    "curves",
    "filter_rows",
    "filters",
    "mistake_rows",
    "mistakes",
    "page",
    "save",
    "scaling",
    "scaling_rows",
    "stage_rows",
    "stages",
    "timeline",
    "timeline_rows",
    "write",
]
