"""Which tensor of the segmenters that OVSeg's authors released is which of ours.

Theirs is a MaskFormer of detectron2, ours the one of transformers with a `TextClassifier`. The names are facts of MaskFormer,
of ov-seg and of detectron2's ResNet; nothing is copied.
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
NAMES = {  # ours -> theirs: a * is the same word on both sides, /0 the first of equal parts along the rows
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
    # ResNet, as timm's; its stem is three convolutions
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
    # pixel decoder: theirs is numbered as the backbone's stages are, ours begins with the coarsest
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
UNREAD = f"{_ENCODER}.model.layernorm.*"  # of ours: it goes to a pooling that nothing reads, and theirs has none
COMPUTED = ("*.relative_position_index", "*.num_batches_tracked", "criterion.empty_weight")  # nothing that is learnt


def their_name(name: str) -> tuple[str, int] | None:
    """The checkpoint's name of a tensor of ours, and which part of it ours is, from 0; None if it has no such tensor.

    Raises:
        OvsegError: transformers of this version names its layers otherwise.
    """
    if fnmatchcase(name, UNREAD):
        return None
    for ours, theirs in NAMES.items():
        if found := re.fullmatch(re.escape(ours).replace(r"\*", r"([^.]+)"), name):
            filled, _, part = theirs.partition("/")
            for word in found.groups():
                filled = filled.replace("*", word, 1)
            return filled, int(part or 0)
    raise OvsegError(f"this version of transformers has a layer {name} that is not known here; install the locked one")


def is_computed(name: str) -> bool:
    """Whether a tensor of theirs is a constant that our code makes itself, so that a checkpoint may lack it."""
    return any(fnmatchcase(name, kind) for kind in COMPUTED)
