"""A typed, strict view of params.yaml: an unknown key, a wrong type or a value out of range is an error that names it.

One section for each stage, with the stage's name, and three that stages share: `demo`, `clip` and `crop`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ovseg.errors import OvsegError

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


class Clip(_Section):
    """The base CLIP, copied into models/base."""

    model: str
    """a name of open_clip, local-dir:FOLDER or hf-hub:OWNER/NAME"""
    pretrained: str | None
    """for a name: a tag of open_clip, a weights file, or "random" """


class Crop(_Section):
    """THE crop recipe, shared by mining, training and inference."""

    fill: Literal["mean", "zero", "keep"]
    """background: CLIP's mean colour, black, or left as it is"""
    antialias: bool
    """false is the reference's bicubic"""


class Index(_Section):
    """What is mined."""

    images: str
    """folder of the pictures, or of WebDataset shards"""
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


class Propose(_Section):
    """Which masks of a picture."""

    source: Literal["ground_truth", "precomputed", "maskformer"]
    path: str
    """masks of ground_truth and precomputed"""
    model: str | None
    """checkpoint of maskformer: a folder, or a name on the Hub"""
    annotations: str
    """annotated masks with class names, for select.annotated_share"""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)]
    """soft masks are cut here"""
    max_proposals: Count
    """per image, best first"""


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
    annotated_share: Share
    """of annotated masks among all pairs"""
    seed: Annotated[int, Field(ge=0)]


class Shards(_Section):
    """How pairs are stored."""

    samples_per_shard: Count
    min_shards: Count
    background: Literal["mean", "zero", "keep"]
    jpeg_quality: Annotated[int, Field(ge=1, le=100)]


class Report(_Section):
    """What is shown and measured."""

    truth: str
    """masks with class names that pairs are measured against"""
    pairs: Count
    """how many pairs the browser shows"""


class Params(_Section):
    """The whole of params.yaml."""

    demo: Demo
    clip: Clip
    crop: Crop
    index: Index
    nouns: Nouns
    propose: Propose
    score: Score
    select: Select
    shards: Shards
    report: Report


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
    return f"{key}={error['input']!r} is not allowed: {error['msg'][0].lower()}{error['msg'][1:]}"


def _fields(section: Any) -> list[str]:
    return list(section.model_fields)


_KEYS = {name for section in Params.model_fields.values() for name in _fields(section.annotation)} | set(
    Params.model_fields
)
