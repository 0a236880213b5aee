"""backbones: the classic CNN image backbones, exactly as their papers have them. Names are imported on first use."""

from importlib import import_module
from typing import Any

_HOMES = {
    "create_model": "factory",
    "list_models": "factory",
    "model_info": "factory",
    "save": "factory",
    "load": "factory",
    "save_pretrained": "share",
    "from_pretrained": "share",
    "push_to_hub": "share",
    "measure_cost": "cost",
    "scale": "scaling",
    "compare": "catalog",
    "select": "choose",
    "optimize": "infer.optimize",
    "export": "infer.export",
    "Backbone": "backbone",
    "FeatureBackbone": "backbone",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
