"""Recipes: their sources, their sizing, and each mechanism against an answer by hand."""

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
from PIL import Image
from torch import nn

from backbones import create_model, recipes, save
from backbones.backbone import WithAux
from backbones.catalog import load
from backbones.recipes import MODERN, check, choose, finetuning, size_to
from backbones.records import DataInfo, Recipe
from backbones.train import grow_from, norm_momentum, plan
from backbones.train.loss import training_loss
from backbones.train.optimise import make_optimiser, rate, set_norm_momentum

INFO = DataInfo("d", ("a", "b"), 3, (32, 32), (0.5,) * 3, (0.2,) * 3, {"train": 1300}, "", mirror=False)
PLAIN = Recipe("", epochs=10, batch_size=16, lr=1.0, opt="sgd")


# -- the records


def test_every_value_has_a_source() -> None:
    names = {field.name for field in fields(Recipe)}
    for name, entry in load().items():
        if values := entry["recipe"]:
            assert values["source"], name
            assert all(values["elsewhere"].values()), name
            assert set(values["elsewhere"]) <= names, name
            assert not any(d.startswith("no ") and d.endswith("here") for d in values["deviations"]), name
            check(recipes.from_json(values))


def test_the_page_of_a_recipe(run) -> None:  # type: ignore[no-untyped-def]
    def page(name: str) -> list[str]:
        return [" ".join(line.split()) for line in run("recipe", name)[1].splitlines()]

    lines = page("efficientnet_b0")
    assert "auto_augment autoaugment Sec. 5.2" in lines
    assert "smoothing 0.1 the authors' release" in lines
    assert not any(line.startswith(("milestones", "crop_pad", "aux_weight", "rubbish")) for line in lines)
    _, out, _ = run("recipe", "googlenet")
    assert "aux_weight" in out
    assert "ratio 0.75 1.333 fb.resnet.torch, whose augmentation the paper adopts" in page("densenet121")
    assert "decay_rate 0.1 AlexNet's; the paper prints that the rate is lowered by hand" in page("zfnet")
    code, out, _ = run("recipe", "modern")
    assert code == 0
    assert "trivialaugment" in out
    assert "see `backbones recipe modern`" in run("recipe", "squeezenet1_1")[2]


def test_choosing_a_recipe() -> None:
    assert choose("modern", load()["resnet50"]) == MODERN
    assert choose("modern", load()["lenet5"]).loss == "map"
    assert choose("paper", load()["vgg16"]).epochs == 74
    with pytest.raises(LookupError, match=r"lenet5\.modern is not in its paper"):
        choose("paper", load()["lenet5.modern"])
    with pytest.raises(ValueError, match="give modern or paper"):
        choose("best", load()["vgg16"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 0}, "epochs"),
        ({"lr": -1.0}, "lr"),
        ({"sched": "plateau", "warmup_epochs": 1.0}, "plateau"),
        ({"milestones": (1.5,)}, "fractions"),
        ({"milestones": (0.5,), "milestone_rates": (0.1, 0.2)}, "2 milestone rates"),
        ({"loss": "map", "smoothing": 0.1}, "--loss map"),
        ({"freeze_epochs": 2}, "--freeze-stages"),
        ({"milestones": (0.8, 0.2)}, r"milestones=\(0.8, 0.2\); .* in order"),
        ({"milestone_rates": (0.0,), "milestones": (0.5,)}, r"milestone_rates=\(0.0,\); .* above 0"),
        ({"crop": "area", "scale": (0.9, 0.1)}, r"scale=\(0.9, 0.1\); .* smaller one first"),
        ({"crop": "area", "scale": (0.0, 1.0)}, r"scale=\(0.0, 1.0\); .* above 0"),
        ({"crop": "area", "scale": (0.5, 1.5)}, r"scale=\(0.5, 1.5\); .* up to 1"),
        ({"crop": "side", "scale": (0.5, 1.5)}, r"scale=\(0.5, 1.5\); .* of 1 or more"),
        ({"ratio": (0.0, 1.0)}, r"ratio=\(0.0, 1.0\); .* above 0"),
        ({"ratio": (2.0, 1.0)}, r"ratio=\(2.0, 1.0\); .* smaller one first"),
    ],
)
def test_recipes_that_cannot_be_followed(change: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(replace(MODERN, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "wrong", "allowed"),
    [
        ("lr", (0.0, -1.0, math.nan, math.inf), "above 0"),
        ("weight_decay", (-1.0, math.nan), "0 or more"),
        ("clip_grad", (-1.0, 0.0), "above 0"),
        ("max_filter_rms", (-1.0, 0.0), "above 0"),
        ("warmup_epochs", (-3.0, math.nan), "0 or more"),
        ("patience_epochs", (-1,), "0 or more"),
        ("freeze_stages", (-1,), "0 or more"),
        ("freeze_epochs", (-1,), "0 or more"),
        ("crop_pad", (-2,), "0 or more"),
        ("mixup", (-1.0, math.nan), "0 or more"),
        ("cutmix", (-1.0,), "0 or more"),
        ("rotate", (-9.0, 200.0), "0 to 180"),
        ("shear", (-1.0, 90.0), "0 to 89"),
        ("zoom", (-0.1, 1.0), "below 1"),
        ("layer_decay", (0.0, 2.0), "above 0, up to 1"),
        ("bn_momentum", (0.0, 2.0), "above 0, up to 1"),
        ("decay_rate", (0.0, 10.0), "above 0, up to 1"),
        ("momentum", (-0.1, 1.0), "below 1"),
        ("hue", (-0.1, 0.9), "0 to 0.5"),
        ("magnitude", (-1, 99), "0 to 30"),
    ],
)
def test_values_out_of_range(field: str, wrong: tuple[float, ...], allowed: str) -> None:
    """The error says what was given and what is allowed."""
    for value in wrong:
        with pytest.raises(ValueError, match=rf"{field}={value}; give .*{allowed}"):
            check(replace(MODERN, **{field: value}))  # type: ignore[arg-type]


def test_every_number_of_a_recipe_has_a_range() -> None:
    numbers = {name for name, kind in get_type_hints(Recipe).items() if kind in (int, float, int | None, float | None)}
    assert numbers == recipes.ALLOWED.keys()


# -- sizing


def test_recipes_are_sized_to_the_data() -> None:
    paper = choose("paper", load()["resnet20_cifar"])
    sized, notes = size_to(paper, INFO)
    assert (sized.batch_size, sized.lr, sized.hflip, sized.epochs) == (64, 0.05, 0.0, 182)
    assert any("64" in note and "128" in note for note in notes)
    assert any("mirror" in note for note in notes)
    assert set(paper.deviations) <= set(notes)
    tiny = replace(INFO, images={"train": 24})
    assert (size_to(paper, tiny)[0].batch_size, size_to(paper, tiny)[0].lr) == (8, pytest.approx(0.1 / 16))
    assert size_to(MODERN, tiny)[0].lr == pytest.approx(0.005 / 8**0.5)
    assert size_to(choose("paper", load()["lenet5"]), tiny)[0].batch_size == 1
    short, notes = size_to(MODERN, INFO, {"epochs": 3})
    assert short.warmup_epochs == pytest.approx(0.3)
    assert any("warm-up" in note for note in notes)
    large = replace(INFO, images={"train": 50_000}, mirror=True)
    assert size_to(paper, large)[0] == paper


def test_the_rate_follows_a_chosen_batch() -> None:
    """From what the recipe says for its own batch: in proportion, by the square root for adamw; a chosen rate stays."""
    large = replace(INFO, images={"train": 50_000})
    paper = choose("paper", load()["resnet20_cifar"])
    sized, notes = size_to(paper, large, {"batch_size": 512})
    assert (sized.batch_size, sized.lr) == (512, pytest.approx(0.4))
    assert any("512 images in place of 128: as given; a rate of 0.4 in place of 0.1" in note for note in notes)
    assert size_to(MODERN, large, {"batch_size": 256})[0].lr == pytest.approx(0.01)
    assert size_to(paper, INFO, {"batch_size": 512})[0].batch_size == 512  # is not halved
    both = size_to(paper, large, {"batch_size": 512, "lr": 0.3})[0]
    assert (both.batch_size, both.lr) == (512, 0.3)
    sized, notes = size_to(paper, INFO, {"lr": 0.3})
    assert (sized.batch_size, sized.lr) == (64, 0.3)
    assert any("the rate stays 0.3, as given" in note for note in notes)


def test_modern_looks_at_the_images() -> None:
    small, _ = size_to(MODERN, INFO)
    assert (small.auto_augment, small.crop, small.rotate) == ("", "centre", 15.0)
    photographs = replace(INFO, size=None)
    large, notes = size_to(MODERN, photographs, {"rotate": 5.0}, side=224)
    assert (large.auto_augment, large.crop, large.rotate, large.shear) == ("trivialaugment", "area", 5.0, 0.0)
    assert any("the network sees 224 pixels a side" in note for note in notes)
    assert size_to(finetuning(load()["vgg16"]), photographs, side=64)[0].crop == "area"
    assert size_to(MODERN, photographs, {"crop": "pad"}, side=224)[0].crop == "pad"
    named = replace(choose("paper", load()["vgg16"]), source="this library's reading of Sec. 3.1")
    assert size_to(named, photographs, side=224)[0] == size_to(named, INFO)[0]
    for info, side in ((photographs, 32), (INFO, 224), (photographs, None)):  # of unknown size, and seen at 32 pixels
        sized, notes = size_to(MODERN, info, side=side)
        assert (sized.crop, sized.rotate) == ("centre", 15.0)
        assert not any("TrivialAugment" in note for note in notes)


def test_statistics_settle_within_the_run() -> None:
    paper = choose("paper", load()["nasnet_a_4_1056"])
    assert paper.bn_momentum == 0.0003
    short, notes = size_to(paper, INFO, {"epochs": 5, "batch_size": 13})  # 500 steps
    assert short.bn_momentum == pytest.approx(20 / 500)
    assert any("batch norm" in note for note in notes)
    assert norm_momentum(create_model("mobilenet_v2_x0_35")) == 0.003
    assert norm_momentum(create_model("lenet5")) is None
    short, notes = size_to(MODERN, INFO, {"epochs": 5, "batch_size": 13}, bn_momentum=0.003)
    assert short.bn_momentum == pytest.approx(20 / 500)
    assert any("in place of 0.003" in note for note in notes)
    assert size_to(MODERN, INFO, {"epochs": 5}, bn_momentum=0.1)[0].bn_momentum is None
    assert size_to(MODERN, INFO, {"bn_momentum": 0.004, "epochs": 5}, bn_momentum=0.003)[0].bn_momentum == 0.004
    model = create_model("resnet20_cifar")
    set_norm_momentum(model, 0.01)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.01}


# -- the course of the rate


def test_rates() -> None:
    cosine = replace(PLAIN, epochs=12, sched="cosine", warmup_epochs=2)
    assert [round(rate(cosine, e), 3) for e in (0, 1, 2, 7, 12)] == [0.01, 0.505, 1.0, 0.5, 0.0]
    step = replace(PLAIN, epochs=4, sched="step", milestones=(0.5, 0.75))
    assert [rate(step, e) for e in (0, 1.9, 2, 3)] == pytest.approx([1, 1, 0.1, 0.01])
    held = replace(step, warmup_epochs=1.0, warmup_rate=0.1, warmup_ramp=False)
    assert [rate(held, e) for e in (0, 0.5, 0.99, 1)] == pytest.approx([0.1, 0.1, 0.1, 1])
    linear = replace(PLAIN, epochs=10, sched="linear")
    assert [rate(linear, e) for e in (0, 2.5, 10)] == pytest.approx([1, 0.75, 0])
    exponential = replace(PLAIN, sched="exponential", decay_rate=0.94, decay_epochs=2.0)
    assert [rate(exponential, e) for e in (0, 1.9, 2, 5)] == pytest.approx([1, 1, 0.94, 0.94**2])
    lecun = choose("paper", load()["lenet5"])
    assert [lecun.lr * rate(lecun, e) for e in (0, 2, 5, 8, 12)] == pytest.approx([5e-4, 2e-4, 1e-4, 5e-5, 1e-5])
    fractal = choose("paper", load()["fractalnet20_cifar"])
    falls = [rate(fractal, e) for e in (199, 200, 300, 350, 375)]  # 200, 100, 50 and 25 epochs remain
    assert falls == pytest.approx([1, 0.1, 0.01, 0.001, 0.0001])
    assert {rate(replace(step, sched="constant"), e) for e in (0, 3)} == {1.0}


# -- the optimiser


def test_weight_decay_spares_norms_if_asked() -> None:
    model = create_model("resnet20_cifar")
    everything = make_optimiser(model, replace(PLAIN, nesterov=True, weight_decay=0.1, decay_norm=True))
    assert [g["weight_decay"] for g in everything.param_groups] == [0.1]
    assert everything.param_groups[0]["nesterov"]
    decayed, kept = make_optimiser(model, replace(MODERN, weight_decay=0.1)).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)
    assert {p.ndim for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(model.parameters()))


def test_weight_decay_spares_depthwise_filters_if_asked() -> None:
    model = create_model("mobilenet_v1_x0_25")
    _, kept = make_optimiser(model, replace(PLAIN, weight_decay=0.1, decay_depthwise=False)).param_groups
    assert kept["weight_decay"] == 0
    assert [tuple(p.shape[1:]) for p in kept["params"]] == [(1, 3, 3)] * 13  # one per separable convolution
    for name in ("mobilenet_v1", "mobilenet_v2"):
        assert not choose("paper", load()[name]).decay_depthwise


def test_each_stage_learns_more_slowly_than_the_next() -> None:
    model = create_model("resnet20_cifar")
    groups = make_optimiser(model, replace(PLAIN, lr=0.8, layer_decay=0.5)).param_groups
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    parts = [model.head, model.stages[2], model.stages[1], model.stages[0], model.stem]
    for part, expected in zip(parts, (0.8, 0.4, 0.2, 0.1, 0.05), strict=True):
        assert {rates[id(p)] for p in part.parameters()} == {expected}
    assert {g["factor"] * 0.8 == g["lr"] for g in groups} == {True}


def test_what_is_fixed_at_first_is_optimised_later() -> None:
    recipe = replace(PLAIN, freeze_stages=2, freeze_epochs=3, layer_decay=0.5, weight_decay=0.1)
    model = create_model("resnet20_cifar")
    model.freeze(recipe.freeze_stages)
    count = sum(len(g["params"]) for g in make_optimiser(model, recipe).param_groups)
    assert count == len(list(model.parameters()))
    rows = plan(model, recipe)
    assert [row.part for row in rows] == ["stem", "stages.0", "stages.1", "stages.2", "head"]
    assert [row.frozen for row in rows] == [3, 3, 3, 0, 0]
    assert [row.factor for row in rows] == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert sum(row.parameters for row in rows) == sum(row.decayed for row in rows) == 269_722  # Table 6: 0.27 M
    assert plan(model, PLAIN)[0].frozen == math.inf  # frozen by its user, for good
    kept = make_optimiser(model, PLAIN).param_groups
    assert sum(len(g["params"]) for g in kept) == len([p for p in model.parameters() if p.requires_grad])


def test_rmsprop_is_tensorflows() -> None:
    weight, other = nn.Parameter(torch.tensor([1.0, -2.0])), [1.0, -2.0]
    recipe = replace(PLAIN, lr=0.1, opt="rmsprop", alpha=0.9, eps=0.5, momentum=0.8, weight_decay=0.01)
    model = create_model("lenet5", num_classes=10, in_chans=1)
    model.head = nn.ParameterList([weight])  # type: ignore[assignment]
    optimiser = make_optimiser(model, recipe)
    square, momentum = [1.0, 1.0], [0.0, 0.0]
    for step in range(4):
        gradient = [0.3 * (step + 1), -0.7]
        weight.grad = torch.tensor(gradient)
        optimiser.step()
        for i in range(2):
            g = gradient[i] + 0.01 * other[i]
            square[i] = 0.9 * square[i] + 0.1 * g * g
            momentum[i] = 0.8 * momentum[i] + 0.1 * g / math.sqrt(square[i] + 0.5)
            other[i] -= momentum[i]
    assert weight.tolist() == pytest.approx(other)


# -- the loss


def test_binary_cross_entropy() -> None:
    logits = torch.tensor([[0.0, 2.0, -1.0]])
    recipe = replace(PLAIN, loss="bce", smoothing=0.3)

    def by_hand(targets: list[float]) -> float:
        ones = [1 / (1 + math.exp(-float(x))) for x in logits[0]]
        pairs = zip(ones, targets, strict=True)
        return sum(-t * math.log(p) - (1 - t) * math.log(1 - p) for p, t in pairs) / 3

    hard = by_hand([0.1, 0.8, 0.1])  # 0.7 of the label, and 0.3 over all three
    assert training_loss(logits, torch.tensor([1]), recipe).item() == pytest.approx(hard)
    mixed = by_hand([0.7 * 0.25 + 0.1, 0.7 * 0.75 + 0.1, 0.1])
    assert training_loss(logits, torch.tensor([[0.25, 0.75, 0.0]]), recipe).item() == pytest.approx(mixed)
    both = training_loss(WithAux(logits, (logits,)), torch.tensor([1]), replace(recipe, aux_weight=0.5))
    assert both.item() == pytest.approx(1.5 * hard)


# -- growing, fine-tuning


def test_growing_a_vgg() -> None:
    small = {"num_classes": 3}
    shallow, deep = create_model("vgg11", seed=0, **small), create_model("vgg13", seed=1, **small)
    fresh = create_model("vgg13", seed=1, **small).state_dict()
    copied = grow_from(deep, shallow)
    assert [c.layer for c in copied[:4]] == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.2.2"]
    assert [c.source for c in copied[:4]] == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.2.2"]
    assert len(copied) == 7
    ours, theirs = deep.state_dict(), shallow.state_dict()
    taken = {c.layer: c.source for c in copied}
    for key, value in ours.items():
        layer, _, kind = key.rpartition(".")
        expected = theirs[f"{taken[layer]}.{kind}"] if layer in taken else fresh[key]
        assert torch.equal(value, expected), key
    with pytest.raises(ValueError, match="such as vgg11 into vgg16"):
        grow_from(shallow, deep)
    with pytest.raises(ValueError, match="one of these is a ResNet"):
        grow_from(deep, create_model("resnet18"))


def test_fine_tuning_begins_with_the_head() -> None:
    entry = load()["resnet50"]
    recipe = finetuning(entry)
    assert (recipe.freeze_stages, recipe.lr, recipe.layer_decay) == (4, MODERN.lr / 5, 0.75)
    short, notes = size_to(recipe, INFO, {"epochs": 5})
    assert short.freeze_epochs == 1
    assert any("stages are fixed" in note for note in notes)
    assert not any("whole run" in note for note in notes)
    _, notes = size_to(recipe, INFO, {"epochs": 5, "freeze_epochs": 5})
    assert "stages stay fixed for the whole run: 5 of 5 epochs" in notes
    with pytest.raises(ValueError, match="freeze_stages=99: the network has 4; give 0 to 4"):
        size_to(recipe, INFO, {"freeze_stages": 99}, stages=4)
    for entry in load().values():
        check(finetuning(entry))


def test_the_command_fine_tunes(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """It starts from the weights, with the recipe for it, and prints what is fixed."""
    trained = create_model("resnet20_cifar", num_classes=7, seed=3)
    save(trained, tmp_path / "trained.safetensors")
    seen: list[tuple[nn.Module, Recipe, list[str]]] = []

    def fit(model: nn.Module, data: object, recipe: Recipe, options: object, *, notes: list[str], **_: object) -> None:
        seen.append((model, recipe, notes))
        raise KeyboardInterrupt

    monkeypatch.setattr("backbones.train.fit", fit)
    start = ("finetune", "resnet20_cifar", "--weights", str(tmp_path / "trained.safetensors"), "--data", "digits")
    code, out, _ = run(*start, "--freeze-stages", "2", "--batch-size", "32")
    assert code == 130
    ((model, recipe, notes),) = seen
    assert (recipe.freeze_stages, recipe.freeze_epochs, recipe.layer_decay) == (2, 3, 0.75)
    assert recipe.lr == pytest.approx(0.001 / 2**0.5)
    assert any("by the square root" in note for note in notes)
    mine, theirs = model.state_dict(), trained.state_dict()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs if key.startswith("stages"))
    table = [line.split() for line in out.splitlines()]
    assert ["stages.1", "51,072", "0.562", "50,688", "3"] in table
    assert ["head", "650", "1", "640", "0"] in table
    assert run("finetune", "resnet20_cifar", "--data", "digits")[0] == 2  # no weights
    code, out, error = run(*start, "--freeze-stages", "99")
    assert (code, out) == (2, "")  # no table of a plan that cannot be
    assert "freeze_stages=99: the network has 3" in error


def test_the_command_tells_the_recipe_what_the_network_is(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    """Pictures of unknown size in a network of 32 pixels are no photographs; its own slow batch norm is sized."""
    for part, shade in (("a", 0), ("b", 255)):
        (tmp_path / "train" / part).mkdir(parents=True)
        for index in range(12):
            side = 32 + index
            Image.new("RGB", (side, side), (shade, 9 * index, 0)).save(tmp_path / "train" / part / f"{index}.png")
    seen: list[tuple[Recipe, list[str]]] = []

    def fit(model: object, data: object, recipe: Recipe, options: object, *, notes: list[str], **_: object) -> None:
        seen.append((recipe, notes))
        raise KeyboardInterrupt

    monkeypatch.setattr("backbones.train.fit", fit)
    for size in ("32", "64"):
        run("train", "mobilenet_v2_x0_35", "--data", f"folder:{tmp_path}", "--img-size", size, "--epochs", "5")
    (small, _), (large, notes) = seen
    assert (small.crop, large.crop) == ("centre", "area")
    assert any("the network sees 64 pixels a side" in note for note in notes)
    assert small.bn_momentum == pytest.approx(0.1)
