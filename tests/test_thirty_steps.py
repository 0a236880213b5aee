"""Thirty steps by every recipe that a paper has: the loss falls."""

import json
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from backbones import create_model
from backbones.catalog import load
from backbones.data import Loaded, colours_of, preprocessing_for, train_transform
from backbones.data.parts import ArrayPart, Part
from backbones.recipes import choose, size_to
from backbones.records import DataInfo
from backbones.train.loss import limit_filters, training_loss
from backbones.train.optimise import make_optimiser, rate

QUICK = {"lenet5", "shufflenet_v1_g1_x0_25", "mobilenet_v1_x0_25", "squeezenet1_0", "mobilenet_v2_x0_35", "wrn_40_1"}
QUICK |= {"resnet20_cifar", "googlenet.tv", "inception_v2.slim", "resnet18"}
"""up to three seconds each on one slow core; the others wait for `make test-all`"""
SMALLEST: dict[str, str] = {}
"""every recipe that differs from the others -> the smallest network that is trained by it"""
for entry in sorted(load().values(), key=lambda entry: entry["measured"]["params"]):
    if entry["recipe"]:
        SMALLEST.setdefault(json.dumps(entry["recipe"]), entry["name"])
TOO_FAST = {"se_inception_v2": 0.1, "senet154": 0.1}
"""Its rate is for a thousand classes. With four of them the first step of its head, which reads features that are
never negative, moves their logits far, and momentum farther: the loss swings. A tenth of the rate falls."""
STEPS = {"mobilenet_v1_x0_25": 60}
"""Batches of 16 and gradients cut at 2: in thirty steps the loss falls by 0.1 to 0.25, and ten batches differ by 0.13
from ten others. In sixty it falls by 0.6 to 0.9 (five seeds)."""


def texture(index: int) -> tuple[Tensor, int]:
    """Two random colours in columns, rows, a checkerboard, or mixed: told from any part, at any scale, mirrored."""
    draws = torch.Generator().manual_seed(index)
    period = int(torch.randint(4, 9, (), generator=draws))
    row, column = (torch.arange(64) // period % 2).float()[:, None], (torch.arange(64) // period % 2).float()
    share = [row + 0 * column, column + 0 * row, (row + column) % 2, torch.full((64, 64), 0.5)][index % 4]
    first, second = torch.rand(2, 3, 1, 1, generator=draws)
    image = first * share + second * (1 - share) + 0.05 * torch.randn(3, 64, 64, generator=draws)
    return (image.clamp(0, 1) * 255).to(torch.uint8), index % 4


INFO = DataInfo("textures", ("a", "b", "c", "d"), 3, (64, 64), (0.5,) * 3, (0.25,) * 3, {"train": 320}, "", mirror=True)


@pytest.fixture(scope="module")
def textures() -> Part:
    images, labels = zip(*map(texture, range(320)), strict=True)
    return ArrayPart(torch.stack(images), list(labels), "textures", 3)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in SMALLEST.values()]
)
def test_thirty_steps_of_the_papers_recipe(name: str, textures: Part) -> None:
    """The paper's network with its own classes, its recipe as it is sized to 320 images: the loss falls.

    On four textures, not on the drawn `shapes`: crops of 8 % of an image still show a texture and may miss a shape, and
    of 27 classes a network has in thirty steps learned too little to tell a falling loss from noise.
    """
    recipe, _ = size_to(choose("paper", load()[name]), INFO)
    recipe = replace(recipe, lr=recipe.lr * TOO_FAST.get(name, 1.0))
    model = create_model(
        name, in_chans=3, seed=0, drop_rate=recipe.drop_rate, drop_path_rate=recipe.drop_path_rate
    ).train()
    side = max(model.min_size, 32)
    colours = colours_of(textures) if recipe.lighting else None
    loaded = Loaded(textures, train_transform(preprocessing_for(INFO, (side, side), 3), recipe, INFO, colours), 0, True)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(0)).repeat(4).split(recipe.batch_size)
    optimiser, losses, steps = make_optimiser(model, recipe), [], 320 / recipe.batch_size
    for step in range(STEPS.get(name, 30)):
        loaded.set_epoch(int(step / steps))
        batch = [loaded[int(index)] for index in order[step]]
        for group in optimiser.param_groups:
            group["lr"] = recipe.lr * group["factor"] * rate(recipe, step / steps)
        torch.manual_seed(step)
        model.draws.step, model.draws.progress = step, step / (steps * recipe.epochs)
        loss = training_loss(model(torch.stack([x for x, _ in batch])), torch.tensor([y for _, y in batch]), recipe)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        if recipe.clip_grad:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
        optimiser.step()
        if recipe.max_filter_rms:
            limit_filters(model, recipe.max_filter_rms)
        losses.append(loss.item())
    assert sum(losses[-10:]) < sum(losses[:10]), losses
