"""Adapted CLIPs for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import torch
from open_clip.push_to_hf_hub import save_for_hf

from ovseg.clip.adapted import PROMPTS, PROVENANCE, load_adapted, read_provenance
from ovseg.clip.card import write_card
from ovseg.clip.save import model_config
from ovseg.errors import OvsegError


def export_clip(model: Path, out: Path, half: bool = False) -> None:
    """Write a folder in the layout of a Hub repository: weights, config, tokenizer files if any, model card, prompts.

    Args:
        model: folder of an adapted CLIP.
        out: to write to.
        half: store floating-point weights as float16.

    Raises:
        OvsegError: `out` exists; `model` cannot be loaded.
    """
    if out.exists():
        raise OvsegError(f"{out} exists; give another folder, or remove it")
    clip = load_adapted(model)
    network = clip.model.to(torch.float16) if half else clip.model
    save_for_hf(network, clip.tokenizer, model_config(f"local-dir:{model}"), str(out), safe_serialization=True)
    for name in (PROMPTS, PROVENANCE):
        if (model / name).is_file():
            (out / name).write_bytes((model / name).read_bytes())
    write_card(out, read_provenance(model), clip.prompts is not None)
