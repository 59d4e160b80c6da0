"""What is trained: the image tower, mask prompts, or both. n crops of a micro-batch, S input side, D joint width."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ovseg.clip.load import Clip
from ovseg.clip.prompts import mask_prompts_applied
from ovseg.core.crops import normalise

BETAS, EPS = (0.9, 0.98), 1e-6  # of AdamW; open_clip's for ViTs, as in the paper's scripts


class Tower(nn.Module):
    """A CLIP's image tower with mask prompts, as one module, so that it can be wrapped for several processes.

    Args:
        clip: whose tower it is; its weights are trained in place.
        prompts: `[depth, patches, width]`, or None.
        train_tower, train_prompts: which of them get gradients.
    """

    def __init__(self, clip: Clip, prompts: Tensor | None, *, train_tower: bool, train_prompts: bool) -> None:
        super().__init__()
        self.visual = clip.model.visual.requires_grad_(train_tower)
        self.prompts = None if prompts is None else nn.Parameter(prompts.clone(), requires_grad=train_prompts)
        contiguous_attention(self.visual)  # type: ignore[arg-type]
        self.register_buffer("mean", clip.mean, persistent=False)
        self.register_buffer("std", clip.std, persistent=False)

    def forward(self, crops: Tensor, masks: Tensor) -> Tensor:
        """uint8 `[n, 3, S, S]` and bool `[n, S, S]` -> float32 unit vectors `[n, D]`."""
        images = normalise(crops, self.mean, self.std)  # type: ignore[arg-type]
        with nullcontext() if self.prompts is None else mask_prompts_applied(self.visual, self.prompts, masks):  # type: ignore[arg-type]
            found = self.visual(images)  # type: ignore[operator]
        features = found[0] if isinstance(found, tuple) else found
        return F.normalize(features.float(), dim=-1)


def contiguous_attention(visual: nn.Module) -> None:
    """Have attention see its tokens in one piece.

    `nn.MultiheadAttention` transposes the batch to the second place. torch multiplies such a tensor with a frozen matrix
    pair by pair, copying the matrix for each: on CPUs a forward pass of ViT-B/16 in bf16 takes six times as long
    (benchmarks/train.py). With a matrix that is trained it copies the tensor, forwards and backwards: some percent of a step.
    The result is the same.
    """

    def turn(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # the same tensor three times stays the same one: queries, keys and values are then projected at once
        turned = {id(x): x.transpose(0, 1).contiguous() for x in inputs}
        return tuple(turned[id(x)] for x in inputs)

    def back(_: nn.Module, _inputs: object, output: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        return output[0].transpose(0, 1), output[1]

    for module in visual.modules():
        if isinstance(module, nn.MultiheadAttention) and module.batch_first:
            module.batch_first = False
            module.register_forward_pre_hook(turn)
            module.register_forward_hook(back)


def groups(tower: Tower, *, lr: float, prompt_lr: float, weight_decay: float) -> list[dict[str, object]]:
    """AdamW's parameter groups: no weight decay for gains, biases and other vectors, nor for prompts (paper A.4, A.5)."""
    named = [(name, p) for name, p in tower.named_parameters() if p.requires_grad and name != "prompts"]
    found: list[dict[str, object]] = [
        {"params": [p for _, p in named if p.ndim >= 2], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
    ]
    if tower.prompts is not None and tower.prompts.requires_grad:
        found.append({"params": [tower.prompts], "lr": prompt_lr, "weight_decay": 0.0})
    return [group for group in found if group["params"]]


@contextmanager
def autocast_context(device: torch.device, precision: Literal["fp32", "bf16"]) -> Iterator[None]:
    """The precision of forward and backward, and on CPUs the attention whose backward is the faster one.

    There the fused kernel of `scaled_dot_product_attention` is slow backwards: a step of the demo's ViT (128 crops of 65
    tokens) takes 0.57 s with it and 0.40 s with plain matrix products; at ViT-B/16's shapes both are alike
    (benchmarks/train.py). On GPUs the fused kernels are the fast ones.
    """
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
    with attention, torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield
