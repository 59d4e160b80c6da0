"""Mask prompts: what they replace, what they leave alone, and which image towers take them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn

from ovseg.clip.adapted import load_adapted, read_prompts, save_adapted
from ovseg.clip.load import Clip
from ovseg.clip.prompts import foreground_patches, mask_prompts_applied, new_prompts, vit_layout
from ovseg.clip.save import PROMPTS, model_config
from ovseg.core.errors import OvsegError

VISION = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VARIANTS = {
    "class token": {},
    "average": {"pool_type": "avg", "final_ln_after_pool": True},
    "attention": {"attentional_pool": True, "attn_pooler_queries": 4, "pool_type": "avg"},
    "timm vit": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "token"},
    "timm siglip": {"timm_model_name": "vit_base_patch32_clip_224", "image_size": 224, "timm_pool": "avg"},
    "timm eva": {"timm_model_name": "eva02_tiny_patch14_224", "image_size": 224, "timm_pool": "token"},
}


def _clip(variant: str = "class token", layers: int = 4) -> Any:
    torch.manual_seed(0)
    vision = {**VISION, "layers": layers, **VARIANTS[variant]}
    network = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).eval()
    size = vision["image_size"]
    open_clip.set_model_preprocess_cfg(
        network, {"size": size, "mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    )
    return network


def _inputs(visual: Any, number: int = 3) -> tuple[Tensor, Tensor]:
    """Random images `[B, 3, S, S]`, and masks of a square in the middle, a bar, and a single pixel."""
    size = visual.image_size[0]
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(3, size, size, dtype=torch.bool)
    masks[0, size // 4 : -size // 4, size // 4 : -size // 4] = True
    masks[1, :, :3] = True
    masks[2, size - 1, size - 1] = True
    return torch.randn(number, 3, size, size, generator=generator), masks[:number]


def _features(visual: Any, images: Tensor, prompts: Tensor, masks: Tensor) -> Tensor:
    with torch.no_grad(), mask_prompts_applied(visual, prompts, masks):
        features: Tensor = visual(images)
    return features


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("depth", [1, 3])
def test_an_all_ones_mask_equals_plain_clip_bit_for_bit(variant: str, depth: int) -> None:
    visual = _clip(variant).visual
    images, masks = _inputs(visual)
    with torch.no_grad():
        plain = visual(images)
    assert torch.equal(_features(visual, images, new_prompts(visual, depth, 0), torch.ones_like(masks)), plain)


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_all_zero_mask_does_not_depend_on_pixels(variant: str) -> None:
    visual = _clip(variant).visual
    images, masks = _inputs(visual)
    prompts = new_prompts(visual, 3, 0)
    features = _features(visual, images, prompts, torch.zeros_like(masks))
    assert torch.equal(features, _features(visual, images * 5 + 1, prompts, torch.zeros_like(masks)))
    assert not torch.equal(features, _features(visual, images, prompts + 1, torch.zeros_like(masks)))


def test_the_forward_pass_is_the_papers() -> None:
    """Section 3.3 written out for open_clip's ViT: prompts go in before class token and position, and after blocks."""
    visual = _clip().visual
    images, masks = _inputs(visual)
    prompts = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(2))
    keep = (F.avg_pool2d(masks[:, None].float(), 8).ceil()).flatten(1)[..., None]
    with torch.no_grad():
        tokens = visual.conv1(images).flatten(2).transpose(1, 2)
        tokens = tokens * keep + prompts[0] * (1 - keep)
        x = torch.cat([visual.class_embedding.expand(3, 1, -1), tokens], 1) + visual.positional_embedding
        x = visual.ln_pre(x)
        for i, block in enumerate(visual.transformer.resblocks, start=1):
            x = block(x)
            if i < 3:
                x = torch.cat([x[:, :1], x[:, 1:] * keep + prompts[i] * (1 - keep)], 1)
        wanted = visual.ln_post(x)[:, 0] @ visual.proj
    torch.testing.assert_close(_features(visual, images, prompts, masks), wanted)


def test_one_foreground_pixel_keeps_its_patch() -> None:
    masks = torch.zeros(1, 32, 32, dtype=torch.bool)
    masks[0, 9, 17] = True
    keep = foreground_patches(masks, (8, 8)).reshape(4, 4)
    assert keep.nonzero().tolist() == [[1, 2]]


def test_a_batch_of_one_gives_what_it_gives_among_others() -> None:
    visual = _clip().visual
    images, masks = _inputs(visual)
    prompts = new_prompts(visual, 3, 0)
    features = _features(visual, images, prompts, masks)
    torch.testing.assert_close(_features(visual, images[:1], prompts, masks[:1]), features[:1])


def test_gradients_reach_every_prompt_and_nothing_that_is_frozen() -> None:
    visual = _clip().visual.requires_grad_(False)
    images, masks = _inputs(visual)
    prompts = nn.Parameter(new_prompts(visual, 3, 0))
    with mask_prompts_applied(visual, prompts, masks):
        visual(images).square().sum().backward()
    assert prompts.grad is not None
    blank = ~foreground_patches(masks, (8, 8)).all(0)  # patches that are blank in some image
    assert (prompts.grad.abs().sum(-1) > 0).eq(blank).all()
    assert all(parameter.grad is None for parameter in visual.parameters())


def test_hooks_are_gone_afterwards_even_after_an_error() -> None:
    visual = _clip().visual
    images, masks = _inputs(visual)
    with torch.no_grad():
        plain = visual(images)
        with pytest.raises(RuntimeError), mask_prompts_applied(visual, new_prompts(visual, 2, 0), masks):
            visual(images[:, :2])
        assert torch.equal(visual(images), plain)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "ModifiedResNet"),
        ({"timm_model_name": "convnext_atto", "timm_pool": "", "image_size": 64}, "ConvNeXt"),
        ({"timm_model_name": "swin_tiny_patch4_window7_224", "timm_pool": "avg", "image_size": 224}, "SwinTransformer"),
        ({**VISION, "patch_dropout": 0.5}, "dropout"),
    ],
)
def test_a_tower_that_is_no_plain_vit_is_a_clear_error(config: dict[str, object], message: str) -> None:
    visual = open_clip.model.CLIP(embed_dim=16, vision_cfg=config, text_cfg=TEXT).visual
    with pytest.raises(OvsegError, match=message):
        vit_layout(visual)


def test_more_depth_than_blocks_is_an_error() -> None:
    with pytest.raises(OvsegError, match=r"depth 5.*1 to 4"):
        new_prompts(_clip().visual, 5, 0)


def test_new_prompts_are_of_the_papers_distribution_and_follow_the_seed() -> None:
    visual = _clip().visual
    prompts = new_prompts(visual, 3, 7)
    assert prompts.shape == (3, 16, 32)
    assert abs(prompts.std().item() - 0.02) < 0.002
    assert torch.equal(prompts, new_prompts(visual, 3, 7))
    assert not torch.equal(prompts, new_prompts(visual, 3, 8))


def _save(folder: Path, depth: int = 2) -> Tensor:
    network = _clip()
    prompts = new_prompts(network.visual, depth, 3)
    save_adapted(
        network, {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}, prompts, {"base": {}, "steps": []}, folder
    )
    return prompts


def test_stock_open_clip_loads_an_adapted_clip_and_gives_the_same_features(tmp_path: Path) -> None:
    _save(tmp_path)
    stock = open_clip.create_model(f"local-dir:{tmp_path}").eval()
    ours = load_adapted(tmp_path, prompts=False)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        wanted = F.normalize(
            stock.encode_image((images / 255 - ours.mean[:, None, None]) / ours.std[:, None, None]), dim=-1
        )
    torch.testing.assert_close(ours.encode_crops(images), wanted, atol=1e-5, rtol=0)
    with torch.no_grad():
        words = F.normalize(stock.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(["a star"])), dim=-1)
    torch.testing.assert_close(ours.encode_texts(["a star"]), words, atol=1e-5, rtol=0)


def test_prompts_come_back_and_are_used(tmp_path: Path) -> None:
    prompts = _save(tmp_path)
    clip = load_adapted(tmp_path)
    assert clip.prompts is not None
    assert torch.equal(clip.prompts, prompts)
    crops = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    masks = _inputs(clip.model.visual)[1][:2]
    plain = dataclasses.replace(clip, prompts=None)
    assert not torch.allclose(clip.encode_crops(crops, masks), plain.encode_crops(crops, masks))
    assert torch.equal(clip.encode_crops(crops, torch.ones_like(masks)), plain.encode_crops(crops))
    with pytest.raises(ValueError, match="masks"):
        clip.encode_crops(crops)


@pytest.mark.parametrize("shape", [(0, 16, 32), (0, 64, 32), (0, 0, 0)])
def test_prompts_of_depth_0_are_neither_loaded_nor_saved(tmp_path: Path, shape: tuple[int, ...]) -> None:
    _save(tmp_path)
    save_file({"prompts": torch.zeros(shape)}, tmp_path / PROMPTS, metadata={"grid": "4x4"})
    clip = load_adapted(tmp_path)
    assert clip.prompts is None
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    save_adapted(clip.model, config, torch.zeros(shape), {"base": {}, "steps": []}, tmp_path / "again")
    assert not (tmp_path / "again" / PROMPTS).exists()


def test_prompts_of_another_grid_are_an_error(tmp_path: Path) -> None:
    _save(tmp_path)
    save_file({"prompts": torch.full((2, 64, 32), 0.5)}, tmp_path / PROMPTS, metadata={"grid": "8x8"})
    with pytest.raises(OvsegError, match=r"8 x 8 patches.*4 x 4; .*remove the file"):
        load_adapted(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "grid", "message"),
    [
        (torch.zeros(2, 16, 31), "4x4", r"\[2, 16, 31\], not \[depth, 16, 32\]"),
        (torch.zeros(9, 16, 32), "4x4", "depth 9"),
        (torch.zeros(2, 15, 32), "4x4", "4 x 4"),
        (torch.zeros(2, 16, 32), "four", "mask_prompts"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(tmp_path: Path, tensor: Tensor, grid: str, message: str) -> None:
    _save(tmp_path)
    save_file({"prompts": tensor}, tmp_path / PROMPTS, metadata={"grid": grid})
    with pytest.raises(OvsegError, match=message):
        load_adapted(tmp_path)


def test_a_file_that_is_no_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / PROMPTS).write_bytes(b"nothing of the kind")
    with pytest.raises(OvsegError, match=PROMPTS):
        read_prompts(tmp_path / PROMPTS)


def test_the_card_names_base_shards_and_licences(tmp_path: Path) -> None:
    network = _clip()
    step = {
        "stage": "finetune",
        "shards": "abc123",
        "mask_source": "sam2",
        "mask_licence": "Apache-2.0",
        "recipe": {"lr": 1},
    }
    base = {"model": "ViT-B-16", "pretrained": "openai", "weights": "f00", "licence": "MIT"}
    save_adapted(network, {"embed_dim": 16}, None, {"base": base, "steps": [step]}, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: open_clip")
    assert "license: other" in card
    for word in ("ViT-B-16", "openai", "MIT", "abc123", "sam2", "Apache-2.0", '"lr": 1'):
        assert word in card


def test_an_adapted_clip_becomes_a_base_with_its_prompts_and_provenance(tmp_path: Path) -> None:
    from ovseg.clip.adapted import materialise, read_provenance

    prompts = _save(tmp_path / "one")
    materialise(f"local-dir:{tmp_path / 'one'}", None, tmp_path / "two")
    again: Clip = load_adapted(tmp_path / "two")
    assert again.prompts is not None
    assert torch.equal(again.prompts, prompts)
    assert read_provenance(tmp_path / "two") == {"base": {}, "steps": []}
    assert model_config(f"local-dir:{tmp_path / 'two'}")["embed_dim"] == 16
