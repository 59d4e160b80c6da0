"""Reading the CLIP checkpoints that OVSeg's authors released, mask prompts included."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from ovseg import fingerprint
from ovseg.clip.adapted import save_adapted
from ovseg.clip.prompts import seams
from ovseg.clip.save import model_config
from ovseg.errors import OvsegError

MASK_EMBEDDING = "visual.mask_embedding"
UNUSED = {"attn_mask"}  # a constant that some versions of open_clip store


def convert_clip(checkpoint: Path, model: str, folder: Path) -> None:
    """Convert a training checkpoint of OVSeg's open_clip fork, such as ovseg_clip_l, into our layout.

    Args:
        checkpoint: {"state_dict": {"module.visual...", ...}} or the bare state; loaded with `weights_only`.
        model: its open_clip name, ViT-L-14-quickgelu or ViT-B-16-quickgelu.
        folder: to write to.

    Raises:
        OvsegError: the file cannot be read; a key is missing or left over; prompts do not fit.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    if open_clip.get_model_config(model) is None:
        raise OvsegError(f"open_clip knows no model {model!r}")
    network = open_clip.create_model(model, pretrained=None)
    state = read_state(checkpoint)
    prompts = state.pop(MASK_EMBEDDING, None)
    state = {name: tensor for name, tensor in state.items() if name not in UNUSED}
    wanted = network.state_dict()
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    wrong = [name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape]
    if missing or extra or wrong:
        raise OvsegError(
            f"{checkpoint} is not a {model}: missing {_some(missing)}; left over {_some(extra)}; of another shape "
            f"{_some(wrong)}"
        )
    network.load_state_dict(state)
    if prompts is not None:
        where = seams(network.visual)
        number = where.grid[0] * where.grid[1]
        if prompts.ndim != 3 or prompts.shape[1] not in (1, number) or prompts.shape[2] != where.width:
            raise OvsegError(
                f"{checkpoint}: {MASK_EMBEDDING} is {list(prompts.shape)}, not [depth, {number}, {where.width}]"
            )
        prompts = prompts.expand(-1, number, -1)
    weights = fingerprint.of_file(checkpoint)
    base = {"model": model, "pretrained": checkpoint.name, "weights": weights, "licence": "CC-BY-NC-4.0"}
    provenance = {"base": base, "steps": []}
    save_adapted(network, model_config(model), prompts, provenance, folder, open_clip.get_tokenizer(model))


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a training checkpoint, without the prefix that DistributedDataParallel gives.

    Raises:
        OvsegError: no such file, or not a checkpoint of tensors.
    """
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no kind of its own for what is no checkpoint
        raise OvsegError(f"cannot read {path}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise OvsegError(f"{path} is not a checkpoint: it holds no dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _some(names: list[str]) -> str:
    return f"{len(names)} keys ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "nothing"
