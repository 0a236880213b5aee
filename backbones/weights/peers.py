"""The libraries whose files we read and write."""

from backbones.weights.convert import Peer
from backbones.weights.keras import KERAS
from backbones.weights.pytorchcv import PYTORCHCV
from backbones.weights.timm import TIMM
from backbones.weights.torchvision import TORCHVISION

PEERS: dict[str, Peer] = {peer.name: peer for peer in (TORCHVISION, TIMM, PYTORCHCV, KERAS)}
