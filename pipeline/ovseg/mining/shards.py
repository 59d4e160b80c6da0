"""Step `shards`: pairs as WebDataset tars of masked crops, the same bytes however often the run was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import webdataset as wds

from ovseg.core import crops, hashing, masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.files import write_json
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.samples import Sample, encode_sample, sample_key
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Task

SIZES, SUMS, NOUNS = "sizes.json", "SHA256SUMS", "nouns.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's; a loader of another CLIP fills again from the mask

Row = dict[str, Any]


def write_shards(
    index: Path,
    images: Path,
    proposals: Path,
    pairs: Path,
    out: Path,
    runtime: Runtime,
    *,
    samples_per_shard: int = 4096,
    min_shards: int = 16,
    background: crops.Fill = "mean",
    jpeg_quality: int = 95,
) -> dict[str, int]:
    """Write `NNNNN.tar`, beside each a table `samples` (failures too), and sizes.json, nouns.json, SHA256SUMS.

    Args:
        index, proposals, pairs: folders of those tables.
        images: folder that the index's files are in.
        out: folder of the shards.
        samples_per_shard: at most that many in one.
        min_shards: at least that many shards, as loaders need one for each worker of each rank; fewer only if there are
            fewer pairs.
        background: "mean" (of CLIP), "zero", or "keep" for unmasked crops.
        jpeg_quality: of the crops, 1 to 100.

    Returns:
        counts: samples, shards, and pairs dropped by reason.

    Raises:
        OvsegError: no pair could be written.
    """
    table = tables.read(pairs, "pairs", ["noun"])
    number = table.num_rows
    shards = min(number, max(min_shards, -(-number // samples_per_shard)))
    key = step_key(
        "shards",
        __name__,
        pairs=tables.fingerprint(pairs, "pairs"),
        proposals=tables.fingerprint(proposals, "proposals"),
        index=tables.fingerprint(index, "index"),
        shards=shards,
        background=background,
        quality=jpeg_quality,
        schema=tables.SCHEMA_VERSION,
    )
    noun_ids = {noun: i for i, noun in enumerate(sorted(pc.unique(table["noun"]).to_pylist()))}
    units = [f"{i:05d}" for i in range(shards)]
    opener = partial(
        _task, index, images, proposals, pairs, key.fingerprint, shards, noun_ids, background, jpeg_quality
    )
    return run_step(key, units, opener, out, runtime, finish=partial(_finish, noun_ids))


def bounds(number: int, shards: int, shard: int) -> tuple[int, int]:
    """First pair of a shard and of the next: `number` pairs in runs whose lengths differ by one at most."""
    return number * shard // shards, number * (shard + 1) // shards


def _task(
    index: Path,
    images: Path,
    proposals: Path,
    pairs: Path,
    key: str,
    shards: int,
    noun_ids: dict[str, int],
    background: crops.Fill,
    jpeg_quality: int,
    _device: str,
) -> Task:
    colour = crops.fill_colour(background, CLIP_MEAN)
    licence = tables.licence(proposals, "proposals")
    carried = {tables.LICENCE: licence} if licence else {}

    def task(unit: str, folder: Path) -> Counts:
        table = tables.read(pairs, "pairs")
        start, stop = bounds(table.num_rows, shards, int(unit))
        counts: Counter[str] = Counter(samples=0)
        rows = []
        with (folder / f"{unit}.tar").open("wb") as stream, wds.TarWriter(stream, mtime=0) as tar:
            for pair, result in _samples(
                table.slice(start, stop - start).to_pylist(), index, images, proposals, noun_ids, colour
            ):
                problem = result if isinstance(result, BadItem) else None
                if isinstance(result, Sample):
                    tar.write(encode_sample(result, jpeg_quality))
                counts["samples" if problem is None else f"dropped.{problem.reason}"] += 1
                status, detail = ("ok", None) if problem is None else (problem.reason, problem.detail)
                rows.append({**pair, "key": sample_key(pair["pair"]), "status": status, "detail": detail})
        if not counts["samples"]:
            (folder / f"{unit}.tar").unlink()  # an empty tar is an error to every reader
        tables.write_part(folder / f"{unit}.parquet", "samples", rows, key, carried)
        return counts

    return task


def _samples(
    pairs: list[Row], index: Path, images: Path, proposals: Path, noun_ids: dict[str, int], colour: ImageArray | None
) -> Iterator[tuple[Row, Sample | BadItem]]:
    """Each pair with its sample, or why there is none; an image is decoded once for all of its pairs."""
    for part, group in groupby(pairs, key=lambda pair: int(pair["part"])):
        mine = list(group)
        wanted = pc.field("image_id").isin(sorted({pair["image_id"] for pair in mine}))
        path = index / f"{part:05d}.parquet"
        found = {image.image_id: image for image in read_image_records(path, images)}
        captions = {
            (row["image_id"], caption["id"]): caption["text"]
            for row in tables.read_part(path, "index", ["image_id", "captions"]).filter(wanted).to_pylist()
            for caption in row["captions"]
        }
        table = tables.read_part(proposals / f"{part:05d}.parquet", "proposals").filter(wanted)
        regions = {(row["image_id"], row["proposal"]): row for row in table.to_pylist()}
        for image_id, same in groupby(mine, key=lambda pair: int(pair["image_id"])):
            image = found.pop(image_id)  # with its pixels, it goes out of memory after the group
            for pair in same:
                caption = captions.get((image_id, pair["caption_id"]))
                region = regions[image_id, pair["proposal"]]
                yield pair, _sample(pair, image, region, caption, noun_ids[pair["noun"]], colour)


def _sample(
    pair: Row, image: ImageRecord, region: Row, caption: str | None, noun_id: int, colour: ImageArray | None
) -> Sample | BadItem:
    try:
        pixels = image.pixels
        mask = masks.decode(region["rle"], region["height"], region["width"])
        crop, inside = crops.crop_to_box(pixels, mask, tuple(region["box"]))
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
        "box": region["box"],
        "area": region["area"],
        "proposal": pair["proposal"],
        "source": pair["source"],
        "similarity": pair["similarity"],
        "margin": pair["margin"],
    }
    return Sample(sample_key(pair["pair"]), crops.fill_background(crop, inside, colour), inside, pair["noun"], record)


def _finish(noun_ids: dict[str, int], folder: Path) -> None:
    """Number the shards without gaps, and write what readers need to know of all of them."""
    sizes: dict[str, int] = {}
    sums: list[str] = []
    for part in tables.parts(folder):
        good = pc.sum(pc.equal(tables.read_part(part, "samples", ["status"])["status"], "ok")).as_py()
        if not good:  # all of its samples failed: there is no tar, and the table moves to the failures
            (folder / "failures").mkdir(exist_ok=True)
            part.rename(folder / "failures" / part.name)
            continue
        tar = part.with_suffix(".tar").rename(folder / f"{len(sizes):05d}.tar")
        part.rename(tar.with_suffix(".parquet"))
        sizes[tar.name] = good
        sums.append(f"{hashing.sha256_file(tar)}  {tar.name}\n")
    if not sizes:
        raise OvsegError("not one pair could be written as a sample; the reasons are in the *.parquet files")
    write_json(folder / SIZES, sizes)
    write_json(folder / NOUNS, noun_ids)
    (folder / SUMS).write_text("".join(sums), encoding="utf-8")
