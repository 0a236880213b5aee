"""What a network costs, counted on the meta device."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones.geometry import evaluating

CONVENTION = (
    "madds: multiply-adds of convolutions and matrix products, one image; params: trained values, buffers apart"
)


@dataclass(frozen=True)
class Cost:
    """Of one network, for one image."""

    params: int
    """trained values, without those of auxiliary heads"""
    aux_params: int
    """trained values of auxiliary heads, which only training uses"""
    buffers: int
    """values that are kept but not trained"""
    madds: int
    """multiply-adds of convolutions and matrix products"""


def measure_cost(module: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count one forward pass over an image of shape (C, H, W). Allocates nothing, changes nothing of the module."""
    tensors = dict([*module.named_parameters(), *module.named_buffers()])
    dtype = next((p.dtype for p in module.parameters()), torch.float32)
    counter = FlopCounterMode(display=False)
    meta = {name: torch.empty_like(t, device="meta") for name, t in tensors.items()}
    with evaluating(module), torch.inference_mode(False), torch.no_grad(), counter:
        torch.func.functional_call(module, meta, (torch.empty(1, *input_shape, device="meta", dtype=dtype),))
    aux = getattr(module, "aux", None)
    aux_params = sum(p.numel() for p in aux.parameters()) if isinstance(aux, nn.ModuleDict) else 0
    return Cost(
        params=sum(p.numel() for p in module.parameters()) - aux_params,
        aux_params=aux_params,
        buffers=sum(b.numel() for b in module.buffers()),
        madds=counter.get_total_flops() // 2,
    )
