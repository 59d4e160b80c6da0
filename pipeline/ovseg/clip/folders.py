"""Folders of CLIPs as others write them: which file holds the weights, and what a folder without open_clip's config is."""

from __future__ import annotations

import re
from pathlib import Path

from ovseg.clip.mask_adapter import ADAPTER
from ovseg.clip.names import CONFIG
from ovseg.clip.pseudo_text import PSEUDO_TEXT
from ovseg.clip.region_settings import REGION_ENCODER
from ovseg.clip.save import PROMPTS, WEIGHTS
from ovseg.clip.text_prompts import TEXT_PROMPTS
from ovseg.core.checkpoints import SHARD_INDEX_SUFFIX
from ovseg.core.errors import OvsegError
from ovseg.core.json_files import read_json

PICKLED_WEIGHTS = "open_clip_pytorch_model.bin"
TRANSFORMERS_CONFIG = "config.json"
PREFERRED = (
    WEIGHTS,
    f"{WEIGHTS}{SHARD_INDEX_SUFFIX}",
    "open_clip_pytorch_model.safetensors",
    PICKLED_WEIGHTS,
    "open_clip_pytorch_model.pt",
    "open_clip_pytorch_model.pth",
)
SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
PROVENANCE = "provenance.json"
# files beside the weights that change what the CLIP computes
BESIDE = (PROMPTS, TEXT_PROMPTS, ADAPTER, PSEUDO_TEXT, REGION_ENCODER)
OF_TRAININGS = frozenset({"optimizer", "rng_state", "scaler", "scheduler", "training_args"})
SHARD = re.compile(r"-\d+-of-\d+$")


def find_weights(folder: Path) -> Path:
    """Find the weights in the folder of a CLIP.

    Args:
        folder: folder that holds them under a name that open_clip uses, or as the only index of shards or the only file of
            weights.

    Returns:
        the file, or the index of its shards (see `checkpoints.shards`).

    Raises:
        OvsegError: there are none, or several and none has a name that open_clip uses, or the index of shards is missing.
    """
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    indices = sorted(folder.glob(f"*{SHARD_INDEX_SUFFIX}"))
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix in SUFFIXES and path.name not in BESIDE and path.stem not in OF_TRAININGS and path.is_file()
    )
    found = indices or files
    if not found:
        raise OvsegError(f"{folder} is not a CLIP in open_clip's local-dir layout: {WEIGHTS} is missing")
    if not indices and (shard := next((path for path in files if SHARD.search(path.stem)), None)):
        index = SHARD.sub("", shard.stem) + shard.suffix + SHARD_INDEX_SUFFIX
        raise OvsegError(
            f"{folder} holds weights in shards, but {index} is missing, which lists them; copy it there, too"
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:6])
        raise OvsegError(
            f"{folder} holds several weights: {names}; rename those to be used to {WEIGHTS} or {PICKLED_WEIGHTS}"
        )
    return found[0]


def explain_missing_config(folder: Path, repository: str | None = None) -> str:
    """Say what a folder without open_clip_config.json is, and how to use it.

    Args:
        folder: the folder.
        repository: "OWNER/NAME", if it is the copy of a repository of the Hub.
    """
    name = repository or folder
    if folder.is_file():
        return (
            f"{name} is a file, not the folder of a CLIP; mining takes files with the name of their model, such as "
            f"ViT-B-16:{folder}, and the stage `base` makes folders of them"
        )
    if not folder.is_dir():
        return f"the folder {name} does not exist, so there is no CLIP in it"
    if kind := _transformers_kind(folder):
        written = f"{name} is a model of type {kind!r} that transformers wrote ({TRANSFORMERS_CONFIG}, no {CONFIG})"
        download = f"`hf download {repository} --local-dir FOLDER`, then " if repository else ""
        if kind == "clip":
            return f"{written}; {download}`ovseg convert-checkpoint {'FOLDER' if repository else folder} --out OUT` converts it"
        return (
            f"{written}, and only type 'clip' can be converted; take the same weights as open_clip publishes them, by "
            "NAME:TAG or hf-hub:OWNER/NAME"
        )
    missing = f"{name} is not a CLIP in open_clip's local-dir layout: {CONFIG} is missing"
    if any(path.suffix in SUFFIXES for path in folder.iterdir()):
        return f"{missing}; if open_clip knows the model of these weights, give its name with them: NAME:{folder}"
    return missing


def _transformers_kind(folder: Path) -> str | None:
    """The "model_type" in a config of transformers; None if there is none."""
    try:
        config = read_json(folder / TRANSFORMERS_CONFIG)
    except (OSError, OvsegError):
        return None
    kind = config.get("model_type") if isinstance(config, dict) else None
    return kind if isinstance(kind, str) else None
