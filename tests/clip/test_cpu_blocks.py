"""Packed blocks give the embeddings of the tower's own blocks, with prompts and changed weights too, and leave it as it was."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.prompts import mask_prompts_applied, new_prompts
from ovseg.core.crops import normalize
from tests.conftest import TINY, random_clip

NUMBER = 40
LEAST_COSINE = {torch.float32: 0.999999, torch.bfloat16: 0.999}


def clip_of(dtype: torch.dtype = torch.float32, **changes: Any) -> Clip:
    """A small CLIP with three blocks."""
    config = {**TINY, **changes, "vision_cfg": {**TINY["vision_cfg"], "layers": 3, **changes.get("vision_cfg", {})}}
    network = random_clip(config).eval().requires_grad_(False)
    if dtype == torch.bfloat16:
        open_clip.model.convert_weights_to_lp(network, dtype)
    mean, std = torch.tensor(network.visual.image_mean), torch.tensor(network.visual.image_std)
    return Clip(network, None, 32, mean, std, TINY["embed_dim"], dtype)


def crops_and_masks() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(NUMBER, 32, 32, dtype=torch.bool)
    masks[:, :16] = True
    return torch.randint(256, (NUMBER, 3, 32, 32), dtype=torch.uint8, generator=generator), masks


def own(clip: Clip) -> Tensor:
    """What the tower's own blocks make of the crops."""
    crops, masks = crops_and_masks()
    images = normalize(crops, clip.mean, clip.std).to(clip.dtype)
    with torch.no_grad():
        if clip.prompts is None:
            return F.normalize(clip.model.encode_image(images).float(), dim=-1)  # type: ignore[operator]
        with mask_prompts_applied(clip.model.visual, clip.prompts, masks):  # type: ignore[arg-type]
            return F.normalize(clip.model.encode_image(images).float(), dim=-1)  # type: ignore[operator]


def cosine(clip: Clip) -> float:
    """The least cosine of the embeddings by packed blocks and by the tower's own."""
    return float((clip.encode_crops(*crops_and_masks()) * own(clip)).sum(1).min())


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.bf16)])
@pytest.mark.parametrize("changes", [{}, {"quick_gelu": True}], ids=["gelu", "quick gelu"])
@pytest.mark.parametrize("with_prompts", [False, True])
def test_embeddings_are_those_of_the_own_blocks(
    dtype: torch.dtype, changes: dict[str, Any], with_prompts: bool
) -> None:
    clip = clip_of(dtype, **changes)
    if with_prompts:
        clip = replace(clip, prompts=new_prompts(clip.model.visual, 2, 0))  # type: ignore[arg-type]
    assert cosine(clip) >= LEAST_COSINE[dtype]
    assert len(clip._packed_blocks._forwards) == 3, "the blocks were not packed"


def test_a_block_with_layer_scale_runs_as_it_is() -> None:
    clip = clip_of(vision_cfg={"ls_init_value": 0.1})
    assert cosine(clip) >= LEAST_COSINE[torch.float32]
    assert not clip._packed_blocks.blocks


def test_changed_weights_are_packed_again() -> None:
    """A CLIP is measured while it is trained."""
    clip = clip_of()
    before = clip.encode_crops(*crops_and_masks())
    for parameter in clip.model.visual.parameters():  # type: ignore[union-attr]
        parameter.mul_(1.1)
    assert cosine(clip) >= LEAST_COSINE[torch.float32]
    assert not torch.allclose(before, clip.encode_crops(*crops_and_masks()), atol=1e-3)


def test_the_tower_is_left_as_it_was() -> None:
    """A copy of the tower has blocks of its own, and gradients flow."""
    clip = clip_of()
    clip.encode_crops(*crops_and_masks())
    copied: Any = copy.deepcopy(clip.model.visual)
    assert not any("forward" in vars(block) for block in copied.transformer.resblocks)
    copied.requires_grad_(True)
    copied(torch.zeros(1, 3, 32, 32)).sum().backward()
    assert all(block.mlp.c_fc.weight.grad is not None for block in copied.transformer.resblocks)
