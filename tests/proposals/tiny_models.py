"""Small random models in the folders that transformers writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


def swin_config() -> Any:
    """The config of a tiny Swin with features at four scales."""
    transformers = pytest.importorskip("transformers")
    return transformers.SwinConfig(
        image_size=32,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        drop_path_rate=0.0,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )


def save_maskformer(folder: Path) -> Path:
    """Write a MaskFormer of seven queries with its image processor."""
    transformers = pytest.importorskip("transformers")
    config = transformers.MaskFormerConfig(
        fpn_feature_size=32,
        mask_feature_size=16,
        num_labels=3,
        backbone_config=swin_config(),
        decoder_config=transformers.DetrConfig(
            d_model=16,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            num_queries=7,
            use_timm_backbone=False,
            backbone_config=None,
        ),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    processor = transformers.MaskFormerImageProcessor(size={"shortest_edge": 48, "longest_edge": 96}, size_divisor=32)
    processor.save_pretrained(folder)
    return folder
