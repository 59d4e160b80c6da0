"""Tensor names of the checkpoints that OVSeg's authors released, for each tensor of `network.build_network`.

Their proposal network is a MaskFormer of detectron2, ours is the MaskFormer of transformers with a `QueryClassifier`. The
names are facts of MaskFormer, ov-seg and detectron2's ResNet; no code is copied.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from ovseg.core.errors import OvsegError

HEAD = "sem_seg_head."
PREDICTOR = f"{HEAD}predictor."
LAYERS = f"{PREDICTOR}transformer.decoder.layers."
NO_OBJECT = "clip_adapter.non_object_embedding"

_ENCODER = "model.pixel_level_module.encoder"
_SWIN = f"{_ENCODER}.model.encoder.layers.*"
_FPN = "model.pixel_level_module.decoder.fpn"
_DECODER = "model.transformer_module.decoder"
_LAYER = f"{_DECODER}.layers.*"
# our name -> released name; a * stands for the same part of a name on both sides; /0, /1 and /2 are the first, second and
# third of equal chunks along the rows of the released tensor
NAMES = {
    # Swin
    f"{_ENCODER}.model.embeddings.patch_embeddings.projection.*": "backbone.patch_embed.proj.*",
    f"{_ENCODER}.model.embeddings.norm.*": "backbone.patch_embed.norm.*",
    f"{_SWIN}.blocks.*.layernorm_before.*": "backbone.layers.*.blocks.*.norm1.*",
    f"{_SWIN}.blocks.*.attention.self.query.*": "backbone.layers.*.blocks.*.attn.qkv.*/0",
    f"{_SWIN}.blocks.*.attention.self.key.*": "backbone.layers.*.blocks.*.attn.qkv.*/1",
    f"{_SWIN}.blocks.*.attention.self.value.*": "backbone.layers.*.blocks.*.attn.qkv.*/2",
    f"{_SWIN}.blocks.*.attention.self.*": "backbone.layers.*.blocks.*.attn.*",  # relative_position_...
    f"{_SWIN}.blocks.*.attention.output.dense.*": "backbone.layers.*.blocks.*.attn.proj.*",
    f"{_SWIN}.blocks.*.layernorm_after.*": "backbone.layers.*.blocks.*.norm2.*",
    f"{_SWIN}.blocks.*.intermediate.dense.*": "backbone.layers.*.blocks.*.mlp.fc1.*",
    f"{_SWIN}.blocks.*.output.dense.*": "backbone.layers.*.blocks.*.mlp.fc2.*",
    f"{_SWIN}.downsample.*.*": "backbone.layers.*.downsample.*.*",
    f"{_ENCODER}.hidden_states_norms.*.*": "backbone.norm*.*",
    # ResNet as in timm, with a stem of three convolutions
    f"{_ENCODER}._backbone.conv1.0.*": "backbone.stem.conv1.*",
    f"{_ENCODER}._backbone.conv1.1.*": "backbone.stem.conv1.norm.*",
    f"{_ENCODER}._backbone.conv1.3.*": "backbone.stem.conv2.*",
    f"{_ENCODER}._backbone.conv1.4.*": "backbone.stem.conv2.norm.*",
    f"{_ENCODER}._backbone.conv1.6.*": "backbone.stem.conv3.*",
    f"{_ENCODER}._backbone.bn1.*": "backbone.stem.conv3.norm.*",
    **{
        f"{_ENCODER}._backbone.layer{i}.*.{ours}": f"backbone.res{i + 1}.*.{theirs}"
        for i in (1, 2, 3, 4)
        for ours, theirs in (
            ("conv*.weight", "conv*.weight"),
            ("bn*.*", "conv*.norm.*"),
            ("downsample.0.weight", "shortcut.weight"),
            ("downsample.1.*", "shortcut.norm.*"),
        )
    },
    # pixel decoder: released names count from the finest scale as the backbone's stages do, ours from the coarsest
    f"{_FPN}.stem.0.*": f"{HEAD}pixel_decoder.layer_4.*",
    f"{_FPN}.stem.1.*": f"{HEAD}pixel_decoder.layer_4.norm.*",
    **{
        f"{_FPN}.layers.{i}.{ours}": f"{HEAD}pixel_decoder.{theirs}"
        for i in (0, 1, 2)
        for ours, theirs in (
            ("proj.0.*", f"adapter_{3 - i}.*"),
            ("proj.1.*", f"adapter_{3 - i}.norm.*"),
            ("block.0.*", f"layer_{3 - i}.*"),
            ("block.1.*", f"layer_{3 - i}.norm.*"),
        )
    },
    "model.pixel_level_module.decoder.mask_projection.*": f"{HEAD}pixel_decoder.mask_features.*",
    # transformer decoder
    "model.transformer_module.queries_embedder.*": f"{PREDICTOR}query_embed.*",
    "model.transformer_module.input_projection.*": f"{PREDICTOR}input_proj.*",
    f"{_LAYER}.self_attn.q_proj.*": f"{LAYERS}*.self_attn.in_proj_*/0",
    f"{_LAYER}.self_attn.k_proj.*": f"{LAYERS}*.self_attn.in_proj_*/1",
    f"{_LAYER}.self_attn.v_proj.*": f"{LAYERS}*.self_attn.in_proj_*/2",
    f"{_LAYER}.self_attn.o_proj.*": f"{LAYERS}*.self_attn.out_proj.*",
    f"{_LAYER}.self_attn_layer_norm.*": f"{LAYERS}*.norm1.*",
    f"{_LAYER}.encoder_attn.q_proj.*": f"{LAYERS}*.multihead_attn.in_proj_*/0",
    f"{_LAYER}.encoder_attn.k_proj.*": f"{LAYERS}*.multihead_attn.in_proj_*/1",
    f"{_LAYER}.encoder_attn.v_proj.*": f"{LAYERS}*.multihead_attn.in_proj_*/2",
    f"{_LAYER}.encoder_attn.o_proj.*": f"{LAYERS}*.multihead_attn.out_proj.*",
    f"{_LAYER}.encoder_attn_layer_norm.*": f"{LAYERS}*.norm2.*",
    f"{_LAYER}.mlp.fc1.*": f"{LAYERS}*.linear1.*",
    f"{_LAYER}.mlp.fc2.*": f"{LAYERS}*.linear2.*",
    f"{_LAYER}.final_layer_norm.*": f"{LAYERS}*.norm3.*",
    f"{_DECODER}.layernorm.*": f"{PREDICTOR}transformer.decoder.norm.*",
    # heads
    "mask_embedder.*.0.*": f"{PREDICTOR}mask_embed.layers.*.*",
    "class_predictor.project.0.*": f"{PREDICTOR}class_embed.layers.0.*",
    "class_predictor.project.2.*": f"{PREDICTOR}class_embed.layers.1.*",
    "class_predictor.no_object": NO_OBJECT,
    "criterion.empty_weight": "criterion.empty_weight",
}
UNUSED = f"{_ENCODER}.model.layernorm.*"  # of a pooled output that MaskFormer never reads; released checkpoints lack it
COMPUTED = ("*.relative_position_index", "*.num_batches_tracked", "criterion.empty_weight")  # constants, not learned


def released_name(name: str) -> tuple[str, int] | None:
    """Translate the name of one of our tensors.

    Args:
        name: key of the state dict of `network.build_network`.

    Returns:
        the name of the released tensor, and which chunk of it ours is, counted from 0; None if it has no counterpart.

    Raises:
        OvsegError: the installed version of transformers has a layer of another name.
    """
    if fnmatchcase(name, UNUSED):
        return None
    for ours, released in NAMES.items():
        if match := re.fullmatch(re.escape(ours).replace(r"\*", r"([^.]+)"), name):
            result, _, chunk = released.partition("/")
            for part in match.groups():
                result = result.replace("*", part, 1)
            return result, int(chunk or 0)
    raise OvsegError(
        f"this version of transformers has a layer {name} that ovseg does not know; install the version that ovseg locks"
    )


def is_computed(name: str) -> bool:
    """Tell whether a released tensor is a constant that our code computes, so that a checkpoint may lack it."""
    return any(fnmatchcase(name, pattern) for pattern in COMPUTED)
