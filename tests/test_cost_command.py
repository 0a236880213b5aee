"""`backbones cost` and `scale`, as a user types them: sums, other people's modules, growth, wrong inputs."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backbones import units

VGG16 = {"params": 138_357_544, "madds": 15_470_264_320, "buffers": 0}  # the paper's configuration D, with biases
NETS = """
import torch
from torch import nn

from beside import CHANNELS

def depths():
    return nn.Sequential(*(nn.Conv2d(3, 3, 3, dilation=1 + int(x.item())) for x in torch.linspace(0, 1, 2)))

ready = nn.Conv2d(3, CHANNELS, 3)
number = 3

class Small(nn.Linear):
    input_size = (2, 5, 4)

    def __init__(self):
        super().__init__(4, 6, bias=False)

def fails():
    return {}["nothing"]

def gives_a_number():
    return 3

def wants(channels):
    return ready
"""


@pytest.fixture
def said(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run a command: what it printed, or with `wrong` the error that it printed before it ended with 2."""

    def call(command: str, wrong: bool = False) -> str:
        code, out, err = run(*command.split())
        assert code == (2 if wrong else 0), err
        assert "Traceback" not in err
        return err if wrong else out

    return call


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("CHANNELS = 7\n")
    path = tmp_path / "nets.py"
    path.write_text(NETS.lstrip())
    return path


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_sums_are_the_same_in_every_format(said) -> None:
    told = json.loads(said("cost vgg16 --format json"))
    *rows, total = read_csv(said("cost vgg16 --format csv"))
    table = said("cost vgg16")
    for what, n in VGG16.items():
        assert told["total"][what] == n == sum(row[what] for row in told["rows"])
        assert int(total[what]) == n == sum(int(row[what]) for row in rows)
        assert f"{n:,} {what}" in table
    assert told["uncounted"] == []
    assert units.CONVENTION in " ".join(table.split())


def test_the_catalog_says_what_a_count_says(said) -> None:
    assert said("cost senet154 --format json") == said("cost senet154 --size 224 --format json")


def test_an_alias_needs_no_torch(said, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "backbones.cost", None)  # who imports it fails
    assert "28,088,024 params" in said("cost seresnet50")


def test_batches_and_layers(said) -> None:
    one, two = (json.loads(said(f"cost vgg16 --per layer --batch-size {n} --format json")) for n in (1, 2))
    for what, times in {"params": 1, "madds": 2, "activations": 2}.items():
        assert two["total"][what] == times * one["total"][what] == sum(row[what] for row in two["rows"])


@pytest.mark.parametrize(
    ("network", "params", "shape"),
    [
        ("torchvision:regnet_y_400mf", 4_344_144, "3x224x224"),  # torchvision's own num_params
        ("torchvision:vit_b_16", 86_567_656, "3x224x224"),
        ("torchvision:resnet18", 11_689_512, "3x224x224"),
        ("torchvision:fcn_resnet50", 32_957_013, "3x520x520"),  # its num_params less those of the auxiliary head
        ("timm:resnet18", 11_689_512, "3x224x224"),
    ],
)
def test_the_networks_of_others(said, monkeypatch, network: str, params: int, shape: str) -> None:
    pytest.importorskip(network.split(":")[0])
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", None)  # who downloads fails
    assert f"{network} at {shape}: {params:,} params" in said(f"cost {network}")


def test_the_size_is_that_of_the_module_not_of_some_weights(said) -> None:
    assert "torchvision:vit_h_14 at 3x224x224: 632,045,800 params" in said("cost torchvision:vit_h_14")


@pytest.mark.parametrize(
    ("name", "params", "shape"),
    [("depths", 2 * 84, (3, 224, 224)), ("ready", 7 * 28, (3, 224, 224)), ("Small", 24, (2, 5, 4))],
)
def test_a_module_of_a_file(said, nets: Path, name: str, params: int, shape: tuple[int, ...]) -> None:
    path = list(sys.path)
    assert f"{name} at {'x'.join(map(str, shape))}: {params:,} params" in said(f"cost {nets}:{name}")
    assert sys.path == path


def test_two_files_have_each_what_lies_beside_it(said, nets: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "nets.py"
    other.parent.mkdir()
    other.write_text(NETS)
    (other.parent / "beside.py").write_text("CHANNELS = 8\n")
    assert "196 params" in said(f"cost {nets}:ready")
    assert "224 params" in said(f"cost {other}:ready")


def test_a_file_that_fails_names_its_line(said, nets: Path) -> None:
    line = NETS.lstrip().splitlines().index('    return {}["nothing"]') + 1
    for name, words in {
        "fails": f"nets.py, line {line}: KeyError: 'nothing'",
        "wants": "nets.py: TypeError: wants() missing 1 required positional argument",
        "gives_a_number": "returned int; it must be a torch.nn.Module or return one",
        "number": "nets.py:number is int",
        "absent": "nets.py has no 'absent'",
    }.items():
        assert words in said(f"cost {nets}:{name}", wrong=True)
    for text, words in {
        "x = 1\ndef (\n": "line 2: SyntaxError: invalid syntax",
        "import no_such_module\n": "line 1: ModuleNotFoundError: No module named 'no_such_module'",
        "\n\nraise SystemExit(0)": "line 3: SystemExit: 0",
    }.items():
        nets.write_text(text)
        assert f"{nets}, {words}" in said(f"cost {nets}:x", wrong=True)


def test_memory_as_a_row(said) -> None:
    told = json.loads(said("cost lenet5 --train adamw --batch-size 4 --fit 1GB --format json"))
    assert told["weights"] // 4 == 61_080  # 60,000 trained values, 1,080 fixed ones of the radial basis functions
    assert told["state"] >= 2 * told["gradients"] == 2 * 4 * 60_000  # Adam's two moments
    assert told["peak"] < told["memory"] == 10**9
    (row,) = read_csv(said("cost lenet5 --train adamw --batch-size 4 --fit 1GB --format csv"))
    assert {key: str(n) for key, n in told.items() if key != "input_shape"} | {"input_shape": "1x32x32"} == row
    assert f"1 GB hold {told['largest_batch']:,} images" in said("cost lenet5 --train adamw --fit 1GB")
    full, half = (
        json.loads(said(f"cost vgg16 --fit 4GB --precision {p} --format json")) for p in ("float32", "bfloat16")
    )
    assert full["peak"] == pytest.approx(2 * half["peak"], rel=1e-3)
    assert "| network | input shape |" in said("cost lenet5 --fit 1GB --format md")


@pytest.mark.parametrize(
    ("command", "what", "low", "high"),
    [
        ("mobilenet_v1 --width 0.5 1.0", "width", 1.8, 2.0),  # its paper: roughly the square of alpha
        ("mobilenet_v1 --resolution 128 160 192 224", "resolution", 1.95, 2.02),
        ("wrn_28_10 --depth 16 22 28", "depth", 1.0, 1.5),
        ("resnet20_cifar --depth 20 32", "depth", 1.0, 1.2),
        ("resnext50_32x4d --width 4 8", "width", 0.95, 1.05),
        ("efficientnet_b0 --depth 1 1.8", "depth", 0.8, 1.3),
    ],
)
def test_how_multiply_adds_grow(said, command: str, what: str, low: float, high: float) -> None:
    told = json.loads(said(f"scale {command} --format json"))
    assert low < told["exponents"][what]["madds"] < high
    assert len(told["points"]) == len(command.split()) - 2


def test_a_batch_costs_its_images(said) -> None:
    told = json.loads(said("scale resnet20_cifar --batch 1 2 8 --format json"))["exponents"]["batch"]
    assert told["madds"] == pytest.approx(1, abs=1e-12)
    assert told["activations"] == pytest.approx(1, abs=1e-12)
    assert told["params"] == pytest.approx(0, abs=1e-12)
    table = said("scale lenet5 --batch 1 2")
    assert "with batch: params ~ batch^0.00, madds ~ batch^1.00" in table
    assert units.CONVENTION in " ".join(table.split())
    assert [row["batch"] for row in read_csv(said("scale lenet5 --batch 1 2 --format csv"))] == ["1", "2"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("cost lenet5 --batch-size 0", "batch_size=0; give 1 image or more"),
        ("cost lenet5 --train sgd --batch-size -1", "batch_size=-1; give 1 image or more"),
        ("cost lenet5 --size -3", "size=-3; give the side of the image in pixels, 1 or more"),
        ("cost lenet5 --precision bfloat16", "give --train or --fit too"),
        ("cost lenet5 --fit 1.2.3GB", "'1.2.3GB' is no amount; write it as 200MB or 16GiB"),
        ("cost inception_v3 --train sgd", "give --batch-size 2 or more"),
        ("cost resnet5", "resnet50"),
        ("cost torchvision:nothing", "torchvision.models.list_models()"),
        ("cost timm:nothing", "timm.list_models()"),
        ("cost nowhere.py:net", "no file nowhere.py"),
        ("cost else:net", "torchvision:NAME, timm:NAME or FILE.py:NAME"),
        ("scale lenet5 --batch 0", "batch=0; give 1 image or more"),
        ("scale lenet5 --resolution -3", "resolution=-3; give the side of the image in pixels, 1 or more"),
        ("scale mobilenet_v1 --width 0", "width=0; give more than zero"),
        ("scale resnet50 --depth 50.5", "depth=50.5"),
        ("scale lenet5 --depth 3", "lenet5 has no depth to scale; it has resolution, batch"),
        ("scale lenet5", "nothing to scale"),
    ],
)
def test_wrong_inputs(said, command: str, words: str) -> None:
    assert words in said(command, wrong=True)


def test_amounts_are_rounded_before_their_unit_is_chosen() -> None:
    amounts = {999_600_000: "1 G", 16e12: "16 T", 4.09e9: "4.09 G", 999.4: "999", 0: "0", 999_499: "999 k"}
    assert {n: units.si(n) for n in amounts} == amounts
    assert [units.parse(t, "B") for t in ("2TiB", "2TB", ".5k")] == [2 * 2**40, 2e12, 500]
