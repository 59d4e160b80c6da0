"""Regions encoded in one pass: parity with the formulas written out, independence of regions, sizes, towers, gradients."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ovseg.clip import biased_tokens as biased_module
from ovseg.clip import mask_adapter as adapter_module
from ovseg.clip import region_tokens as tokens_module
from ovseg.clip.biased_tokens import biased_tokens, mask_bias, new_log_bias
from ovseg.clip.mask_adapter import MaskAdapter, adapted_regions, new_adapter
from ovseg.clip.pooled_regions import pooled_regions
from ovseg.clip.region_tokens import patch_weights, patches_of_masks, region_attention, region_tokens
from ovseg.clip.vit_parts import resize_positions, vit_parts
from ovseg.core.errors import OvsegError

VISION = {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VARIANTS: dict[str, dict[str, Any]] = {
    "class token": {},
    "average": {"pool_type": "avg", "final_ln_after_pool": True},
    "average of normed": {"pool_type": "avg"},
    "timm token": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "token"},
    "timm average": {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "avg"},
    "first query": {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 3},
    "timm probe": {"timm_model_name": "test_vit3", "image_size": 160, "timm_pool": "map"},
    "timm probe of all tokens": {"timm_model_name": "test_vit3", "image_size": 160, "timm_pool": "map"},
    "timm register": {"timm_model_name": "vit_wee_patch16_reg1_gap_256", "image_size": 256, "timm_pool": "avg"},
}


def tower(variant: str = "class token", **changes: Any) -> Any:
    torch.manual_seed(0)
    vision = {**VISION, **VARIANTS.get(variant, {}), **changes}
    visual: Any = open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).eval().visual
    if variant == "timm probe":
        visual.trunk.pool_include_prefix = False  # patches alone, as in SigLIP
    return visual


def convnext() -> Any:
    torch.manual_seed(0)
    vision = {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64}
    return open_clip.model.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT).eval().visual


def inputs(size: int, regions: int = 5, number: int = 2) -> tuple[Tensor, Tensor]:
    """Random images, and masks of rectangles of many sizes."""
    generator = torch.Generator().manual_seed(1)
    masks = torch.zeros(number, regions, size, size)
    for mask in masks.flatten(0, 1):
        top, left = torch.randint(0, size // 2, (2,), generator=generator).tolist()
        height, width = torch.randint(2, size // 2, (2,), generator=generator).tolist()
        mask[top : top + height, left : left + width] = 1
    return torch.randn(number, 3, size, size, generator=generator), masks


def side(visual: Any) -> int:
    return int(visual.image_size[0])


def bias_of(visual: Any, start: int) -> Tensor:
    return new_log_bias(visual, start) + torch.randn(1, generator=torch.Generator().manual_seed(2))


def tokens(visual: Any, images: Tensor, masks: Tensor) -> Tensor:
    return region_tokens(visual, images, masks, 2)


def biased(visual: Any, images: Tensor, masks: Tensor, start: int) -> Tensor:
    return biased_tokens(visual, images, masks, start, bias_of(visual, start))


def adapter_of(seed: int = 0) -> MaskAdapter:
    """An adapter whose blocks and maps have effect, as after training: new ones give all regions nearly the same maps."""
    adapter = new_adapter(16, 24, seed)
    with torch.no_grad():
        adapter.maps.weight *= 20
        for scale in (block.layer_scale for block in adapter.blocks):
            scale.fill_(0.5)  # type: ignore[operator]
    return adapter


def adapted(visual: Any, images: Tensor, masks: Tensor) -> Tensor:
    return adapted_regions(visual, images, masks, adapter_of())


ENCODERS: dict[str, Any] = {
    "region_tokens": (tokens, tower),
    "region_tokens of an average": (tokens, lambda: tower("average")),
    "region_tokens of a first query": (tokens, lambda: tower("first query")),
    "region_tokens of a probe": (tokens, lambda: tower("timm probe")),
    "biased_tokens": (lambda visual, images, masks: biased(visual, images, masks, 2), tower),
    "pooled": (pooled_regions, convnext),
    "mask_adapter": (adapted, tower),
    "mask_adapter of timm": (adapted, lambda: tower("timm token")),
    "mask_adapter of a ConvNeXt": (adapted, convnext),
}


def encoder_and_tower(name: str) -> tuple[Any, Any, int]:
    encode, build = ENCODERS[name]
    return encode, build(), 64


def naive_attention(attention: Any, query: Tensor, keys: Tensor, seen: list[int], bias: Tensor | None = None) -> Tensor:
    """One query token's attention, head by head, over the tokens it sees; `bias` is `[heads, len(seen)]`."""
    width, heads = query.shape[0], attention.num_heads
    weight, offset = attention.in_proj_weight, attention.in_proj_bias
    q, k, v = (
        F.linear(x, weight[i * width : (i + 1) * width], offset[i * width : (i + 1) * width])
        for i, x in enumerate((query, keys[seen], keys[seen]))
    )
    outputs = []
    for head in range(heads):
        part = slice(head * width // heads, (head + 1) * width // heads)
        scores = k[:, part] @ q[part] / math.sqrt(width // heads)
        scores = scores if bias is None else scores + bias[head]
        outputs.append(scores.softmax(0) @ v[:, part])
    return F.linear(torch.cat(outputs), attention.out_proj.weight, attention.out_proj.bias)


def naive_block(block: Any, tokens: Tensor, seen: list[list[int]], bias: Any = None) -> Any:
    normed = block.ln_1(tokens)
    attended = torch.stack(
        [naive_attention(block.attn, normed[i], normed, seen[i], bias(i) if bias else None) for i in range(len(tokens))]
    )
    tokens = tokens + attended
    return tokens + block.mlp(block.ln_2(tokens))


def naive_tokens(visual: Any, image: Tensor) -> Any:
    """The tokens before the first block."""
    patches = visual.conv1(image[None]).flatten(2)[0].T
    return visual.ln_pre(torch.cat([visual.class_embedding[None], patches]) + visual.positional_embedding)


@torch.inference_mode()
def test_region_tokens_are_the_formula_of_maft() -> None:
    """Copies of the class token see themselves and the patches of their mask; patches see patches only."""
    visual = tower()
    images, masks = inputs(32, regions=3, number=1)
    covered = patches_of_masks(masks, (4, 4))[0]
    tokens = naive_tokens(visual, images[0])
    everything = [list(range(17))] * 17
    for block in visual.transformer.resblocks[:2]:
        tokens = naive_block(block, tokens, everything)
    tokens = torch.cat([tokens[:1]] * 3 + [tokens[1:]])
    seen = [[i, *(3 + covered[i].nonzero()[:, 0]).tolist()] for i in range(3)] + [list(range(3, 19))] * 16
    for block in visual.transformer.resblocks[2:]:
        tokens = naive_block(block, tokens, seen)
    expected = F.normalize(visual.ln_post(tokens[:3]) @ visual.proj, dim=-1)
    torch.testing.assert_close(region_tokens(visual, images, masks, 2)[0], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_soft_coverage_multiplies_the_attention_of_a_region_by_the_covered_fractions() -> None:
    """Before it is made to sum to 1: the logarithm of the fraction is added to the score. A whole mask is that of MAFT."""
    visual = tower()
    images, masks = inputs(32, regions=3, number=1)
    masks = masks * torch.tensor([1.0, 0.3, 0.9])[None, :, None, None]
    fractions = F.avg_pool2d(masks[0], 8).flatten(1)
    tokens = naive_tokens(visual, images[0])
    for block in visual.transformer.resblocks[:2]:
        tokens = naive_block(block, tokens, [list(range(17))] * 17)
    tokens = torch.cat([tokens[:1]] * 3 + [tokens[1:]])
    seen = [[i, *(3 + fractions[i].nonzero()[:, 0]).tolist()] for i in range(3)] + [list(range(3, 19))] * 16
    patches = torch.cat([torch.zeros(3, 3), fractions.log()], dim=1)  # no region sees the token of another
    bias = torch.cat([patches, torch.zeros(16, 19)])

    def bias_of(token: int) -> Tensor:
        return bias[token, seen[token]].expand(visual.transformer.resblocks[0].attn.num_heads, -1)

    for block in visual.transformer.resblocks[2:]:
        tokens = naive_block(block, tokens, seen, bias_of)
    expected = F.normalize(visual.ln_post(tokens[:3]) @ visual.proj, dim=-1)
    torch.testing.assert_close(region_tokens(visual, images, masks, 2, "soft")[0], expected, atol=1e-5, rtol=0)
    whole = torch.ones(1, 1, 32, 32)
    assert torch.equal(region_tokens(visual, images, whole, 2, "soft"), region_tokens(visual, images, whole, 2))
    empty = torch.zeros(1, 1, 32, 32)
    assert torch.equal(region_tokens(visual, images, empty, 2, "soft"), region_tokens(visual, images, empty, 2))


def attention_of(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """One projected query's attention to projected keys `[N, W]`, head by head."""
    parts = [x.chunk(heads, dim=-1) for x in (query, keys, values)]
    return torch.cat([(k @ q / math.sqrt(len(q))).softmax(0) @ v for q, k, v in zip(*parts, strict=True)])


@torch.inference_mode()
def test_a_probe_attends_to_the_patches_of_its_mask_alone() -> None:
    """SigLIP's pooling, written out; an empty mask has what it makes of an attention of zeros."""
    visual = tower("timm probe")
    trunk, pool = visual.trunk, visual.trunk.attn_pool
    images, masks = inputs(160, regions=4, number=1)
    masks[0, 2] = 0
    masks[0, 3], masks[0, 3, 50, 50] = 0, 1
    patches = trunk.forward_features(images)[0, trunk.num_prefix_tokens :]
    for vector, covered in zip(
        region_tokens(visual, images, masks, 0)[0], patches_of_masks(masks, (10, 10))[0], strict=True
    ):
        keys, values = pool.kv(patches[covered]).chunk(2, dim=-1)
        attended = attention_of(pool.q(pool.latent)[0, 0], keys, values, pool.num_heads) if covered.any() else 0
        pooled = pool.proj(torch.zeros(96) + attended)
        pooled = pooled + pool.mlp(pool.norm(pooled))
        torch.testing.assert_close(vector, F.normalize(visual.head(pooled), dim=0), atol=1e-5, rtol=0)
    assert covered.sum() == 1  # of the last mask, a single pixel


@torch.inference_mode()
def test_the_first_query_attends_to_the_regions_token_and_its_patches() -> None:
    """CoCa's pooling, written out, over tokens as in MAFT's formula; patches keep the class token."""
    visual = tower("first query")
    images, masks = inputs(32, regions=3, number=1)
    covered = patches_of_masks(masks, (4, 4))[0]
    tokens = naive_tokens(visual, images[0])
    for block in visual.transformer.resblocks[:2]:
        tokens = naive_block(block, tokens, [list(range(17))] * 17)
    tokens = torch.cat([tokens[:1]] * 3 + [tokens])
    seen = [[i, *(4 + covered[i].nonzero()[:, 0]).tolist()] for i in range(3)] + [list(range(3, 20))] * 17
    for block in visual.transformer.resblocks[2:]:
        tokens = naive_block(block, tokens, seen)
    pool = visual.attn_pool
    query, keys = pool.ln_q(pool.query)[0], pool.ln_k(tokens)
    weights = (pool.attn.q_proj_weight, pool.attn.k_proj_weight, pool.attn.v_proj_weight)
    (w_q, w_k, w_v), (b_q, b_k, b_v) = weights, pool.attn.in_proj_bias.chunk(3)
    for i, vector in enumerate(region_tokens(visual, images, masks, 2)[0]):
        k, v = F.linear(keys[seen[i]], w_k, b_k), F.linear(keys[seen[i]], w_v, b_v)
        pooled = pool.attn.out_proj(attention_of(F.linear(query, w_q, b_q), k, v, pool.attn.num_heads))
        torch.testing.assert_close(vector, F.normalize(visual.ln_post(pooled) @ visual.proj, dim=0), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_biased_tokens_are_the_formula_of_maskclippp() -> None:
    """Region tokens see patches alone, with a bias for each block and head; image tokens see image tokens alone."""
    visual = tower()
    images, masks = inputs(32, regions=3, number=1)
    masks = torch.rand(masks.shape, generator=torch.Generator().manual_seed(3))
    log_bias = torch.randn(2, 2, generator=torch.Generator().manual_seed(3))
    values = F.interpolate(masks, (4, 4), mode="bilinear", align_corners=False).flatten(2)[0]
    tokens = naive_tokens(visual, images[0])
    everything = [list(range(17))] * 17
    for block in visual.transformer.resblocks[:2]:
        tokens = naive_block(block, tokens, everything)
    regions = tokens[:1].expand(3, -1)
    for block, block_bias in zip(visual.transformer.resblocks[2:], log_bias, strict=True):

        def bias(i: int, block_bias: Tensor = block_bias) -> Tensor | None:
            if i >= 3:
                return None
            inside = values[i] > values[i].max() / 2
            return torch.where(inside, values[i] * block_bias.exp()[:, None], torch.tensor(-100.0))

        seen = [list(range(4, 20))] * 3 + [list(range(3, 20))] * 17
        both = naive_block(block, torch.cat([regions, tokens]), seen, bias)
        regions, tokens = both[:3], both[3:]
    expected = F.normalize(visual.ln_post(regions) @ visual.proj, dim=-1)
    torch.testing.assert_close(biased_tokens(visual, images, masks, 2, log_bias)[0], expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_pooled_regions_are_the_mean_of_the_last_map() -> None:
    visual = convnext()
    images, masks = inputs(64)
    masks = torch.rand(masks.shape, generator=torch.Generator().manual_seed(3))
    features = visual.trunk.forward_features(images)
    weights = F.interpolate(masks, features.shape[-2:], mode="bilinear", align_corners=False)
    vectors = pooled_regions(visual, images, masks)
    for b in range(2):
        for q in range(5):
            weighted = (features[b] * weights[b, q]).sum((1, 2)) / (weights[b, q].sum() + 1e-6)
            expected = F.normalize(visual.head(visual.trunk.forward_head(weighted[None, :, None, None]))[0], dim=0)
            torch.testing.assert_close(vectors[b, q], expected, atol=1e-5, rtol=0)


def naive_norm(norm: Any, values: Tensor) -> Tensor:
    """Layer norm over the first dimension of `[channels, rows, columns]`."""
    centered = values - values.mean(0)
    normed = centered / (centered.square().mean(0) + 1e-6).sqrt()
    result: Tensor = normed * norm.weight[:, None, None] + norm.bias[:, None, None]
    return result


def naive_linear(linear: Any, values: Tensor) -> Tensor:
    """A convolution of 1 x 1 on `[channels, rows, columns]`."""
    result: Tensor = torch.einsum("oi,ihw->ohw", linear.weight, values) + linear.bias[:, None, None]
    return result


def naive_convolution(convolution: Any, values: Tensor) -> Tensor:
    """A convolution of `[channels, rows, columns]`, place by place."""
    kernel, step, pad = convolution.kernel_size[0], convolution.stride[0], convolution.padding[0]
    padded = F.pad(values, (pad, pad, pad, pad))
    places = [range(0, side + 2 * pad - kernel + 1, step) for side in values.shape[1:]]
    weight = convolution.weight
    if convolution.groups > 1:  # depthwise: an output sees its own channel
        weight = torch.diag_embed(weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1)
    rows = [
        torch.stack(
            [torch.einsum("oikl,ikl->o", weight, padded[:, y : y + kernel, x : x + kernel]) for x in places[1]], dim=1
        )
        for y in places[0]
    ]
    result: Tensor = torch.stack(rows, dim=1) + convolution.bias[:, None, None]
    return result


def naive_maps(adapter: Any, embedding: Tensor, mask: Tensor) -> Tensor:
    """Mask-Adapter's weights `[K, N]` of one region, from E `[D, g, g]` and its mask `[4 g, 4 g]`."""
    hidden = F.gelu(naive_norm(adapter.mask_norm1, naive_convolution(adapter.mask_conv1, mask[None])))
    hidden = F.gelu(naive_norm(adapter.mask_norm2, naive_convolution(adapter.mask_conv2, hidden)))
    places = naive_linear(adapter.fuse, embedding + naive_linear(adapter.mask_embed, hidden))
    for block in adapter.blocks:
        change = naive_norm(block.norm, naive_convolution(block.depthwise, places))
        change = naive_linear(block.contract, F.gelu(naive_linear(block.expand, change)))
        places = places + block.layer_scale[:, None, None] * change
    maps = naive_linear(adapter.maps, naive_norm(adapter.norm, places)).sigmoid().flatten(1)
    return maps / maps.sum(1, keepdim=True)


def own_values(block: Any, tokens: Tensor) -> Any:
    """A ViT's block where each token takes its own value: value and output projection, without attention."""
    width = tokens.shape[1]
    values = F.linear(block.ln_1(tokens), block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])
    tokens = tokens + F.linear(values, block.attn.out_proj.weight, block.attn.out_proj.bias)
    return tokens + block.mlp(block.ln_2(tokens))


def last_map_of_vit(visual: Any, image: Tensor) -> Any:
    """F `[N, C]`, and the head of the tower."""
    tokens = naive_tokens(visual, image)
    for block in visual.transformer.resblocks[:-1]:
        tokens = naive_block(block, tokens, [list(range(17))] * 17)
    patches = own_values(visual.transformer.resblocks[-1], tokens[1:])
    return patches, lambda places: visual.ln_post(places) @ visual.proj


def last_map_of_convnext(visual: Any, image: Tensor) -> Any:
    features = visual.trunk.forward_features(image[None])[0].flatten(1).T
    return features, lambda places: visual.head(visual.trunk.forward_head(places[..., None, None]))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("build", "size", "last_map"), [(tower, 32, last_map_of_vit), (convnext, 128, last_map_of_convnext)]
)
def test_adapted_regions_are_the_formula_of_mask_adapter(build: Any, size: int, last_map: Any) -> None:
    """Of a ViT with the value path of its last block; the maps weigh F, and CLIP's head sees each of the K means."""
    visual, adapter = build(), adapter_of()
    images, _ = inputs(size, number=1)
    masks = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    masks[0, 2] = 0
    features, head = last_map(visual, images[0])
    embedding = head(features).T.reshape(16, 4, 4)
    vectors = adapted_regions(visual, images, masks, adapter)[0]
    for mask, vector in zip(masks[0], vectors, strict=True):
        pooled = torch.einsum("kn,nc->kc", naive_maps(adapter, embedding, mask), features)
        torch.testing.assert_close(vector, F.normalize(head(pooled).mean(0), dim=0), atol=1e-5, rtol=0)
    assert (vectors[0] - vectors[2]).abs().max() > 1e-3


def test_a_new_adapter_has_the_sizes_of_the_paper_and_seeded_weights() -> None:
    """14.9 million parameters for ConvNeXt-L; where all sigmoids are 0 its maps still are finite and sum to 1."""
    assert sum(p.numel() for p in MaskAdapter(768).parameters()) == pytest.approx(14.9e6, rel=5e-3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = new_adapter(16, 24, 0), new_adapter(16, 24, 0)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with torch.no_grad():
        first.maps.bias.fill_(-1e4)
        weights = first(torch.randn(2, 4, 4, 16), torch.zeros(2, 3, 16, 16))
    assert weights.shape == (2, 3, 16, 16)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 16))


def test_a_pooled_region_learns_from_the_cells_of_its_mask_alone() -> None:
    """Of the last map; the cells themselves have seen most of the image. The whole map gives the embedding of the image."""
    visual = convnext()
    features: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Tensor) -> None:
        output.retain_grad()
        features.append(output)

    visual.trunk.stages.register_forward_hook(keep)
    images, _ = inputs(128, number=1)
    masks = torch.stack([torch.zeros(128, 128), torch.ones(128, 128)])[None]
    masks[0, 0, 32:, :64] = 1
    vectors = pooled_regions(visual, images, masks)
    torch.autograd.backward(vectors[0, 0, 0])
    gradient = features[0].grad
    assert gradient is not None
    assert torch.equal(gradient[0].abs().sum(0) > 0, masks[0, 0, 16::32, 16::32] > 0)
    torch.testing.assert_close(vectors[0, -1], F.normalize(visual(images), dim=-1)[0], atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_a_mask_of_the_whole_image_gives_the_embedding_of_the_image(variant: str) -> None:
    """With a class token from the last block on, where what patches see no longer matters; with pooled patches always."""
    visual = tower(variant)
    images, _ = inputs(side(visual), number=1)
    vectors = region_tokens(visual, images, torch.ones(1, 2, 8, 8), len(vit_parts(visual).blocks) - 1)
    plain = F.normalize(visual(images), dim=-1)
    torch.testing.assert_close(vectors, plain[:, None].expand(-1, 2, -1), atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("name", ENCODERS)
def test_a_region_depends_on_no_other_region_image_or_chunk(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, visual, size = encoder_and_tower(name)
    images, masks = inputs(size)
    together = encode(visual, images, masks)
    for b in range(2):
        for q in range(5):
            alone = encode(visual, images[b : b + 1], masks[b : b + 1, q : q + 1])
            torch.testing.assert_close(alone[0, 0], together[b, q], atol=1e-5, rtol=0)
    monkeypatch.setattr(tokens_module, "REGIONS_PER_PASS", 2)
    monkeypatch.setattr(biased_module, "REGIONS_PER_PASS", 2)
    monkeypatch.setattr(adapter_module, "REGIONS_PER_PASS", 4)
    monkeypatch.setattr(adapter_module, "PATCHES_PER_PASS", 5)
    torch.testing.assert_close(encode(visual, images, masks), together, atol=1e-5, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize("name", ENCODERS)
def test_empty_tiny_and_many_masks_have_finite_unit_vectors(name: str) -> None:
    encode, visual, size = encoder_and_tower(name)
    images, _ = inputs(size, number=1)
    masks = torch.zeros(1, 2000, size, size)
    masks[0, 1, 50, 50] = 1
    masks[0, 2:, :9, :7] = 1
    vectors = encode(visual, images, masks)
    assert vectors.isfinite().all()
    torch.testing.assert_close(vectors[0, 1:].norm(dim=-1), torch.ones(1999))
    assert not torch.allclose(vectors[0, 1], vectors[0, 2], atol=1e-3)
    assert encode(visual, images, masks[:, :0]).shape == (1, 0, 16)


def test_a_mask_smaller_than_a_patch_has_the_patch_that_it_covers_most() -> None:
    mask = torch.zeros(1, 3, 32, 32)
    mask[0, 0, 7, 6:10] = 1  # two pixels of patch 0, two of patch 1
    mask[0, 0, 6, 9] = 1
    mask[0, 1, :16, :16] = 1
    covered = patches_of_masks(mask, (4, 4))
    assert covered[0, 0].nonzero().tolist() == [[1]]
    assert covered[0, 1].nonzero().flatten().tolist() == [0, 1, 4, 5]
    assert not covered[0, 2].any()


def test_who_sees_whom_in_a_small_example() -> None:
    weights = torch.tensor([[[1.0, 0.0, 0.25], [0.0, 0.0, 0.0]]])
    expected = [[1, 0, 1, 0, 0.25], [0, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]
    assert region_attention(weights)[0].tolist() == expected


def test_what_a_region_sees_of_patches_by_half_and_softly() -> None:
    masks = torch.zeros(1, 2, 32, 32)
    masks[0, 0, :8, :10] = 1  # patch 0, and a quarter of patch 1
    assert patch_weights(masks, (4, 4), "half")[0, 0].tolist() == [1.0] + 15 * [0.0]
    assert patch_weights(masks, (4, 4), "soft")[0, 0].tolist() == [1.0, 0.25] + 14 * [0.0]
    assert not patch_weights(masks, (4, 4), "soft")[0, 1].any()


def test_the_bias_of_masks_in_a_small_example() -> None:
    values = torch.tensor([[[0.0, 0.2, 0.4], [0.0, 0.0, 0.0]]])
    bias = mask_bias(values, torch.tensor([0.0, math.log(2)]))
    expected = torch.tensor([[[-100, -100, 0.4], [-100] * 3], [[-100, -100, 0.8], [-100] * 3]])
    torch.testing.assert_close(bias[0], expected)


@torch.inference_mode()
@pytest.mark.parametrize("variant", sorted(VARIANTS))
def test_images_of_any_size_that_is_a_multiple_of_the_patch(variant: str) -> None:
    visual = tower(variant)
    patch = vit_parts(visual).layout.patch[0]
    images = torch.randn(1, 3, 5 * patch, 3 * patch, generator=torch.Generator().manual_seed(0))
    assert region_tokens(visual, images, torch.ones(1, 1, 9, 9), 1).isfinite().all()
    with pytest.raises(OvsegError, match=f"{5 * patch} x {3 * patch - 1}.*multiple"):
        region_tokens(visual, images[..., :-1], torch.ones(1, 1, 9, 9), 1)


def test_positions_of_the_same_grid_stay_and_corners_are_kept() -> None:
    positions = torch.randn(1 + 16, 8, generator=torch.Generator().manual_seed(0))
    assert resize_positions(positions, (4, 4), (4, 4), 1) is positions
    larger = resize_positions(positions, (4, 4), (6, 7), 1)
    assert larger.shape == (1 + 42, 8)
    torch.testing.assert_close(larger[[0, 1, 7, 42]], positions[[0, 1, 4, 16]])


@pytest.mark.parametrize("name", ENCODERS)
def test_gradients_reach_the_image_and_every_large_weight_of_the_tower(name: str) -> None:
    encode, visual, size = encoder_and_tower(name)
    images, masks = inputs(size, number=1)
    images.requires_grad_(True)
    torch.autograd.backward(encode(visual, images, masks).sum())
    assert images.grad is not None and images.grad.abs().sum() > 0
    assert all(p.grad is not None for p in visual.parameters() if p.requires_grad and p.numel() > 1000)


@pytest.mark.parametrize("variant", ["class token", "timm token"])
@pytest.mark.parametrize(
    ("encode", "seen", "limit"),
    [
        (region_tokens, [5, 6], 0),
        (partial(region_tokens, coverage="soft"), [5, 6, 7], 0),
        (biased, [5, 6], 1e-8),  # what is outside of a mask has -100 added to its scores
    ],
    ids=["region_tokens", "region_tokens, soft", "biased_tokens"],
)
def test_a_region_learns_from_the_patches_of_its_mask_alone(
    encode: Any, seen: list[int], limit: float, variant: str
) -> None:
    """And from its own token, where regions begin with the last block: from no other patch or region, nor the class token."""
    visual = tower(variant)
    parts, patch = vit_parts(visual), vit_parts(visual).layout.patch[0]
    given: list[Tensor] = []

    def keep(_module: Any, tokens: tuple[Tensor]) -> None:
        tokens[0].retain_grad()
        given.append(tokens[0])

    parts.layout.blocks[-1].register_forward_pre_hook(keep)
    images = torch.randn(1, 3, 4 * patch, 4 * patch, generator=torch.Generator().manual_seed(1))
    masks = torch.zeros(1, 3, 4 * patch, 4 * patch)
    masks[0, 0, : 2 * patch] = 1
    masks[0, 1, patch : 2 * patch, patch : 3 * patch + patch // 4] = 1  # patches 5 and 6, and a quarter of 7
    masks[0, 2] = 1
    torch.autograd.backward(encode(visual, images, masks, len(parts.blocks) - 1)[0, 1, 0])
    gradient = given[0].grad
    assert gradient is not None
    size = gradient[0].abs().amax(-1)  # of each token: regions, the class token of biased tokens, 16 patches
    learned = torch.zeros(len(size), dtype=torch.bool)
    learned[[1, *(len(size) - 16 + number for number in seen)]] = True
    assert bool((size[learned] > 1e-6).all())
    assert bool((size[~learned] <= limit).all())


def test_the_bias_is_learned_inside_the_mask_alone() -> None:
    """Of masks with values between 0 and 1: where a mask is 1 throughout, the softmax cancels what all patches inside have."""
    visual = tower()
    images, masks = inputs(64, number=1)
    masks *= torch.rand(masks.shape, generator=torch.Generator().manual_seed(3))
    log_bias = new_log_bias(visual, 2).requires_grad_(True)
    assert log_bias.shape == (2, 2) and bool((log_bias == -5).all())
    torch.autograd.backward(biased_tokens(visual, images, masks, 2, log_bias)[0, 0, 0])
    assert log_bias.grad is not None and bool((log_bias.grad.abs() > 1e-8).all())
    empty = new_log_bias(visual, 2).requires_grad_(True)
    torch.autograd.backward(biased_tokens(visual, images, torch.zeros_like(masks), 2, empty)[0, 0, 0])
    assert empty.grad is not None and not empty.grad.any()


def test_towers_and_blocks_that_are_not_possible_are_named() -> None:
    images, masks = inputs(64)
    with pytest.raises(OvsegError, match=r"ConvNeXt.*crops"):
        region_tokens(convnext(), images, masks, 1)
    with pytest.raises(OvsegError, match=r"no ConvNeXt.*region_tokens"):
        pooled_regions(tower(), images, masks)
    with pytest.raises(OvsegError, match=r"64 x 63 .* cells of 32 x 32.*multiple"):
        pooled_regions(convnext(), images[..., :-1], masks)
    with pytest.raises(OvsegError, match=r"start_block=4.*0 to 3"):
        region_tokens(tower(), images, masks, 4)
    for variant in ("average", "first query"):
        with pytest.raises(OvsegError, match=r"class token.*region_tokens"):
            biased_tokens(tower(variant), images, masks, 1, torch.zeros(3, 2))
        with pytest.raises(OvsegError, match=r"class token, or a ConvNeXt.*region_tokens"):
            adapted(tower(variant), images, masks)
    with pytest.raises(OvsegError, match=r"log_bias of \[3, 1\].*start_block"):
        biased_tokens(tower(), images, masks, 1, torch.zeros(3, 1))
    for pooling in ({"attentional_pool": True, "pool_type": "avg"}, {"attentional_pool": "parallel"}):
        with pytest.raises(OvsegError, match=r"pooling.*crops"):
            region_tokens(tower(**pooling), images, masks, 1)
