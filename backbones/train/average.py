"""The moving average of a network: what is validated and saved in place of the weights that are trained."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of weights and statistics; early steps count for more, so that short runs work too.

    average <- d average + (1 - d) weights, with d = min(decay, (1 + steps) / (10 + steps)); whole numbers are copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self._model = model
        self._kept = {name: tensor.detach().clone() for name, tensor in self._weights().items()}
        self._floats = [name for name, tensor in self._kept.items() if tensor.is_floating_point()]
        self._others = [name for name in self._kept if name not in set(self._floats)]

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimiser."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        weights = self._weights()
        old, new = ([state[name].detach() for name in self._floats] for state in (self._kept, weights))
        torch._foreach_lerp_(old, new, 1 - decay)
        for name in self._others:
            self._kept[name].copy_(weights[name])
        self.steps += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The network has the averaged weights within this block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, object]:
        """For a checkpoint."""
        return {"steps": self.steps, "kept": dict(self._kept)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """From a checkpoint."""
        kept, steps = state["kept"], state["steps"]
        if not isinstance(kept, dict) or not isinstance(steps, int):
            raise TypeError("not the state of an average")
        self.steps = steps
        for name, tensor in kept.items():
            self._kept[name].copy_(tensor)

    @torch.no_grad()
    def _swap(self) -> None:
        for name, theirs in self._weights().items():
            held = theirs.clone()
            theirs.copy_(self._kept[name])
            self._kept[name].copy_(held)

    def _weights(self) -> dict[str, Tensor]:
        return self._model.state_dict(keep_vars=True)
