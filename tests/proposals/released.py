"""Checkpoints with the names and shapes of the released segmenters, small and random, and what such a network computes.

The forward pass here is written from the papers on tensors by the checkpoint's own names, without the modules that they are
converted to, so that both can be compared.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

DEPTHS, HEADS, EMBED, WINDOW = (2, 1, 2, 1), (2, 2, 4, 8), 16, 4
QUERIES, HIDDEN, LAYERS, TEXT_PROJ, WIDTH, CLASSES = 5, 32, 2, 24, 16, 171
DECODER_HEADS, GROUPS = 8, 32
PREDICTOR = "sem_seg_head.predictor"
BLOCKS, STEM = (3, 4, 6, 3), 64


class Outputs(NamedTuple):
    """Outputs of a network: `[1, C, h, w]`, `[1, Q, hidden]`, `[1, Q, h, w]`, and the logits of texts and "no object"."""

    pixels: Tensor
    queries: Tensor
    masks: Tensor
    classes: Tensor


def draw(shapes: Shapes, seed: int = 0) -> State:
    """Random tensors that keep activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator)
        if name.endswith("running_var"):
            state[name] = 0.5 + values.abs()
        elif len(shape) == 1:
            state[name] = 0.1 * values + float("norm" in name and name.endswith("weight"))
        else:
            sharper = 3 if "in_proj" in name or "qkv" in name or "query_embed" in name else 1  # attention that differs
            state[name] = sharper * values * math.prod(shape[1:]) ** -0.5
    return state


def swin_checkpoint() -> State:
    """A checkpoint like the one with Swin-B, without its CLIP."""
    shapes: Shapes = {"backbone.patch_embed.proj.weight": (EMBED, 3, 4, 4), "backbone.patch_embed.proj.bias": (EMBED,)}
    shapes |= _norm("backbone.patch_embed.norm", EMBED)
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        width = EMBED * 2**i
        shapes |= _norm(f"backbone.norm{i}", width)
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width)
            shapes |= _linear(f"{block}.attn.qkv", width, 3 * width) | _linear(f"{block}.attn.proj", width, width)
            shapes |= _linear(f"{block}.mlp.fc1", width, 4 * width) | _linear(f"{block}.mlp.fc2", 4 * width, width)
            shapes[f"{block}.attn.relative_position_bias_table"] = ((2 * WINDOW - 1) ** 2, heads)
        if i < 3:
            shapes[f"backbone.layers.{i}.downsample.reduction.weight"] = (2 * width, 4 * width)
            shapes |= _norm(f"backbone.layers.{i}.downsample.norm", 4 * width)
    state = draw(shapes | _head([EMBED * 2**i for i in range(4)]))
    index = _relative_positions()
    for name in [name for name in state if name.endswith("relative_position_bias_table")]:
        state[name.replace("bias_table", "index")] = index.clone()
        state[name] = 10 * state[name]  # so that a wrong position changes the result
    return state | _constants()


def resnet_checkpoint() -> State:
    """A checkpoint like the one with R101c, but with 50 layers, without its CLIP."""
    half = STEM // 2
    shapes: Shapes = {}
    for name, before, after in (("conv1", 3, half), ("conv2", half, half), ("conv3", half, STEM)):
        shapes |= _conv_norm(f"backbone.stem.{name}", before, after, 3)
    before = STEM
    for i, blocks in enumerate(BLOCKS):
        inner, width = 64 * 2**i, 256 * 2**i
        for j in range(blocks):
            block = f"backbone.res{i + 2}.{j}"
            shapes |= _conv_norm(f"{block}.conv1", before, inner, 1) | _conv_norm(f"{block}.conv2", inner, inner, 3)
            shapes |= _conv_norm(f"{block}.conv3", inner, width, 1)
            if j == 0:
                shapes |= _conv_norm(f"{block}.shortcut", before, width, 1)
            before = width
    return draw(shapes | _head([256 * 2**i for i in range(4)])) | _constants()


def _constants() -> State:
    return {
        "criterion.empty_weight": torch.tensor([1.0] * CLASSES + [0.1]),
        "clip_adapter.pixel_mean": torch.tensor([122.7709, 116.7460, 104.0937]).view(1, 3, 1, 1),
        "clip_adapter.pixel_std": torch.tensor([68.5005, 66.6322, 70.3232]).view(1, 3, 1, 1),
    }


def _head(widths: list[int]) -> Shapes:
    decoder = "sem_seg_head.pixel_decoder"
    shapes: Shapes = {
        f"{decoder}.layer_4.weight": (HIDDEN, widths[3], 3, 3),
        f"{decoder}.mask_features.weight": (HIDDEN, HIDDEN, 3, 3),
        f"{decoder}.mask_features.bias": (HIDDEN,),
        f"{PREDICTOR}.query_embed.weight": (QUERIES, HIDDEN),
        f"{PREDICTOR}.input_proj.weight": (HIDDEN, widths[3], 1, 1),
        f"{PREDICTOR}.input_proj.bias": (HIDDEN,),
        "clip_adapter.non_object_embedding": (1, WIDTH),
    }
    shapes |= _norm(f"{decoder}.layer_4.norm", HIDDEN)
    for i, width in enumerate(widths[:3], start=1):
        shapes[f"{decoder}.adapter_{i}.weight"] = (HIDDEN, width, 1, 1)
        shapes[f"{decoder}.layer_{i}.weight"] = (HIDDEN, HIDDEN, 3, 3)
        shapes |= _norm(f"{decoder}.adapter_{i}.norm", HIDDEN) | _norm(f"{decoder}.layer_{i}.norm", HIDDEN)
    for i in range(LAYERS):
        layer = f"{PREDICTOR}.transformer.decoder.layers.{i}"
        for name in ("self_attn", "multihead_attn"):
            shapes[f"{layer}.{name}.in_proj_weight"] = (3 * HIDDEN, HIDDEN)
            shapes[f"{layer}.{name}.in_proj_bias"] = (3 * HIDDEN,)
            shapes |= _linear(f"{layer}.{name}.out_proj", HIDDEN, HIDDEN)
        shapes |= _linear(f"{layer}.linear1", HIDDEN, 8 * HIDDEN) | _linear(f"{layer}.linear2", 8 * HIDDEN, HIDDEN)
        for number in (1, 2, 3):
            shapes |= _norm(f"{layer}.norm{number}", HIDDEN)
    shapes |= _norm(f"{PREDICTOR}.transformer.decoder.norm", HIDDEN)
    for i in range(3):
        shapes |= _linear(f"{PREDICTOR}.mask_embed.layers.{i}", HIDDEN, HIDDEN)
    shapes |= _linear(f"{PREDICTOR}.class_embed.layers.0", HIDDEN, TEXT_PROJ)
    return shapes | _linear(f"{PREDICTOR}.class_embed.layers.1", TEXT_PROJ, WIDTH)


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, before: int, after: int) -> Shapes:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def _conv_norm(name: str, before: int, after: int, side: int) -> Shapes:
    """A convolution with frozen batch normalization, as in detectron2."""
    running = {f"{name}.norm.running_mean": (after,), f"{name}.norm.running_var": (after,)}
    return {f"{name}.weight": (after, before, side, side), **_norm(f"{name}.norm", after), **running}


def _relative_positions() -> Tensor:
    """Row of the bias table for each pair of positions in a window `[w * w, w * w]`."""
    y, x = torch.arange(WINDOW * WINDOW) // WINDOW, torch.arange(WINDOW * WINDOW) % WINDOW
    dy, dx = y[:, None] - y[None] + WINDOW - 1, x[:, None] - x[None] + WINDOW - 1
    return dy * (2 * WINDOW - 1) + dx


def forward(state: State, images: Tensor, texts: Tensor, dilations: tuple[int, ...] = (1, 1, 1)) -> Outputs:
    """Compute the network of a checkpoint for normalized images `[1, 3, H, W]` and texts `[K, D]`."""
    features = swin(state, images) if "backbone.patch_embed.proj.weight" in state else resnet(state, images, dilations)
    pixels = pixel_decoder(state, features)
    queries = transformer_decoder(state, features[-1])
    masks = torch.einsum("bqc,bchw->bqhw", _mlp(state, f"{PREDICTOR}.mask_embed", 3, queries), pixels)
    embedded = F.normalize(_mlp(state, f"{PREDICTOR}.class_embed", 2, queries), dim=-1)
    classes = F.normalize(torch.cat([texts, state["clip_adapter.non_object_embedding"]]), dim=-1)
    return Outputs(pixels, queries, masks, 100 * embedded @ classes.T)


def swin(state: State, images: Tensor) -> list[Tensor]:
    """Features of four stages, each normalized; the next stage merges the patches before normalization."""
    patches = "backbone.patch_embed"
    x = F.conv2d(images, state[f"{patches}.proj.weight"], state[f"{patches}.proj.bias"], stride=4)
    x = _layer_norm(state, f"{patches}.norm", x.permute(0, 2, 3, 1))
    features = []
    for i, (depth, heads) in enumerate(zip(DEPTHS, HEADS, strict=True)):
        for j in range(depth):
            block = f"backbone.layers.{i}.blocks.{j}"
            x = x + windows(
                state, f"{block}.attn", _layer_norm(state, f"{block}.norm1", x), heads, (j % 2) * WINDOW // 2
            )
            inner = F.gelu(_line(state, f"{block}.mlp.fc1", _layer_norm(state, f"{block}.norm2", x)))
            x = x + _line(state, f"{block}.mlp.fc2", inner)
        features.append(_layer_norm(state, f"backbone.norm{i}", x).permute(0, 3, 1, 2))
        if i < 3:
            merge = f"backbone.layers.{i}.downsample"
            x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
            x = torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
            x = _layer_norm(state, f"{merge}.norm", x) @ state[f"{merge}.reduction.weight"].T
    return features


def windows(state: State, name: str, x: Tensor, heads: int, shift: int) -> Tensor:
    """Attention within windows of x `[1, h, w, C]` shifted by `shift`, where positions do not attend around an edge."""
    _, height, width, channels = x.shape
    x = F.pad(x, (0, 0, 0, -width % WINDOW, 0, -height % WINDOW))
    x = x.roll((-shift, -shift), (1, 2))
    rows, columns = x.shape[1] // WINDOW, x.shape[2] // WINDOW
    round_y = torch.arange(x.shape[1]) >= x.shape[1] - shift
    round_x = torch.arange(x.shape[2]) >= x.shape[2] - shift
    side = _cut((2 * round_y[:, None] + round_x[None]).float()[None, :, :, None], rows, columns)[..., 0]
    hidden = -100.0 * (side[:, None] != side[:, :, None]).to(x.dtype)
    bias = state[f"{name}.relative_position_bias_table"][_relative_positions()].permute(2, 0, 1)
    qkv = _line(state, f"{name}.qkv", _cut(x, rows, columns))
    query, key, value = qkv.reshape(*qkv.shape[:2], 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias[None] + hidden[:, None])
    attended = _line(state, f"{name}.proj", attended.transpose(1, 2).flatten(2))
    attended = attended.reshape(rows, columns, WINDOW, WINDOW, channels).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    return attended[None].roll((shift, shift), (1, 2))[:, :height, :width]


def _cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """`[1, h, w, C]` -> `[windows, WINDOW * WINDOW, C]`."""
    x = x[0].reshape(rows, WINDOW, columns, WINDOW, -1)
    return x.transpose(1, 2).flatten(0, 1).flatten(1, 2)


def resnet(state: State, images: Tensor, dilations: tuple[int, ...]) -> list[Tensor]:
    """Features of four stages; strides are in the 3x3 convolutions."""
    x = F.relu(_conv(state, "backbone.stem.conv1", images, stride=2, padding=1))
    x = F.relu(_conv(state, "backbone.stem.conv2", x, padding=1))
    x = F.relu(_conv(state, "backbone.stem.conv3", x, padding=1))
    x = F.max_pool2d(x, 3, 2, 1)
    features = []
    for i, blocks in enumerate(BLOCKS):
        for j in range(blocks):
            block, stride = f"backbone.res{i + 2}.{j}", 2 if i > 0 and j == 0 else 1
            wide = dilations[j] if i == 3 else 1
            y = F.relu(_conv(state, f"{block}.conv1", x))
            y = F.relu(_conv(state, f"{block}.conv2", y, stride=stride, padding=wide, dilation=wide))
            x = _conv(state, f"{block}.shortcut", x, stride=stride) if j == 0 else x
            x = F.relu(x + _conv(state, f"{block}.conv3", y))
        features.append(x)
    return features


def pixel_decoder(state: State, features: list[Tensor]) -> Tensor:
    """From the coarsest features to the finest."""
    name = "sem_seg_head.pixel_decoder"
    x = F.relu(_conv_group(state, f"{name}.layer_4", features[3]))
    for i in (3, 2, 1):
        left = _conv_group(state, f"{name}.adapter_{i}", features[i - 1])
        x = F.relu(_conv_group(state, f"{name}.layer_{i}", left + F.interpolate(x, left.shape[2:], mode="nearest")))
    return F.conv2d(x, state[f"{name}.mask_features.weight"], state[f"{name}.mask_features.bias"], padding=1)


def transformer_decoder(state: State, features: Tensor) -> Tensor:
    """Queries `[1, Q, hidden]` after all layers and the last normalization."""
    image = F.conv2d(features, state[f"{PREDICTOR}.input_proj.weight"], state[f"{PREDICTOR}.input_proj.bias"])
    memory, encoding = image.flatten(2)[0].T, positions(*image.shape[2:]).to(image.dtype)
    query_embed = state[f"{PREDICTOR}.query_embed.weight"]
    x = torch.zeros_like(query_embed)
    for i in range(LAYERS):
        layer = f"{PREDICTOR}.transformer.decoder.layers.{i}"
        x = _layer_norm(
            state, f"{layer}.norm1", x + attention(state, f"{layer}.self_attn", x + query_embed, x + query_embed, x)
        )
        attended = attention(state, f"{layer}.multihead_attn", x + query_embed, memory + encoding, memory)
        x = _layer_norm(state, f"{layer}.norm2", x + attended)
        inner = F.relu(_line(state, f"{layer}.linear1", x))
        x = _layer_norm(state, f"{layer}.norm3", x + _line(state, f"{layer}.linear2", inner))
    return _layer_norm(state, f"{PREDICTOR}.transformer.decoder.norm", x)[None]


def attention(state: State, name: str, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """torch's attention, whose query, key and value weights are in one tensor as in the checkpoint."""
    module = torch.nn.MultiheadAttention(HIDDEN, DECODER_HEADS, batch_first=True).eval().to(query.dtype)
    module.load_state_dict({key[len(name) + 1 :]: value for key, value in state.items() if key.startswith(f"{name}.")})
    return module(query[None], key[None], value[None])[0][0]  # type: ignore[no-any-return]


def positions(height: int, width: int) -> Tensor:
    """Sines and cosines of rows, then of columns, `[h * w, hidden]`."""
    number = HIDDEN // 2
    rates = 10_000 ** (-2 * (torch.arange(number).double() // 2) / number)

    def waves(length: int) -> Tensor:
        angles = 2 * math.pi * torch.arange(1.0, length + 1).double()[:, None] / (length + 1e-6) * rates
        return torch.where(torch.arange(number) % 2 == 0, angles.sin(), angles.cos())

    rows, columns = waves(height)[:, None].expand(-1, width, -1), waves(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], dim=-1).flatten(0, 1)


def _mlp(state: State, name: str, layers: int, x: Tensor) -> Tensor:
    for i in range(layers):
        x = _line(state, f"{name}.layers.{i}", x if i == 0 else F.relu(x))
    return x


def _line(state: State, name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def _conv(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
    x = F.conv2d(x, state[f"{name}.weight"], None, stride, padding, dilation)
    mean, variance, weight, bias = (
        state[f"{name}.norm.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / (variance + 1e-5).sqrt() * weight + bias


def _conv_group(state: State, name: str, x: Tensor) -> Tensor:
    weight = state[f"{name}.weight"]
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    return F.group_norm(x, GROUPS, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
