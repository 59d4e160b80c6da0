"""Adapted CLIPs on disk: open_clip's "local-dir" layout, with mask prompts and a model card beside it.

open_clip_config.json, open_clip_model.safetensors   config and weights, which stock open_clip loads
mask_prompts.safetensors                             "prompts" float32 [depth, patches, width]; absent without prompts
text_prompts.safetensors                             "prompts" float32 [vectors, width]; absent without learned text prompts
region_encoder.json                                  the region encoder that they are made for; absent for crops
mask_adapter.safetensors                             the weights of the region encoder mask_adapter; absent for others
pseudo_text.safetensors                              what changes texts by what an image shows; absent without it
provenance.json, README.md                           what the weights were made from, as data and as a model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ovseg.clip.card import write_card
from ovseg.clip.folders import PROVENANCE
from ovseg.clip.load import Clip, load_clip
from ovseg.clip.mask_adapter import ADAPTER, MaskAdapter, read_adapter, write_adapter
from ovseg.clip.pretrained import identify, locate, weights_fingerprint
from ovseg.clip.prompts import check_prompts, vit_layout
from ovseg.clip.pseudo_text import PSEUDO_TEXT, PseudoText, read_pseudo_text, write_pseudo_text
from ovseg.clip.region_settings import CROPS, REGION_ENCODER, RegionSettings, read_settings, write_settings
from ovseg.clip.regions import with_regions
from ovseg.clip.save import PROMPTS, model_config, save_clip
from ovseg.clip.text_prompts import TEXT_PROMPTS, read_text_prompts
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.json_files import read_json
from ovseg.core.options import Precision
from ovseg.core.tensor_files import write_weights
from ovseg.engine.weight_files import respect_offline


def load_adapted(
    folder: Path,
    device: str = "cpu",
    precision: Precision = "fp32",
    *,
    prompts: bool = True,
) -> Clip:
    """Load a CLIP that the stage `base`, `finetune` or `prompt` wrote, with all that lies beside its weights.

    Args:
        folder: models/base, models/finetune, models/prompt, or any other CLIP in the local-dir layout.
        device: the torch device.
        precision: the data type of the weights, as in `load_clip`.
        prompts: whether the mask prompts are loaded too.

    Raises:
        OvsegError: see `load_clip`; or the prompts, the mask adapter, the pseudo-texts or the settings of the region encoder
            cannot be read, or do not fit the CLIP.
    """
    return _with_files_of(folder, load_clip(f"local-dir:{folder}", device=device, precision=precision), prompts)


def load_named(model: str, pretrained: str | None, device: str = "cpu", precision: Precision = "fp32") -> Clip:
    """Load a CLIP by its name, as `load_clip` does; from a folder or the Hub with its prompts and region encoder.

    Args:
        model, pretrained, device, precision: see `load_clip`.

    Raises:
        OvsegError: see `load_clip` and `load_adapted`.
    """
    clip, folder = load_clip(model, pretrained, device, precision), locate(model, pretrained).folder
    return clip if folder is None else _with_files_of(folder, clip)


def _with_files_of(folder: Path, clip: Clip, prompts: bool = True) -> Clip:
    """A CLIP with what lies beside its weights; the mask prompts only if they are wanted."""
    device = clip.mean.device
    if (folder / TEXT_PROMPTS).is_file():
        clip = replace(clip, text_prompts=read_text_prompts(folder / TEXT_PROMPTS, clip.model).to(device))
    if prompts and (folder / PROMPTS).is_file():
        clip = _with_prompts(clip, folder)
    if (folder / ADAPTER).is_file():
        clip = replace(clip, adapter=read_adapter(folder / ADAPTER, clip.width).to(device, clip.dtype))
    if (folder / PSEUDO_TEXT).is_file():
        clip = replace(clip, pseudo_text=read_pseudo_text(folder / PSEUDO_TEXT, clip.width).to(device))
    settings, plain = read_settings(folder), clip.pseudo_text is None
    return clip if settings == clip.regions and plain else with_regions(clip, settings, folder / REGION_ENCODER)


def _with_prompts(clip: Clip, folder: Path) -> Clip:
    tensor, grid = read_prompts(folder / PROMPTS)
    if not len(tensor):
        return clip
    layout = vit_layout(clip.model.visual)  # type: ignore[arg-type]
    if grid != layout.grid:
        raise OvsegError(
            f"{folder / PROMPTS} holds prompts of {grid[0]} x {grid[1]} patches, the image tower has {layout.grid[0]} x "
            f"{layout.grid[1]}; put the weights that they were trained with beside them, or remove the file"
        )
    checked = check_prompts(tensor, clip.model.visual, folder / PROMPTS)  # type: ignore[arg-type]
    return clip if checked is None else replace(clip, prompts=checked.to(clip.mean.device))


def save_adapted(
    network: nn.Module,
    config: dict[str, Any],
    prompts: Tensor | None,
    provenance: Mapping[str, Any],
    folder: Path,
    tokenizer: object = None,
    dtype: torch.dtype | None = None,
    text_prompts: Tensor | None = None,
    regions: RegionSettings | None = None,
    adapter: MaskAdapter | None = None,
    pseudo_text: PseudoText | None = None,
) -> None:
    """Write a CLIP in the layout of this module.

    Args:
        network: a model of open_clip.
        config: the config that the model was built from.
        prompts: mask prompts `[depth, patches, width]`; None or a depth of 0 for none.
        provenance: what the weights were made from: "base", the original weights (`weights.Weights`) with their
            fingerprint and license, and "steps", the trainings since.
        folder: the folder to write; created if needed.
        tokenizer: the model's tokenizer; one of transformers has files of its own, which are written too.
        dtype: the data type of the stored weights, as in `save_clip`.
        text_prompts: learned text prompts `[vectors, width]`; None for none.
        regions: the region encoder that the CLIP is made for; None for crops.
        adapter: what the region encoder `mask_adapter` needs; None for others.
        pseudo_text: what changes text embeddings by what an image shows; None for nothing.
    """
    save_clip(network, config, folder, dtype)
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(folder)
    for name in (PROMPTS, TEXT_PROMPTS, ADAPTER, PSEUDO_TEXT):
        (folder / name).unlink(missing_ok=True)
    prompts = None if prompts is None or not len(prompts) else prompts
    if prompts is not None:
        rows, columns = vit_layout(network.visual).grid  # type: ignore[arg-type]
        write_weights({"prompts": prompts}, folder / PROMPTS, {"grid": f"{rows}x{columns}"})
    if text_prompts is not None:
        write_weights({"prompts": text_prompts}, folder / TEXT_PROMPTS)
    if adapter is not None:
        write_adapter(adapter, folder)
    if pseudo_text is not None:
        write_pseudo_text(pseudo_text, folder)
    write_settings(regions or CROPS, folder)
    write_json(folder / PROVENANCE, provenance)
    write_card(
        folder,
        provenance,
        prompts is not None,
        text_prompts is not None,
        (regions or CROPS).encoder,
        pseudo_text is not None,
    )


def materialise(model: str, pretrained: str | None, folder: Path, licence: str | None = None) -> None:
    """Copy any CLIP that `load_clip` loads, with all that lies beside its weights, into a folder of this layout.

    Args:
        model: the name of the model, as for `load_clip`.
        pretrained: the name of its weights, as for `load_clip`.
        folder: the folder to write; created if needed.
        licence: the license of the weights, for the model card; None if it is not known.

    Raises:
        OvsegError: see `load_clip`.
    """
    clip, copied = load_named(model, pretrained), locate(model, pretrained).folder
    origin = {
        **asdict(identify(model, pretrained)),
        "weights": weights_fingerprint(model, pretrained),
        "licence": licence,
    }
    with respect_offline():
        config = model_config(model)
    provenance = {"base": origin, "steps": []} | (read_provenance(copied) if copied else {})
    save_adapted(
        clip.model,
        config,
        clip.prompts,
        provenance,
        folder,
        clip.tokenizer,
        text_prompts=clip.text_prompts,
        regions=clip.regions,
        adapter=clip.adapter,
        pseudo_text=clip.pseudo_text,
    )


def made_with(model: str, pretrained: str | None) -> dict[str, str]:
    """Describe a CLIP in the metadata of a table that is made with it: its `Weights`, and "base", those it was made from.

    Args:
        model: the name of the model, as for `load_clip`.
        pretrained: the name of its weights, as for `load_clip`.

    Returns:
        a JSON under the metadata key "ovseg.clip".

    Raises:
        OvsegError: the weights cannot be found, see `locate`.
    """
    metadata: dict[str, Any] = asdict(identify(model, pretrained))
    if folder := locate(model, pretrained).folder:
        metadata["base"] = read_provenance(folder).get("base")
    return {"ovseg.clip": json.dumps(metadata, sort_keys=True)}


def read_prompts(path: Path) -> tuple[Tensor, tuple[int, int]]:
    """Read a file of mask prompts.

    Returns:
        prompts, float32 `[depth, patches, width]`, and the rows and columns of their grid of patches.

    Raises:
        OvsegError: the file does not hold mask prompts.
    """
    try:
        with safe_open(path, "pt") as file:
            rows, columns = map(int, (file.metadata() or {})["grid"].split("x"))
            prompts = file.get_tensor("prompts")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise OvsegError(f"{path} holds no mask prompts: {error}") from None
    if prompts.ndim != 3 or (len(prompts) and prompts.shape[1] != rows * columns):
        raise OvsegError(f"{path} holds {list(prompts.shape)}, not prompts of {rows} x {columns} patches")
    return prompts, (rows, columns)


def read_provenance(folder: Path) -> dict[str, Any]:
    """Read provenance.json of a CLIP's folder; empty if there is none.

    Raises:
        OvsegError: the file is not a JSON object.
    """
    path = folder / PROVENANCE
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        raise OvsegError(f"{path} is not a JSON object; remove it, or copy it again")
    return values
