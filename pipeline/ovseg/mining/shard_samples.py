"""The samples of a shard: the masked crop of each pair."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ovseg.core import crops, masks, tables
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.samples import Sample, sample_key

Row = dict[str, Any]


def samples_of_pairs(
    pairs: list[Row], index: Path, images: Path, proposals: Path, noun_ids: Mapping[str, int], color: ImageArray | None
) -> Iterator[tuple[Row, Sample | BadItem]]:
    """Iterate over pairs, each with its sample, or with the reason why there is none.

    Args:
        pairs: rows of the table `pairs`, in its order: an image is decoded once for all of its pairs.
        index, proposals: the folders of the tables of these names.
        images: the folder that the files of the index are relative to.
        noun_ids: the number of each noun.
        color: the background, uint8 `[3]`; None to keep the image's own.
    """
    for part, group in groupby(pairs, key=lambda pair: int(pair["part"])):
        pairs_of_part = list(group)
        image_ids = pc.field("image_id").isin(sorted({pair["image_id"] for pair in pairs_of_part}))
        path = index / f"{part:05d}.parquet"
        records = {image.image_id: image for image in read_image_records(path, images)}
        captions = {
            (row["image_id"], caption["id"]): caption["text"]
            for row in tables.read_part(path, "index", ["image_id", "captions"]).filter(image_ids).to_pylist()
            for caption in row["captions"]
        }
        table = tables.read_part(proposals / f"{part:05d}.parquet", "proposals").filter(image_ids)
        proposal_rows = {(row["image_id"], row["proposal"]): row for row in table.to_pylist()}
        for image_id, pairs_of_image in groupby(pairs_of_part, key=lambda pair: int(pair["image_id"])):
            image = records.pop(image_id)  # so that its pixels leave the memory after its pairs
            for pair in pairs_of_image:
                caption = captions.get((image_id, pair["caption_id"]))
                proposal = proposal_rows[image_id, pair["proposal"]]
                yield pair, _sample(pair, image, proposal, caption, noun_ids[pair["noun"]], color)


def _sample(
    pair: Row, image: ImageRecord, proposal: Row, caption: str | None, noun_id: int, color: ImageArray | None
) -> Sample | BadItem:
    try:
        pixels = image.pixels
        mask = masks.decode(proposal["rle"], proposal["height"], proposal["width"])
        crop, crop_mask = crops.crop_to_box(pixels, mask, tuple(proposal["box"]))
    except BadItem as problem:
        return problem
    record = {
        "noun": pair["noun"],
        "noun_id": noun_id,
        "caption": caption,
        "caption_id": pair["caption_id"],
        "start": pair["start"],
        "end": pair["end"],
        "image_id": pair["image_id"],
        "box": proposal["box"],
        "area": proposal["area"],
        "proposal": pair["proposal"],
        "source": pair["source"],
        "similarity": pair["similarity"],
        "margin": pair["margin"],
    }
    crop = crops.fill_background(crop, crop_mask, color)
    return Sample(sample_key(pair["pair"]), crop, crop_mask, pair["noun"], record)
