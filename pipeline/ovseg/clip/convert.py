"""Convert the CLIP checkpoints that OVSeg's authors released, mask prompts included, into an adapted CLIP's folder."""

from __future__ import annotations

from collections.abc import Container, Mapping
from pathlib import Path

import open_clip
from torch import Tensor

from ovseg.clip.adapted import save_adapted
from ovseg.clip.prompts import check_prompts
from ovseg.clip.save import model_config
from ovseg.core import hashing
from ovseg.core.checkpoints import read_weights
from ovseg.core.errors import OvsegError

MASK_EMBEDDING = "visual.mask_embedding"
CONV = "visual.conv1.weight"
IGNORED_KEYS = {"attn_mask"}  # a constant that some versions of open_clip store
MODEL_BY_WIDTH_AND_PATCH = {(1024, 14): "ViT-L-14-quickgelu", (768, 16): "ViT-B-16-quickgelu"}
LICENCE = "CC-BY-NC-4.0"


def convert_clip(checkpoint: Path, model: str | None, folder: Path) -> None:
    """Convert a training checkpoint of OVSeg's fork of open_clip, such as ovseg_clip_l.

    Args:
        checkpoint: file that holds {"state_dict": {"module.visual...", ...}} or the weights alone. It is loaded with
            `weights_only`.
        model: name of the model in open_clip; None recognizes ViT-L-14-quickgelu and ViT-B-16-quickgelu by their sizes.
        folder: folder to write; it must not exist.

    Raises:
        OvsegError: if `folder` exists, the file cannot be read, a key is missing or unexpected, or the mask prompts do not fit.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    if model is not None:
        _check_name(model)
    write_clip(read_weights(checkpoint), checkpoint, model, folder)


def write_clip(state: Mapping[str, Tensor], checkpoint: Path, model: str | None, folder: Path) -> None:
    """Write a CLIP's folder from weights that have OpenAI's names.

    Args:
        state: the weights, with mask prompts as `visual.mask_embedding` `[depth, patches or 1, width]`; a depth of 0 means no
            prompts.
        checkpoint: file that they come from, for provenance and messages.
        model: name of the model in open_clip, as in `convert_clip`.
        folder: folder to write; it is made if needed.

    Raises:
        OvsegError: as `convert_clip`.
    """
    name = model or _recognize(state, checkpoint)
    _check_name(name)
    network = open_clip.create_model(name, pretrained=None)
    prompts = state.get(MASK_EMBEDDING)
    weights = {key: tensor for key, tensor in state.items() if key not in IGNORED_KEYS | {MASK_EMBEDDING}}
    check_keys(f"{checkpoint} is not a {name}", weights, network.state_dict())
    network.load_state_dict(weights)
    if prompts is not None:
        prompts = check_prompts(prompts, network.visual, f"{checkpoint}: {MASK_EMBEDDING}")
    base = {
        "model": name,
        "pretrained": checkpoint.name,
        "weights": hashing.sha256_file(checkpoint),
        "licence": LICENCE,
    }
    provenance = {"base": base, "steps": []}
    save_adapted(network, model_config(name), prompts, provenance, folder, open_clip.get_tokenizer(name))


def check_keys(
    problem: str, state: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: Container[str] = ()
) -> None:
    """Check that a checkpoint has exactly the expected keys and shapes.

    Args:
        problem: what a difference means, as the beginning of the message.
        state: tensors of the checkpoint.
        expected: tensors with the expected names and shapes.
        optional: keys of `expected` that the checkpoint may lack.

    Raises:
        OvsegError: if a key is missing, unexpected, or of another shape; the message names the keys.
    """
    missing = sorted(key for key in expected.keys() - state.keys() if key not in optional)
    unexpected = sorted(state.keys() - expected.keys())
    misshapen = sorted(key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape)
    if missing or unexpected or misshapen:
        raise OvsegError(
            f"{problem}: missing {_list_keys(missing)}; unexpected {_list_keys(unexpected)}; of another shape "
            f"{_list_keys(misshapen)}"
        )


def _check_name(model: str) -> None:
    if open_clip.get_model_config(model) is None:
        raise OvsegError(f"open_clip knows no model {model!r}")


def _recognize(state: Mapping[str, Tensor], checkpoint: Path) -> str:
    shape = state[CONV].shape if CONV in state else ()
    name = MODEL_BY_WIDTH_AND_PATCH.get((shape[0], shape[-1])) if shape else None
    if name is None:
        raise OvsegError(
            f"{checkpoint}: the CLIP is neither {' nor '.join(MODEL_BY_WIDTH_AND_PATCH.values())} by the shape of {CONV}, "
            f"{list(shape)}; give its open_clip name by --model"
        )
    return name


def _list_keys(names: list[str]) -> str:
    return f"{len(names)} keys ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})" if names else "nothing"
