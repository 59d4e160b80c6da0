"""The sample contract: how one mask-noun pair is stored in a shard. Only this module writes and reads samples.

A key consists of zero-padded digits without dots and is unique in the whole set of shards. The members of a sample are

    {key}.jpg       the masked crop at full size (background filled; `shards.background: keep` stores it unmasked)
    {key}.mask.png  its mask. It is always stored, because JPEG changes colors and a mask cannot be recovered from the fill
                    color; loaders fill the background again from this mask
    {key}.txt       the text
    {key}.json      noun, noun_id, caption and its span, image id, box, area, proposal and source, similarity, margin
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import ImageArray, decode_image
from ovseg.core.masks import MaskArray
from ovseg.core.options import Fill
from ovseg.core.remote_files import local_copy

KEY_DIGITS = 9
MEMBERS = ("jpg", "mask.png", "txt", "json")


@dataclass(frozen=True)
class Sample:
    """One mask-noun pair.

    Attributes:
        key: key of the sample, see `sample_key`.
        crop: uint8 RGB `[h, w, 3]`.
        mask: bool `[h, w]`, True is foreground.
        text: text that the crop is paired with.
        record: contents of the JSON member.
    """

    key: str
    crop: ImageArray
    mask: MaskArray
    text: str
    record: dict[str, Any]


def check_fill(shards: Path, fill: Fill) -> None:
    """Check that crops can have a background: one that was filled when the shards were written cannot be shown again.

    Args:
        shards: the folder of the shards and their tables.
        fill: the background, see `crops.fill_color`.

    Raises:
        OvsegError: `fill` is "keep", and the shards hold filled crops.
    """
    tables_ = sorted(shards.glob("*.parquet"))[:1] if fill == "keep" else []
    for table in tables_:
        background = tables.check_part(table, "samples").get(tables.BACKGROUND, fill)
        if background != fill:
            raise OvsegError(
                f"the crops in {shards} were written with shards.background={background}, so that their own background cannot "
                "be kept (fill=keep); write them again with shards.background=keep, or take another fill"
            )


def sample_key(pair: int) -> str:
    """Return the key of the pair with the number `pair`."""
    return f"{pair:0{KEY_DIGITS}d}"


def encode_sample(sample: Sample, jpeg_quality: int) -> dict[str, Any]:
    """Encode a sample as the members that `webdataset.TarWriter` expects; equal samples give equal bytes.

    Args:
        sample: the sample.
        jpeg_quality: quality of the crop's JPEG, 1 to 100.
    """
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(sample.crop).save(jpeg, "JPEG", quality=jpeg_quality, subsampling=0)
    Image.fromarray(sample.mask).save(png, "PNG")
    record = json.dumps(sample.record, sort_keys=True, ensure_ascii=False).encode()
    members = (jpeg.getvalue(), png.getvalue(), sample.text.encode(), record)
    return {"__key__": sample.key, **dict(zip(MEMBERS, members, strict=True))}


def raw_samples(path: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the samples of one shard, as `decode_sample` takes them."""
    import webdataset as wds

    with local_copy(path) as file:
        yield from wds.WebDataset(str(file), shardshuffle=False, empty_check=False)


def decode_sample(raw: dict[str, Any]) -> Sample:
    """Decode the members of a sample.

    Args:
        raw: "__key__" and the bytes of each member by its extension, as webdataset reads them.

    Raises:
        BadItem: `no_<member>` if a member is missing (shards of other tools have no mask); `mask_size` if crop and mask
            differ in size; `json_malformed` or `text_malformed`; or what `decode_image` raises.
    """
    for member in MEMBERS:
        if member not in raw:
            raise BadItem(f"no_{member.replace('.', '_')}", f"sample {raw.get('__key__')} has no member {member!r}")
    crop, mask = decode_image(raw["jpg"]), decode_image(raw["mask.png"])[..., 0] > 0
    if crop.shape[:2] != mask.shape:
        raise BadItem("mask_size", f"sample {raw['__key__']}: the crop is {crop.shape[:2]}, the mask {mask.shape}")
    try:
        record = dict(json.loads(raw["json"]))
    except (ValueError, TypeError) as error:
        raise BadItem("json_malformed", f"sample {raw['__key__']}: {error}") from None
    try:
        text = raw["txt"].decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadItem("text_malformed", f"sample {raw['__key__']}: {error}") from None
    return Sample(raw["__key__"], crop, np.asarray(mask), text, record)
