"""Reading the CLIP checkpoints that OVSeg's authors released, mask prompts included."""

from __future__ import annotations

import zipfile
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from ovseg.clip.adapted import save_adapted
from ovseg.clip.prompts import vit_hook_points
from ovseg.clip.save import model_config
from ovseg.core import hashing
from ovseg.core.errors import OvsegError

MASK_EMBEDDING = "visual.mask_embedding"
UNUSED = {"attn_mask"}  # a constant that some versions of open_clip store
CONV = "visual.conv1.weight"
RELEASED = {(1024, 14): "ViT-L-14-quickgelu", (768, 16): "ViT-B-16-quickgelu"}  # by width and patch of the image tower
LICENCE = "CC-BY-NC-4.0"
HOLDERS = ("state_dict", "model")  # of the weights in a checkpoint: open_clip's, detectron2's


def convert_clip(checkpoint: Path, model: str | None, folder: Path) -> None:
    """Convert a training checkpoint of OVSeg's open_clip fork, such as ovseg_clip_l, into our layout.

    Args:
        checkpoint: {"state_dict": {"module.visual...", ...}} or the bare state; loaded with `weights_only`.
        model: its open_clip name; None tells ViT-L-14-quickgelu and ViT-B-16-quickgelu by their sizes.
        folder: to write to.

    Raises:
        OvsegError: the file cannot be read; a key is missing or left over; prompts do not fit.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    if model is not None:
        _check_name(model)
    write_clip(read_state(checkpoint), checkpoint, model, folder)


def write_clip(state: Mapping[str, Tensor], checkpoint: Path, model: str | None, folder: Path) -> None:
    """Write a CLIP's folder from weights with OpenAI's names.

    Args:
        state: weights, mask prompts among them as `visual.mask_embedding` `[depth, patches or 1, width]`.
        checkpoint: where they come from, for provenance and messages.
        model: see `convert_clip`.
        folder: made if needed.

    Raises:
        OvsegError: as `convert_clip`.
    """
    name = model or _name(state, checkpoint)
    _check_name(name)
    network = open_clip.create_model(name, pretrained=None)
    prompts = state.get(MASK_EMBEDDING)
    weights = {key: tensor for key, tensor in state.items() if key not in UNUSED | {MASK_EMBEDDING}}
    check_keys(f"{checkpoint} is not a {name}", weights, network.state_dict())
    network.load_state_dict(weights)
    if prompts is not None:
        prompts = _fitting(prompts, network.visual, checkpoint)
    base = {
        "model": name,
        "pretrained": checkpoint.name,
        "weights": hashing.sha256_file(checkpoint),
        "licence": LICENCE,
    }
    provenance = {"base": base, "steps": []}
    save_adapted(network, model_config(name), prompts, provenance, folder, open_clip.get_tokenizer(name))


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights of a training checkpoint, without the prefix that DistributedDataParallel gives.

    Raises:
        OvsegError: no such file, or not a checkpoint of tensors.
    """
    try:
        lazily = zipfile.is_zipfile(path)  # tensors are read when they are used; torch's older format cannot
        loaded: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=lazily)
    except Exception as error:  # torch.load has no kind of its own for what is no checkpoint
        raise OvsegError(f"cannot read {path}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    state = next((loaded[key] for key in HOLDERS if key in loaded), loaded) if isinstance(loaded, Mapping) else None
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise OvsegError(f"{path} is not a checkpoint: it holds no dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def check_keys(
    problem: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: Container[str] = ()
) -> None:
    """Account for every key of a checkpoint.

    Args:
        problem: what a difference means, the beginning of the message.
        found: the checkpoint.
        wanted: tensors of the same names and shapes.
        optional: keys of `wanted` that a checkpoint may lack.

    Raises:
        OvsegError: a key is missing, left over, or of another shape; the message names them.
    """
    missing = sorted(key for key in wanted.keys() - found.keys() if key not in optional)
    extra = sorted(found.keys() - wanted.keys())
    wrong = sorted(key for key in wanted.keys() & found.keys() if wanted[key].shape != found[key].shape)
    if missing or extra or wrong:
        raise OvsegError(
            f"{problem}: missing {_some(missing)}; left over {_some(extra)}; of another shape {_some(wrong)}"
        )


def _check_name(model: str) -> None:
    if open_clip.get_model_config(model) is None:
        raise OvsegError(f"open_clip knows no model {model!r}")


def _name(state: Mapping[str, Tensor], checkpoint: Path) -> str:
    shape = state[CONV].shape if CONV in state else ()
    name = RELEASED.get((shape[0], shape[-1])) if shape else None
    if name is None:
        raise OvsegError(
            f"{checkpoint}: the CLIP is neither {' nor '.join(RELEASED.values())} by the shape of {CONV}, {list(shape)}; "
            "give its open_clip name by --model"
        )
    return name


def _fitting(prompts: Tensor, visual: nn.Module, checkpoint: Path) -> Tensor:
    """Prompts `[depth, patches, width]`, one for each patch of the tower."""
    where = vit_hook_points(visual)
    number = where.grid[0] * where.grid[1]
    if prompts.ndim != 3 or prompts.shape[1] not in (1, number) or prompts.shape[2] != where.width:
        raise OvsegError(
            f"{checkpoint}: {MASK_EMBEDDING} is {list(prompts.shape)}, not [depth, {number}, {where.width}]"
        )
    return prompts.expand(-1, number, -1)


def _some(names: list[str]) -> str:
    return f"{len(names)} keys ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "nothing"
