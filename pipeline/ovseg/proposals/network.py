"""The proposal network: MaskFormer of `transformers`, its classes told by texts instead of a fixed list (paper 3.1, A.1).

The class predictor is replaced by a projection to CLIP's joint space; a class is the text embedding that a query is nearest
to, so the vocabulary may change after training. Folder of a network:

    config.json          as transformers writes it
    model.safetensors    weights, named as the modules are
    segmenter.json       training vocabulary, size of pictures, text tower, provenance

Shapes: B pictures, Q queries, D CLIP's joint width, K classes, h, w grid of the masks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovseg import crops
from ovseg.clip.load import Clip
from ovseg.errors import OvsegError
from ovseg.images import Pixels
from ovseg.proposals.soft import Extent

ABOUT = "segmenter.json"
TEMPERATURE = 100.0  # of cosines, as CLIP's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which backbones are trained with
STRIDE, DIVISOR = 4, 32  # of the mask grid; of the input's sides
HEADS = 8
NORMS = ("layernorm.", "hidden_states_norms.")  # of a backbone's outputs, which a checkpoint does not have
COMPUTED = "relative_position_index"  # nothing that is learnt
PROBE, SAME = (
    "a photo of a thing.",
    0.99,
)  # a text, and the cosine of its embeddings by the same text tower, rounding aside


class TextClassifier(nn.Module):
    """Classes by texts: a two-layer projection to D, cosines with text embeddings and with a learned "no object".

    Args:
        hidden: width of a query.
        middle: of the projection's hidden layer.
        width: D.
    """

    texts: Tensor

    def __init__(self, hidden: int, middle: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(hidden, middle), nn.ReLU(), nn.Linear(middle, width))
        self.no_object = nn.Parameter(torch.randn(width) * width**-0.5)
        self.register_buffer("texts", torch.zeros(0, width), persistent=False)

    def embed(self, queries: Tensor) -> Tensor:
        """`[..., hidden]` -> unit vectors `[..., D]`."""
        return F.normalize(self.project(queries).float(), dim=-1)

    def forward(self, queries: Tensor) -> Tensor:
        """`[..., hidden]` -> logits of the K texts and of no object `[..., K + 1]`."""
        every = torch.cat([self.texts, F.normalize(self.no_object.float(), dim=0)[None]])
        return TEMPERATURE * self.embed(queries) @ every.T


@dataclass(frozen=True)
class Queries:
    """What the network sees in one picture.

    Attributes:
        classes: unit vectors `[Q, D]`, to be compared with texts and with `no_object`.
        no_object: unit vector `[D]`.
        masks: logits `[Q, h, w]`.
        extent: rows and columns of the grid that are picture.
    """

    classes: Tensor
    no_object: Tensor
    masks: Tensor
    extent: Extent


@dataclass(frozen=True)
class Network:
    """A trained proposal network.

    Attributes:
        model: `MaskFormerForInstanceSegmentation` in eval mode, its `class_predictor` a `TextClassifier`.
        about: what segmenter.json says.
    """

    model: Any
    about: dict[str, Any]

    @torch.inference_mode()
    def look(self, pixels: Pixels) -> Queries:
        """Masks and class embeddings of a picture, uint8 `[H, W, 3]`."""
        height, width = pixels.shape[:2]
        shape = network_size(height, width, self.about["short_side"], self.about["long_side"])
        found = self.model.model(network_input(pixels, shape).to(self.model.device))
        hidden = found.transformer_decoder_last_hidden_state
        masks = torch.einsum("bqc,bchw->bqhw", self.model.mask_embedder(hidden), found.pixel_decoder_last_hidden_state)
        classifier: TextClassifier = self.model.class_predictor
        return Queries(
            classifier.embed(hidden)[0].cpu(),
            F.normalize(classifier.no_object.float(), dim=0).cpu(),
            masks[0].float(),
            (shape[0] / STRIDE, shape[1] / STRIDE),
        )


def network_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """The picture's size as the network sees it: short side `short`, long side at most `long`, no side below one stride."""
    scale = min(short / min(height, width), long / max(height, width))
    return max(STRIDE, round(height * scale)), max(STRIDE, round(width * scale))


def network_input(pixels: Pixels, shape: tuple[int, int]) -> Tensor:
    """A picture uint8 `[H, W, 3]` resized to `shape`, normalised, and padded below and right: float32 `[1, 3, h, w]`."""
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    image = F.interpolate(image, shape, mode="bilinear", antialias=True)
    height, width = (-(-side // DIVISOR) * DIVISOR for side in shape)
    normal = crops.normalise(image, torch.tensor(MEAN), torch.tensor(STD))
    return F.pad(normal, (0, width - shape[1], 0, height - shape[0]))


def new_model(
    backbone: str,
    *,
    pretrained: bool,
    queries: int,
    hidden: int,
    layers: int,
    dropout: float,
    middle: int,
    width: int,
    classes: int,
) -> Any:
    """A MaskFormer with the losses of the paper (focal 20, dice 1, class 1, no object 0.1, deep supervision).

    Args:
        backbone: a name of timm with features at four scales ("resnet101c.gluon_in1k"), or a checkpoint of transformers,
            by its name on the Hub (with a slash) or its folder ("microsoft/swin-base-patch4-window12-384-in22k").
        pretrained: begin with the backbone's weights; False draws them.
        queries: Q.
        hidden: width of queries, pixel decoder and mask embeddings; a multiple of 32.
        layers: of the transformer decoder.
        dropout: in it.
        middle, width: of the text classifier.
        classes: K of the training vocabulary, for the loss.

    Raises:
        OvsegError: transformers is not installed; no such backbone.
    """
    transformers = _transformers()
    config = transformers.MaskFormerConfig(
        backbone_config=_backbone_config(backbone),
        decoder_config={
            "model_type": "detr", "num_queries": queries, "d_model": hidden, "decoder_layers": layers, "encoder_layers": 0,
            "decoder_ffn_dim": 8 * hidden, "encoder_ffn_dim": 8 * hidden, "decoder_attention_heads": HEADS,
            "encoder_attention_heads": HEADS, "dropout": dropout,
        },
        fpn_feature_size=hidden, mask_feature_size=hidden, use_auxiliary_loss=True, num_labels=classes,
    )  # fmt: skip
    model = transformers.MaskFormerForInstanceSegmentation(config)
    model.class_predictor = TextClassifier(hidden, middle, width)
    if pretrained:
        _load_backbone(model, backbone)
    return model


def save_network(
    model: Any, folder: Path, about: dict[str, Any], short: int, long: int, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network's folder.

    Args:
        model: see `new_model`.
        folder: made if needed.
        about: of segmenter.json.
        short, long: sides that pictures are resized to, in pixels.
        dtype: of the weights on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    # not model.save_pretrained: transformers renames keys on the way out, which only its own loader turns back
    weights = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors")
    project = model.class_predictor.project
    sizes = {
        "middle": project[0].out_features,
        "width": project[2].out_features,
        "short_side": short,
        "long_side": long,
    }
    about = {**about, **sizes}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_network(folder: Path, device: str = "cpu") -> Network:
    """Load what the stage `segmenter` wrote, every key of its weights accounted for.

    Raises:
        OvsegError: transformers is not installed; not a network's folder; missing or extra keys.
    """
    transformers = _transformers()
    for name in (ABOUT, "config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise OvsegError(
                f"{folder} is not a proposal network: {name} is missing; run the stage `segmenter`, or for another "
                "MaskFormer set propose.source=maskformer"
            )
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        short, long, _ = about["short_side"], about["long_side"], about["probe"]
        network_size(1, 1, short, long)
        config = transformers.MaskFormerConfig.from_pretrained(folder)
        model = transformers.MaskFormerForInstanceSegmentation(config)
        model.class_predictor = TextClassifier(config.decoder_config.d_model, about["middle"], about["width"])
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, OSError, ValueError, KeyError, SafetensorError) as error:
        raise OvsegError(f"{folder} cannot be loaded: {' '.join(str(error).split())[:400]}") from None
    return Network(model.to(device).eval(), about)


def probe(clip: Clip) -> list[float]:
    """The embedding of one fixed text, by which `check_text_tower` knows a text tower."""
    return [round(value, 6) for value in clip.encode_texts([PROBE])[0].tolist()]


def check_text_tower(network: Network, clip: Clip, folder: Path, clip_folder: Path) -> None:
    """Refuse a CLIP whose text tower is not the one that the network was trained with: its classes would be noise.

    Args:
        network: its "probe" is what `probe` gave then.
        clip: the CLIP to use it with.
        folder, clip_folder: where they come from, named in the message.

    Raises:
        OvsegError: width or direction differ.
    """
    then, now = torch.tensor(network.about["probe"]), torch.tensor(probe(clip))
    if len(then) != len(now):
        raise OvsegError(f"{folder} was trained with a CLIP {len(then)} wide, {clip_folder} is {len(now)} wide")
    cosine = float(F.cosine_similarity(then, now, dim=0))
    if cosine < SAME:
        raise OvsegError(
            f"{folder} was trained with another text tower than that of {clip_folder} (cosine {cosine:.3f} of the same "
            "text); use the CLIP that it was trained with, or one adapted from it"
        )


def _backbone_config(backbone: str) -> Any:
    transformers = _transformers()
    if "/" not in backbone and not Path(backbone).is_dir():
        import timm

        if not timm.is_model(backbone):
            near = timm.list_models(f"*{backbone.split('.', maxsplit=1)[0][:6]}*")[:8]
            raise OvsegError(f"timm knows no backbone {backbone!r}; near it: {', '.join(near) or 'none'}")
        info: Any = timm.create_model(backbone, features_only=True, pretrained=False).feature_info
        reductions = info.reduction()
        scales = [i for i, reduction in enumerate(reductions) if reduction >= STRIDE]
        return transformers.TimmBackboneConfig(backbone=backbone, out_indices=scales[:4], use_pretrained_backbone=False)
    try:
        config = transformers.AutoConfig.from_pretrained(backbone)
    except (OSError, ValueError) as error:
        raise OvsegError(f"cannot read the backbone {backbone!r}: {[*str(error).splitlines(), error][0]}") from None
    config.out_features = [f"stage{i}" for i in range(1, 5)]
    return config


def _load_backbone(model: Any, backbone: str) -> None:
    """Weights of the backbone, every key accounted for but the heads that a backbone does not need."""
    encoder = model.model.pixel_level_module.encoder
    try:
        if "/" in backbone or Path(backbone).is_dir():
            source = _stored(backbone)
            target = encoder.model if hasattr(encoder, "model") else encoder
        else:
            import timm

            source = timm.create_model(backbone, features_only=True, pretrained=True).state_dict()
            target = encoder._backbone
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise OvsegError(
            f"cannot load the weights of the backbone {backbone!r}: {[*str(error).splitlines(), error][0]}"
        ) from None
    missing, _ = target.load_state_dict(source, strict=False)
    missing = [key for key in missing if not key.startswith(NORMS) and not key.endswith(COMPUTED)]
    if missing:
        raise OvsegError(f"the weights of {backbone!r} lack {len(missing)} keys, among them {', '.join(missing[:5])}")


def _stored(backbone: str) -> dict[str, Tensor]:
    """Weights as the checkpoint's file names them: in memory transformers has other names for the same model."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for name in ("model.safetensors", "pytorch_model.bin"):
        try:
            path = Path(backbone) / name if Path(backbone).is_dir() else Path(hf_hub_download(backbone, name))
        except EntryNotFoundError:
            continue
        if path.is_file():
            found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
            heads = {key.split(".")[0] for key in found}
            prefix = f"{backbone_type(backbone)}."
            if prefix[:-1] in heads:  # a classifier's checkpoint
                return {key.removeprefix(prefix): tensor for key, tensor in found.items() if key.startswith(prefix)}
            return found
    raise OvsegError(f"{backbone} holds neither model.safetensors nor pytorch_model.bin")


def backbone_type(backbone: str) -> str:
    """The kind of a checkpoint of transformers, "swin" or "resnet"."""
    return str(_transformers().AutoConfig.from_pretrained(backbone).model_type)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise OvsegError("the proposal network needs transformers: pip install 'ovseg[propose]'") from None
    transformers.utils.logging.set_verbosity_error()
    return transformers
