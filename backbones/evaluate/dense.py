"""Dense evaluation: a network over a whole image of any size, its fully connected layers as convolutions (VGG, 3.2)."""

from torch import Tensor, nn
from torch.nn.functional import conv2d

from backbones.backbone import Backbone

POINTWISE = (nn.ReLU, nn.Dropout, nn.Identity)
"""layers between fully connected ones that do the same at every position"""


class Sliding(nn.Module):
    """A fully connected layer at every position of a map. (N, C, H, W) -> (N, out, H - side + 1, W - side + 1)."""

    def __init__(self, layer: nn.Linear, side: int) -> None:
        super().__init__()
        self.layer, self.side = layer, side

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight.view(-1, x.shape[1], self.side, self.side)
        return conv2d(x, weight, self.layer.bias)


class Dense(nn.Module):
    """mean over positions of scores(features(image)). (N, C, H, W) -> (N, num_classes), any H and W from the crop's up.

    It shares every parameter with the network it was made from.
    """

    def __init__(self, model: Backbone, scores: nn.Sequential) -> None:
        super().__init__()
        self.model, self.scores = model, scores

    def score_map(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, num_classes, H', W'): the answers to the crops at all positions, before the softmax."""
        x, grid = self.model.forward_features(images), self.model.head.grid
        if min(x.shape[-2:]) < grid:
            raise ValueError(
                f"images of {images.shape[-2]}x{images.shape[-1]} make a map of {x.shape[-2]}x{x.shape[-1]}, and the "
                f"first fully connected layer reads {grid}x{grid}; give larger images: --scales"
            )
        return self.scores(x)

    def forward(self, images: Tensor) -> Tensor:
        return self.score_map(images).mean((2, 3))


def dense_form(model: nn.Module) -> nn.Module:
    """The network for whole images of any size: the mean of its class scores over all positions. Shares its weights.

    A network whose classifier reads a global mean is its own dense form, and is returned itself: the mean of a linear
    classifier's answers is its answer to the mean. Gates over the whole map (SENet) then see the whole image.

    NotImplementedError for a head that is more than a mean and fully connected layers.
    """
    if not isinstance(model, Backbone):
        raise TypeError(f"the dense form of a {type(model).__name__} is not known; give a Backbone")
    head = model.head
    if not head.num_classes:
        raise ValueError("the network has no classifier (num_classes=0), so there are no class scores to average")
    if head.pool != "avg":
        raise NotImplementedError(
            f"{type(model).__name__} with global_pool={head.pool!r} has no dense form: the mean of its answers is not "
            "its answer to the whole image; use the protocol single or 10-crop"
        )
    if head.grid == 1 and isinstance(head.neck, nn.Identity):
        return model
    neck = head.neck.children() if isinstance(head.neck, nn.Sequential) else [head.neck]
    scores, side = nn.Sequential(), head.grid
    for layer in (*neck, head.dropout, head.classifier):
        if isinstance(layer, nn.Linear):
            scores.append(Sliding(layer, side))
            side = 1
        elif isinstance(layer, POINTWISE):
            scores.append(layer)
        else:
            raise NotImplementedError(
                f"{type(model).__name__} has no dense form: {type(layer).__name__} in its head is not a fully "
                f"connected layer, ReLU or dropout; use the protocol single or 10-crop"
            )
    return Dense(model, scores)
