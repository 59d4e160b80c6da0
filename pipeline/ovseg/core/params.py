"""A typed, strict view of params.yaml: an unknown key, a wrong type or a value out of range is an error that names it.

One section for each stage, with the stage's name, and some that stages share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ovseg.core.errors import OvsegError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Demo(_Section):
    """The drawn data set (data/demo/dvc.yaml)."""

    seed: Annotated[int, Field(ge=0)]
    train: Count
    """images for mining"""
    val: Count
    """images for choosing thresholds and weights"""
    benchmark: Count
    """images for the benchmarks"""


class Data(_Section):
    """What DVC follows to see that a data set has changed: the manifests that data/<dataset>/dvc.yaml makes, or the data."""

    images: str
    """of what is mined"""
    captions: str
    """of these images"""
    annotated: str
    """proposal_network.annotations and propose.annotations"""
    masks: str
    """propose.path, heldout.annotations and report.annotations"""
    heldout: str
    """held-out images"""


class Clip(_Section):
    """The base CLIP, copied into models/base."""

    model: str
    """a name of open_clip, local-dir:FOLDER or hf-hub:OWNER/NAME"""
    pretrained: str | None
    """for a name: a tag of open_clip, a weights file, or "random" """
    licence: str | None
    """of the weights, for the model card"""


class Crop(_Section):
    """THE crop recipe, shared by mining, training and inference."""

    fill: Literal["mean", "zero", "keep"]
    """background: CLIP's mean colour, black, or left as it is"""
    antialias: bool
    """false is the reference's bicubic"""


class Index(_Section):
    """What is mined."""

    images: str
    """folder of the images, or of WebDataset shards"""
    captions: str
    """COCO captions JSON, or the folder of the shards again"""
    limit: Count | None
    """only the first that many images"""


class Nouns(_Section):
    """Which words of a caption."""

    model: str
    """an installed spaCy pipeline, or a folder"""
    unit: Literal["token", "chunk"]
    """every noun by itself, or compounds kept together"""
    captions_per_image: Literal[1, "all"]
    """1 is the lowest caption id"""
    stop_list: str
    """nouns that name nothing to be seen, one a line"""


class ProposalNetwork(_Section):
    """The proposal network: MaskFormer with a text classifier, trained on the closed vocabulary (paper A.1)."""

    init: str | None
    """folder of a trained one to begin with"""
    backbone: str
    """a name of timm, or a checkpoint of transformers"""
    pretrained: bool
    """begin with the backbone's own weights"""
    annotations: str
    """masks with class names: COCO JSON, or a folder of pixel maps with its classes.json"""
    classes: str | None
    """class table of annotations that are maps: a name (cocostuff, cocostuff156, ...) or a file; null for JSON"""
    licence: str | None
    """of those annotations"""
    num_queries: Count
    hidden_dim: Annotated[int, Field(ge=32, multiple_of=32)]
    decoder_layers: Count
    """of the transformer decoder"""
    dropout: Share
    text_proj_dim: Count
    """width of the text classifier's hidden layer"""
    templates: Literal["none", "single", "vild"]
    steps: Annotated[int, Field(ge=0)]
    """0 passes init through"""
    batch_size: Count
    crop_size: Annotated[int, Field(ge=64)]
    """pixels"""
    min_scale: Annotated[float, Field(gt=0)]
    """least short side before cropping, as a share of crop"""
    max_scale: Annotated[float, Field(gt=0)]
    color_jitter: bool
    """change colours at random"""
    short_side: Annotated[int, Field(ge=64)]
    """images are resized to it when the network is used"""
    long_side: Count
    lr: Annotated[float, Field(gt=0)]
    backbone_lr_multiplier: Annotated[float, Field(ge=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    clip_norm: Annotated[float, Field(gt=0)]
    precision: Literal["fp32", "bf16"]
    seed: Annotated[int, Field(ge=0)]


class Propose(_Section):
    """Which masks of an image."""

    source: Literal["proposal_network", "ground_truth", "precomputed", "maskformer", "sam2"]
    path: str
    """masks of ground_truth and precomputed"""
    model: str | None
    """checkpoint of maskformer or sam2: a folder, or a name on the Hub"""
    annotations: str
    """annotated masks with class names, for select.annotated_fraction"""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)]
    """soft masks are cut here"""
    max_proposals: Count
    """per image, best first"""
    licence: str | None
    """of the masks, annotated ones included, for the model card"""


class Score(_Section):
    """How nouns and masks are compared."""

    templates: Literal["none", "single", "vild"]
    top_k: Count
    """proposals kept for each noun"""
    duplicate_iou: Annotated[float, Field(gt=0, le=1)]
    """masks that overlap more are encoded once; 1 is off"""
    precision: Literal["fp32", "bf16"]


class Select(_Section):
    """Which candidates become pairs."""

    rule: Literal["best", "one_to_one"]
    min_similarity: Annotated[float, Field(ge=-1, le=1)] | None
    min_margin: Annotated[float, Field(ge=0, le=2)] | None
    min_area: Count
    """pixels"""
    max_per_noun: Count | None
    annotated_fraction: Share
    """of annotated masks among all pairs"""
    seed: Annotated[int, Field(ge=0)]


class Shards(_Section):
    """How pairs are stored."""

    samples_per_shard: Count
    min_shards: Count
    background: Literal["mean", "zero", "keep"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]


class _Training(_Section):
    epochs: Annotated[int, Field(ge=0)]
    """over all samples; 0 passes the model through"""
    max_steps: Annotated[int, Field(ge=0)] | None
    """at most that many, the schedule included"""
    batch_size: Count
    """pairs of the global batch, over all processes"""
    weight_decay: Annotated[float, Field(ge=0)]
    """of the image tower's matrices"""
    warmup_steps: Annotated[int, Field(ge=0)]
    loss: Literal["multi_positive", "info_nce"]
    """pairs of the same noun are all right, or the paper's"""
    templates: Literal["none", "single", "vild", "random-per-step"]
    logit_scale: Literal["train", "fixed"]
    crop_scale: Annotated[float, Field(gt=0, le=1)]
    """share of a crop that is seen, at least about; 1 is all of it"""
    precision: Literal["fp32", "bf16"]
    seed: Annotated[int, Field(ge=0)]


class Finetune(_Training):
    """CLIP's image tower on the mined pairs (paper 3.2)."""

    init: Literal["base", "prompt"]
    """of models/; prompt: with its mask prompts fixed"""
    lr: Annotated[float, Field(gt=0)]


class Prompt(_Training):
    """Mask prompts (paper 3.3)."""

    init: Literal["base", "finetune"]
    """of models/"""
    lr: Annotated[float, Field(gt=0)]
    """of the prompts"""
    tower_lr: Annotated[float, Field(gt=0)] | None
    """of the image tower, to train both at once; null leaves it frozen"""
    depth: Count
    """layers that prompts go into"""


class Heldout(_Section):
    """Annotated masks that nothing is trained on: mask accuracy."""

    images: str
    annotations: str
    """COCO instances or panoptic JSON"""
    limit: Count | None
    """only the first that many images"""
    templates: Literal["none", "single", "vild"]


class Segment(_Section):
    """How an image is segmented; shared by calibrate, evaluate and the command line."""

    view: Literal["crop-and-mask", "crop", "mask"]
    """what CLIP sees of a proposal: ZegFormer's variants are the last two"""
    templates: Literal["none", "single", "vild"]
    synonyms: Literal["max", "joined"]
    """the best of a class's names, or all as one text"""
    weight_seen: Share | None
    """of CLIP for classes seen in training (SimBaseline, ZegFormer); null for the same as the others"""
    average_seen: bool
    """CLIP ranks unseen classes alone (ZegFormer)"""
    seen_penalty: Annotated[float, Field(ge=0, le=1)]
    """taken from the maps of seen classes (ZegFormer's gamma)"""
    precision: Literal["fp32", "bf16"]


class Calibrate(_Section):
    """Choosing the ensemble's weight and the mask threshold on a held-out split."""

    benchmark: str
    """folder of the held-out split in the benchmark layout"""
    limit: Count | None
    """only the first that many images"""
    weights: Annotated[list[Share], Field(min_length=1)]
    """of CLIP"""
    thresholds: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1)]
    metric: Literal["miou", "miou_gt"]


class Evaluate(_Section):
    """Benchmarks."""

    folder: str
    """of the benchmarks"""
    benchmarks: Annotated[list[str], Field(min_length=1)]
    """names of their folders in it"""
    models: Annotated[list[Literal["base", "finetune", "prompt"]], Field(min_length=1)]
    """the CLIPs that are compared; the last one is the result"""
    weight: Share | None
    """of CLIP in the ensemble; null for what calibrate chose for each model"""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] | None
    """null for what calibrate chose for each model"""
    limit: Count | None
    """only the first that many images of each"""
    missing: Literal["error", "allow"]
    """images or labels that cannot be read"""


class Report(_Section):
    """What is shown and measured."""

    annotations: str
    """masks with class names that pairs are measured against"""
    pairs: Count
    """how many pairs the browser shows"""
    benchmark: str
    """the one of evaluate.benchmarks that is shown class by class and in images"""
    images: Count
    """how many overlays"""


class Params(_Section):
    """The whole of params.yaml."""

    demo: Demo
    data: Data
    clip: Clip
    crop: Crop
    index: Index
    nouns: Nouns
    proposal_network: ProposalNetwork
    propose: Propose
    score: Score
    select: Select
    shards: Shards
    finetune: Finetune
    prompt: Prompt
    heldout: Heldout
    segment: Segment
    calibrate: Calibrate
    evaluate: Evaluate
    report: Report

    @model_validator(mode="after")
    def _no_circle(self) -> Params:
        if self.finetune.init == "prompt" and self.prompt.init == "finetune":
            raise ValueError(
                "finetune.init=prompt and prompt.init=finetune wait for each other; set one of them to base"
            )
        return self


def read_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        OvsegError: missing or broken file; or the keys that are wrong, each with its value and what is allowed.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Params.model_validate(values)
    except FileNotFoundError:
        raise OvsegError(f"{path.absolute()} does not exist; copy one of recipes/*.yaml there") from None
    except yaml.YAMLError as error:
        raise OvsegError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        raise OvsegError(f"{path}: " + "; ".join(dict.fromkeys(_say(e) for e in error.errors()))) from None


def _say(error: Any) -> str:
    """One of pydantic's findings in a sentence that names the key, its value and what is allowed."""
    key = ".".join(str(part) for part in error["loc"] if str(part) in _KEYS)
    if error["type"] == "extra_forbidden":
        section = str(error["loc"][0]) if len(error["loc"]) > 1 else None
        known = _fields(Params.model_fields[section].annotation) if section else list(Params.model_fields)
        return f"unknown key {'.'.join(map(str, error['loc']))!r}; known: {', '.join(known)}"
    if error["type"] == "missing":
        return f"{'.'.join(map(str, error['loc']))} is missing"
    if not key:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{key}={error['input']!r} is not allowed: {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields(section: Any) -> list[str]:
    return list(section.model_fields)


_KEYS = {name for section in Params.model_fields.values() for name in _fields(section.annotation)} | set(
    Params.model_fields
)
