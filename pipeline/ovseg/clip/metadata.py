"""What is known of a CLIP's weights before they are loaded: activation, normalisation, size.

open_clip's list of pretrained weights tells it, or the config that lies beside them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from ovseg.clip.save import CONFIG
from ovseg.core import weights
from ovseg.core.errors import OvsegError

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


def check_activation(model: str, config: dict[str, Any], wanted: bool, which: str, instead: str) -> None:
    """Refuse a model with another activation than its weights': open_clip only warns, and the features are wrong.

    Args:
        model: as the user names it.
        config: its "model_cfg".
        wanted: whether the weights were trained with QuickGELU.
        which: weights, for the message.
        instead: what would fit.

    Raises:
        OvsegError: it has.
    """
    if bool(config.get("quick_gelu", False)) != wanted:
        raise OvsegError(
            f"QuickGELU mismatch: {which} were trained {'with' if wanted else 'without'} it, the model {model} is "
            f"{'without' if wanted else 'with'} it. Use {instead}"
        )


def pretrained_metadata(path: Path) -> dict[str, Any]:
    """What can be known of the weights in a file: "quick_gelu" and `PREPROCESS`.

    Args:
        path: known by the config beside it, the repository that it comes from, or a name that open_clip downloads.

    Returns:
        empty if nothing is known.

    Raises:
        OvsegError: the config beside it cannot be read.
    """
    beside = path.with_name(CONFIG)
    if beside.is_file():
        config = read_config(beside)
        about = json.loads(beside.read_text(encoding="utf-8")).get("preprocess_cfg", {})
        return {**about, "quick_gelu": config.get("quick_gelu", False)}
    if repo := weights.repository(path):
        return next((open_clip.get_pretrained_cfg(*pair) for pair in in_repo(repo)), {})
    every = (open_clip.get_pretrained_cfg(*pair) for pair in open_clip.list_pretrained())
    return next((one for one in every if one.get("url", "").endswith(f"/{path.name}")), {})


def in_repo(repo: str) -> list[tuple[str, str]]:
    """Names and tags under which open_clip has the weights of a repository on the Hub."""
    return [
        (model, tag)
        for model, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").rpartition("/")[0] == repo
    ]


def read_config(path: Path) -> dict[str, Any]:
    """The "model_cfg" of open_clip_config.json.

    Raises:
        OvsegError: it holds none.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        return {**config, "text_cfg": dict(config["text_cfg"]), "vision_cfg": dict(config["vision_cfg"])}
    except (ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"cannot load the CLIP: {path} is not a config of open_clip ({error})") from None


def default_preprocess(model: str) -> dict[str, Any]:
    """What is common to all weights of a model that open_clip has: SigLIP's are normalised by 0.5, and no config says so."""
    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    return {name: tags[0][name] for name in PREPROCESS if tags and all(tag[name] == tags[0][name] for tag in tags)}


def gigabytes(config: dict[str, Any]) -> float | None:
    """Size of the weights that a config describes, stored as float32; None where it cannot be built without a download."""
    config = dict(config)
    custom = config.pop("custom_text", False)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        return None
    kind: type[nn.Module] = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with torch.device("meta"):
            network = kind(**config)
    except (RuntimeError, NotImplementedError, TypeError):  # timm has towers that cannot be built there
        return None
    return float(sum(weight.numel() for weight in network.state_dict().values()) * 4 / 1e9)
