"""Backbones of the proposal network: models of timm by name, and checkpoints of `transformers` on the Hub or in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ovseg.core import weights
from ovseg.core.checkpoints import read_weights
from ovseg.core.errors import OvsegError
from ovseg.core.files import expand_home
from ovseg.core.weights import Weights
from ovseg.engine import weight_files
from ovseg.proposals.checkpoint import find_config, find_weights, identify_checkpoint

STRIDE = 4  # stride of the finest features that are used, in pixels
OUTPUT_NORMS = ("layernorm.", "hidden_states_norms.")  # layers of a MaskFormer's backbone that its checkpoint lacks
COMPUTED = "relative_position_index"  # a constant, not learned
LAST_STAGE = "layer4"  # name of a ResNet's last stage in timm


def identify_backbone(backbone: str) -> Weights:
    """Identify the pretrained weights of a backbone.

    Args:
        backbone: see `network.build_network`.

    Raises:
        OvsegError: the backbone does not exist; its weights are not on this machine and cannot be downloaded.
    """
    if _is_transformers(backbone):
        return identify_checkpoint(backbone)
    return weights.identify(backbone, None, [_find_timm(backbone)])


def _is_transformers(backbone: str) -> bool:
    return "/" in backbone or Path(backbone).is_dir()


def backbone_config(backbone: str) -> Any:
    """Return the config of transformers for a backbone that outputs features at four scales.

    Args:
        backbone: see `network.build_network`.

    Raises:
        OvsegError: the backbone does not exist.
    """
    import transformers

    if not _is_transformers(backbone):
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
        similar = timm.list_models(f"*{backbone.split('.', maxsplit=1)[0][:6]}*")[:8]
        raise OvsegError(f"timm has no backbone {backbone!r}; similar names: {', '.join(similar) or 'none'}")
    try:
        timm.get_pretrained_cfg(backbone)
    except RuntimeError:  # the tag after the dot is unknown
        tagged = timm.list_pretrained(f"{backbone.split('.', maxsplit=1)[0]}.*")
        raise OvsegError(f"timm has no weights {backbone!r}; it has {', '.join(tagged) or 'none'}") from None


def _find_timm(backbone: str) -> Path:
    """Find the file of a timm model's weights."""
    import timm

    _check_timm(backbone)
    pretrained = timm.get_pretrained_cfg(backbone)
    what = f"the weights of the backbone {backbone}"

    def gigabytes() -> float:
        state = timm.create_model(backbone, pretrained=False).state_dict()
        return float(sum(weight.numel() for weight in state.values()) * 4 / 1e9)

    if pretrained is not None and pretrained.hf_hub_id:
        return weight_files.fetch_from_hub(
            what, pretrained.hf_hub_id, ["model.safetensors", "pytorch_model.bin"], gigabytes
        )
    if pretrained is not None and pretrained.url:
        return weight_files.fetch_from_url(
            what, pretrained.url, Path(expand_home(torch.hub.get_dir())) / "checkpoints", gigabytes
        )
    raise OvsegError(f"timm has no weights for the backbone {backbone!r}; set proposal_network.pretrained=false")


def load_backbone(encoder: Any, backbone: str) -> None:
    """Load a backbone's pretrained weights into a MaskFormer's encoder; weights that the encoder does not have are ignored.

    Args:
        encoder: `model.pixel_level_module.encoder` of a MaskFormer.
        backbone: see `network.build_network`.

    Raises:
        OvsegError: a weight of the encoder is missing; or see `identify_backbone`.
    """
    try:
        if _is_transformers(backbone):
            source = _read_weights(backbone)
            target = encoder.model if hasattr(encoder, "model") else encoder
        else:
            import timm

            overlay = {"file": str(_find_timm(backbone)), "custom_load": False}
            model = timm.create_model(backbone, features_only=True, pretrained=True, pretrained_cfg_overlay=overlay)
            source, target = model.state_dict(), encoder._backbone
    except (OSError, ValueError, RuntimeError, UnpicklingError, SafetensorError) as error:
        raise OvsegError(
            f"cannot load the weights of the backbone {backbone!r}: {[*str(error).splitlines(), error][0]}"
        ) from None
    missing, _ = target.load_state_dict(source, strict=False)
    missing = [key for key in missing if not key.startswith(OUTPUT_NORMS) and not key.endswith(COMPUTED)]
    if missing:
        raise OvsegError(f"the weights of {backbone!r} lack {len(missing)} keys, among them {', '.join(missing[:5])}")


def _read_weights(backbone: str) -> dict[str, Tensor]:
    """Read a checkpoint's weights by their names in the files, because transformers renames them when it loads a model."""
    state: dict[str, Tensor] = {}
    for path in find_weights(backbone):
        if path.suffix != ".json":
            state |= read_weights(path)
    prefix = f"{backbone_type(backbone)}."
    if prefix[:-1] in {key.split(".")[0] for key in state}:  # a checkpoint of an image classifier
        return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
    return state


def backbone_type(backbone: str) -> str:
    """Return the model type of a checkpoint of transformers, such as "swin"."""
    import transformers

    return str(transformers.AutoConfig.from_pretrained(find_config(backbone)).model_type)


def dilate(model: Any, dilations: Sequence[int]) -> None:
    """Set the dilation of each block in a ResNet's last stage, in place, as in DeepLab; the outputs keep their size.

    timm's ResNet has no option for it, and the weights do not tell whether a ResNet was trained with dilations.

    Args:
        model: a network of `network.build_network`; if there are dilations, its backbone must be a ResNet of timm.
        dilations: one dilation for each block of the last stage; an empty sequence leaves the model unchanged.
    """
    if dilations:
        blocks = model.model.pixel_level_module.encoder._backbone[LAST_STAGE]
        for block, dilation in zip(blocks, dilations, strict=True):
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
