"""Initial weights are drawn once, by the network's own initialisation; or not at all, where a file brings them."""

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

Draw = Callable[[], Tensor]
DRAWING = (
    "uniform_",
    "normal_",
    "trunc_normal_",
    "kaiming_uniform_",
    "kaiming_normal_",
    "xavier_uniform_",
    "xavier_normal_",
)
"""functions of torch.nn.init that take nearly all the time in which a network is built"""
_instead: dict[int, Callable[[Tensor, Draw], object]] = {}
"""what threads do instead of drawing a tensor"""
_originals: dict[str, Callable[..., Tensor]] = {}
_lock = threading.Lock()


@contextmanager
def undrawn() -> Iterator[None]:
    """Networks that this thread builds get no initial weights; what is no draw is as ever.

    Their memory is not touched either. Other threads draw as ever.
    """
    with _drawing(_never):
        yield


@contextmanager
def drawn_once() -> Iterator[None]:
    """What layers draw when they are made waits for the end, and is left out for tensors that were written to since.

    Of several draws of a tensor, the last is done. Until the end, nobody may read, copy or partly write such a tensor,
    or write to its `.data`, which is not counted.
    """
    if threading.get_ident() in _instead:
        yield
        return
    waiting: dict[int, tuple[Tensor, int, Draw]] = {}

    def later(tensor: Tensor, draw: Draw) -> None:
        if tensor.is_inference():  # which do not count what is written to them
            draw()
        else:
            waiting[id(tensor)] = tensor, tensor._version, draw

    with _drawing(later):
        yield
    for tensor, version, draw in waiting.values():
        if tensor._version == version:
            draw()


@contextmanager
def drawn_now() -> Iterator[None]:
    """Within `drawn_once`: what is drawn here does not wait."""
    if _instead.get(threading.get_ident(), _never) is _never:
        yield
        return
    with _drawing(_now):
        yield


def _never(tensor: Tensor, draw: Draw) -> None:
    """Leave it as it is."""


def _now(tensor: Tensor, draw: Draw) -> None:
    draw()


@contextmanager
def _drawing(instead: Callable[[Tensor, Draw], object]) -> Iterator[None]:
    """This thread calls `instead` where it would draw."""
    here = threading.get_ident()
    before = _instead.get(here)
    try:
        with _lock:
            if not _instead:
                for name in DRAWING:
                    _originals[name] = getattr(nn.init, name)
                    setattr(nn.init, name, _by_thread(_originals[name]))
            _instead[here] = instead
        yield
    finally:
        with _lock:
            if before:
                _instead[here] = before
            else:
                _instead.pop(here, None)
            if not _instead:
                for name, draw in _originals.items():
                    setattr(nn.init, name, draw)


def _by_thread(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(draw)
    def drawn(tensor: Tensor, *args: object, **kwargs: object) -> Tensor:
        if instead := _instead.get(threading.get_ident()):
            instead(tensor, functools.partial(draw, tensor, *args, **kwargs))
            return tensor
        return draw(tensor, *args, **kwargs)

    return drawn
