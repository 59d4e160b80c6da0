"""Adapted CLIPs for the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import torch

from ovseg.clip.adapted import PROMPTS, PROVENANCE, load_adapted, read_provenance
from ovseg.clip.card import write_card
from ovseg.clip.save import model_config, save_clip
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
    save_clip(clip.model, model_config(f"local-dir:{model}"), out, torch.float16 if half else None)
    if hasattr(clip.tokenizer, "save_pretrained"):  # one of transformers, with files of its own
        clip.tokenizer.save_pretrained(out)
    for name in (PROMPTS, PROVENANCE):
        if (model / name).is_file():
            (out / name).write_bytes((model / name).read_bytes())
    write_card(out, read_provenance(model), clip.prompts is not None)
