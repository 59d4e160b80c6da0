"""Saving CLIP in open_clip's "local-dir" layout, so that stock `open_clip.create_model("local-dir:...")` loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.push_to_hf_hub import save_config_for_hf
from torch import nn

from ovseg.clip.names import CONFIG
from ovseg.core.tensor_files import write_tensors

WEIGHTS, PROMPTS = "open_clip_model.safetensors", "mask_prompts.safetensors"


def save_clip(network: nn.Module, model_config: dict[str, Any], folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write a CLIP's config and weights.

    Args:
        network: a model of open_clip.
        model_config: the config that the model was built from ("model_cfg" of open_clip_config.json).
        folder: the folder to write; created if needed.
        dtype: the data type of the stored floating-point weights; None keeps the model's. They are loaded as float32 in
            any case.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        name: value.detach().cpu().to(dtype if dtype and value.is_floating_point() else value.dtype).contiguous()
        for name, value in network.state_dict().items()
    }
    write_tensors(state, folder / WEIGHTS)
    save_config_for_hf(network, folder / CONFIG, model_config)


def model_config(model: str) -> dict[str, Any]:
    """Read the config that open_clip builds a model from.

    Args:
        model: a name of open_clip, "local-dir:FOLDER" or "hf-hub:OWNER/NAME".
    """
    if model.startswith("local-dir:"):
        return dict(json.loads((Path(model[10:]) / CONFIG).read_text(encoding="utf-8"))["model_cfg"])
    if model.startswith("hf-hub:"):
        from huggingface_hub import hf_hub_download

        return dict(json.loads(Path(hf_hub_download(model[7:], CONFIG)).read_text(encoding="utf-8"))["model_cfg"])
    return dict(open_clip.get_model_config(model))
