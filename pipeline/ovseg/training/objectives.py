"""What can train a region encoder: for each method what of the image tower learns, and a loss of region embeddings.

Adding a method is a function and a line in `OBJECTIVES`. Shapes: B images, Q regions, T templates, K classes, D joint width, R
references, P pairs, N real regions, C cells of an image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ovseg.clip.pseudo_text import PseudoText
from ovseg.core.options import FinetuneOptions, Method
from ovseg.training.loop import warmup_cosine, warmup_poly
from ovseg.training.losses import contrastive
from ovseg.training.mask_aware import (
    balanced_cross_entropy,
    class_distillation,
    crop_distillation,
    mask_aware_loss,
    self_distillation,
)
from ovseg.training.region_dataset import RegionBatch
from ovseg.training.texts import make_pseudo_texts, pick_texts, weigh_templates

ADAPTER_WEIGHT = 2.0  # of Mask-Adapter's cross-entropy
SCALE = 100.0  # of the softmax of MAFT and of distilled classes, whatever logit scale the CLIP has


@dataclass(frozen=True)
class RegionOutputs:
    """What a loss is computed from.

    Attributes:
        regions: unit vectors `[B, Q, D]` of the regions; those of the padding mean nothing.
        whole: unit vectors `[B, D]` of the whole images as regions.
        frozen: the same from the CLIP that the training started from; None if the objective does not need it.
        teacher: unit vectors `[N, D]` of the real regions' crops; None without a teacher.
        texts: unit vectors `[T, K, D]`.
        template_weights: `[T]`, for `classify_regions`.
        pseudo_text: changes the texts by what an image shows, for `classify_regions`; None if that is not learned.
        cells: unit vectors `[B, C, D]` of the cells of the images; C is 0 without `pseudo_text`.
        scale: the logit scale, a scalar.
        step: the number of the step.
    """

    regions: Tensor
    whole: Tensor
    frozen: Tensor | None
    teacher: Tensor | None
    texts: Tensor
    template_weights: Tensor
    pseudo_text: PseudoText | None
    cells: Tensor
    scale: Tensor
    step: int


RegionLoss = Callable[[RegionOutputs, RegionBatch, FinetuneOptions], Tensor]


@dataclass(frozen=True)
class Objective:
    """A method of training.

    Attributes:
        loss: the loss of one step, a scalar.
        trains: a pattern that the names of trained parameters of the image tower match in full; None if the tower is frozen.
        schedule: makes the learning rate schedule from optimizer, steps and steps of warmup.
        clip_norm: the largest norm of the gradient.
        frozen: whether the loss needs the whole images' embeddings of the CLIP as it was.
        overlaps: whether the loss needs the IoU of references and regions.
        teacher: whether a teacher is needed, can be given, or is of no use.
        weighs_templates: whether the loss has a learned weight for each text template, and one synonym of each class a step.
    """

    loss: RegionLoss
    trains: re.Pattern[str] | None = re.compile(".*")
    schedule: Callable[[Optimizer, int, int], LRScheduler] = warmup_cosine
    clip_norm: float = math.inf
    frozen: bool = False
    overlaps: bool = False
    teacher: Literal["needed", "possible", "unused"] = "possible"
    weighs_templates: bool = False


def contrast_regions(outputs: RegionOutputs, batch: RegionBatch, options: FinetuneOptions) -> Tensor:
    """OVSeg's contrastive loss (paper 3.2) of region embeddings and texts; with a teacher, the distillation is added."""
    image, region, label = batch["pairs"].unbind(1)
    if not len(label):
        return outputs.regions.sum() * 0 + _distillation(outputs, batch, options)
    vectors = outputs.regions[image, region]
    texts = pick_texts(outputs.texts, label, options.seed, outputs.step)
    loss = contrastive(vectors, texts, label.to(vectors.device), outputs.scale, options.loss)
    return loss + _distillation(outputs, batch, options)


def mask_aware(outputs: RegionOutputs, batch: RegionBatch, options: FinetuneOptions) -> Tensor:
    """MAFT (NeurIPS 2023): mask-aware loss, and self-distillation on whole images.

    The class probabilities are a softmax over all K classes of 100 x cosine. Its "whole image" is a region of all patches, so
    that both losses need one pass.
    """
    texts = _mean_texts(outputs)
    image, label = batch["references"].to(texts.device).unbind(1)
    of_regions = (SCALE * outputs.regions @ texts.T).softmax(-1)
    probabilities = of_regions[image, :, label]
    device = probabilities.device
    loss = mask_aware_loss(probabilities, batch["overlaps"].to(device), batch["real"].to(device)[image])
    assert outputs.frozen is not None
    student, teacher = ((SCALE * v @ texts.T).softmax(-1) for v in (outputs.whole, outputs.frozen))
    return loss + options.distil_weight * self_distillation(student, teacher)


def classify_regions(outputs: RegionOutputs, batch: RegionBatch, options: FinetuneOptions) -> Tensor:
    """MaskCLIP++ (arXiv 2412.11464): balanced cross-entropy over all K classes; with a teacher, the distillation is added.

    Logits are a linear map of the similarities to the templates of a class, see `weigh_templates`, or the products with the
    pseudo-texts of the image, which need no logit scale, see `clip.pseudo_text`.
    """
    image, region, label = batch["pairs"].to(outputs.regions.device).unbind(1)
    if not len(label):
        return outputs.regions.sum() * 0 + _distillation(outputs, batch, options)
    if outputs.pseudo_text is None:
        weighted = weigh_templates(outputs.texts, outputs.template_weights)
        logits = outputs.scale * outputs.regions[image, region] @ weighted.T
    else:
        texts = make_pseudo_texts(outputs.pseudo_text, _mean_texts(outputs), outputs.cells, options.seed, outputs.step)
        logits = (outputs.regions @ texts.mT)[image, region]
    return balanced_cross_entropy(logits, image, label) + _distillation(outputs, batch, options)


def distil(outputs: RegionOutputs, batch: RegionBatch, options: FinetuneOptions) -> Tensor:
    """What a teacher makes of the region's crop, for every region, of a noun or not; no label is used.

    `options.distil_loss` says what is learned: the teacher's vector, without any text, or its probabilities of all K classes.
    """
    assert outputs.teacher is not None
    student = outputs.regions[batch["real"].to(outputs.regions.device)]
    if options.distil_loss == "cosine":
        return crop_distillation(student, outputs.teacher)
    return class_distillation(student, outputs.teacher, _mean_texts(outputs), SCALE)


def train_adapter(outputs: RegionOutputs, batch: RegionBatch, _options: FinetuneOptions) -> Tensor:
    """Mask-Adapter (arXiv 2412.04533), its first stage: 2 x cross-entropy over all K classes, at CLIP's own logit scale."""
    image, region, label = batch["pairs"].to(outputs.regions.device).unbind(1)
    if not len(label):
        return outputs.regions.sum() * 0
    logits = outputs.scale * outputs.regions[image, region] @ _mean_texts(outputs).T
    return ADAPTER_WEIGHT * F.cross_entropy(logits, label)


def _mean_texts(outputs: RegionOutputs) -> Tensor:
    """The normalized mean of the templates of each class, `[K, D]`."""
    return outputs.texts[0] if len(outputs.texts) == 1 else F.normalize(outputs.texts.mean(0), dim=-1)


def _distillation(outputs: RegionOutputs, batch: RegionBatch, options: FinetuneOptions) -> Tensor:
    if outputs.teacher is None:
        return torch.zeros((), device=outputs.regions.device)
    return options.distil_weight * distil(outputs, batch, options)


ATTENTION_AND_NORMS = re.compile(
    r"transformer\.resblocks\.\d+\.(attn|ln_1|ln_2)\..*|ln_post\..*"  # open_clip
    r"|attn_pool\.(attn|ln_q|ln_k)\..*"
    r"|trunk\.blocks\.\d+\.(attn|norm1|norm2)\..*|trunk\.(norm|fc_norm)\..*"  # timm
    r"|trunk\.attn_pool\.(q|kv|q_norm|k_norm|proj|norm)\..*"
)
ATTENTION_INPUTS = re.compile(
    r"transformer\.resblocks\.\d+\.attn\.in_proj_weight|positional_embedding|attn_pool\.attn\.(in|[qkv])_proj_weight"
    r"|trunk\.blocks\.\d+\.attn\.qkv\.weight|trunk\.pos_embed|trunk\.attn_pool\.(q|kv)\.weight"
)
OBJECTIVES: dict[Method, Objective] = {
    "regions": Objective(contrast_regions),
    "maft": Objective(
        mask_aware,
        ATTENTION_AND_NORMS,
        schedule=warmup_poly,
        clip_norm=0.01,
        frozen=True,
        overlaps=True,
        teacher="unused",
    ),
    "maskclippp": Objective(classify_regions, ATTENTION_INPUTS, clip_norm=0.01, weighs_templates=True),
    "distil": Objective(distil, teacher="needed"),
    "mask_adapter": Objective(train_adapter, trains=None, clip_norm=1.0, teacher="unused"),
}
"""The methods that train on whole images, the values of `finetune.method` but "crops"."""
