"""Export adapted CLIPs for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.clip.adapted import load_adapted, read_provenance, save_adapted
from ovseg.clip.save import model_config
from ovseg.core.errors import OvsegError


def export_clip(model: Path, out: Path, half: bool = False) -> None:
    """Write a CLIP as a folder in the layout of a Hub repository.

    The folder holds weights, config, model card, mask prompts, text prompts, mask adapter and pseudo-texts if there are any,
    and the tokenizer's files if it has its own.

    Args:
        model: folder of an adapted CLIP.
        out: folder to write; it must not exist.
        half: whether floating-point weights are stored as float16.

    Raises:
        OvsegError: if `out` exists, or `model` cannot be loaded.
    """
    if out.exists():
        raise OvsegError(f"{out} exists; give another folder, or remove it")
    clip = load_adapted(model)
    dtype = torch.float16 if half else None
    config = model_config(f"local-dir:{model}")
    provenance = read_provenance(model)
    save_adapted(
        clip.model,
        config,
        clip.prompts,
        provenance,
        out,
        clip.tokenizer,
        dtype,
        clip.text_prompts,
        clip.regions,
        clip.adapter,
        clip.pseudo_text,
    )
