"""The difference of two networks: nothing where there is none, said once where it is everywhere, and priced."""

import json
from functools import cache
from itertools import permutations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from backbones import catalog, cli, compare, create_model, model_info
from backbones.cost import Cost, diff, measure_cost
from backbones.cost.alignment import align

SENTENCES = {
    ("resnet50", "resnext50_32x4d"): (
        "channels times 2 (64 to 128, ..., 512 to 1024) in conv 1x1 and conv 3x3",
        "groups 1 to 32 in conv 3x3 in every residual block",
        "params -2.1 %",
    ),
    ("resnet50", "resnet50.tv"): (
        "stride 2 to 1 in conv 1x1, stride 1 to 2 in conv 3x3 in the first residual block of stages.1, stages.2",
        "params the same, madds +6.0 %",
    ),
    ("resnet50", "se_resnet50"): ("gate (global avg pool, conv 1x1 · ReLU, conv 1x1 · sigmoid", "every residual block"),
    ("vgg16", "vgg19"): ("conv 3x3 · ReLU added in stages.2, stages.3 and stages.4; params +3.8 %",),
    ("resnet50", "resnet101"): ("17 residual blocks added in stages.2;",),
    ("googlenet", "googlenet.tv"): ("BN added after every convolution", "conv 5x5 becomes conv 3x3 in every inception"),
    ("mobilenet_v1", "mobilenet_v2"): ("ReLU becomes ReLU6", "conv 1x1 · BN · ReLU6 and addition added"),
    ("resnet50", "preact_resnet50"): ("BN and ReLU moved before conv 1x1 and conv 3x3", "15 of 16 residual blocks"),
    ("efficientnet_b0", "efficientnet_b1"): (
        "image 3 x 224 x 224 to 3 x 240 x 240; 7 inverted residuals added (1 in stages.0",
    ),
    ("densenet121", "densenet169"): ("24 dense layers added (8 in stages.2, 16 in stages.3)",),
}


@cache
def cost(name: str) -> Cost:
    with torch.device("meta"):
        return measure_cost(create_model(name), model_info(name).input_size)


@pytest.mark.parametrize("name", ["lenet5", "densenet121", "nasnet_a_4_1056", "se_resnet50", "googlenet"])
def test_no_difference_from_itself(name: str) -> None:
    found = diff(cost(name), cost(name))
    assert (found.changes, found.statements) == ((), ())
    assert found.sentence(name, name) == f"{name} against {name}: no difference"


@pytest.mark.parametrize("pair", [*SENTENCES, ("lenet5", "nasnet_a_4_1056"), ("inception_v4", "inception_resnet_v2")])
def test_changes_sum_to_the_difference_of_the_costs(pair: tuple[str, str]) -> None:
    a, b = map(cost, pair)
    found = diff(a, b)
    for key in ("params", "madds"):
        gained = getattr(b, key) - getattr(a, key)
        assert sum(getattr(c, key) for c in found.changes) == gained
        assert sum(getattr(s, key) for s in found.statements) == gained
        total = found.rows()[-1]
        assert total[f"{key}_second"] - total[f"{key}_first"] == gained
        assert total[f"{key}_second"] == sum(row[f"{key}_second"] for row in found.rows()[:-1])


@pytest.mark.parametrize("pair", SENTENCES)
def test_sentences(pair: tuple[str, str]) -> None:
    sentence = diff(*map(cost, pair)).sentence(*pair)
    assert sentence.startswith(f"{pair[1]} against {pair[0]}: ")
    for words in SENTENCES[pair]:
        assert words in sentence, sentence


@pytest.mark.parametrize(
    ("pair", "words", "params", "madds"),
    [
        (("googlenet", "googlenet.tv"), "BN added after every convolution", 6_528, 0),
        (("googlenet", "googlenet.tv"), "conv 5x5 becomes conv 3x3", -380_176, -84_295_680),
        (("mobilenet_v1", "mobilenet_v2"), "ReLU becomes ReLU6", 0, 0),
    ],
)
def test_a_price_stands_beside_its_cause(pair: tuple[str, str], words: str, params: int, madds: int) -> None:
    """A norm and an activation multiply nothing; 5x5 filters do."""
    (found,) = [s for s in diff(*map(cost, pair)).statements if s.text.startswith(words)]
    assert (found.params, found.madds) == (params, madds)


def test_another_order_is_told() -> None:
    nets = [nn.Sequential(nn.Conv2d(3, 8, 3), *some) for some in permutations((nn.BatchNorm2d(8), nn.ReLU()))]
    (found,) = diff(*(measure_cost(net, (3, 16, 16)) for net in nets)).statements
    assert found.text.startswith("BN · ReLU becomes ReLU · BN after conv 3x3")


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "mobilenet_v2", "efficientnet_b0"])
def test_our_twins_are_torchvisions(name: str) -> None:
    """Modules of other names, nested otherwise, branches in another order: still the same network."""
    twin = f"{name}.tv" if f"{name}.tv" in catalog.load() else name
    with torch.device("meta"):
        theirs = measure_cost(torchvision.models.get_model(name), (3, 224, 224))
    assert diff(cost(twin), theirs).sentence("a", "b") == "b against a: no difference"


def test_a_known_change() -> None:
    before = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    after = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 5), nn.ReLU(), nn.MaxPool2d(2))
    found = diff(measure_cost(before, (3, 16, 16)), measure_cost(after, (3, 16, 16)))
    told = [(c.what, c.layer, c.text, c.params) for c in found.changes]
    assert told == [
        ("changed", "conv 5x5", "conv 3x3 becomes conv 5x5", 8 * 8 * (25 - 9)),
        ("added", "max pool 2x2", "", 0),
    ]


def test_long_chains() -> None:
    """Longer than Python's stack is deep."""

    def chain(length: int) -> Cost:
        with torch.device("meta"):
            return measure_cost(nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(length))), (3, 4, 4))

    assert diff(chain(1_100), chain(1_101)).params == (1_100 * 12, 1_101 * 12)


def test_nothing_to_compare() -> None:
    nothing = measure_cost(nn.Identity(), (3, 8, 8))
    with pytest.raises(ValueError, match="Identity computes nothing from its image; give"):
        diff(nothing, nothing)


class Weighted(nn.Module):
    """A convolution whose weight is computed before the image is read."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight.exp())


def test_the_image_is_what_is_read_first_of_it() -> None:
    found = diff(*(measure_cost(Weighted(), (3, side, side)) for side in (8, 16)))
    assert found.statements[0].text == "image 3 x 8 x 8 to 3 x 16 x 16"


def test_alignment_keeps_order_and_finds_the_most_alike() -> None:
    def pairs(a: str, b: str) -> list[tuple[int | None, int | None]]:
        return align(len(a), len(b), lambda i, j: float(a[i] == b[j]))

    assert pairs("abc", "abc") == [(0, 0), (1, 1), (2, 2)]
    assert pairs("ac", "abbc") == [(0, 0), (None, 1), (None, 2), (1, 3)]
    assert pairs("xab", "aby") == [(0, None), (1, 0), (2, 1), (None, 2)]
    assert pairs("ab", "") == [(0, None), (1, None)]


def test_compare_keeps_protocols_apart() -> None:
    rows = compare("resnet50", "resnet50.tv", "mobilenet_v2", "resnet20_cifar")
    first, second, *_ = rows
    assert first["params_ratio"] == 1
    assert second["madds_ratio"] == second["madds"] / first["madds"] > 1
    assert first["top1 10-crops"] == 77.15
    assert second["top1 10-crops"] is None
    assert second["top1 publisher"] == max(w["top1"] for w in catalog.find("resnet50.tv")["published"])
    assert "CIFAR-10" in rows[-1]["other"]
    assert (row := compare("senet154")[0])["size one-crop"] == 224 == row["input_size"][1]
    assert row["top1 one-crop"] == 81.32  # 83.12 at 320
    assert not any(rows[-1][key] for key in rows[-1] if key.startswith("top1 "))
    with pytest.raises(LookupError, match="resnet50"):
        compare("resnet5O")
    with pytest.raises(ValueError, match="no networks"):
        compare()


def test_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["backbones", *args])
        cli.main()
        return capsys.readouterr().out

    assert "top-1, 10-crops" in run("compare", "resnet50", "vgg16", "--format", "md")
    assert json.loads(run("compare", "resnet50", "vgg16", "--format", "json"))[1]["network"] == "vgg16"
    assert "79.90 % at 320" in run("compare", "senet154", "preact_resnet200")
    assert "17 residual blocks added in stages.2" in run("diff", "resnet50", "resnet101")
    told = json.loads(run("diff", "vgg16", "vgg19", "--format", "json"))
    assert {c["part"] for c in told["changes"] if c["what"] == "added"} == {"stages.2", "stages.3", "stages.4"}
    assert run("diff", "vgg16", "vgg16", "--format", "csv").count(",1.0,") == 7
