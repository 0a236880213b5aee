"""The values of the recipes, typed a second time from what the papers print, against the records."""

import json
from typing import Any

import pytest

from backbones.catalog import load
from backbones.recipes import in_force, origin

IMAGENET, CIFAR = 1_281_167, 45_000  # training images; CIFAR's without the 5,000 that choose
SGD: dict[str, Any] = {"opt": "sgd", "momentum": 0.9}
NESTEROV = {**SGD, "nesterov": True}
RMSPROP: dict[str, Any] = {"opt": "rmsprop", "alpha": 0.9}
EVERY_30: dict[str, Any] = {"sched": "step", "milestones": [30 / 100, 60 / 100, 90 / 100], "decay_rate": 0.1}
AT_30_60: dict[str, Any] = {"sched": "step", "milestones": [30 / 90, 60 / 90], "decay_rate": 0.1}
HALF_THREE_QUARTERS: dict[str, Any] = {"sched": "step", "milestones": [0.5, 0.75], "decay_rate": 0.1}
SHIFTED: dict[str, Any] = {"crop": "pad", "crop_pad": 4, "hflip": 0.5}
COLOURS: dict[str, Any] = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "lighting": 0.1}  # fb.resnet.torch
AREA: dict[str, Any] = {"crop": "area", "scale": [0.08, 1.0], "ratio": [3 / 4, 4 / 3], "hflip": 0.5}
RESNET: dict[str, Any] = {
    **SGD,
    "epochs": 60e4 * 256 / IMAGENET,
    "batch_size": 256,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "sched": "plateau",
    "decay_rate": 0.1,
    "crop": "side",
    "scale": [256 / 224, 480 / 224],
    "hflip": 0.5,
    "lighting": 0.1,
}
RESNET_CIFAR: dict[str, Any] = {
    **SGD,
    **SHIFTED,
    "epochs": 64_000 * 128 / CIFAR,
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 1e-4,
    "sched": "step",
    "milestones": [32 / 64, 48 / 64],
    "decay_rate": 0.1,
}
WARM = {"warmup_epochs": 400 * 128 / CIFAR, "warmup_rate": 0.01 / 0.1, "warmup_ramp": False}
WIDE_CIFAR: dict[str, Any] = {
    **NESTEROV,
    **SHIFTED,
    "epochs": 200,
    "batch_size": 128,
    "lr": 0.1,
    "weight_decay": 5e-4,
    "pad_mode": "reflect",
    "sched": "step",
    "milestones": [60 / 200, 120 / 200, 160 / 200],
    "decay_rate": 0.2,
}
STOCHASTIC: dict[str, Any] = {**NESTEROV, "weight_decay": 1e-4, "batch_size": 128, "lr": 0.1, "decay_rate": 0.1}
DENSENET: dict[str, Any] = {**NESTEROV, "weight_decay": 1e-4, "lr": 0.1}
INCEPTION: dict[str, Any] = {
    "batch_size": 32,
    "lr": 0.045,
    "sched": "exponential",
    "decay_rate": 0.94,
    "decay_epochs": 2,
    "weight_decay": 4e-5,
    "clip_grad": 2.0,
    "epochs": 100,
    "model_ema": True,
}
NASNET: dict[str, Any] = {
    **RMSPROP,
    "eps": 1.0,
    "model_ema": True,
    "model_ema_decay": 0.9999,
    "smoothing": 0.1,
    "aux_weight": 0.4,
    "sched": "exponential",
    "decay_rate": 0.97,
    "decay_epochs": 2.4,
    "clip_grad": 10,
    "batch_size": 32 * 50,
    "bn_momentum": 0.0003,
}
SENET: dict[str, Any] = {**SGD, **EVERY_30, "epochs": 100, "batch_size": 1024, "lr": 0.6, "crop": "area", "hflip": 0.5}

ROWS: dict[str, dict[str, Any]] = {  # a network -> what is known of its recipe
    "lenet5": {
        "epochs": 20,
        "lr": 5e-4,
        "milestones": [2 / 20, 5 / 20, 8 / 20, 12 / 20],
        "loss": "map",
        "sched": "step",
        "milestone_rates": [2e-4 / 5e-4, 1e-4 / 5e-4, 5e-5 / 5e-4, 1e-5 / 5e-4],
    },
    "alexnet": {
        **SGD,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "lr": 0.01,
        "decay_rate": 0.1,
        "epochs": 90,
        "sched": "plateau",
        "crop": "side",
        "scale": [256 / 227] * 2,
        "crop_from": "square",
        "hflip": 0.5,
        "lighting": 0.1,
    },
    "zfnet": {
        **SGD,
        "batch_size": 128,
        "lr": 1e-2,
        "sched": "plateau",
        "epochs": 70,
        "max_filter_rms": 0.1,
        "crop": "side",
        "scale": [256 / 224] * 2,
        "crop_from": "square",
        "fixed_crops": True,
        "weight_decay": 0,
    },
    "vgg11": {
        **SGD,
        "batch_size": 256,
        "weight_decay": 5e-4,
        "lr": 1e-2,
        "decay_rate": 0.1,
        "epochs": 74,
        "sched": "plateau",
        "crop": "side",
        "scale": [256 / 224, 512 / 224],
        "hflip": 0.5,
    },
    "googlenet": {
        **SGD,
        "sched": "exponential",
        "decay_rate": 0.96,
        "decay_epochs": 8,
        "model_ema": True,
        "aux_weight": 0.3,
        "crop": "area",
        "scale": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
    },
    "inception_v2": {
        **SGD,
        "batch_size": 32,
        "lr": 0.045,
        "decay_epochs": 8 / 6,
        "decay_rate": 0.96,
        "sched": "exponential",
    },
    "inception_v3": {**RMSPROP, **INCEPTION, "eps": 1.0, "smoothing": 0.1, "aux_weight": 0.4},
    "inception_v4": {**RMSPROP, **INCEPTION, "eps": 1.0},
    "resnet18": RESNET,
    "resnet20_cifar": RESNET_CIFAR,
    "resnet110_cifar": {**RESNET_CIFAR, **WARM},
    "preact_resnet164_cifar": {**RESNET_CIFAR, **WARM},
    "preact_resnet152": {**RESNET, **AT_30_60, "epochs": 90},
    "wrn_28_10": WIDE_CIFAR,
    "wrn_18_x1_5": {
        **NESTEROV,
        **AT_30_60,
        **AREA,
        **COLOURS,
        "weight_decay": 1e-4,
        "epochs": 90,
        "batch_size": 256,
        "lr": 0.1,
    },
    "resnext50_32x4d": {
        **NESTEROV,
        **EVERY_30,
        **AREA,
        **COLOURS,
        "batch_size": 256,
        "weight_decay": 1e-4,
        "lr": 0.1,
    },
    "resnext29_8x64d_cifar": {
        **NESTEROV,
        **HALF_THREE_QUARTERS,
        **SHIFTED,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "lr": 0.1,
        "epochs": 300,
    },
    "resnet110_sd_cifar": {
        **STOCHASTIC,
        **SHIFTED,
        "epochs": 500,
        "sched": "step",
        "milestones": [250 / 500, 375 / 500],
    },
    "resnet152_sd_svhn": {**STOCHASTIC, "epochs": 50, "sched": "step", "milestones": [30 / 50, 35 / 50]},
    "resnet1202_sd_cifar": {
        **STOCHASTIC,
        **SHIFTED,
        "epochs": 300,
        "sched": "step",
        "milestones": [150 / 300, 225 / 300],
        "warmup_epochs": 10,
        "warmup_rate": 0.01 / 0.1,
        "warmup_ramp": False,
    },
    "resnet152_sd": {**STOCHASTIC, "epochs": 120},
    "fractalnet20_cifar": {
        **SGD,
        "batch_size": 100,
        "lr": 0.02,
        "epochs": 400,
        "sched": "step",
        "decay_rate": 0.1,
        "crop": "pad",
        "hflip": 0.5,
        "milestones": [(400 - left) / 400 for left in (200, 100, 50, 25, 12.5, 6.25, 3.125, 1.5625)],
    },
    "fractalnet34": {
        **SGD,
        "batch_size": 32,
        "lr": 0.001,
        "epochs": 70,
        "sched": "step",
        "decay_rate": 0.1,
        "milestones": [1 / 2, 3 / 4, 7 / 8, 15 / 16, 31 / 32],
    },
    "densenet121": {**DENSENET, **AT_30_60, **AREA, **COLOURS, "epochs": 90, "batch_size": 256},
    "densenet161": {**DENSENET, **EVERY_30, **AREA, **COLOURS, "epochs": 100, "batch_size": 128},
    "densenet_40_12_cifar": {
        **DENSENET,
        **HALF_THREE_QUARTERS,
        "epochs": 300,
        "batch_size": 64,
        "crop": "pad",
        "hflip": 0.5,
    },
    "xception": {
        **SGD,
        "lr": 0.045,
        "sched": "exponential",
        "decay_rate": 0.94,
        "decay_epochs": 2,
        "weight_decay": 1e-5,
        "model_ema": True,
    },
    "squeezenet1_0": {
        **SGD,
        "lr": 0.04,
        "sched": "linear",
        "epochs": 170_000 * 512 / IMAGENET,
        "batch_size": 512,
        "weight_decay": 2e-4,
        "crop": "side",
    },
    "mobilenet_v1": {
        **RMSPROP,
        **INCEPTION,
        "smoothing": 0.0,
        "decay_depthwise": False,
    },
    "mobilenet_v2": {
        **RMSPROP,
        "momentum": 0.9,
        "weight_decay": 4e-5,
        "lr": 0.045,
        "decay_rate": 0.98,
        "decay_epochs": 1,
        "sched": "exponential",
        "batch_size": 96,
        "smoothing": 0.1,
        "model_ema_decay": 0.9999,
    },
    "shufflenet_v1_g3_x1_0": {
        **NESTEROV,
        "weight_decay": 4e-5,
        "lr": 0.5,
        "sched": "linear",
        "batch_size": 1024,
        "epochs": 3e5 * 1024 / IMAGENET,
    },
    "se_resnet50": SENET,
    "senet154": {**SENET, "batch_size": 2048, "lr": 1.0},
    "se_mobilenet_v1": {
        **SENET,
        "epochs": 400,
        "batch_size": 256,
        "lr": 0.1,
        "sched": "plateau",
        "milestones": [],
    },
    "se_resnet110_cifar": {**RESNET_CIFAR, **WARM},
    "se_wrn_16_8": WIDE_CIFAR,
    "nasnet_a_4_1056": {**NASNET, "lr": 0.04 * 50, "weight_decay": 4e-5, "drop_path_ramp": False},
    "nasnet_a_6_4032": {**NASNET, "lr": 0.015 * 100, "weight_decay": 5e-5, "drop_path_ramp": True},
    "nasnet_a_6_768_cifar": {
        **SGD,
        "epochs": 600,
        "batch_size": 32,
        "lr": 0.025,
        "sched": "cosine",
        "weight_decay": 5e-4,
        "clip_grad": 5,
        "aux_weight": 0.4,
        "drop_path_ramp": True,
    },
    "efficientnet_b0": {
        **RMSPROP,
        "momentum": 0.9,
        "bn_momentum": 1 - 0.99,
        "weight_decay": 1e-5,
        "lr": 0.256,
        "batch_size": 4096,
        "sched": "exponential",
        "decay_rate": 0.97,
        "decay_epochs": 2.4,
        "auto_augment": "autoaugment",
        "smoothing": 0.1,
        "epochs": 350,
        "model_ema_decay": 0.9999,
        "warmup_epochs": 5,
    },
}
USUAL = {"loss": "cross_entropy"}
READ = {  # a network -> what else its paper prints
    "lenet5": "batch_size crop",
    "zfnet": "hflip",
    "googlenet": "random_interpolation",
    "inception_v2": "epochs",
    "resnet152_sd_svhn": "crop",
    "resnet152_sd": "sched milestones",
    "nasnet_a_6_768_cifar": "crop crop_pad hflip",
}


def recipe_of(name: str) -> dict[str, Any]:
    values: dict[str, Any] = load()[name]["recipe"]
    return values


@pytest.mark.parametrize("name", ROWS)
def test_the_record_has_the_printed_values(name: str) -> None:
    values = recipe_of(name)
    for field, printed in ROWS[name].items():
        assert values[field] == (printed if isinstance(printed, str) else pytest.approx(printed, rel=0.01)), field


def test_every_recipe_has_a_row() -> None:
    recipes = {json.dumps(entry["recipe"]) for entry in load().values() if entry["recipe"]}
    assert {json.dumps(recipe_of(name)) for name in ROWS} == recipes
    assert len(ROWS) == len(recipes)


@pytest.mark.parametrize("name", ROWS)
def test_what_is_said_to_be_printed_is(name: str) -> None:
    """A value that the page sources to the paper itself stands in the row, or is one that we read besides."""
    values = recipe_of(name)
    paper = values["source"].partition(":")[0]
    told = {field for field in in_force(values) if origin(field, values) == paper and field not in USUAL}
    aux = set() if load()[name]["measured"]["aux_params"] else {"aux_weight"}
    assert told - ROWS[name].keys() - aux == set(READ.get(name, "").split())
