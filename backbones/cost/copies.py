"""What torch's convolutions on the CPU allocate for themselves, beside the maps."""

from collections.abc import Sequence
from math import prod

from backbones.cost.trace import Operator

_UNFOLDED = 20_480
"""values of an image up to which it is unfolded into columns"""


def peak(operators: Sequence[Operator], curve: Sequence[int], itemsize: int = 0) -> int:
    """Bytes of maps at the worst moment; with `itemsize`, and of the copies that convolutions make on the CPU."""
    return max((alive + itemsize * copies(o) for o, alive in zip(operators, curve, strict=True)), default=0)


def copies(o: Operator) -> int:
    """Values that a plain 2-d convolution of torch allocates for itself on the CPU, beyond its output.

    oneDNN copies input and weights into its own layout and its result back out of it; a small image is unfolded into
    columns instead.
    """
    if o.op != "convolution" or not o.input_shapes or len(o.kernel_size) != 2 or max(o.dilation) > 1:
        return 0
    (batch, channels, *_), patch = o.input_shapes[0], prod(o.kernel_size)
    read, written = prod(o.input_shapes[0]), prod(o.output_shape)
    if batch == 1 and o.groups == 1 and max(o.kernel_size) <= 3 and read <= _UNFOLDED:
        plain = patch == 1 and max(o.stride) == 1
        return 0 if plain else channels * patch * prod(o.output_shape[2:])
    weights = o.output_shape[1] * channels // o.groups * patch
    image = channels <= 4  # is read as it is
    return written + max(weights + (0 if image else read) - written, 0)
