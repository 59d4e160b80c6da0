"""Convert a CLIP that transformers wrote into open_clip's layout: the same numbers under other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from ovseg.clip.adapted import save_adapted
from ovseg.clip.convert import check_keys
from ovseg.clip.folders import TRANSFORMERS_CONFIG, explain_missing_config
from ovseg.core import weights
from ovseg.core.checkpoints import SHARD_INDEX_SUFFIX, files_of, read_weights
from ovseg.core.errors import OvsegError
from ovseg.core.json_files import read_json
from ovseg.engine.weight_files import licence

WEIGHTS = tuple(
    name + suffix for name in ("model.safetensors", "pytorch_model.bin") for suffix in ("", SHARD_INDEX_SUFFIX)
)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
VOCABULARY_SIZE = 49408  # of the tokenizer that open_clip takes where a config names none
ACTIVATIONS = {"quick_gelu": True, "gelu": False}
EPSILON = 1e-5  # of the normalization layers in open_clip
COMPUTED = re.compile(r"embeddings\.position_ids$")
NAMES = {
    r"vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"vision_model\.embeddings\.patch_embedding\.weight": "visual.conv1.weight",
    r"vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"vision_model\.pre_layrnorm\.(.+)": r"visual.ln_pre.\1",
    r"vision_model\.post_layernorm\.(.+)": r"visual.ln_post.\1",
    r"visual_projection\.weight": "visual.proj",
    r"text_model\.embeddings\.token_embedding\.weight": "token_embedding.weight",
    r"text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"text_model\.final_layer_norm\.(.+)": r"ln_final.\1",
    r"text_projection\.weight": "text_projection",
    r"logit_scale": "logit_scale",
}
"""Patterns of the names in transformers, and the name in open_clip."""
BLOCK = re.compile(r"(vision|text)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
TOWERS = {"vision": "visual.transformer", "text": "transformer"}
BLOCK_NAMES = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
QUERY_KEY_VALUE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")  # one matrix in open_clip
TRANSPOSED = ("visual.proj", "text_projection")


def convert_folder(source: Path, folder: Path) -> None:
    """Convert a CLIP that transformers wrote.

    Args:
        source: folder with config.json of model type "clip", the weights, and preprocessor_config.json.
        folder: folder to write; it must not exist.

    Raises:
        OvsegError: `folder` exists; `source` holds another model, or one that open_clip cannot build; a file is missing or
            cannot be read; a key is missing or unexpected.
    """
    if folder.exists():
        raise OvsegError(f"{folder} exists; give another folder, or remove it")
    config = _read_json(source / TRANSFORMERS_CONFIG)
    if config.get("model_type") != "clip":
        raise OvsegError(explain_missing_config(source))
    model_config = read_model_config(config, source / TRANSFORMERS_CONFIG)
    path = next((source / name for name in WEIGHTS if (source / name).is_file()), None)
    if path is None:
        raise OvsegError(f"{source} holds no weights: it has none of {', '.join(WEIGHTS)}")
    state = rename(read_weights(path))
    with torch.random.fork_rng(devices=[]):
        network = open_clip.CLIP(**model_config)
    expected = {name: tensor for name, tensor in network.state_dict().items() if name != "attn_mask"}
    check_keys(f"{path} is not the CLIP of its {TRANSFORMERS_CONFIG}", state, expected)
    network.load_state_dict(state, strict=False)
    size = model_config["vision_cfg"]["image_size"]
    open_clip.set_model_preprocess_cfg(network, {"size": size, **_read_normalization(source)})
    base = {
        "model": f"transformers:{config.get('_name_or_path') or source.name}",
        "pretrained": path.name,
        "weights": weights.sha256(*files_of(path)),
        "licence": licence(str(source)),
    }
    save_adapted(network, model_config, None, {"base": base, "steps": []}, folder)


def read_model_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Translate a config of transformers to the "model_cfg" of open_clip.

    Args:
        config: config of model type "clip".
        path: its file, for messages.

    Raises:
        OvsegError: a value is missing, or open_clip has nothing like it.
    """
    from transformers import CLIPConfig

    full = CLIPConfig.from_dict(dict(config))  # with the defaults that the file leaves out
    vision, text = full.vision_config, full.text_config
    for key, values, allowed in (
        ("hidden_act", {vision.hidden_act, text.hidden_act}, ACTIVATIONS.keys()),
        ("layer_norm_eps", {vision.layer_norm_eps, text.layer_norm_eps}, {EPSILON}),
        ("vocab_size", {text.vocab_size}, {VOCABULARY_SIZE}),
        ("num_channels", {vision.num_channels}, {3}),
    ):
        if not values <= set(allowed) or len(values) > 1:
            raise OvsegError(
                f"{path}: {key} is {' and '.join(map(str, sorted(values)))}, which open_clip's CLIP cannot have (it takes "
                f"{' or '.join(map(str, allowed))}, the same in both towers)"
            )
    return {
        "embed_dim": full.projection_dim,
        "quick_gelu": ACTIVATIONS[vision.hidden_act],
        "vision_cfg": {
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "width": vision.hidden_size,
            "layers": vision.num_hidden_layers,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "layers": text.num_hidden_layers,
            "heads": text.num_attention_heads,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
    }


def rename(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of transformers' CLIPModel the names and shapes of open_clip; other names are kept as they are."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        block = BLOCK.fullmatch(name)
        if COMPUTED.search(name) or (block and block[3] in QUERY_KEY_VALUE[1:]):
            continue
        if block and block[3] == QUERY_KEY_VALUE[0]:
            parts = [state.get(name.replace(block[3], part)) for part in QUERY_KEY_VALUE]
            key = f"{TOWERS[block[1]]}.resblocks.{block[2]}.attn.in_proj_{block[4]}"
            renamed[key] = torch.cat([part for part in parts if part is not None])
        elif block and block[3] in BLOCK_NAMES:
            renamed[f"{TOWERS[block[1]]}.resblocks.{block[2]}.{BLOCK_NAMES[block[3]]}.{block[4]}"] = tensor
        else:
            pattern = next((pattern for pattern in NAMES if re.fullmatch(pattern, name)), None)
            key = re.sub(pattern, NAMES[pattern], name) if pattern else name
            renamed[key] = tensor.T.contiguous() if key in TRANSPOSED else tensor
    return renamed


def _read_normalization(source: Path) -> dict[str, Any]:
    """Mean and standard deviation of the images, as in the processor's config; OpenAI's if there is none."""
    path = next((source / name for name in PROCESSORS if (source / name).is_file()), None)
    values = _read_json(path) if path else {}
    values = values.get("image_processor", values)
    mean, std = (
        values.get("image_mean", open_clip.OPENAI_DATASET_MEAN),
        values.get("image_std", open_clip.OPENAI_DATASET_STD),
    )
    if not all(isinstance(triple, (list, tuple)) and len(triple) == 3 for triple in (mean, std)):
        raise OvsegError(f"{path}: image_mean {mean} and image_std {std} are not three numbers each")
    return {"mean": tuple(mean), "std": tuple(std)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except OSError as error:
        raise OvsegError(
            f"cannot read {path}: {error.strerror}; give the folder of a CLIP that transformers wrote"
        ) from None
    if not isinstance(values, dict):
        raise OvsegError(f"{path} is no config of transformers: it holds no object")
    return values
