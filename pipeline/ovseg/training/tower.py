"""The module that is trained, CLIP's image tower with mask prompts, and its optimizer.

Shapes: n crops of a micro-batch, S input side, D joint width.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim import AdamW

from ovseg.clip.load import Clip
from ovseg.clip.prompts import mask_prompts_applied, new_prompts, vit_layout
from ovseg.core.crops import normalize
from ovseg.core.errors import OvsegError
from ovseg.core.options import FinetuneOptions, PromptOptions
from ovseg.training.cpu_blocks import trainable_cpu_blocks

MAX_LOG_SCALE = math.log(100)  # CLIP's own bound of the logit scale
ADAM_BETAS, ADAM_EPS = (0.9, 0.98), 1e-6  # open_clip's for ViTs, as in the paper's scripts


class Tower(nn.Module):
    """A CLIP's image tower with mask prompts as one module, so that it can be wrapped for several processes.

    Args:
        clip: the CLIP; the weights of its image tower are trained in place.
        prompts: mask prompts `[depth, patches, width]`, or None.
        train_tower: whether the image tower gets gradients.
        train_prompts: whether the mask prompts get gradients.
    """

    def __init__(self, clip: Clip, prompts: Tensor | None, *, train_tower: bool, train_prompts: bool) -> None:
        super().__init__()
        self.visual = clip.model.visual.requires_grad_(train_tower)
        self.prompts = None if prompts is None else nn.Parameter(prompts.clone(), requires_grad=train_prompts)
        self.register_buffer("mean", clip.mean, persistent=False)
        self.register_buffer("std", clip.std, persistent=False)

    def forward(self, crops: Tensor, masks: Tensor) -> Tensor:
        """Embed crops.

        Args:
            crops: uint8 `[n, 3, S, S]`.
            masks: bool `[n, S, S]`.

        Returns:
            float32 unit vectors `[n, D]`.
        """
        images = normalize(crops, self.mean, self.std)  # type: ignore[arg-type]
        prompted = nullcontext() if self.prompts is None else mask_prompts_applied(self.visual, self.prompts, masks)  # type: ignore[arg-type]
        with prompted, trainable_cpu_blocks(self.visual, images.device):  # type: ignore[arg-type]
            outputs = self.visual(images)  # type: ignore[operator]
        features = outputs[0] if isinstance(outputs, tuple) else outputs
        return F.normalize(features.float(), dim=-1)


def parameter_groups(tower: Tower, *, lr: float, prompt_lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Make the parameter groups of AdamW: no weight decay for vectors (gains, biases) nor for prompts (paper A.4, A.5).

    Args:
        tower: the module that is trained; frozen parameters are left out.
        lr: the peak learning rate of the image tower.
        prompt_lr: the peak learning rate of the mask prompts.
        weight_decay: the weight decay of the image tower's matrices.
    """
    named = [(name, p) for name, p in tower.named_parameters() if p.requires_grad and name != "prompts"]
    groups: list[dict[str, object]] = [
        {"params": [p for _, p in named if p.ndim >= 2], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for _, p in named if p.ndim < 2], "lr": lr, "weight_decay": 0.0},
    ]
    if tower.prompts is not None and tower.prompts.requires_grad:
        groups.append({"params": [tower.prompts], "lr": prompt_lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]


def build_optimizer(
    tower: Tower, log_scale: nn.Parameter, tower_lr: float | None, prompt_lr: float | None, weight_decay: float
) -> AdamW:
    """Make AdamW for all that is trained.

    Args:
        tower: the image tower with mask prompts.
        log_scale: the logarithm of the logit scale, a scalar; trained without weight decay if it requires a gradient.
        tower_lr: the peak learning rate of the image tower; None if it is frozen.
        prompt_lr: the peak learning rate of the mask prompts; None if they are frozen.
        weight_decay: the weight decay of the image tower's matrices.
    """
    groups = parameter_groups(tower, lr=tower_lr or 0.0, prompt_lr=prompt_lr or 0.0, weight_decay=weight_decay)
    if log_scale.requires_grad:
        groups.append({"params": [log_scale], "lr": tower_lr or prompt_lr, "weight_decay": 0.0})
    return AdamW(groups, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)


def learning_rates(options: FinetuneOptions | PromptOptions) -> tuple[float | None, float | None]:
    """The peak learning rates of the image tower and of the mask prompts; None for what is not trained."""
    if isinstance(options, FinetuneOptions):
        return options.lr, None
    return options.tower_lr, options.lr


def build_tower(name: str, clip: Clip, options: FinetuneOptions | PromptOptions) -> Tower:
    """Make the module that is trained, with new mask prompts where prompts are trained and the CLIP has none.

    Args:
        name: the name of the training, for messages.
        clip: the CLIP to start from; its image tower is trained in place.
        options: the parameters of the training.

    Raises:
        OvsegError: mask prompts are to be trained, and the image tower is not a plain ViT, has fewer blocks than
            `options.depth`, or has mask prompts of another depth.
    """
    tower_lr, prompt_lr = learning_rates(options)
    prompts = clip.prompts
    if isinstance(options, PromptOptions):
        try:
            vit_layout(clip.model.visual)  # type: ignore[arg-type]
        except OvsegError as error:
            raise OvsegError(f"{name}: {error}. All other stages work with it") from None
        if prompts is None:
            prompts = new_prompts(clip.model.visual, options.depth, options.seed).to(clip.mean.device)  # type: ignore[arg-type]
        elif len(prompts) != options.depth:
            raise OvsegError(
                f"{name}.depth={options.depth}, but the CLIP to start from has mask prompts of depth {len(prompts)}; set it to "
                f"{len(prompts)}, or start from a CLIP without prompts"
            )
    return Tower(clip, prompts, train_tower=tower_lr is not None, train_prompts=prompt_lr is not None)
