"""Weights, gradients and the optimiser's state cut in pieces over the processes (fully sharded data parallel)."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import chain, repeat
from typing import Any

import torch
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.strategy import _BackwardSyncControl
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from backbones.backbone import Backbone

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedStrategy(DDPStrategy):
    """Each stage is put together for its own forward and backward pass only. In all else as data parallel."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._backward_sync_control = _SyncControl()
        self._mesh: DeviceMesh | None = None

    def setup_module(self, module: nn.Module) -> nn.Module:  # type: ignore[override]
        """Cut the stages and what is left of the network; the same object comes back."""
        if not isinstance(module, Backbone):
            raise TypeError(f"--strategy fsdp takes a network of this library, not a {type(module).__name__}")
        self._mesh = init_device_mesh(self.root_device.type, (torch.distributed.get_world_size(),))
        for stage in module.stages:
            fully_shard(stage, mesh=self._mesh)
        fully_shard(module, mesh=self._mesh)
        return module

    def forget_mesh(self) -> None:
        """Let go of the process group: torch's caches keep the mesh, which would keep the group."""
        if self._mesh:
            self._mesh._pg_registry.clear()


class _SyncControl(_BackwardSyncControl):
    def no_backward_sync(self, module: nn.Module, enabled: bool) -> AbstractContextManager[None]:
        """Gradients stay whole, and are not shared, until the last part of a batch."""
        return _unshared(module, enabled)


@contextmanager
def _unshared(module: Any, enabled: bool) -> Iterator[None]:
    module.set_requires_gradient_sync(not enabled)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are in pieces."""
    return isinstance(model, FSDPModule)


def blueprint(model: Backbone) -> Backbone:
    """A copy without weights in memory, to be made a whole network of again by `whole`."""
    return copy.deepcopy(model).to("meta")


def whole(model: Backbone, blueprint: Backbone) -> Backbone:
    """The network in one piece, on the CPU; every process takes part, and the first has the result."""
    state = get_model_state_dict(model, options=WHOLE)
    if torch.distributed.get_rank():
        return blueprint
    put_together = copy.deepcopy(blueprint)
    put_together.load_state_dict(state, assign=True)
    return put_together


def states(model: nn.Module, optimiser: Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Of the network and of the optimiser, in one piece.

    An optimiser that has made no step has no state; torch would let it make one, whose momentum stays.
    """
    begun = get_optimizer_state_dict(model, optimiser, options=WHOLE) if optimiser.state else {}
    return get_model_state_dict(model, options=WHOLE), begun


def load_states(model: nn.Module, optimiser: Optimizer, states: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Each process takes its pieces of what `states` gave, or of what one process had by itself."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, states[0], options=options)
    if states[1].get("state"):
        set_optimizer_state_dict(model, optimiser, _by_name(model, optimiser, states[1]), options=options)


def _by_name(model: nn.Module, optimiser: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's own state has numbers where that of weights in pieces has their names."""
    if isinstance(next(iter(state["state"])), str):
        return state
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ours = [names[id(parameter)] for group in optimiser.param_groups for parameter in group["params"]]
    named = dict(zip(chain.from_iterable(group["params"] for group in state["param_groups"]), ours, strict=True))
    groups = [{**group, "params": [named[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {named[key]: kept for key, kept in state["state"].items()}, "param_groups": groups}


def in_one_piece(tensor: Tensor) -> Tensor:
    """A piece and all the others; anything else as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def padding(loader: Any, processes: int, shape: Sequence[int]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that count for nothing, for a process that has fewer of evaluation than another: all must take part."""
    most = -(-len(loader.dataset) // processes)
    missing = -(-most // loader.batch_size) - len(loader)
    return repeat((torch.zeros(1, *shape), torch.zeros(0, dtype=torch.long)), missing)


def piece_of(tensor: Tensor) -> Tensor:
    """What this process has of it, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, piece: Tensor) -> Tensor:
    """The tensor, cut as `piece` is."""
    if isinstance(piece, DTensor):
        return distribute_tensor(tensor.to(piece.device), piece.device_mesh, piece.placements)
    return tensor
