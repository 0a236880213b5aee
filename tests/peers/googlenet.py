"""torchvision's GoogLeNet, as it is and with the paper's parts put back."""

from typing import cast

from torch import nn
from torchvision.models import googlenet
from torchvision.models.googlenet import BasicConv2d, Inception


def torchvision() -> nn.Module:
    """With weights that carry the image to the logits, which those of its own start do not."""
    model = googlenet(weights=None, init_weights=False, aux_logits=False)
    carry(model)
    return model


def as_printed() -> nn.Module:
    """Biases for batch norm, 5x5 filters, local response normalisation, 3x3 pooling after 4e (Fig. 3, Table 1)."""
    model = torchvision()
    for module in (m for m in model.modules() if isinstance(m, Inception)):
        conv = cast(nn.Conv2d, module.branch3[1].conv)
        module.branch3[1].conv = nn.Conv2d(conv.in_channels, conv.out_channels, 5, padding=2)
    for layer in (m for m in model.modules() if isinstance(m, BasicConv2d)):
        layer.conv.bias = nn.Parameter(layer.bn.bias.detach().uniform_(-0.1, 0.1))
        layer.bn = nn.Identity()
    norm = nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)
    model.maxpool1 = nn.Sequential(model.maxpool1, norm)
    model.maxpool2 = nn.Sequential(norm, model.maxpool2)
    model.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    carry(model)
    return model


def carry(model: nn.Module) -> None:
    for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d)):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")


PEERS = {"googlenet": as_printed, "googlenet.tv": torchvision}
