"""backbones/weights/timm.json: which weights timm has on the hub. python tests/timm_weights.py writes it."""

import json
from typing import Any

from timm.models import get_arch_pretrained_cfgs

from backbones.weights import published, timm

KEPT = ("input_size", "mean", "std", "interpolation", "crop_pct", "num_classes", "license", "origin_url")


def listed() -> dict[str, dict[str, dict[str, Any]]]:
    """Our architectures of timm -> tags, timm's default first -> what timm says of them."""
    architectures = {}
    for name in sorted({network.name for network in timm.NETWORKS}):
        cfgs = {tag: cfg.to_dict() for tag, cfg in get_arch_pretrained_cfgs(name).items()}
        tags = {tag.partition(".")[2]: told(cfg, tag) for tag, cfg in cfgs.items() if cfg.get("hf_hub_id")}
        if tags:
            architectures[name] = tags
    return json.loads(json.dumps(architectures))


def told(cfg: dict[str, Any], name: str) -> dict[str, Any]:
    """Of one tag. timm's "timm/" is short for a repository of the network's and tag's name."""
    repo = cfg["hf_hub_id"]
    known = {key: cfg[key] for key in KEPT if cfg.get(key) not in (None, "unknown")}
    return {"repo": repo + name if repo.endswith("/") else repo, **known}


def page() -> str:
    """One line per tag."""
    architectures = (
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(tag)}: {json.dumps(told)}" for tag, told in tags.items())
        + "\n }"
        for name, tags in listed().items()
    )
    return "{\n" + ",\n".join(architectures) + "\n}\n"


if __name__ == "__main__":
    published.TIMM_FILE.write_text(page())
    print(f"written to {published.TIMM_FILE}")
