"""The sample contract: what one mask-noun pair is in a shard, written and read here and nowhere else.

Key = zero-padded digits, no dots, unique over the whole set. Members:
    {key}.jpg       the masked crop at full size (background filled; `shards.background: keep` stores it unmasked)
    {key}.mask.png  its mask, always: it is never recovered from a colour (JPEG moves colours), and loaders fill the
                    background from it again
    {key}.txt       the text
    {key}.json      noun, noun_id, caption and its span, image id, box, area, proposal and source, similarity, margin
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ovseg.core.errors import BadItem
from ovseg.core.images import ImageArray, decode_image
from ovseg.core.masks import MaskArray

KEY_DIGITS = 9
MEMBERS = ("jpg", "mask.png", "txt", "json")


@dataclass(frozen=True)
class Sample:
    """One mask-noun pair.

    Attributes:
        key: of the sample.
        crop: uint8 `[h, w, 3]`.
        mask: bool `[h, w]`, True is foreground.
        text: what the crop is paired with.
        record: the rest, as in the JSON member.
    """

    key: str
    crop: ImageArray
    mask: MaskArray
    text: str
    record: dict[str, Any]


def key_of(pair: int) -> str:
    """The key of the pair with that number."""
    return f"{pair:0{KEY_DIGITS}d}"


def encode_sample(sample: Sample, jpeg_quality: int) -> dict[str, Any]:
    """The members of a sample, as `webdataset.TarWriter` takes them; the same sample gives the same bytes."""
    jpg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(sample.crop).save(jpg, "JPEG", quality=jpeg_quality, subsampling=0)
    Image.fromarray(sample.mask).save(png, "PNG")
    record = json.dumps(sample.record, sort_keys=True, ensure_ascii=False).encode()
    members = (jpg.getvalue(), png.getvalue(), sample.text.encode(), record)
    return {"__key__": sample.key, **dict(zip(MEMBERS, members, strict=True))}


def decode_sample(raw: dict[str, Any]) -> Sample:
    """The sample of raw members.

    Raises:
        BadItem: `no_<member>` for a missing one (shards of another tool have no mask), or why one cannot be read.
    """
    for member in MEMBERS:
        if member not in raw:
            raise BadItem(f"no_{member.replace('.', '_')}", f"sample {raw.get('__key__')} has no member {member!r}")
    crop, inside = decode_image(raw["jpg"]), decode_image(raw["mask.png"])[..., 0] > 0
    if crop.shape[:2] != inside.shape:
        raise BadItem("mask_size", f"sample {raw['__key__']}: crop {crop.shape[:2]}, mask {inside.shape}")
    try:
        record = dict(json.loads(raw["json"]))
    except (ValueError, TypeError) as error:
        raise BadItem("json_malformed", f"sample {raw['__key__']}: {error}") from None
    try:
        text = raw["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadItem("text_malformed", f"sample {raw['__key__']}: {error}") from None
    return Sample(raw["__key__"], crop, np.asarray(inside), text, record)
