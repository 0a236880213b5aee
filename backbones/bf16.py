"""Where arithmetic in bfloat16 pays."""

import torch


def has_bf16(device: str = "cpu") -> bool:
    """Whether a device of this kind has instructions that multiply in bfloat16; what merely emulates them is slower."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
