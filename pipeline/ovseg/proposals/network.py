"""The proposal network: MaskFormer of `transformers` whose classes are text embeddings, not a fixed list (paper 3.1, A.1).

MaskFormer's class predictor is replaced by a projection into CLIP's joint embedding space. The class of a query is the text
whose embedding is nearest to the query's, so the vocabulary can change after training. See `network_folder` for its files.

Shapes: H, W image; h, w grid of the masks; Q queries; K classes; D width of CLIP's joint embedding space.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ovseg.core import crops
from ovseg.core.arithmetic import autocast
from ovseg.core.errors import OvsegError
from ovseg.core.images import ImageArray
from ovseg.core.options import Precision
from ovseg.core.vocabulary import LOGIT_SCALE
from ovseg.proposals.backbone import STRIDE, backbone_config, load_backbone
from ovseg.proposals.mask_logits import Extent

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # the normalization that backbones expect
SIZE_DIVISOR = 32  # height and width of the padded input are multiples of it
ATTENTION_HEADS = 8


class QueryClassifier(nn.Module):
    """Classify queries by text: a two-layer projection to D, then cosines with text embeddings and a learned "no object".

    Args:
        hidden_dim: width of a query.
        text_proj_dim: width of the projection's hidden layer.
        width: D.

    Attributes:
        text_embeddings: unit vectors of the training vocabulary, float32 `[K, D]`; empty until a training sets it, and not
            part of the saved weights.
        no_object: learned embedding of "no object" before normalization, `[D]`.
    """

    text_embeddings: Tensor

    def __init__(self, hidden_dim: int, text_proj_dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(hidden_dim, text_proj_dim), nn.ReLU(), nn.Linear(text_proj_dim, width))
        self.no_object = nn.Parameter(torch.randn(width) * width**-0.5)
        self.register_buffer("text_embeddings", torch.zeros(0, width), persistent=False)

    def embed(self, queries: Tensor) -> Tensor:
        """Project queries `[..., hidden_dim]` to unit vectors, float32 `[..., D]`."""
        return F.normalize(self.project(queries).float(), dim=-1)

    def forward(self, queries: Tensor) -> Tensor:
        """Return the logits of the K texts and of "no object", `[..., K + 1]`, for queries `[..., hidden_dim]`."""
        classes = torch.cat([self.text_embeddings, F.normalize(self.no_object.float(), dim=0)[None]])
        return LOGIT_SCALE * self.embed(queries) @ classes.T


@dataclass(frozen=True)
class NetworkOutput:
    """The network's prediction for one image.

    Attributes:
        query_embeddings: unit vectors float32 `[Q, D]`, to be compared with the text embeddings of classes and with
            `no_object_embedding`.
        no_object_embedding: unit vector of "no object", float32 `[D]`.
        mask_logits: float32 `[Q, h, w]`.
        extent: fractional number of rows and columns of the grid that the image covers; the rest is padding.
    """

    query_embeddings: Tensor
    no_object_embedding: Tensor
    mask_logits: Tensor
    extent: Extent


@dataclass(frozen=True)
class ProposalNetwork:
    """A trained proposal network.

    Attributes:
        model: `MaskFormerForInstanceSegmentation` in eval mode with a `QueryClassifier` as its `class_predictor`.
        metadata: contents of proposal_network.json.
        precision: the arithmetic of predictions.
    """

    model: Any
    metadata: dict[str, Any]
    precision: Precision = "fp32"

    def for_prediction(self, precision: Precision) -> ProposalNetwork:
        """Return the network, which cannot be saved from then on, as it predicts fastest: weights have channels last.

        On a CPU an image of ResNet-50 takes three quarters of the time in float32, and a quarter in bfloat16; either change
        alone is worth little (docs/speed.md).

        Args:
            precision: the arithmetic of predictions: "fp32", whose masks are the same but for rounding, or "bf16" (autocast),
                if the device has units for it.
        """
        return replace(self, model=self.model.to(memory_format=torch.channels_last), precision=precision)

    @torch.inference_mode()
    def predict(self, pixels: ImageArray) -> NetworkOutput:
        """Predict masks and query embeddings for an image, uint8 RGB `[H, W, 3]`."""
        height, width = pixels.shape[:2]
        shape = input_size(height, width, self.metadata["short_side"], self.metadata["long_side"])
        device = self.model.device
        image = preprocess(pixels, shape).to(device)
        classifier: QueryClassifier = self.model.class_predictor
        with autocast(self.precision, device):
            output = self.model.model(image)
            hidden = output.transformer_decoder_last_hidden_state
            mask_embeddings = self.model.mask_embedder(hidden)
            masks = torch.einsum("bqc,bchw->bqhw", mask_embeddings, output.pixel_decoder_last_hidden_state)
        return NetworkOutput(
            classifier.embed(hidden.float())[0].cpu(),
            F.normalize(classifier.no_object.float(), dim=0).cpu(),
            masks[0].float(),
            (shape[0] / STRIDE, shape[1] / STRIDE),
        )


def input_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """Return height and width to which an image is resized, with its aspect ratio kept.

    Args:
        height, width: size of the image in pixels.
        short_side: length of the shorter side after resizing, unless the longer one would exceed its limit.
        long_side: upper limit for the longer side.

    Returns:
        height and width in pixels, rounded half up, each at least 4, the stride of the finest features.
    """
    scale = min(short_side / min(height, width), long_side / max(height, width))
    return max(STRIDE, int(height * scale + 0.5)), max(STRIDE, int(width * scale + 0.5))


def preprocess(pixels: ImageArray, shape: tuple[int, int]) -> Tensor:
    """Resize an image, normalize it, and pad it below and to the right.

    Args:
        pixels: uint8 RGB `[H, W, 3]`.
        shape: height and width to resize to, see `input_size`.

    Returns:
        float32 `[1, 3, height, width]`, height and width being the next multiples of `SIZE_DIVISOR`.
    """
    image = torch.from_numpy(np.require(pixels, requirements=["C", "W"])).permute(2, 0, 1)[None]
    image = F.interpolate(image, shape, mode="bilinear", antialias=True)
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in shape)
    normalized = crops.normalize(image, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return F.pad(normalized, (0, width - shape[1], 0, height - shape[0]))


def build_network(
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
    """Build a MaskFormer with deep supervision.

    The loss weights are the defaults of `MaskFormerConfig`, which equal the paper's: focal 20, dice 1, class 1, no object 0.1.

    Args:
        backbone: a timm model with features at four scales ("resnet101c.gluon_in1k"), or a checkpoint of transformers as
            a name on the Hub with a slash ("microsoft/swin-base-patch4-window12-384-in22k") or a folder.
        pretrained: True loads the backbone's weights, False leaves it randomly initialized.
        num_queries: Q.
        hidden_dim: width of queries, pixel decoder and mask embeddings; a multiple of 32.
        decoder_layers: number of layers of the transformer decoder.
        dropout: dropout rate of the transformer decoder, in [0, 1].
        text_proj_dim: width of the text classifier's hidden layer.
        width: D.
        classes: K of the training vocabulary, for the loss.

    Returns:
        `MaskFormerForInstanceSegmentation` with a `QueryClassifier` as its `class_predictor`.

    Raises:
        OvsegError: transformers is not installed, or the backbone does not exist.
    """
    transformers = import_transformers()
    config = transformers.MaskFormerConfig(
        backbone_config=backbone_config(backbone),
        decoder_config={
            "model_type": "detr",
            "num_queries": num_queries,
            "d_model": hidden_dim,
            "decoder_layers": decoder_layers,
            "encoder_layers": 0,
            "decoder_ffn_dim": 8 * hidden_dim,  # 2048 for 256, as MaskFormer
            "encoder_ffn_dim": 8 * hidden_dim,
            "decoder_attention_heads": ATTENTION_HEADS,
            "encoder_attention_heads": ATTENTION_HEADS,
            "dropout": dropout,
        },
        fpn_feature_size=hidden_dim,
        mask_feature_size=hidden_dim,
        use_auxiliary_loss=True,
        num_labels=classes,
    )
    model = transformers.MaskFormerForInstanceSegmentation(config)
    model.class_predictor = QueryClassifier(hidden_dim, text_proj_dim, width)
    if pretrained:
        load_backbone(model.model.pixel_level_module.encoder, backbone)
    return model


def import_transformers() -> Any:
    """Import transformers with its warnings switched off.

    Raises:
        OvsegError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise OvsegError("the proposal network needs transformers: pip install -e '.[propose]' in the clone") from None
    transformers.utils.logging.set_verbosity_error()
    return transformers
