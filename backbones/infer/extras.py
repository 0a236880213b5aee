"""The libraries of the `infer` extra, imported when they are needed, made quiet, and kept from sending anything."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module, util
from io import StringIO
from threading import Lock
from typing import Any

CHATTY = ("torch.onnx", "onnxscript", "onnx_ir", "nncf", "openvino", "torch.export")
_lock, _silence = Lock(), ExitStack()
_inside: list[None] = []
"""one for each that is quiet now: what is silenced is the whole process'"""


def need(*names: str) -> Any:
    """The first of these libraries, all of them imported. ImportError that says what to install.

    openvino and nncf count their users through openvino_telemetry unless each has said no: here it is never theirs.
    """
    for name in names:
        if util.find_spec(name) is None:
            raise ImportError(f"{name} is not installed; pip install 'backbones[infer]'")
    with quiet():
        if {"openvino", "nncf"} & set(names):
            _silence_telemetry()
        return next(iter([import_module(name) for name in names]), None)


def _silence_telemetry() -> None:
    """Without that package openvino and nncf count nobody; where it is here already, its consent is taken back."""
    telemetry = sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as Python marks: not here
    if telemetry is not None:
        checker = import_module("openvino_telemetry.utils.opt_in_checker")
        checker.OptInChecker.check = lambda *_, **__: checker.ConsentCheckResult.DECLINED
        if single := getattr(telemetry.Telemetry, "_SingletonMetaClass__single_instance", None):
            single.consent = False


@contextmanager
def quiet() -> Iterator[None]:
    """No progress, warning or advice of these libraries; errors are raised. The last of several threads ends it."""
    with _lock:
        if not _inside:
            _silence.enter_context(_silent())
        _inside.append(None)
    try:
        yield
    finally:
        with _lock:
            _inside.pop()
            if not _inside:
                _silence.close()


@contextmanager
def _silent() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in CHATTY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
