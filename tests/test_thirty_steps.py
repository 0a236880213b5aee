"""Thirty steps of every family, by its paper's recipe: the loss falls."""

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

COSTLY = {  # seconds on one slow core
    "alexnet", "densenet", "efficientnet", "fractalnet", "inception_resnet", "inception_v3",
    "inception_v4", "nasnet", "preact_resnet", "resnext", "senet", "senet_others", "stochastic_depth", "vgg",
    "xception", "zfnet",
}  # fmt: skip
BY_SIZE = sorted(load().values(), key=lambda entry: entry["measured"]["params"])
SMALLEST = {entry["family"]: entry["name"] for entry in BY_SIZE[::-1] if entry["recipe"]}
TOO_FAST = {"senet": 0.1}
"""Its rate is for a thousand classes. With four of them the first step of its head, which reads 2048 features that are
never negative, moves their logits by 2, and momentum by more: the loss swings. A tenth of the rate falls."""


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
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if family in COSTLY else []) for family, name in SMALLEST.items()],
)
def test_thirty_steps_of_the_papers_recipe(name: str, textures: Part) -> None:
    """The paper's network with its own classes, its recipe as it is sized to 320 images: the loss falls."""
    entry = load()[name]
    recipe, _ = size_to(choose("paper", entry), INFO)
    recipe = replace(recipe, lr=recipe.lr * TOO_FAST.get(entry["family"], 1.0))
    model = create_model(
        name, in_chans=3, seed=0, drop_rate=recipe.drop_rate, drop_path_rate=recipe.drop_path_rate
    ).train()
    side = max(model.min_size, 32)
    colours = colours_of(textures) if recipe.lighting else None
    loaded = Loaded(textures, train_transform(preprocessing_for(INFO, (side, side), 3), recipe, INFO, colours), 0, True)
    order = torch.randperm(320, generator=torch.Generator().manual_seed(0)).repeat(2).split(recipe.batch_size)
    optimiser, losses, steps = make_optimiser(model, recipe), [], 320 / recipe.batch_size
    for step in range(30):
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
