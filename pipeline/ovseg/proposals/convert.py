"""Reading the segmenters that OVSeg's authors released: a MaskFormer of detectron2 with the CLIP that it is used with.

Made into two folders: `proposal_network` (see `proposals.network_folder`) and `clip`. Every key is used once, or the
checkpoint is refused.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from torch import Tensor

from ovseg.clip.adapted import load_adapted
from ovseg.clip.convert import LICENCE, check_keys, read_state, write_clip
from ovseg.core import hashing
from ovseg.core.errors import OvsegError
from ovseg.datasets.classes import HERE, read_classes
from ovseg.proposals.backbone import dilate
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD, build_network
from ovseg.proposals.network_folder import load_network, probe_text_tower, save_network
from ovseg.proposals.released import HEAD, LAYERS, NO_OBJECT, PREDICTOR, is_computed, their_name

NETWORK, CLIP = "proposal_network", "clip"  # folders
INNER = "clip_adapter.clip_model."
PATCHES, STEM = "backbone.patch_embed.proj.weight", "backbone.stem.conv3.weight"
BLOCKS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # of the stages of a ResNet: its layers
STEMS = {64: "c", 128: "s"}  # timm's letter of a ResNet by the width of its stem: the authors' R101c is resnet101s
MULTI_GRID = (1, 2, 4)  # dilations of R101c's last stage in the authors' configuration
CONSTANTS = {  # of theirs, times 255, that are constants of our code
    "pixel_mean": IMAGENET_MEAN,
    "pixel_std": IMAGENET_STD,
    "clip_adapter.pixel_mean": OPENAI_DATASET_MEAN,
    "clip_adapter.pixel_std": OPENAI_DATASET_STD,
}


class Backbone(NamedTuple):
    """What a backbone is, and how it is used.

    Attributes:
        name: of timm; None for a Swin.
        swin: arguments of transformers' SwinConfig; empty for a ResNet.
        short, long: sides that images are resized to in the authors' configuration, in pixels.
        dilations: see `dilate`.
    """

    name: str | None
    swin: dict[str, Any]
    short: int
    long: int
    dilations: tuple[int, ...] = ()


def is_segmenter(state: Mapping[str, Tensor]) -> bool:
    """Whether a checkpoint is a segmenter, and not a CLIP alone."""
    return any(key.startswith(HEAD) for key in state)


def convert_segmenter(checkpoint: Path, model: str | None, folder: Path) -> None:
    """Convert a released segmenter, such as ovseg_swinbase_vitL14_ft_mpt, into a network and a CLIP of our layouts.

    Args:
        checkpoint: {"model": {"backbone...", "sem_seg_head...", "clip_adapter..."}} or the bare state; loaded with
            `weights_only`.
        model: open_clip name of its CLIP; None tells the released ones by their sizes.
        folder: to write `proposal_network` and `clip` to; it appears when both are whole.

    Raises:
        OvsegError: the file cannot be read; it holds no CLIP, or another backbone; a key is missing, left over or of
            another shape; transformers is not installed.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    state = read_state(checkpoint)
    clip = {key.removeprefix(INNER): tensor for key, tensor in state.items() if key.startswith(INNER)}
    if not clip:
        raise OvsegError(
            f"{checkpoint} holds no CLIP (no key begins with {INNER}), and a segmenter is nothing without its text tower; "
            "convert a checkpoint that holds both"
        )
    rest = {key: tensor for key, tensor in state.items() if not key.startswith(INNER)}
    network, backbone = read_network(rest, checkpoint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as begun:
        staged = Path(begun) / folder.name
        write_clip(clip, checkpoint, model, staged / CLIP)
        tower = load_adapted(staged / CLIP, prompts=False)
        width = network.class_predictor.project[2].out_features
        if tower.width != width:
            raise OvsegError(f"{checkpoint}: its classes are {width} wide, the embeddings of its CLIP {tower.width}")
        about = {
            "names": _vocabulary(),
            "templates": "vild",
            "probe": probe_text_tower(tower),
            "licence": LICENCE,
            "dilations": backbone.dilations,
            "checkpoint": {"name": checkpoint.name, "weights": hashing.sha256_file(checkpoint)},
        }
        save_network(network, staged / NETWORK, about, backbone.short, backbone.long)
        _check_written(network, staged / NETWORK, checkpoint)
        staged.rename(folder)


def read_network(state: Mapping[str, Tensor], checkpoint: Path) -> tuple[Any, Backbone]:
    """The proposal network of a released segmenter, in eval mode, and what its backbone is.

    Args:
        state: the checkpoint without its CLIP.
        checkpoint: where it comes from, for messages.

    Raises:
        OvsegError: as `convert_segmenter`.
    """
    backbone = read_backbone(state, checkpoint)
    network = _new_network(state, checkpoint, backbone)
    own = network.state_dict()
    parts: dict[str, dict[int, str]] = defaultdict(dict)  # their name -> ours, part by part
    for name in own:
        if found := their_name(name):
            theirs, part = found
            parts[theirs][part] = name
    wanted = {theirs: _joined([own[names[i]] for i in range(len(names))]) for theirs, names in parts.items()}
    given = _without_constants(state, checkpoint)
    if NO_OBJECT in given:
        given[NO_OBJECT] = given[NO_OBJECT].squeeze(0)  # [1, D] in theirs
    optional = {theirs for theirs in wanted if is_computed(theirs)}
    check_keys(f"{checkpoint} is not a segmenter of OVSeg", given, wanted, optional)
    for theirs, tensor in given.items():
        names = parts[theirs]
        pieces = tensor.chunk(len(names)) if len(names) > 1 else [tensor]
        own.update({names[i]: piece for i, piece in enumerate(pieces)})
    network.load_state_dict(own)
    return network.eval(), backbone


def read_backbone(state: Mapping[str, Tensor], checkpoint: Path) -> Backbone:
    """What the backbone of a released segmenter is, by the sizes of its tensors.

    Raises:
        OvsegError: it is of neither kind that was released; a tensor that sizes are read from is missing.
    """
    if PATCHES in state:
        return Backbone(None, _swin(state, checkpoint), 640, 2560)
    blocks = tuple(_count(state, f"backbone.res{stage}.") for stage in (2, 3, 4, 5))
    stem = _size(state, STEM, 0, checkpoint) if STEM in state else 0
    if blocks not in BLOCKS or stem not in STEMS:
        raise OvsegError(
            f"{checkpoint}: the backbone is neither a Swin (no {PATCHES}) nor a ResNet of 50, 101 or 152 layers with a stem "
            f"of three convolutions: its stages have {list(blocks)} blocks, its stem is {stem} wide"
        )
    return Backbone(f"resnet{BLOCKS[blocks]}{STEMS[stem]}", {}, 512, 2048, MULTI_GRID)


def _swin(state: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Any]:
    stages = range(_count(state, "backbone.layers."))
    first = "backbone.layers.0.blocks.0"
    tables = [f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table" for i in stages]  # [(2 w - 1)^2, heads]
    width = _size(state, PATCHES, 0, checkpoint)
    return {
        "embed_dim": width,
        "patch_size": _size(state, PATCHES, 3, checkpoint),
        "depths": [_count(state, f"backbone.layers.{i}.blocks.") for i in stages],
        "num_heads": [_size(state, table, 1, checkpoint) for table in tables],
        "window_size": (math.isqrt(_size(state, tables[0], 0, checkpoint)) + 1) // 2 if tables else 0,
        "mlp_ratio": _size(state, f"{first}.mlp.fc1.weight", 0, checkpoint) / width,
        "qkv_bias": f"{first}.attn.qkv.bias" in state,
    }


def _new_network(state: Mapping[str, Tensor], checkpoint: Path, backbone: Backbone) -> Any:
    """A network of the checkpoint's sizes, its weights random."""
    queries, hidden = (_size(state, f"{PREDICTOR}query_embed.weight", axis, checkpoint) for axis in (0, 1))
    middle, width = (_size(state, f"{PREDICTOR}class_embed.layers.{i}.weight", 0, checkpoint) for i in (0, 1))
    try:
        with tempfile.TemporaryDirectory() as folder:
            network = build_network(
                backbone.name or _write_swin(Path(folder), backbone.swin),
                pretrained=False,
                num_queries=queries,
                hidden_dim=hidden,
                decoder_layers=_count(state, LAYERS),
                dropout=0.1,
                text_proj_dim=middle,
                width=width,
                classes=len(_vocabulary()),
            )
    except (ValueError, ZeroDivisionError) as error:
        raise OvsegError(f"{checkpoint}: the sizes of its tensors make no MaskFormer: {error}") from None
    network.config.backbone_config._name_or_path = ""  # it would be the folder that is gone
    dilate(network, backbone.dilations)
    return network


def _write_swin(folder: Path, sizes: Mapping[str, Any]) -> str:
    try:
        from transformers import SwinConfig
    except ImportError:
        raise OvsegError("a segmenter needs transformers: pip install 'ovseg[propose]'") from None
    SwinConfig(**sizes).save_pretrained(folder)
    return str(folder)


def _vocabulary() -> list[str]:
    return [one.names[0] for one in read_classes(HERE / "cocostuff.json")]


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _without_constants(state: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Tensor]:
    for name, value in CONSTANTS.items():
        given = state[name].flatten().float() if name in state else None
        if given is not None and (len(given) != 3 or not torch.allclose(given, 255 * torch.tensor(value), atol=0.01)):
            raise OvsegError(f"{checkpoint}: {name} is {given.tolist()}, and here it is 255 times {list(value)}")
    return {name: tensor for name, tensor in state.items() if name not in CONSTANTS}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """How many different numbers follow a prefix."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _size(state: Mapping[str, Tensor], name: str, axis: int, checkpoint: Path) -> int:
    if name not in state or state[name].ndim <= axis:
        raise OvsegError(f"{checkpoint}: {name}, which sizes are read from, is missing or has no axis {axis}")
    return int(state[name].shape[axis])


@torch.inference_mode()
def _check_written(network: Any, folder: Path, checkpoint: Path) -> None:
    """Refuse what would load as another network than the one that was converted."""
    image = torch.linspace(0, 1e4, 3 * 128 * 128).sin().reshape(1, 3, 128, 128)
    now, then = (one.model(image) for one in (network, load_network(folder).model))
    for part in ("pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state"):
        if not torch.allclose(getattr(now, part), getattr(then, part), rtol=1e-3, atol=1e-4):
            raise OvsegError(f"{checkpoint} cannot be kept: written and loaded again, the network differs ({part})")
