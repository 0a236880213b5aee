"""The facts of the house: papers, what they report, networks, recipes, data. Frozen, and free of torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PROMISES = {
    "counts": "parameters, multiply-adds and map sizes are the paper's",
    "logits": "any image from min_size up, also not square",
    "num_classes": "any number of classes, 0 for pooled features",
    "in_chans": "any number of channels",
    "features": "the map after each stage, with true channels, stride and receptive field",
    "head": "forward_features, forward_head, get_classifier, reset_classifier",
    "drop_rate": "dropout before the classifier, or where the paper has it",
    "drop_path_rate": "stochastic depth",
    "output_stride": "8, 16 or 32, by dilation",
    "checkpointing": "gradient checkpointing",
    "freeze": "fixed parameters and statistics",
    "compile": "torch.compile(fullgraph=True), in evaluation",
    "export": "torch.export and ONNX",
    "init": "the paper's initialisation, reproducible by seed",
    "errors": "a ValueError that says what to do",
}
"""What every network owes its user; `Variant.cannot` names the exceptions."""


NO_BRANCH = {"drop_path_rate": "it has no shortcut past a block: a dropped block would cut the network in two"}
"""What a plain chain of layers cannot."""

ONE_WORKER = (
    "one worker, with its batch at the printed rate, where the paper's many workers take such steps side by side"
)
"""How we read a recipe of asynchronous workers: each printed step is a step of one of them."""


@dataclass(frozen=True)
class Paper:
    """Where an architecture was published, and whose work it continues."""

    title: str
    authors: str
    year: int
    venue: str
    arxiv: str = ""
    builds_on: tuple[str, ...] = ()
    """modules of `backbones.models` that this paper continues; a family may import from these only"""


@dataclass(frozen=True)
class Reported:
    """What one place of a paper prints about a network. An int was printed in full, a float was rounded."""

    source: str
    """the table, figure or section"""
    params: float | None = None
    madds: float | None = None
    """multiply-adds of convolutions and matrix products, one image"""
    input_size: int | None = None
    """side of the image, where it is not the network's own"""
    maps: tuple[int, ...] = ()
    """side of the map after every stage, at the paper's input size"""
    top1: float | None = None
    """accuracy in percent"""
    top5: float | None = None
    data: str = "ImageNet-1k validation"
    """what the accuracy was measured on"""
    protocol: str = ""
    """how: crops, scales, number of networks"""
    gap: str = ""
    """why our count differs by more than 2 %, where it does"""


@dataclass(frozen=True)
class Departure:
    """One deliberate difference from the paper."""

    here: str
    """what this network does"""
    paper: str
    """what the paper does"""
    section: str
    """where the paper says so"""

    def __str__(self) -> str:
        return f"{self.here}; the paper: {self.paper} ({self.section})"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. Learning rates are for the whole batch; a fraction of the run is between 0 and 1."""

    source: str
    """where it is printed"""
    epochs: int
    """passes over the training images"""
    batch_size: int
    """images per step, over all devices"""
    lr: float
    """peak learning rate, for the whole batch"""
    opt: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    """optimiser; rmsprop as TensorFlow defines it"""
    momentum: float = 0.9
    """momentum of sgd and rmsprop, first beta of adamw"""
    alpha: float = 0.9
    """rmsprop: share of the old mean square kept per step"""
    eps: float = 1.0
    """rmsprop: added to the mean square under the root"""
    nesterov: bool = False
    """Nesterov's form of the momentum"""
    weight_decay: float = 0.0
    """weight decay, on every parameter unless --decay-norm False"""
    decay_norm: bool = True
    """decay biases and normalisation parameters too, as all papers up to 2017 did"""
    decay_depthwise: bool = True
    """decay depthwise filters too"""
    layer_decay: float | None = None
    """the rate of each stage over that of the next, the head's being --lr; 1 for all if not given"""
    freeze_stages: int = 0
    """stages that stay fixed at first, and with them the stem; 0 fixes nothing"""
    freeze_epochs: int = 0
    """epochs for which they do"""
    bn_momentum: float | None = None
    """share of a batch in the running statistics of batch norm; the network's own if not given"""
    sched: Literal["constant", "step", "plateau", "cosine", "linear", "exponential"] = "cosine"
    """how the learning rate falls"""
    milestones: tuple[float, ...] = ()
    """step: fractions of the run after which the rate is multiplied by --decay-rate"""
    milestone_rates: tuple[float, ...] = ()
    """step: the rate after each milestone over --lr, where the steps are uneven; else powers of --decay-rate"""
    decay_rate: float = 0.1
    """step, plateau, exponential: factor of one fall"""
    decay_epochs: float = 2.0
    """exponential: epochs between two falls"""
    patience_epochs: int = 10
    """plateau: epochs without a better validation accuracy (training loss, if there is no validation part)"""
    warmup_epochs: float = 0.0
    """epochs of a smaller rate at the start, which rises linearly to --lr"""
    warmup_rate: float = 0.01
    """the rate at the start of the warm-up, over --lr"""
    warmup_ramp: bool = True
    """the rate rises from there; else it stays there to the end of the warm-up"""
    loss: Literal["cross_entropy", "bce", "map"] = "cross_entropy"
    """bce: binary cross entropy of each class by itself; map: LeNet-5's criterion with a rubbish class (eq. 9)"""
    rubbish: float = 1.0
    """map: the penalty j of the rubbish class"""
    smoothing: float = 0.0
    """label smoothing"""
    aux_weight: float = 0.3
    """weight of the loss of each auxiliary head, where the network has them"""
    clip_grad: float | None = None
    """largest gradient norm"""
    max_filter_rms: float | None = None
    """scale a convolution's filter back whenever the root mean square of its weights exceeds this (ZFNet, Sec. 3)"""
    model_ema: bool = False
    """keep, evaluate and save a moving average of the weights"""
    model_ema_decay: float = 0.999
    """share of the old average kept per step"""
    drop_rate: float | None = None
    """dropout before the classifier, or where the paper has it; the network's own if not given"""
    drop_path_rate: float | None = None
    """stochastic depth of the last block; the network's own if not given"""
    drop_path_ramp: bool = False
    """raise stochastic depth from 0 to its rate in the course of the run (NASNet's ScheduledDropPath)"""
    crop: Literal["centre", "pad", "side", "area"] = "centre"
    """training crop: none; pad and crop; shorter side scaled, then crop; random area and aspect"""
    scale: tuple[float, float] = (1.0, 1.0)
    """side: shorter side over crop side, drawn between these; area: share of the image"""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """area: aspect ratio"""
    random_interpolation: bool = False
    """area: draw how each image is resized, among nearest, bilinear, bicubic and area"""
    crop_from: Literal["whole", "square", "squashed"] = "whole"
    """side: what is cropped: the whole image, its central square, or the image made square without its aspect"""
    fixed_crops: bool = False
    """side: crop at one of the four corners or in the centre only"""
    crop_pad: int = 4
    """pad: pixels added on each side"""
    pad_mode: Literal["constant", "reflect"] = "constant"
    """pad: with black, or with the image's reflection"""
    hflip: float = 0.0
    """probability of mirroring (dropped where mirroring changes the class)"""
    rotate: float = 0.0
    """largest rotation, degrees"""
    translate: float = 0.0
    """largest shift, as a share of the side"""
    zoom: float = 0.0
    """largest relative change of size"""
    shear: float = 0.0
    """largest shear, degrees"""
    auto_augment: Literal["", "autoaugment", "randaugment", "trivialaugment"] = ""
    """a drawn policy of changes: the one that AutoAugment found on ImageNet, RandAugment or TrivialAugment"""
    magnitude: int = 9
    """randaugment: strength of its two changes, 0 to 30"""
    brightness: float = 0.0
    """largest relative change of the brightness; this and the next three in random order"""
    contrast: float = 0.0
    """largest relative change of the contrast"""
    saturation: float = 0.0
    """largest relative change of the saturation"""
    hue: float = 0.0
    """largest turn of the hue, in circles up to 0.5"""
    lighting: float = 0.0
    """standard deviation of the shift along the principal components of the training colours (AlexNet, Sec. 4.1)"""
    reprob: float = 0.0
    """probability of erasing a rectangle"""
    cutout: float = 0.0
    """side of a square, over the image's, that is erased around a drawn pixel of every image"""
    mixup: float = 0.0
    """mixup alpha; 0 is off"""
    cutmix: float = 0.0
    """CutMix alpha; 0 is off"""
    deviations: tuple[str, ...] = ()
    """what of the source is not done, and what is done instead"""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """field -> where its value is from, where it is not printed in `source`"""
    own: bool = False
    """this library's, and no paper's: its crops and distortions follow the size of the images"""


@dataclass(frozen=True)
class Options:
    """Where and how a run works; what it learns from is the recipe and the data."""

    output: str | None = None
    """run folder; runs/<network>-<data>-<time> by default"""
    seed: int = 0
    """of the weights, the order of the images and every augmentation"""
    img_size: int | None = None
    """side of the network's input; the paper's by default"""
    workers: int | None = None
    """processes that load images, 0 for none; half of the processors by default, up to 8"""
    decode: Literal["exact", "scaled"] = "exact"
    """scaled: JPEGs larger than their crop needs are decoded smaller, for other pixels sooner (with --crop area)"""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """of the computation, as Lightning names it; the weights are kept in 32 bits. auto: bf16-mixed where the hardware
    has it, else 32-true"""
    compile: bool = False
    """compile the network first, which takes minutes and a C++ compiler; for long runs"""
    devices: str = "auto"
    """devices per machine: a number, or a list such as 0,2; processes, where there is no GPU"""
    nodes: int = 1
    """machines"""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """how several processes train one network; auto is ddp"""
    accumulate: int = 1
    """parts in which each process takes its share of a batch, one after the other"""
    sync_batchnorm: bool = False
    """batch norms take the statistics of the whole batch, not of each process' share (on GPUs)"""
    checkpoint_every_steps: int | None = None
    """write a checkpoint after so many steps; and at the end of epochs, as the next one"""
    checkpoint_every_minutes: float = 10.0
    """the same, by the clock"""
    snapshot_epochs: int | None = None
    """keep the network, as validated, every so many epochs, as snapshot-010.safetensors: for ensembles"""
    on_bad_image: Literal["error", "skip"] = "error"
    """what to do with images that cannot be read: say so before the start, or leave them out and list them"""
    hang_seconds: float = 45.0
    """end a run whose processes stand still for so long, or 5 times as long as anything took so far"""
    early_stop: int | None = None
    """stop after so many epochs without a better validation accuracy"""


@dataclass(frozen=True)
class Variant:
    """One named network of a family."""

    name: str
    build: Callable[..., Any]
    """the family: builds the network from `settings`"""
    paper: Paper
    settings: Mapping[str, Any]
    reported: tuple[Reported, ...] = ()
    departures: tuple[Departure, ...] = ()
    recipe: Recipe | None = None
    """the paper's own"""
    input_size: tuple[int, int, int] = (3, 224, 224)
    """(C, H, W) of the paper's images"""
    crop: float = 0.875
    """side of the test crop over the shorter side of the image"""
    num_classes: int = 1000
    cannot: Mapping[str, str] = field(default_factory=dict)
    """promise -> why this network cannot keep it"""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataInfo:
    """What a dataset is."""

    name: str
    classes: tuple[str, ...]
    channels: int
    size: tuple[int, int] | None
    """(H, W) where all images agree"""
    mean: tuple[float, ...]
    """per channel, of pixels in [0, 1]"""
    std: tuple[float, ...]
    images: Mapping[str, int]
    """number of images per part: train, and val or test where they exist"""
    split: str
    """how the parts were made, and why so"""
    mirror: bool
    """whether a mirrored image keeps its class"""


@dataclass(frozen=True)
class Preprocessing:
    """From an image file to the network's input: resize, centre crop, scale to [0, 1], normalise."""

    channels: int
    size: tuple[int, int]
    """(H, W) of the input"""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    crop: float = 1.0
    """side of the crop over the shorter side of the resized image"""


@dataclass(frozen=True)
class Checkpoint:
    """What a saved network says of itself."""

    network: str
    settings: Mapping[str, Any]
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing | None = None
    recipe: Recipe | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    """what it was trained on"""
    versions: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    """whose weights it was made from, where they are not our own"""
