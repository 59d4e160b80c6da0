"""The files of a proposal network, and the check that a CLIP has the text tower that the network was trained with.

config.json             configuration of the MaskFormer, as transformers writes it
model.safetensors       weights, named as the modules are
proposal_network.json   training vocabulary, image size, probe of the text tower, and where it comes from: "backbone" says
                        with which weights the backbone began (see `weights.Weights`), "init" is the metadata of the
                        network that the training began with
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from safetensors.torch import load_file

from ovseg.clip.load import Clip
from ovseg.core import weights
from ovseg.core.arithmetic import full_float32
from ovseg.core.errors import OvsegError
from ovseg.core.json_files import read_json
from ovseg.core.tensor_files import write_tensors
from ovseg.proposals.backbone import dilate
from ovseg.proposals.network import ProposalNetwork, QueryClassifier, import_transformers, input_size

CONFIG, METADATA, WEIGHTS = "config.json", "proposal_network.json", "model.safetensors"
PROBE_TEXT = "a photo of a thing."
MIN_PROBE_COSINE = 0.99  # embeddings of the probe by one text tower differ by rounding alone


def save_network(
    model: Any,
    folder: Path,
    metadata: dict[str, Any],
    short_side: int,
    long_side: int,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a network's folder.

    Args:
        model: a network of `network.build_network`.
        folder: folder to write to; it is created if it does not exist.
        metadata: contents of proposal_network.json, to which the sizes of the network are added.
        short_side, long_side: see `network.input_size`.
        dtype: floating-point type of the weights on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    # not model.save_pretrained, which renames keys so that only transformers' own loader can read them
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    write_tensors(state, folder / WEIGHTS)
    project = model.class_predictor.project
    sizes = {
        "text_proj_dim": project[0].out_features,
        "width": project[2].out_features,
        "short_side": short_side,
        "long_side": long_side,
    }
    (folder / METADATA).write_text(json.dumps({**metadata, **sizes}, indent=1) + "\n", encoding="utf-8")


def load_network(folder: Path, device: str = "cpu") -> ProposalNetwork:
    """Load a network that `save_network` wrote; every key of its weights must match.

    Args:
        folder: the network's folder.
        device: torch device.

    Raises:
        OvsegError: transformers is not installed; a file is missing or malformed; keys are missing or unexpected.
    """
    full_float32()
    transformers = import_transformers()
    _check_files(folder, METADATA, CONFIG, WEIGHTS)
    try:
        metadata: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        short_side, long_side, _ = metadata["short_side"], metadata["long_side"], metadata["probe"]
        input_size(1, 1, short_side, long_side)
        config = transformers.MaskFormerConfig.from_pretrained(folder)
        model = transformers.MaskFormerForInstanceSegmentation(config)
        model.class_predictor = QueryClassifier(
            config.decoder_config.d_model, metadata["text_proj_dim"], metadata["width"]
        )
        model.load_state_dict(load_file(folder / WEIGHTS))
        dilate(model, metadata.get("dilations", ()))
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise OvsegError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:400]}") from None
    return ProposalNetwork(model.to(device).eval(), metadata)


def copy_network(source: Path, folder: Path) -> None:
    """Copy the files of a network's folder into another one, which is created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, METADATA, WEIGHTS):
        shutil.copyfile(source / name, folder / name)


def probe_text_tower(clip: Clip) -> list[float]:
    """Embed one fixed text, so that `check_text_tower` can tell whether two text towers are the same."""
    return [round(value, 6) for value in clip.encode_texts([PROBE_TEXT])[0].tolist()]


def check_text_tower(network: ProposalNetwork, clip: Clip, folder: Path, clip_folder: Path) -> None:
    """Check that a CLIP has the text tower that a network was trained with; with another one its classes would be noise.

    Args:
        network: the network; "probe" in its metadata is the result of `probe_text_tower` in its training.
        clip: the CLIP to use it with.
        folder, clip_folder: where they come from, for the error message.

    Raises:
        OvsegError: the embeddings of the probe differ in width or direction.
    """
    trained, given = torch.tensor(network.metadata["probe"]), torch.tensor(probe_text_tower(clip))
    if len(trained) != len(given):
        raise OvsegError(
            f"{folder} was trained with a CLIP whose embeddings have {len(trained)} numbers; those of {clip_folder} have "
            f"{len(given)}. Use the CLIP that it was trained with, or one adapted from it"
        )
    cosine = float(F.cosine_similarity(trained, given, dim=0))
    if cosine < MIN_PROBE_COSINE:
        raise OvsegError(
            f"{folder} was trained with another text tower than that of {clip_folder} (their embeddings of one text have "
            f"cosine {cosine:.3f}). Use the CLIP that it was trained with, or one adapted from it"
        )


def identify_network(folder: Path) -> dict[str, Any]:
    """Identify a network's weights for the metadata of tables made with it.

    Args:
        folder: the network's folder.

    Returns:
        the fields of `weights.Weights`, and as "backbone" those of the weights that the backbone began with (None if it
        began with none).

    Raises:
        OvsegError: a file is missing.
    """
    _check_files(folder, METADATA, WEIGHTS)
    identity = weights.identify(str(folder), None, [folder / WEIGHTS])
    return {**asdict(identity), "backbone": _first_metadata(folder).get("backbone")}


def published_licence(folder: Path) -> str | None:
    """Return the license of the checkpoint that a network was converted from, or trained on from; None if there is none."""
    metadata = _first_metadata(folder)
    licence: str | None = metadata.get("licence") if "checkpoint" in metadata else None
    return licence


def _first_metadata(folder: Path) -> dict[str, Any]:
    """The metadata of the network that all trainings of a network began with: its own, if there was none before."""
    metadata: dict[str, Any] = read_json(folder / METADATA)
    while metadata.get("init"):
        metadata = metadata["init"]
    return metadata


def _check_files(folder: Path, *names: str) -> None:
    for name in names:
        if not (folder / name).is_file():
            raise OvsegError(
                f"{folder} is not a proposal network: {name} is missing. Run the stage `proposal_network`, or set "
                "propose.source=maskformer for another MaskFormer"
            )
