"""What people call the operators of torch: conv 3x3, max pool, BN, ReLU, addition."""

from collections.abc import Sequence
from math import prod
from typing import Literal

from backbones.cost.trace import Operator

Kind = Literal["convolution", "depthwise", "linear", "pooling", "join", "other"]
FILTERS = frozenset({"convolution", "linear", "matmul"})
POOLINGS = frozenset({"max_pool2d", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "amax"})
JOINS = {
    "add": "addition",
    "sub": "subtraction",
    "mul": "multiplication",
    "div": "division",
    "cat": "concatenation",
    "stack": "concatenation",
    "maximum": "maximum",
}
NORMS = {"batch_norm": "BN", "native_group_norm": "GN", "native_layer_norm": "LN"}
ACTIVATIONS = {
    "relu": "ReLU",
    "silu": "SiLU",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "gelu": "GELU",
    "leaky_relu": "leaky ReLU",
    "hardswish": "hardswish",
    "hardsigmoid": "hardsigmoid",
    "elu": "ELU",
    "_softmax": "softmax",
}
SCALARS = {"mul": "scale", "div": "scale", "add": "shift", "sub": "shift"}
MAKERS = frozenset({"new_ones", "new_zeros", "new_full", "ones_like", "zeros_like", "full_like"})
"""read a map for its shape alone"""


def op_name(operator: Operator) -> str:
    """Without the mark of operators that change their input."""
    name: str = operator.op
    return name[:-1] if name.endswith("_") else name


def map_size(shape: Sequence[int]) -> tuple[int, ...]:
    """Of one image; channels in groups are channels."""
    _, *own = shape
    return (prod(own[:-2]), *own[-2:]) if len(own) > 3 else tuple(own)


def filter_name(operator: Operator) -> tuple[Kind, str]:
    if op_name(operator) != "convolution":
        return "linear", "linear"
    kernel = "x".join(map(str, operator.kernel_size))
    channels = operator.input_shapes[0][1]
    if operator.groups > 1 and operator.groups == channels:
        return "depthwise", f"depthwise {kernel}"
    return "convolution", f"conv {kernel}"


def pooling_name(operator: Operator) -> str:
    op = op_name(operator)
    word = "max pool" if "max" in op else "avg pool"
    if operator.kernel_size:
        return f"{word} {'x'.join(map(str, operator.kernel_size))}"
    spread = operator.output_shape[2:]
    return f"global {word}" if prod(spread or (1,)) == 1 else f"{word} to {'x'.join(map(str, spread))}"


def spaced(kind: str) -> str:
    """ChannelShuffle -> channel shuffle; LRN stays."""
    out, kind = "", kind.strip("_")
    for i, letter in enumerate(kind):
        starts = letter.isupper() and i and (kind[i - 1].islower() or (i + 1 < len(kind) and kind[i + 1].islower()))
        out += (" " if starts else "") + letter
    words = out.split(" ")
    return " ".join(w if w.isupper() and len(w) > 1 else w.lower() for w in words)
