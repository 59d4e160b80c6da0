"""Saving CLIP in open_clip's "local-dir" layout, so that stock `open_clip.create_model("local-dir:...")` loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from safetensors.torch import save_file
from torch import nn

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def save_clip(network: nn.Module, model_config: dict[str, Any], folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write config and weights.

    Args:
        network: open_clip's model.
        model_config: the config it was built from (`open_clip_config.json`'s "model_cfg").
        folder: made if needed.
        dtype: store floating-point weights in this type (they are loaded as float32 all the same).
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)
    save_config_for_hf(network, folder / CONFIG, model_config)


def model_config(model: str) -> dict[str, Any]:
    """The config that open_clip builds `model` from: of a name, a local folder, or a repository on the Hub."""
    if model.startswith("local-dir:"):
        return dict(json.loads((Path(model[10:]) / CONFIG).read_text(encoding="utf-8"))["model_cfg"])
    if model.startswith("hf-hub:"):
        from huggingface_hub import hf_hub_download

        return dict(json.loads(Path(hf_hub_download(model[7:], CONFIG)).read_text(encoding="utf-8"))["model_cfg"])
    return dict(open_clip.get_model_config(model))
