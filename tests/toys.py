"""Small models that tell images and words apart without training: their last layers are fitted to the outputs of the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip import OPENAI_DATASET_MEAN
from torch import Tensor, nn

from ovseg.clip.adapted import load_adapted
from ovseg.clip.load import Clip
from ovseg.clip.save import save_clip
from ovseg.core import crops
from ovseg.core.images import ImageArray
from ovseg.core.vocabulary import embed
from ovseg.proposals.network import ProposalNetwork, build_network, input_size, preprocess
from ovseg.proposals.network_folder import load_network, probe_text_tower, save_network
from tests.conftest import HEIGHT, TINY, WIDTH, random_clip

WORDS = ("star", "key", "boat", "fish", "guitar", "kite", "sky", "grass", "red cup", "traffic light")
"""Names that `toy_clip` tells apart; the queries of `toy_network` are nearest to the first five."""
QUERIES, HIDDEN, SHORT, LONG = 5, 32, 64, 256
FITTED, SHARPER, RIDGE = 8, 20.0, 1e-3


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> ImageArray:
    """An image of noise with three rectangles of one color each."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    for _ in range(3):
        y, x = int(rng.integers(0, max(1, height - 8))), int(rng.integers(0, max(1, width - 8)))
        pixels[y : y + height // 2, x : x + width // 2] = rng.integers(0, 256, 3)
    return pixels


def toy_clip(folder: Path) -> Path:
    """A CLIP whose embeddings of different words, and of different images, point in different directions."""
    network: Any = random_clip(TINY)
    save_clip(network, TINY, folder)
    clip = load_adapted(folder)
    crops_ = torch.stack([torch.from_numpy(_blanked(i, clip.size)).permute(2, 0, 1) for i in range(60)])
    visual = network.visual
    with torch.no_grad():
        visual.proj, proj = None, visual.proj
        shift, matrix = whiten(visual(crops.normalize(crops_, clip.mean, clip.std)), proj.shape[1])
        visual.ln_post.bias -= shift
        visual.proj = nn.Parameter(matrix)
        network.text_projection.copy_(torch.eye(len(network.text_projection)))
        texts = [f"a photo of a {word}." for word in WORDS] + [f"{i} of them" for i in range(40)]
        shift, matrix = whiten(network.encode_text(clip.tokenizer(texts)), network.text_projection.shape[1])
        network.ln_final.bias -= shift
        network.text_projection.copy_(matrix)
    save_clip(network, TINY, folder)
    return folder


def _blanked(seed: int, size: int) -> ImageArray:
    """An image of `noise` with a random part of it replaced by CLIP's mean color."""
    rng, pixels = np.random.default_rng(seed), noise(seed, size, size)
    kept = np.kron(rng.random((4, 4)) < rng.random(), np.ones((size // 4, size // 4), bool))
    color = crops.fill_color("mean", OPENAI_DATASET_MEAN)
    return crops.fill_background(pixels, kept, color)


def toy_network(folder: Path, clip_folder: Path) -> Path:
    """A proposal network of five queries, each with its own masks and word, for the text tower of a CLIP."""
    clip = load_adapted(clip_folder)
    model = tiny_model(clip, text_proj_dim=64)
    with torch.no_grad():
        for weight in model.model.transformer_module.parameters():
            weight.mul_(SHARPER if weight.ndim > 1 else 1)
    save_network(model, folder, {"probe": probe_text_tower(clip), "names": list(WORDS[:QUERIES])}, SHORT, LONG)
    network = load_network(folder)
    hidden = torch.stack([_hidden(network, noise(i)) for i in range(FITTED)])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        masks = torch.linalg.qr(torch.randn(HIDDEN, QUERIES, generator=generator))[0].T * 8
        _fit(model.mask_embedder, hidden, masks)
        _fit(model.class_predictor.project, hidden, embed(WORDS[:QUERIES], clip.encode_texts, "single", 8))
    save_network(model, folder, {"probe": probe_text_tower(clip), "names": list(WORDS[:QUERIES])}, SHORT, LONG)
    return folder


def tiny_model(clip: Clip, **changes: Any) -> Any:
    """A random MaskFormer that trains in milliseconds."""
    options: dict[str, Any] = {
        "backbone": "test_resnet",
        "pretrained": False,
        "num_queries": QUERIES,
        "hidden_dim": HIDDEN,
        "decoder_layers": 1,
        "dropout": 0.0,
        "text_proj_dim": 16,
        "width": clip.width,
        "classes": 3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network(**{**options, **changes})


def whiten(rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the mean `[C]` of rows `[N, C]` and a matrix `[C, width]` that gives the centered rows unit variance."""
    mean = rows.mean(0)
    _, values, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    return mean, directions[:width].T / values[:width]


@torch.no_grad()
def _hidden(network: ProposalNetwork, pixels: ImageArray) -> Tensor:
    """Return the decoder's output for each query, `[Q, hidden]`."""
    height, width, _ = pixels.shape
    output = network.model.model(preprocess(pixels, input_size(height, width, SHORT, LONG)))
    return output.transformer_decoder_last_hidden_state[0]  # type: ignore[no-any-return]


def _fit(layers: nn.Module, hidden: Tensor, targets: Tensor) -> None:
    """Set the last linear layer so that the queries of N images, `[N, Q, hidden]`, are mapped to `targets` `[Q, C]`."""
    linear = [layer for layer in layers.modules() if isinstance(layer, nn.Linear)]
    inputs_of_last: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, inputs: inputs_of_last.append(inputs[0].flatten(0, 1)))
    layers(hidden)
    hook.remove()
    mean, target_mean = inputs_of_last[0].mean(0), targets.mean(0)
    centered, centered_targets = inputs_of_last[0] - mean, (targets - target_mean).repeat(len(hidden), 1)
    ridge = RIDGE * centered.square().mean() * len(centered) * torch.eye(centered.shape[1])
    weight = torch.linalg.solve(centered.T @ centered + ridge, centered.T @ centered_targets).T
    linear[-1].weight.copy_(weight)
    linear[-1].bias.copy_(target_mean - weight @ mean)
