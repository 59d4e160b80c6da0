"""Encoding all regions of an image in one pass, pooled by learned maps instead of masks (Mask-Adapter, arXiv 2412.04533).

A small network sees the mask of a region and the embeddings of all places of the last map. It makes K maps, which weigh all
places, those outside of the mask included: what is around a region may help to name it. CLIP's own head follows.

Shapes: B images, Q regions, H, W image, g rows and columns of the last map (of a ViT: patches), N = g g places, C its channels,
D joint embedding, A width of the adapter's blocks, K maps of a region.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg.clip.pooled_regions import STRIDE, check_size, convnext_trunk, head_of_cells, is_convnext
from ovseg.clip.prompts import vit_layout
from ovseg.clip.region_tokens import mean_of_cells
from ovseg.clip.vit_parts import VitParts, patch_grid, vit_parts
from ovseg.core.errors import OvsegError
from ovseg.core.tensor_files import write_weights

ADAPTER = "mask_adapter.safetensors"
MASK_SCALE = 4
"""Masks have 4 times the rows and columns of the last map: two convolutions of stride 2 bring them to its size."""
LAYER_SCALE = 1e-6
EPSILON = 1e-6  # of ConvNeXt's layer norms
REGIONS_PER_PASS = 32
"""The regions of all images that the adapter sees at a time, each with a map; it changes no result but for rounding."""
PATCHES_PER_PASS = 2**15
"""The patches that attend to themselves at a time, each an item of a batch: kernels of CUDA take at most 65,535 of them."""


class AdapterBlock(nn.Module):
    """A block of ConvNeXt: 7 x 7 depthwise convolution, layer norm, A -> 4 A -> A with GELU, layer scale, residual.

    Args:
        width: A.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, EPSILON)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.layer_scale = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, places: Tensor) -> Tensor:
        """Run the block on `[R, g, g, A]`."""
        hidden = self.norm(_convolve(self.depthwise, places))
        change: Tensor = self.layer_scale * self.contract(F.gelu(self.expand(hidden)))
        return places + change


class MaskAdapter(nn.Module):
    """The network that makes the maps of regions.

    Args:
        embed_dim: D.
        width: A.
        num_maps: K.
        num_blocks: the number of its blocks.
    """

    def __init__(self, embed_dim: int, width: int = 768, num_maps: int = 16, num_blocks: int = 3) -> None:
        super().__init__()
        self.mask_conv1, self.mask_norm1 = nn.Conv2d(1, 4, 3, 2, 1), nn.LayerNorm(4, EPSILON)
        self.mask_conv2, self.mask_norm2 = nn.Conv2d(4, 16, 3, 2, 1), nn.LayerNorm(16, EPSILON)
        self.mask_embed = nn.Linear(16, embed_dim)  # a convolution of 1 x 1, as `fuse` and `maps` are
        self.fuse = nn.Linear(embed_dim, width)
        self.blocks = nn.ModuleList(AdapterBlock(width) for _ in range(num_blocks))
        self.norm, self.maps = nn.LayerNorm(width, EPSILON), nn.Linear(width, num_maps)

    def forward(self, embeddings: Tensor, masks: Tensor) -> Tensor:
        """Make the weights of all places for each region.

        Args:
            embeddings: `[B, g, g, D]`.
            masks: `[B, Q, 4 g, 4 g]` in [0, 1].

        Returns:
            float32 `[B, Q, K, N]`; the K maps sum to 1 each.
        """
        batch, regions = masks.shape[:2]
        rows, columns = embeddings.shape[1:3]
        hidden = masks.to(embeddings.dtype).flatten(0, 1)[..., None]
        hidden = F.gelu(self.mask_norm1(_convolve(self.mask_conv1, hidden)))
        hidden = F.gelu(self.mask_norm2(_convolve(self.mask_conv2, hidden)))
        # fuse(embeddings + mask_embed(hidden)), but what is linear is done once for an image, or on 16 channels instead of D
        of_mask = F.linear(hidden, self.fuse.weight @ self.mask_embed.weight)
        of_image = self.fuse(embeddings + self.mask_embed.bias)
        places = (of_image[:, None] + of_mask.reshape(batch, regions, rows, columns, of_mask.shape[-1])).flatten(0, 1)
        for block in self.blocks:
            places = block(places)
        scores = self.maps(self.norm(places)).flatten(1, 2).transpose(1, 2)
        # sigmoid / sum of sigmoids, and not 0 / 0 where all are small
        return F.logsigmoid(scores.float()).softmax(-1).reshape(batch, regions, self.maps.out_features, rows * columns)


@dataclass(frozen=True)
class DenseMap:
    """The last map of an image tower.

    Attributes:
        features: `[B, N, C]`.
        grid: the rows and columns of the N places.
        head: CLIP's own head, function from `[B, T, C]` to embeddings `[B, T, D]`, which are no unit vectors.
    """

    features: Tensor
    grid: tuple[int, int]
    head: Callable[[Tensor], Tensor]


def adapted_regions(visual: nn.Module, images: Tensor, masks: Tensor, adapter: MaskAdapter) -> Tensor:
    """Encode the regions of images.

    Args:
        visual: an image tower of open_clip: a plain ViT whose embedding is its class token, or a ConvNeXt of timm.
        images: normalized, `[B, 3, H, W]`; H and W are multiples of the patch size, or of 32.
        masks: `[B, Q, h, w]` in [0, 1]; of another size than 4 times the last map they are averaged, see `mean_of_cells`.
        adapter: makes the maps.

    Returns:
        unit vectors `[B, Q, D]`; gradients reach adapter and tower. That of an empty mask depends on the whole image.

    Raises:
        OvsegError: the tower is of another kind, or the size of the images is no such multiple.
    """
    dense = dense_map(visual, images)
    embeddings = dense.head(dense.features).reshape(len(images), *dense.grid, -1)
    size = MASK_SCALE * dense.grid[0], MASK_SCALE * dense.grid[1]
    sampled = masks if masks.shape[-2:] == size else mean_of_cells(masks, size)

    def encode(part: Tensor) -> Tensor:
        weights = adapter(embeddings, part).to(dense.features.dtype)
        vectors = dense.head(weights.flatten(1, 2) @ dense.features)
        return vectors.reshape(*weights.shape[:3], vectors.shape[-1]).mean(2)

    parts = torch.split(sampled, max(1, REGIONS_PER_PASS // len(images)), dim=1)
    return F.normalize(torch.cat([encode(part) for part in parts], dim=1), dim=-1)


def dense_map(visual: nn.Module, images: Tensor) -> DenseMap:
    """Return the last map of an image tower: of a ConvNeXt its own, of a ViT its patches.

    In the last block of a ViT each patch takes its own value instead of attending (MaskCLIP, arXiv 2112.01071): in CLIP that
    block's attention is made for the class token alone, and mixes what patches stand for.

    Args:
        visual, images: see `adapted_regions`; so are the errors.
    """
    grid = feature_grid(visual, *images.shape[-2:])
    if is_convnext(visual):
        features = convnext_trunk(visual).forward_features(images).flatten(2).transpose(1, 2)
        return DenseMap(features, grid, lambda places: head_of_cells(visual, places))
    parts = _class_token_parts(visual)
    tokens = parts.embed(images, grid)
    for block in parts.blocks[:-1]:
        tokens = block(tokens, None)
    patches = tokens[:, parts.layout.prefix :]
    single = torch.split(patches.reshape(-1, 1, patches.shape[-1]), PATCHES_PER_PASS)  # each attends to itself
    features = torch.cat([parts.blocks[-1](part, None) for part in single]).reshape(patches.shape)
    return DenseMap(features, grid, lambda places: parts.head(parts.norm(places)))


def feature_grid(visual: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of the last map of an image.

    Raises:
        OvsegError: as `adapted_regions`.
    """
    if is_convnext(visual):
        check_size(height, width)
        return height // STRIDE, width // STRIDE
    return patch_grid(_class_token_parts(visual).layout, height, width)


def mask_cells(visual: nn.Module, size: int) -> int:
    """Return the rows and columns that masks have for a square image of `size` pixels."""
    return MASK_SCALE * (size // (STRIDE if is_convnext(visual) else vit_layout(visual).patch[0]))


def _class_token_parts(visual: nn.Module) -> VitParts:
    parts = vit_parts(visual)
    if not parts.has_class_token or parts.pool is not None:
        raise OvsegError(
            "mask_adapter needs an image tower whose embedding is its class token, or a ConvNeXt, whose head is one for single "
            "places, too; use the region encoder region_tokens"
        )
    return parts


def _convolve(convolution: nn.Conv2d, places: Tensor) -> Tensor:
    """Convolve maps with channels last, `[R, h, w, channels]`."""
    convolved: Tensor = convolution(places.permute(0, 3, 1, 2))
    return convolved.permute(0, 2, 3, 1)


def new_adapter(embed_dim: int, width: int, seed: int) -> MaskAdapter:
    """Make an untrained adapter with seeded weights; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MaskAdapter(embed_dim, width)


def write_adapter(adapter: MaskAdapter, folder: Path) -> None:
    """Write the weights of an adapter to the folder of a CLIP, as float32."""
    write_weights(adapter.state_dict(), folder / ADAPTER)


def read_adapter(path: Path, embed_dim: int) -> MaskAdapter:
    """Read a file of `write_adapter`: frozen, in float32 on the CPU. Its sizes are those of its tensors.

    Args:
        path: the file.
        embed_dim: D of the CLIP that it is for.

    Raises:
        OvsegError: the file holds no adapter, or one of another D.
    """
    try:
        state = load_file(path)
        (width, of_clip), num_maps = state["fuse.weight"].shape, len(state["maps.weight"])
        num_blocks = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
        adapter = MaskAdapter(of_clip, width, num_maps, num_blocks)
        adapter.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        problem = " ".join(str(error).split())[:400]
        raise OvsegError(
            f"{path} holds no mask adapter: {problem}; copy it again from where the model comes from"
        ) from None
    if of_clip != embed_dim:
        raise OvsegError(
            f"{path} is a mask adapter for embeddings of width {of_clip}, this CLIP has {embed_dim}; take the file that was "
            "trained with this CLIP"
        )
    return adapter.requires_grad_(False).eval()
