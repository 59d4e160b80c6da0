"""Convert the segmenters that OVSeg's authors released: a MaskFormer of detectron2 together with its CLIP.

The result is two folders, `proposal_network` (see `network_folder`) and `clip`. Every key of the checkpoint must be used
exactly once; otherwise the conversion fails.
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
from ovseg.clip.convert import LICENCE, check_keys, write_clip
from ovseg.core import hashing
from ovseg.core.checkpoints import read_weights
from ovseg.core.errors import OvsegError
from ovseg.datasets.classes import CLASS_TABLES, read_classes
from ovseg.proposals.backbone import dilate
from ovseg.proposals.network import IMAGENET_MEAN, IMAGENET_STD, build_network, import_transformers
from ovseg.proposals.network_folder import load_network, probe_text_tower, save_network
from ovseg.proposals.released import HEAD, LAYERS, NO_OBJECT, PREDICTOR, is_computed, released_name

NETWORK, CLIP = "proposal_network", "clip"  # names of the folders
CLIP_PREFIX = "clip_adapter.clip_model."
PATCH_EMBED, STEM = "backbone.patch_embed.proj.weight", "backbone.stem.conv3.weight"
RESNET_LAYERS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}  # by the number of blocks in each stage
STEM_LETTERS = {
    64: "c",
    128: "s",
}  # in timm's name of a ResNet, by the width of its stem: the authors' R101c is resnet101s
MULTI_GRID = (1, 2, 4)  # dilations of R101c's last stage in the authors' configuration
# tensors of the checkpoint that are constants in our code; the checkpoint has them times 255
CONSTANTS = {
    "pixel_mean": IMAGENET_MEAN,
    "pixel_std": IMAGENET_STD,
    "clip_adapter.pixel_mean": OPENAI_DATASET_MEAN,
    "clip_adapter.pixel_std": OPENAI_DATASET_STD,
}


class Backbone(NamedTuple):
    """The architecture of a released backbone, and the image size that it is used with.

    Attributes:
        name: name of a ResNet in timm; None for a Swin.
        swin: arguments of transformers' `SwinConfig`; empty for a ResNet.
        short_side, long_side: image size in the authors' configuration, see `network.input_size`.
        dilations: see `dilate`.
    """

    name: str | None
    swin: dict[str, Any]
    short_side: int
    long_side: int
    dilations: tuple[int, ...] = ()


def is_segmenter(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a checkpoint contains a proposal network, and not only a CLIP."""
    return any(key.startswith(HEAD) for key in state)


def convert_segmenter(checkpoint: Path, model: str | None, folder: Path) -> None:
    """Convert a released segmenter, such as ovseg_swinbase_vitL14_ft_mpt, to the folders of a proposal network and a CLIP.

    Args:
        checkpoint: {"model": {"backbone...", "sem_seg_head...", "clip_adapter..."}} or the bare state dict; it is loaded
            with `weights_only`.
        model: open_clip name of its CLIP; None recognizes the released ones by the sizes of their tensors.
        folder: folder for `proposal_network` and `clip`; it is created once both are complete.

    Raises:
        OvsegError: the folder exists; the file cannot be read; it contains no CLIP or an unknown backbone; a key is missing,
            unexpected or of another shape; transformers is not installed.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    state = read_weights(checkpoint)
    clip_state = {key.removeprefix(CLIP_PREFIX): value for key, value in state.items() if key.startswith(CLIP_PREFIX)}
    if not clip_state:
        raise OvsegError(
            f"{checkpoint} contains no CLIP (no key begins with {CLIP_PREFIX}), and a segmenter needs its text tower. "
            "Convert a checkpoint that contains both"
        )
    network_state = {key: value for key, value in state.items() if not key.startswith(CLIP_PREFIX)}
    network, backbone = read_network(network_state, checkpoint)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        staged = Path(temporary) / folder.name
        write_clip(clip_state, checkpoint, model, staged / CLIP)
        clip = load_adapted(staged / CLIP, prompts=False)
        width = network.class_predictor.project[2].out_features
        if clip.width != width:
            raise OvsegError(
                f"{checkpoint}: the class embeddings of its network have {width} numbers, those of its CLIP {clip.width}"
            )
        metadata = {
            "names": _training_vocabulary(),
            "templates": "vild",
            "probe": probe_text_tower(clip),
            "licence": LICENCE,
            "dilations": backbone.dilations,
            "checkpoint": {"name": checkpoint.name, "weights": hashing.sha256_file(checkpoint)},
        }
        save_network(network, staged / NETWORK, metadata, backbone.short_side, backbone.long_side)
        _check_saved(network, staged / NETWORK, checkpoint)
        staged.rename(folder)


def read_network(state: Mapping[str, Tensor], checkpoint: Path) -> tuple[Any, Backbone]:
    """Build the proposal network of a released segmenter.

    Args:
        state: state dict of the checkpoint without its CLIP.
        checkpoint: path of the checkpoint, for error messages.

    Returns:
        the network of `network.build_network` in eval mode, and the architecture of its backbone.

    Raises:
        OvsegError: see `convert_segmenter`.
    """
    backbone = read_backbone(state, checkpoint)
    network = _build_network(state, checkpoint, backbone)
    own = network.state_dict()
    chunks: dict[str, dict[int, str]] = defaultdict(dict)  # released name -> our names by chunk
    for name in own:
        if counterpart := released_name(name):
            released, chunk = counterpart
            chunks[released][chunk] = name
    expected = {
        released: _concatenate([own[names[i]] for i in range(len(names))]) for released, names in chunks.items()
    }
    given = _without_constants(state, checkpoint)
    if NO_OBJECT in given:
        given[NO_OBJECT] = given[NO_OBJECT].squeeze(0)  # [1, D] in the checkpoint
    optional = {released for released in expected if is_computed(released)}
    check_keys(f"{checkpoint} is not a segmenter of OVSeg", given, expected, optional)
    for released, tensor in given.items():
        names = chunks[released]
        pieces = tensor.chunk(len(names)) if len(names) > 1 else [tensor]
        own.update({names[i]: piece for i, piece in enumerate(pieces)})
    network.load_state_dict(own)
    return network.eval(), backbone


def read_backbone(state: Mapping[str, Tensor], checkpoint: Path) -> Backbone:
    """Recognize the backbone of a released segmenter by the sizes of its tensors.

    Args:
        state, checkpoint: see `read_network`.

    Raises:
        OvsegError: the backbone is neither a Swin nor one of the ResNets; a tensor that gives a size is missing.
    """
    if PATCH_EMBED in state:
        return Backbone(None, _swin_sizes(state, checkpoint), 640, 2560)
    blocks = tuple(_count(state, f"backbone.res{stage}.") for stage in (2, 3, 4, 5))
    stem = _size(state, STEM, 0, checkpoint) if STEM in state else 0
    if blocks not in RESNET_LAYERS or stem not in STEM_LETTERS:
        raise OvsegError(
            f"{checkpoint}: the backbone is neither a Swin (no {PATCH_EMBED}) nor a ResNet of 50, 101 or 152 layers with a "
            f"stem of three convolutions: its stages have {list(blocks)} blocks, its stem has {stem} channels"
        )
    return Backbone(f"resnet{RESNET_LAYERS[blocks]}{STEM_LETTERS[stem]}", {}, 512, 2048, MULTI_GRID)


def _swin_sizes(state: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Any]:
    stages = range(_count(state, "backbone.layers."))
    first = "backbone.layers.0.blocks.0"
    bias_tables = [f"backbone.layers.{i}.blocks.0.attn.relative_position_bias_table" for i in stages]
    width = _size(state, PATCH_EMBED, 0, checkpoint)
    return {
        "embed_dim": width,
        "patch_size": _size(state, PATCH_EMBED, 3, checkpoint),
        "depths": [_count(state, f"backbone.layers.{i}.blocks.") for i in stages],
        "num_heads": [_size(state, table, 1, checkpoint) for table in bias_tables],
        # the table of a window of side w is [(2 w - 1)^2, heads]
        "window_size": (math.isqrt(_size(state, bias_tables[0], 0, checkpoint)) + 1) // 2 if bias_tables else 0,
        "mlp_ratio": _size(state, f"{first}.mlp.fc1.weight", 0, checkpoint) / width,
        "qkv_bias": f"{first}.attn.qkv.bias" in state,
    }


def _build_network(state: Mapping[str, Tensor], checkpoint: Path, backbone: Backbone) -> Any:
    """Build a network with the sizes of the checkpoint's tensors and random weights."""
    num_queries, hidden_dim = (_size(state, f"{PREDICTOR}query_embed.weight", axis, checkpoint) for axis in (0, 1))
    text_proj_dim, width = (_size(state, f"{PREDICTOR}class_embed.layers.{i}.weight", 0, checkpoint) for i in (0, 1))
    try:
        with tempfile.TemporaryDirectory() as folder:
            network = build_network(
                backbone.name or _write_swin(Path(folder), backbone.swin),
                pretrained=False,
                num_queries=num_queries,
                hidden_dim=hidden_dim,
                decoder_layers=_count(state, LAYERS),
                dropout=0.1,
                text_proj_dim=text_proj_dim,
                width=width,
                classes=len(_training_vocabulary()),
            )
    except (ValueError, ZeroDivisionError) as error:
        raise OvsegError(f"{checkpoint}: no MaskFormer can have the sizes of its tensors: {error}") from None
    network.config.backbone_config._name_or_path = ""  # not the temporary folder of the Swin's config
    dilate(network, backbone.dilations)
    return network


def _write_swin(folder: Path, sizes: Mapping[str, Any]) -> str:
    import_transformers().SwinConfig(**sizes).save_pretrained(folder)
    return str(folder)


def _training_vocabulary() -> list[str]:
    """The class names of COCO-Stuff, which the authors trained with."""
    return [row.names[0] for row in read_classes(CLASS_TABLES / "cocostuff.json")]


def _concatenate(chunks: list[Tensor]) -> Tensor:
    return torch.cat(chunks) if len(chunks) > 1 else chunks[0]


def _without_constants(state: Mapping[str, Tensor], checkpoint: Path) -> dict[str, Tensor]:
    for name, value in CONSTANTS.items():
        given = state[name].flatten().float() if name in state else None
        if given is not None and (len(given) != 3 or not torch.allclose(given, 255 * torch.tensor(value), atol=0.01)):
            raise OvsegError(
                f"{checkpoint}: {name} is {given.tolist()}, but ovseg normalizes images by 255 times {list(value)}"
            )
    return {name: tensor for name, tensor in state.items() if name not in CONSTANTS}


def _count(state: Mapping[str, Tensor], prefix: str) -> int:
    """Count the different numbers that follow a prefix in the names of tensors."""
    return len({key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)})


def _size(state: Mapping[str, Tensor], name: str, axis: int, checkpoint: Path) -> int:
    if name not in state or state[name].ndim <= axis:
        raise OvsegError(f"{checkpoint}: {name}, whose shape is needed, is missing or has no axis {axis}")
    return int(state[name].shape[axis])


@torch.inference_mode()
def _check_saved(network: Any, folder: Path, checkpoint: Path) -> None:
    """Check that the network that is loaded from `folder` computes the same as the one that was saved."""
    image = torch.linspace(0, 1e4, 3 * 128 * 128).sin().reshape(1, 3, 128, 128)
    saved, loaded = (model.model(image) for model in (network, load_network(folder).model))
    for part in ("pixel_decoder_last_hidden_state", "transformer_decoder_last_hidden_state"):
        if not torch.allclose(getattr(saved, part), getattr(loaded, part), rtol=1e-3, atol=1e-4):
            raise OvsegError(
                f"{checkpoint} cannot be converted: after saving and loading, the network differs in {part}"
            )
