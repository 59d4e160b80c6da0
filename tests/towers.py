"""Small real CLIPs unlike OpenAI's: towers of timm, average and attention pooling, SigLIP's text tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch

from ovseg.clip.adapted import load_adapted, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.pseudo_text import new_pseudo_text
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.save import save_clip

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
NATIVE: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
BIDIRECTIONAL: dict[str, Any] = {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
INCEPTION = (0.5, 0.5, 0.5)


def _timm(name: str, size: int, **options: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "image_size": size, **options}


def _clip(vision: dict[str, Any], text: dict[str, Any] = TEXT, width: int = 16, **options: Any) -> dict[str, Any]:
    return {"embed_dim": width, "vision_cfg": vision, "text_cfg": text, **options}


TOWERS: dict[str, dict[str, Any]] = {
    "native average": _clip({**NATIVE, "pool_type": "avg"}),
    "native attention": _clip({**NATIVE, "attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 3}),
    "resnet": _clip({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}),
    "timm class token": _clip(_timm("test_vit", 160, timm_pool="token")),
    "timm average": _clip(_timm("test_vit2", 160, timm_pool="avg"), custom_text=True),
    "convnext": _clip(_timm("test_convnext", 64, timm_pool="")),
    "siglip": _clip(
        _timm("test_vit3", 160, timm_pool="map", timm_proj="none"),
        BIDIRECTIONAL,
        96,
        custom_text=True,
        init_logit_bias=-10,
    ),
    "scale as a vector": _clip(NATIVE, custom_text=True, init_logit_bias=-10, nonscalar_logit_scale=True),
}
WITHOUT_PATCHES = {"resnet": "ModifiedResNet", "convnext": "ConvNeXt"}


def build(config: dict[str, Any]) -> Any:
    """A network with seeded random weights and SigLIP's normalization."""
    config = dict(config)
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(**config)
    preprocess = {"size": network.visual.image_size, "mean": INCEPTION, "std": INCEPTION, "resize_mode": "squash"}
    open_clip.set_model_preprocess_cfg(network, preprocess)
    return network.eval()


def save(name: str, folder: Path) -> Path:
    """Write one of `TOWERS` in open_clip's local-dir layout."""
    save_clip(build(TOWERS[name]), TOWERS[name], folder)
    return folder


def with_pseudo_texts(folder: Path) -> Clip:
    """A ConvNeXt whose texts attend to the 2 x 2 cells of an image, written to a folder and loaded from it."""
    clip = load_adapted(save("convnext", folder))
    pseudo_text = new_pseudo_text(clip.width, 0)
    torch.nn.init.normal_(pseudo_text.attention.out_proj.weight, generator=torch.Generator().manual_seed(0))
    settings = RegionSettings("pooled", image_size=64)
    save_adapted(clip.model, TOWERS["convnext"], None, {}, folder, regions=settings, pseudo_text=pseudo_text)
    return load_adapted(folder)
