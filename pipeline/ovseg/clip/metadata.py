"""What is known of a CLIP's weights before they are loaded: activation, preprocessing, size.

It comes from open_clip's list of pretrained weights, or from the config beside the weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import nn

from ovseg.clip.names import CONFIG
from ovseg.core import weights
from ovseg.core.errors import OvsegError
from ovseg.core.json_files import read_json

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
"""Keys of open_clip that say how images are prepared."""


def check_activation(model: str, config: dict[str, Any], quick_gelu: bool, weights_name: str, suggestion: str) -> None:
    """Refuse a model with another activation than its weights: open_clip only warns, and the features are wrong.

    Args:
        model: name of the model, as the user gives it.
        config: its "model_cfg".
        quick_gelu: whether the weights were trained with QuickGELU.
        weights_name: what the weights are called in the message.
        suggestion: models with the right activation, for the message.

    Raises:
        OvsegError: if the activations differ.
    """
    if bool(config.get("quick_gelu", False)) != quick_gelu:
        trained, built = ("with", "without") if quick_gelu else ("without", "with")
        raise OvsegError(
            f"QuickGELU mismatch: {weights_name} were trained {trained} it, but the model {model} is {built} it. "
            f"Use {suggestion}"
        )


def pretrained_metadata(path: Path) -> dict[str, Any]:
    """What is known of the weights in a file: "quick_gelu" and the keys of `PREPROCESS`.

    Args:
        path: weights file. It is recognized by the config beside it, by the repository of the Hub that it comes from, or by
            the name that open_clip downloads it under.

    Returns:
        the known values; an empty dict if the file is not recognized.

    Raises:
        OvsegError: if the config beside it cannot be read.
    """
    config_path = path.with_name(CONFIG)
    if config_path.is_file():
        config = read_config(config_path)
        preprocess = read_json(config_path).get("preprocess_cfg") or {}
        return {**preprocess, "quick_gelu": config.get("quick_gelu", False)}
    if repo := weights.repository(path):
        return next((open_clip.get_pretrained_cfg(*tag) for tag in tags_of_repository(repo)), {})
    entries = (open_clip.get_pretrained_cfg(*tag) for tag in open_clip.list_pretrained())
    return next((entry for entry in entries if entry.get("url", "").endswith(f"/{path.name}")), {})


def tags_of_repository(repo: str) -> list[tuple[str, str]]:
    """The (model, tag) names under which open_clip lists the weights of a repository "OWNER/NAME" of the Hub."""
    return [
        (model, tag)
        for model, tag in open_clip.list_pretrained()
        if open_clip.get_pretrained_cfg(model, tag).get("hf_hub", "").rpartition("/")[0] == repo
    ]


def read_config(path: Path) -> dict[str, Any]:
    """Read the "model_cfg" of open_clip_config.json.

    Raises:
        OvsegError: if the file holds none.
    """
    try:
        config = read_json(path)["model_cfg"]
        return {**config, "text_cfg": dict(config["text_cfg"]), "vision_cfg": dict(config["vision_cfg"])}
    except OvsegError as error:
        raise OvsegError(f"cannot load the CLIP: {error}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"cannot load the CLIP: {path} is not a config of open_clip ({error})") from None


def default_preprocess(model: str) -> dict[str, Any]:
    """The preprocessing that all weights of a model share in open_clip's list.

    SigLIP's images are normalized by 0.5, for example, and no config states it.
    """
    tags = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
    return {name: tags[0][name] for name in PREPROCESS if tags and all(tag[name] == tags[0][name] for tag in tags)}


def gigabytes(config: dict[str, Any]) -> float | None:
    """The size in GB of the weights that a config describes, as float32; None if building it needs a download."""
    config = dict(config)
    custom_text = config.pop("custom_text", False)
    if "hf_model_name" in config["text_cfg"] or "multimodal_cfg" in config:
        return None
    model_class: type[nn.Module] = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    try:
        with torch.device("meta"):
            network = model_class(**config)
    except (RuntimeError, NotImplementedError, TypeError):  # some towers of timm cannot be built on "meta"
        return None
    return float(sum(weight.numel() for weight in network.state_dict().values()) * 4 / 1e9)
