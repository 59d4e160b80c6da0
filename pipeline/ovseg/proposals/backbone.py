"""Backbones of the proposal network: of timm by their name, of `transformers` from the Hub or a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovseg.core import weights
from ovseg.core.errors import OvsegError
from ovseg.core.weights import Weights
from ovseg.engine import weight_files
from ovseg.proposals.checkpoint import find_config, find_weights, identify_checkpoint

STRIDE = 4  # of the finest features that are used
NORMS = ("layernorm.", "hidden_states_norms.")  # of a backbone's outputs, which a checkpoint does not have
COMPUTED = "relative_position_index"  # nothing that is learnt
LAST_STAGE = "layer4"  # of a ResNet


def identify_backbone(backbone: str) -> Weights:
    """Exactly which weights a backbone begins with, if it is to begin with its own.

    Raises:
        OvsegError: no such backbone; its weights are not on this machine and cannot be downloaded.
    """
    if _of_transformers(backbone):
        return identify_checkpoint(backbone)
    return weights.identify(backbone, None, [_find_timm(backbone)])


def _of_transformers(backbone: str) -> bool:
    return "/" in backbone or Path(backbone).is_dir()


def backbone_config(backbone: str) -> Any:
    """Its config for transformers, giving features at four scales.

    Raises:
        OvsegError: no such backbone.
    """
    import transformers

    if not _of_transformers(backbone):
        import timm

        _check_timm(backbone)
        info: Any = timm.create_model(backbone, features_only=True, pretrained=False).feature_info
        reductions = info.reduction()
        scales = [i for i, reduction in enumerate(reductions) if reduction >= STRIDE]
        return transformers.TimmBackboneConfig(backbone=backbone, out_indices=scales[:4], use_pretrained_backbone=False)
    try:
        config = transformers.AutoConfig.from_pretrained(find_config(backbone))
    except (OSError, ValueError) as error:
        raise OvsegError(f"cannot read the backbone {backbone!r}: {[*str(error).splitlines(), error][0]}") from None
    config.out_features = [f"stage{i}" for i in range(1, 5)]
    return config


def _check_timm(backbone: str) -> None:
    import timm

    if not timm.is_model(backbone):
        near = timm.list_models(f"*{backbone.split('.', maxsplit=1)[0][:6]}*")[:8]
        raise OvsegError(f"timm knows no backbone {backbone!r}; near it: {', '.join(near) or 'none'}")
    try:
        timm.get_pretrained_cfg(backbone)
    except RuntimeError:  # the part after the dot
        tagged = timm.list_pretrained(f"{backbone.split('.', maxsplit=1)[0]}.*")
        raise OvsegError(f"timm knows no weights {backbone!r}; it has {', '.join(tagged) or 'none'}") from None


def _find_timm(backbone: str) -> Path:
    """The file of a timm model's weights."""
    import timm

    _check_timm(backbone)
    known = timm.get_pretrained_cfg(backbone)
    what = f"the weights of the backbone {backbone}"

    def gigabytes() -> float:
        state = timm.create_model(backbone, pretrained=False).state_dict()
        return float(sum(weight.numel() for weight in state.values()) * 4 / 1e9)

    if known is not None and known.hf_hub_id:
        return weight_files.fetch_from_hub(what, known.hf_hub_id, ["model.safetensors", "pytorch_model.bin"], gigabytes)
    if known is not None and known.url:
        return weight_files.fetch_from_url(what, known.url, Path(torch.hub.get_dir()) / "checkpoints", gigabytes)
    raise OvsegError(f"timm has no weights for the backbone {backbone!r}; set proposal_network.pretrained=false")


def load_backbone(encoder: Any, backbone: str) -> None:
    """Give a MaskFormer's encoder the backbone's weights, every key accounted for but the heads that it does not need.

    Raises:
        OvsegError: as `identify_backbone`; a key is missing.
    """
    try:
        if _of_transformers(backbone):
            source = _stored(backbone)
            target = encoder.model if hasattr(encoder, "model") else encoder
        else:
            import timm

            overlay = {"file": str(_find_timm(backbone)), "custom_load": False}
            made = timm.create_model(backbone, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
            source, target = made.state_dict(), encoder._backbone
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise OvsegError(
            f"cannot load the weights of the backbone {backbone!r}: {[*str(error).splitlines(), error][0]}"
        ) from None
    missing, _ = target.load_state_dict(source, strict=False)
    missing = [key for key in missing if not key.startswith(NORMS) and not key.endswith(COMPUTED)]
    if missing:
        raise OvsegError(f"the weights of {backbone!r} lack {len(missing)} keys, among them {', '.join(missing[:5])}")


def _stored(backbone: str) -> dict[str, Tensor]:
    """Weights as the checkpoint's files name them: in memory transformers has other names for the same model."""
    found: dict[str, Tensor] = {}
    for path in find_weights(backbone):
        if path.suffix != ".json":
            found |= load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    prefix = f"{backbone_type(backbone)}."
    if prefix[:-1] in {key.split(".")[0] for key in found}:  # a classifier's checkpoint
        return {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
    return found


def backbone_type(backbone: str) -> str:
    """The kind of a checkpoint of transformers, "swin" or "resnet"."""
    import transformers

    return str(transformers.AutoConfig.from_pretrained(find_config(backbone)).model_type)


def dilate(model: Any, dilations: Sequence[int]) -> None:
    """Have each block of a ResNet's last stage look further, in place, as DeepLab's do; its outputs keep their size.

    Weights do not tell of it, and timm's ResNet does not know it.

    Args:
        model: see `proposals.network.build_network`; with a ResNet of timm, if there are dilations.
        dilations: one for each block of the last stage; none leaves the model as it is.
    """
    if dilations:
        blocks = model.model.pixel_level_module.encoder._backbone[LAST_STAGE]
        for block, dilation in zip(blocks, dilations, strict=True):
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
