"""How good a network is: what it answers on a set of images, and the figures that follow from the answers."""

from backbones.evaluate.answers import Member, answers
from backbones.evaluate.classes import columns
from backbones.evaluate.dense import dense_form
from backbones.evaluate.metrics import Metrics, measure
from backbones.evaluate.run import Collected, collect, evaluate
from backbones.evaluate.together import answers_together, processes
from backbones.evaluate.views import PROTOCOLS, Protocol, Views, prepare, usual_preprocessing

__all__ = [
    "PROTOCOLS",
    "Collected",
    "Member",
    "Metrics",
    "Protocol",
    "Views",
    "answers",
    "answers_together",
    "collect",
    "columns",
    "dense_form",
    "evaluate",
    "measure",
    "prepare",
    "processes",
    "usual_preprocessing",
]
