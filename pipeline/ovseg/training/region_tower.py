"""The module that is trained as a region encoder: which weights of a CLIP learn, and what is learned beside them.

Shapes: B images, S side of the input, Q regions, g grid of the masks, C cells of it, L blocks with regions, D joint width.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.clip.biased_tokens import new_log_bias
from ovseg.clip.load import Clip
from ovseg.clip.mask_adapter import MaskAdapter, feature_grid, new_adapter
from ovseg.clip.pooled_regions import check_size, convnext_trunk, is_convnext
from ovseg.clip.pseudo_text import PseudoText, new_pseudo_text
from ovseg.clip.region_settings import RegionSettings
from ovseg.clip.region_tokens import check_start_block
from ovseg.clip.regions import ONE_PASS, Learned, with_cells
from ovseg.clip.vit_parts import patch_grid, vit_parts
from ovseg.core.crops import normalize
from ovseg.core.errors import OvsegError
from ovseg.core.options import FinetuneOptions, Templates
from ovseg.core.vocabulary import TEMPLATES
from ovseg.training.cpu_blocks import trainable_cpu_blocks
from ovseg.training.objectives import OBJECTIVES


@dataclass(frozen=True)
class TemplateWeights:
    """A learned weight for each text template.

    Attributes:
        templates: the name of the templates.
        values: `[T]`.
    """

    templates: Templates
    values: nn.Parameter


@dataclass(frozen=True)
class LearnedTexts:
    """What a method learns of texts: the PSM of MaskCLIP++.

    Attributes:
        template_weights: a weight for each text template; None without.
        pseudo_text: what changes texts by what an image shows; None without.
    """

    template_weights: TemplateWeights | None = None
    pseudo_text: PseudoText | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is learned, by name."""
        weights = {} if self.template_weights is None else {"template_weights": self.template_weights.values}
        return weights | self.of_pseudo_text()

    def of_pseudo_text(self) -> dict[str, nn.Parameter]:
        """Return what is learned of `pseudo_text`, by name."""
        named = () if self.pseudo_text is None else self.pseudo_text.named_parameters()
        return {f"pseudo_text.{name}": parameter for name, parameter in named}


class RegionTower(nn.Module):
    """A CLIP's image tower as a region encoder, one module that can be wrapped for several processes.

    Args:
        clip: the CLIP; the weights of its image tower are trained in place.
        settings: the region encoder and its parameters.
        learned: the first values of what is learned beside the tower; an adapter is trained in place.
        texts: what is learned of texts. It is no part of the module, which only asks it whether cells are needed.
    """

    def __init__(
        self,
        clip: Clip,
        settings: RegionSettings,
        learned: Learned | None = None,
        texts: LearnedTexts | None = None,
    ) -> None:
        super().__init__()
        self.visual = cast(nn.Module, clip.model.visual)
        self.settings, self.texts = settings, texts or LearnedTexts()
        log_bias, self.adapter = learned or Learned()
        self.log_bias = None if log_bias is None else nn.Parameter(log_bias.clone())
        self.register_buffer("mean", clip.mean, persistent=False)
        self.register_buffer("std", clip.std, persistent=False)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """Embed regions, the whole image as a region, and, where pseudo-texts are learned, each cell of the image.

        Args:
            images: uint8 `[B, 3, S, S]`.
            masks: float32 `[B, Q, g, g]` in [0, 1].

        Returns:
            float32 unit vectors `[B, Q + 1, D]`; with the cells `[B, Q + 1 + C, D]`.
        """
        pixels = normalize(images, self.mean, self.std)  # type: ignore[arg-type]
        regions = F.pad(masks, (0, 0, 0, 0, 0, 1), value=1.0)
        if self.texts.pseudo_text is not None:
            regions = with_cells(regions)
        with trainable_cpu_blocks(self.visual, pixels.device):
            learned = Learned(self.log_bias, self.adapter)
            vectors = ONE_PASS[self.settings.encoder](self.visual, pixels, regions, self.settings, learned)
        return F.normalize(vectors.float(), dim=-1)

    def frozen_copy(self) -> nn.Module:
        """Return a copy of the module as it is now, which learns nothing."""
        return copy.deepcopy(self).requires_grad_(False)


def build_region_tower(clip: Clip, options: FinetuneOptions) -> RegionTower:
    """Make the module that is trained; what the method does not train is frozen.

    Raises:
        OvsegError: the tower cannot encode regions with `options.region_encoder`; `options.start_block`,
            `options.image_size` or `options.coverage` does not fit it; or the CLIP has mask prompts.
    """
    visual = cast(nn.Module, clip.model.visual)
    _check_visual(visual, options)
    if clip.prompts is not None:
        raise OvsegError(
            f"finetune.method={options.method} cannot start from a CLIP with mask prompts, which belong to crops; set "
            "finetune.init=base"
        )
    if options.coverage != "half" and options.region_encoder != "region_tokens":
        raise OvsegError(
            f"finetune.coverage={options.coverage} is for the region encoder region_tokens, not {options.region_encoder}; set "
            "it to half"
        )
    biased = options.region_encoder == "biased_tokens"
    log_bias = _log_bias_to_train(clip, options.start_block) if biased else None
    start_block = None if options.region_encoder in ("pooled", "mask_adapter") else options.start_block
    settings = RegionSettings(options.region_encoder, start_block, options.image_size, coverage=options.coverage)
    learned = Learned(log_bias, _adapter_to_train(clip, options))
    tower = RegionTower(clip, settings, learned, _texts_to_train(clip, options))
    pattern = OBJECTIVES[options.method].trains
    for name, parameter in tower.visual.named_parameters():
        # all of a ConvNeXt, which has no attention, as in MaskCLIP++
        named = pattern is not None and (is_convnext(visual) or pattern.fullmatch(name) is not None)
        parameter.requires_grad_(named)
    if pattern is not None and not any(p.requires_grad for p in tower.visual.parameters()):
        raise OvsegError(f"finetune.method={options.method} finds nothing to train in this image tower; use regions")
    return tower


def _check_visual(visual: nn.Module, options: FinetuneOptions) -> None:
    """Check that an image tower can encode regions with `options.region_encoder`; see `build_region_tower` for the errors."""
    size = options.image_size
    if options.region_encoder == "pooled":
        convnext_trunk(visual)
        check_size(size, size)
    elif options.region_encoder == "mask_adapter":
        feature_grid(visual, size, size)
    else:
        parts = vit_parts(visual)
        check_start_block(options.start_block, parts)
        patch_grid(parts.layout, size, size)


def _log_bias_to_train(clip: Clip, start_block: int) -> Tensor:
    """The CLIP's own logarithms of the biases if they are of the same blocks, or new ones."""
    new = new_log_bias(cast(nn.Module, clip.model.visual), start_block).to(clip.mean.device)
    own = None if clip.regions.log_bias is None else torch.tensor(clip.regions.log_bias, device=clip.mean.device)
    return new if own is None or own.shape != new.shape else own


def _adapter_to_train(clip: Clip, options: FinetuneOptions) -> MaskAdapter | None:
    """The CLIP's own adapter, or a new one; None for a region encoder without."""
    if options.region_encoder != "mask_adapter":
        return None
    adapter = clip.adapter or new_adapter(clip.width, options.adapter_width, options.seed).to(clip.mean.device)
    return adapter.requires_grad_(True)


def _texts_to_train(clip: Clip, options: FinetuneOptions) -> LearnedTexts:
    """What the method learns of texts; the CLIP's own pseudo-texts are trained on."""
    if options.psm == "linear":
        return LearnedTexts(_template_weights_to_train(clip, options))
    pseudo_text = clip.pseudo_text or new_pseudo_text(clip.width, options.seed).to(clip.mean.device)
    return LearnedTexts(pseudo_text=pseudo_text.requires_grad_(True).train())


def _template_weights_to_train(clip: Clip, options: FinetuneOptions) -> TemplateWeights | None:
    """Return the weights of T templates if the method learns them, otherwise None: the CLIP's own, or 1 / T for each.

    One template needs no weight, as the logit scale is one. Learned text prompts take the place of templates.
    """
    templates: Templates = "vild" if options.templates == "random-per-step" else options.templates
    number = len(TEMPLATES[templates])
    if not OBJECTIVES[options.method].weighs_templates or number == 1 or clip.text_prompts is not None:
        return None
    own = clip.regions.template_weights if clip.regions.templates == templates else None
    return TemplateWeights(templates, nn.Parameter(torch.tensor(own or [1 / number] * number, device=clip.mean.device)))


def is_made_for(clip: Clip, settings: RegionSettings) -> bool:
    """Whether a CLIP is made for a region encoder with these parameters, whatever was learned beside its tower."""
    return replace(clip.regions, log_bias=None, templates=None, template_weights=None) == settings


def region_settings(tower: RegionTower) -> RegionSettings:
    """What the trained CLIP is made for."""
    log_bias = None if tower.log_bias is None else tuple(map(tuple, tower.log_bias.detach().float().cpu().tolist()))
    settings, weights = replace(tower.settings, log_bias=log_bias), tower.texts.template_weights
    if weights is None:
        return settings
    return replace(settings, templates=weights.templates, template_weights=tuple(weights.values.tolist()))
