"""What a network costs: any `nn.Module`, run once on the meta device and counted operator by operator."""

from collections.abc import Sequence

from torch import nn

from backbones.cost.diff import Diff, diff
from backbones.cost.memory import Training, inference_memory, largest_batch, training_memory
from backbones.cost.report import Cost, Row, stage_names
from backbones.cost.trace import Operator, trace

__all__ = [
    "Cost",
    "Diff",
    "Operator",
    "Row",
    "Training",
    "diff",
    "inference_memory",
    "largest_batch",
    "measure_cost",
    "training_memory",
]


def measure_cost(module: nn.Module, input_shape: Sequence[int], batch_size: int = 1) -> Cost:
    """Count one forward pass over images of shape (C, H, W). Allocates nothing, changes nothing of the module.

    ValueError names the layer that failed, or that decides by values: a count has none.
    """
    traced = trace(module, input_shape, batch_size)
    aux = getattr(module, "aux", None)
    aux_params = sum(p.numel() for p in aux.parameters()) if isinstance(aux, nn.ModuleDict) else 0
    tensors = [*module.parameters(), *module.buffers()]
    return Cost(
        params=sum(p.numel() for p in module.parameters()) - aux_params,
        aux_params=aux_params,
        buffers=sum(b.numel() for b in module.buffers()),
        operators=traced.operators,
        lives=traced.lives,
        curve=traced.curve,
        names=stage_names(module),
        kinds={name: type(part).__name__ for name, part in module.named_modules()},
        outputs=traced.outputs,
        weight_bytes=sum(t.numel() * t.element_size() for t in tensors),
        itemsize=next((t.element_size() for t in tensors if t.is_floating_point()), 4),
        input_shape=tuple(input_shape),
        batch_size=batch_size,
    )
