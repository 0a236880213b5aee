"""SENet (Hu, Shen, Albanie, Sun, Wu, 2017): channels are weighed by what the whole map holds. Source: Table 1."""

from torch import Tensor, nn

from backbones.records import Paper

PAPER = Paper(
    title="Squeeze-and-Excitation Networks",
    authors="Hu, Shen, Albanie, Sun, Wu",
    year=2017,
    venue="CVPR 2018",
    arxiv="1709.01507",
    builds_on=("resnet", "resnext"),
)


class SqueezeExcite(nn.Module):
    """x * sigmoid(excite(act(squeeze(mean(x))))), eq. 2 to 4. (N, channels, H, W) -> the same shape."""

    def __init__(self, channels: int, squeezed: int, bias: bool = True, activation: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.activation = activation()
        self.excite = nn.Conv2d(squeezed, channels, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.excite(self.activation(self.squeeze(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()
