"""Every family learns: real digits, twenty steps of fp32, a falling loss, gradients for every parameter."""

import pytest
import torch
import torch.nn.functional as F
from networks import SMALLEST
from sklearn.datasets import load_digits
from torch import Tensor, nn

from backbones import create_model
from backbones.backbone import Backbone
from backbones.catalog import load
from backbones.layers import RandomPath
from backbones.models.senet import SqueezeExcite
from backbones.records import Recipe
from backbones.train.loss import training_loss

WIDE = {"alexnet", "zfnet", "vgg"}
"""Their wide fully connected layers, without normalisation, need small steps."""


def digits(model: Backbone) -> tuple[Tensor, Tensor]:
    """Sixteen images, as large as the network needs, with mean 0 and deviation 1."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images[:16], dtype=torch.float32).view(-1, 1, 8, 8)
    x = F.interpolate((x - x.mean()) / x.std(), size=max(model.min_size, 32), mode="bilinear")
    return x.expand(-1, model.in_channels, -1, -1).contiguous(), torch.tensor(labels[:16])


@pytest.mark.parametrize("name", SMALLEST)
def test_learns(name: str) -> None:
    model = create_model(name, num_classes=10, seed=0).train()
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        if isinstance(part, RandomPath):
            part.rate = 0.0
    gates = [(key, m) for key, m in model.named_modules() if isinstance(m, SqueezeExcite)]
    narrow = [(key, m) for key, m in gates if m.squeeze.out_channels < 8]  # a ReLU of so few may be off for all images
    silent = {f"{key}.{own}" for key, m in narrow for own, _ in m.named_parameters()}
    images, labels = digits(model)
    own = load()[name]["recipe"]
    lr = 1e-4 if load()[name]["family"] in WIDE else 1e-3
    recipe = Recipe("", 1, 16, lr, loss=own["loss"] if own else "cross_entropy")
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=recipe.lr, fused=True), []
    for step in range(20):
        loss = training_loss(model(images), labels, recipe)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        for key, parameter in model.named_parameters() if step in (0, 19) else ():
            assert parameter.grad is not None, key
            assert torch.isfinite(parameter.grad).all(), key
            assert parameter.grad.any() or key in silent, f"no gradient reaches {key}"
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < 0.95 * losses[0], losses
