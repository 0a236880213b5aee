"""Memory: of inference and of training, at the worst moment, and how many images fit."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._python_dispatch import TorchDispatchMode

from backbones.cost.copies import peak
from backbones.cost.storages import Storages
from backbones.cost.trace import Layers, call, called_layers, check, trace
from backbones.geometry import evaluating, tensors, without_values
from backbones.layers import RandomPath

Optimizer = Literal["sgd", "momentum", "adamw", "rmsprop"]
Precision = Literal["float32", "bfloat16", "float16", "amp"]
Device = Literal["cpu", "cuda"]

_OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1, foreach=False),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, foreach=False),
    "adamw": lambda params: torch.optim.AdamW(params, foreach=False),
    "rmsprop": lambda params: torch.optim.RMSprop(params, momentum=0.9, foreach=False),
}


@dataclass(frozen=True)
class Training:
    """Bytes that training holds, for one step of `batch_size` images."""

    batch_size: int
    optimizer: str
    precision: str
    weights: int
    """parameters and buffers"""
    state: int
    """what the optimiser keeps of each parameter"""
    activations: int
    """maps kept for the backward pass, the images among them, when the forward pass has ended"""
    gradients: int
    """of the parameters, when the backward pass has ended"""
    peak: int
    """all of it at the worst moment"""


class _Watch(TorchDispatchMode):
    """Notes what is allocated, and how long it lives."""

    def __init__(self, fake: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.storages, self._fake = Storages(), fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.storages.step += 1
        if not self._fake:
            args, kwargs = without_values(args), without_values(kwargs)
        out = func(*args, **(kwargs or {}))
        for x in tensors(out):
            self.storages.note(x)
        return out


def inference_memory(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    precision: Precision = "float32",
    device: Device = "cpu",
) -> int:
    """Bytes of weights, maps and, on the CPU, convolutions' own copies at the worst moment of a forward pass.

    Images are (C, H, W). What a GPU's convolutions need for themselves is not seen.
    """
    if precision == "amp":
        raise ValueError("precision='amp' is for training; give one of float32, bfloat16, float16")
    dtype = _dtype(precision)
    traced = trace(module, input_shape, batch_size, dtype)
    return _weights(module, dtype) + peak(traced.operators, traced.curve, dtype.itemsize if device == "cpu" else 0)


def training_memory(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    optimizer: Optimizer = "momentum",
    precision: Precision = "float32",
) -> Training:
    """What one step of training holds: forward and backward pass, then the optimiser, gradients freed before each step.

    Images are (C, H, W); "amp" keeps float32 weights and computes in bfloat16. Nothing random is dropped: the worst
    case. What the convolution library needs for itself is not seen.
    """
    if optimizer not in get_args(Optimizer):
        raise ValueError(f"optimizer={optimizer!r}; give one of {', '.join(get_args(Optimizer))}")
    check(module, input_shape, batch_size)
    dtype, amp = _dtype(precision), precision == "amp"
    with torch.inference_mode(False), torch.enable_grad(), _without_values(amp) as device:
        own: dict[str, Tensor] = {
            name: nn.Parameter(torch.empty_like(p, dtype=_cast(p, dtype), device=device), p.requires_grad)
            for name, p in module.named_parameters()
        }
        params = [p for p in own.values() if isinstance(p, nn.Parameter) and p.requires_grad]
        if not params:
            raise ValueError(f"{type(module).__name__} has no parameter that is trained; thaw some")
        for name, b in module.named_buffers():
            own[name] = torch.empty_like(b, dtype=_cast(b, dtype), device=device)
        optimize = _OPTIMIZERS[optimizer](params)
        for p in params:
            p.grad = torch.empty_like(p)
        optimize.step()  # its state is made at the first step, and there ever after
        optimize.zero_grad()
        watch, layers = _Watch(amp), Layers()
        state = [x for kept in optimize.state.values() for x in kept.values() if isinstance(x, Tensor)]
        for x in [*own.values(), *state]:
            watch.storages.ignore(x)
        # until after the backward pass, which may compute maps again
        with _training(module), called_layers(module, layers), _reparametrize_module(module, own), watch:
            images = torch.empty(batch_size, *input_shape, dtype=dtype, device=device)
            with torch.autocast("cpu", torch.bfloat16, enabled=amp):
                out = call(module, {}, images, layers)
                losses = [x.float().sum() for x in tensors(out) if x.requires_grad]
            if not losses:
                raise ValueError(f"no output of {type(module).__name__} depends on a trained parameter")
            loss = torch.stack(losses).sum()
            activations = watch.storages.alive
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = sum(_bytes(p.grad) for p in params if p.grad is not None)
            optimize.step()
    fixed, kept = _weights(module, dtype), sum(map(_bytes, state))
    peak = fixed + kept + max(watch.storages.curve(watch.storages.step + 1))
    return Training(batch_size, optimizer, precision, fixed, kept, activations, gradients, peak)


def largest_batch(
    module: nn.Module,
    input_shape: Sequence[int],
    memory: int,
    *,
    optimizer: Optimizer | None = None,
    precision: Precision = "float32",
    device: Device = "cpu",
) -> int:
    """How many images fit into `memory` bytes: in inference on `device`, or in training with `optimizer`.

    ValueError if not even one does.
    """

    def needed(batch_size: int) -> int:
        if optimizer is None:
            return inference_memory(module, input_shape, batch_size=batch_size, precision=precision, device=device)
        training = training_memory(module, input_shape, batch_size=batch_size, optimizer=optimizer, precision=precision)
        return training.peak

    fits, high, too_many = 1, 0, 0
    try:
        low = needed(fits)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        fits, low = 2, needed(2)  # batch norm has no statistics of a single value
    if low > memory:
        raise ValueError(f"{fits} images need {low:,} bytes, {memory:,} are given; give more, or smaller images")
    slope, halve = max(needed(fits + 1) - low, 1), False
    while not too_many or too_many - fits > 1:  # linear but for the place of the peak: a few steps find it
        if not too_many:
            guess = fits + max((memory - low) // slope, 1)
        elif halve:
            guess = (fits + too_many) // 2
        else:
            guess = fits + (memory - low) * (too_many - fits) // (high - low)
            guess = min(max(guess, fits + 1), too_many - 1)
        halve = not halve and bool(too_many)
        if (bytes_ := needed(guess)) <= memory:
            fits, low = guess, bytes_
        else:
            too_many, high = guess, bytes_
    return fits


def _dtype(precision: str) -> torch.dtype:
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r}; give one of {', '.join(get_args(Precision))}")
    return torch.float32 if precision == "amp" else getattr(torch, precision)


def _cast(x: Tensor, dtype: torch.dtype) -> torch.dtype:
    return dtype if x.is_floating_point() else x.dtype


def _weights(module: nn.Module, dtype: torch.dtype) -> int:
    return sum(x.numel() * _cast(x, dtype).itemsize for x in [*module.parameters(), *module.buffers()])


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


@contextmanager
def _without_values(amp: bool) -> Iterator[str]:
    """Tensors without values, and the device to make them on; autocast works on those that say they are on the CPU."""
    device = "cpu" if amp else "meta"
    with FakeTensorMode(allow_non_fake_inputs=True) if amp else nullcontext(), torch.device(device):
        yield device


@contextmanager
def _training(module: nn.Module) -> Iterator[None]:
    """Training mode, but nothing random is dropped on the way; and every part back in its own mode afterwards."""
    with evaluating(module):
        module.train()
        for path in (m for m in module.modules() if isinstance(m, RandomPath)):
            path.eval()
        yield
