"""How good a network is: what it answers on a set of images, and the figures that follow from the answers."""

from backbones.evaluate.metrics import Metrics, measure
from backbones.evaluate.run import Collected, collect, evaluate

__all__ = ["Collected", "Metrics", "collect", "evaluate", "measure"]
