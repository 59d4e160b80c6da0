"""The proposal network: MaskFormer of `transformers`, its classes told by texts instead of a fixed list (paper 3.1, A.1).

The class predictor is replaced by a projection to CLIP's joint space; a class is the text embedding that a query is nearest
to, so the vocabulary may change after training. Folder of a network:

    config.json          as transformers writes it
    model.safetensors    weights, named as the modules are
    proposal_network.json       training vocabulary, size of images, text tower, provenance ("backbone": its `Weights`)

Shapes: B images, Q queries, D CLIP's joint width, K classes, h, w grid of the masks.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovseg.clip.load import Clip
from ovseg.core import crops, weights
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.proposals.backbone import STRIDE, backbone_config, dilate, load_backbone
from ovseg.proposals.mask_logits import Extent

ABOUT, WEIGHTS = "proposal_network.json", "model.safetensors"
TEMPERATURE = 100.0  # of cosines, as CLIP's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which backbones are trained with
DIVISOR = 32  # of the input's sides
HEADS = 8
PROBE, SAME = (
    "a photo of a thing.",
    0.99,
)  # a text, and the cosine of its embeddings by the same text tower, rounding aside


class TextClassifier(nn.Module):
    """Classes by texts: a two-layer projection to D, cosines with text embeddings and with a learned "no object".

    Args:
        hidden_dim: width of a query.
        text_proj_dim: of the projection's hidden layer.
        width: D.
    """

    texts: Tensor

    def __init__(self, hidden_dim: int, text_proj_dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(hidden_dim, text_proj_dim), nn.ReLU(), nn.Linear(text_proj_dim, width))
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
    """What the network sees in one image.

    Attributes:
        classes: unit vectors `[Q, D]`, to be compared with texts and with `no_object`.
        no_object: unit vector `[D]`.
        masks: logits `[Q, h, w]`.
        extent: rows and columns of the grid that are image.
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
        about: what proposal_network.json says.
    """

    model: Any
    about: dict[str, Any]

    @torch.inference_mode()
    def predict(self, pixels: ImageArray) -> Queries:
        """Masks and class embeddings of an image, uint8 `[H, W, 3]`."""
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
    """The image's size as the network sees it: short side `short`, long side at most `long`, no side below one stride."""
    scale = min(short / min(height, width), long / max(height, width))
    return max(STRIDE, round(height * scale)), max(STRIDE, round(width * scale))


def network_input(pixels: ImageArray, shape: tuple[int, int]) -> Tensor:
    """An image uint8 `[H, W, 3]` resized to `shape`, normalised, and padded below and right: float32 `[1, 3, h, w]`."""
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    image = F.interpolate(image, shape, mode="bilinear", antialias=True)
    height, width = (-(-side // DIVISOR) * DIVISOR for side in shape)
    normal = crops.normalise(image, torch.tensor(MEAN), torch.tensor(STD))
    return F.pad(normal, (0, width - shape[1], 0, height - shape[0]))


def new_model(
    backbone: str,
    *,
    pretrained: bool,
    num_queries: int,
    hidden_dim: int,
    decoder_layers: int,
    dropout: float,
    text_proj_dim: int,
    width: int,
    classes: int,
) -> Any:
    """A MaskFormer with the losses of the paper (focal 20, dice 1, class 1, no object 0.1, deep supervision).

    Args:
        backbone: a name of timm with features at four scales ("resnet101c.gluon_in1k"), or a checkpoint of transformers,
            by its name on the Hub (with a slash) or its folder ("microsoft/swin-base-patch4-window12-384-in22k").
        pretrained: begin with the backbone's weights; False draws them.
        num_queries: Q.
        hidden_dim: width of queries, pixel decoder and mask embeddings; a multiple of 32.
        decoder_layers: of the transformer decoder.
        dropout: in it.
        text_proj_dim, width: of the text classifier.
        classes: K of the training vocabulary, for the loss.

    Raises:
        OvsegError: transformers is not installed; no such backbone.
    """
    transformers = _transformers()
    config = transformers.MaskFormerConfig(
        backbone_config=backbone_config(backbone),
        decoder_config={
            "model_type": "detr",
            "num_queries": num_queries,
            "d_model": hidden_dim,
            "decoder_layers": decoder_layers,
            "encoder_layers": 0,
            "decoder_ffn_dim": 8 * hidden_dim,
            "encoder_ffn_dim": 8 * hidden_dim,
            "decoder_attention_heads": HEADS,
            "encoder_attention_heads": HEADS,
            "dropout": dropout,
        },
        fpn_feature_size=hidden_dim,
        mask_feature_size=hidden_dim,
        use_auxiliary_loss=True,
        num_labels=classes,
    )
    model = transformers.MaskFormerForInstanceSegmentation(config)
    model.class_predictor = TextClassifier(hidden_dim, text_proj_dim, width)
    if pretrained:
        load_backbone(model.model.pixel_level_module.encoder, backbone)
    return model


def save_network(
    model: Any, folder: Path, about: dict[str, Any], short: int, long: int, dtype: torch.dtype = torch.float32
) -> None:
    """Write a network's folder.

    Args:
        model: see `new_model`.
        folder: made if needed.
        about: of proposal_network.json.
        short, long: sides that images are resized to, in pixels.
        dtype: of the weights on disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    # not model.save_pretrained: transformers renames keys on the way out, which only its own loader turns back
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).contiguous()
        for name, tensor in model.state_dict().items()
    }
    save_file(state, folder / WEIGHTS)
    project = model.class_predictor.project
    sizes = {
        "text_proj_dim": project[0].out_features,
        "width": project[2].out_features,
        "short_side": short,
        "long_side": long,
    }
    about = {**about, **sizes}
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_network(folder: Path, device: str = "cpu") -> Network:
    """Load what the stage `proposal_network` wrote, every key of its weights accounted for.

    Raises:
        OvsegError: transformers is not installed; not a network's folder; missing or extra keys.
    """
    transformers = _transformers()
    for name in (ABOUT, "config.json", WEIGHTS):
        if not (folder / name).is_file():
            raise OvsegError(
                f"{folder} is not a proposal network: {name} is missing; run the stage `proposal_network`, or for another "
                "MaskFormer set propose.source=maskformer"
            )
    try:
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        short, long, _ = about["short_side"], about["long_side"], about["probe"]
        network_size(1, 1, short, long)
        config = transformers.MaskFormerConfig.from_pretrained(folder)
        model = transformers.MaskFormerForInstanceSegmentation(config)
        model.class_predictor = TextClassifier(config.decoder_config.d_model, about["text_proj_dim"], about["width"])
        model.load_state_dict(load_file(folder / WEIGHTS))
        dilate(model, about.get("dilations", ()))
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


def identify_network(folder: Path) -> dict[str, Any]:
    """What a table of its masks says of a network: its `Weights` by name, and "backbone", those that it began with.

    Raises:
        OvsegError: not a network's folder.
    """
    for name in (ABOUT, WEIGHTS):
        if not (folder / name).is_file():
            raise OvsegError(f"{folder} is not a proposal network: {name} is missing; run the stage `proposal_network`")
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    while about.get("init"):  # it began with another network, which tells
        about = about["init"]
    found = weights.identify(str(folder), None, folder / WEIGHTS)
    return {**asdict(found), "backbone": about.get("backbone")}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise OvsegError("the proposal network needs transformers: pip install 'ovseg[propose]'") from None
    transformers.utils.logging.set_verbosity_error()
    return transformers
