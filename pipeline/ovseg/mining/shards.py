"""Step `shards`: writes pairs as WebDataset tars of masked crops, the same bytes however often the run was killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from ovseg.core import hashing, tables
from ovseg.core.errors import OvsegError
from ovseg.core.files import write_json
from ovseg.core.options import ShardsOptions
from ovseg.core.samples import Sample, encode_sample, sample_key
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task

SIZES, SUMS, NOUNS = "sizes.json", "SHA256SUMS", "nouns.json"
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)  # OpenAI's CLIP; loaders fill again with the mean of their model
TOTALS = (Total("samples"),)


def write_shards(
    index: Path, images: Path, proposals: Path, pairs: Path, out: Path, runtime: Runtime, options: ShardsOptions
) -> dict[str, int]:
    """Write `NNNNN.tar` with a table `samples` (dropped pairs too) beside each, and sizes.json, nouns.json, SHA256SUMS.

    Args:
        index, proposals, pairs: folders of the tables of these names.
        images: folder that the files of the index are relative to.
        out: folder of the shards.
        runtime: workers, scratch folder.
        options: parameters of the step.

    Returns:
        counts: samples, and dropped pairs by reason.

    Raises:
        OvsegError: not one pair could be written.
    """
    table = tables.read(pairs, "pairs", ["noun"])
    num_pairs = table.num_rows
    num_shards = min(num_pairs, max(options.min_shards, -(-num_pairs // options.samples_per_shard)))
    key = step_key(
        "shards",
        __name__,
        pairs=tables.fingerprint(pairs, "pairs"),
        proposals=tables.fingerprint(proposals, "proposals"),
        index=tables.fingerprint(index, "index"),
        num_shards=num_shards,
        options=options.model_dump(include={"background", "jpeg_quality"}),
        schema=tables.SCHEMA_VERSION,
    )
    noun_ids = {noun: i for i, noun in enumerate(sorted(pc.unique(table["noun"]).to_pylist()))}
    units = [f"{i:05d}" for i in range(num_shards)]
    factory = _ShardsTaskFactory(index, images, proposals, pairs, key.fingerprint, num_shards, noun_ids, options)
    return run_step(key, units, factory, out, runtime, finish=lambda folder: _finish(folder, noun_ids), totals=TOTALS)


def bounds(num_pairs: int, num_shards: int, shard: int) -> tuple[int, int]:
    """Return the first pair of a shard and of the next one; the lengths of shards differ by one at most."""
    return num_pairs * shard // num_shards, num_pairs * (shard + 1) // num_shards


@dataclass(frozen=True)
class _ShardsTaskFactory:
    index: Path
    images: Path
    proposals: Path
    pairs: Path
    fingerprint: str
    num_shards: int
    noun_ids: Mapping[str, int]
    options: ShardsOptions

    def __call__(self, device: str) -> Task:  # noqa: ARG002 - the step runs no model
        # Only here, because the process that starts the workers needs no torch, which these import.
        import webdataset as wds

        from ovseg.core.crops import fill_color
        from ovseg.mining.shard_samples import samples_of_pairs

        color = fill_color(self.options.background, CLIP_MEAN)
        licence = tables.licence(self.proposals, "proposals")
        metadata = {tables.BACKGROUND: self.options.background, **({tables.LICENCE: licence} if licence else {})}

        def task(unit: str, folder: Path) -> Counts:
            table = tables.read(self.pairs, "pairs")
            start, stop = bounds(table.num_rows, self.num_shards, int(unit))
            pairs = table.slice(start, stop - start).to_pylist()
            counts: Counter[str] = Counter(samples=0)
            rows = []
            with (folder / f"{unit}.tar").open("wb") as stream, wds.TarWriter(stream, mtime=0) as tar:
                samples = samples_of_pairs(pairs, self.index, self.images, self.proposals, self.noun_ids, color)
                for pair, result in samples:
                    status, detail = "ok", None
                    if isinstance(result, Sample):
                        tar.write(encode_sample(result, self.options.jpeg_quality))
                        counts["samples"] += 1
                    else:
                        status, detail = result.reason, result.detail
                        counts[f"dropped.{status}"] += 1
                    rows.append({**pair, "key": sample_key(pair["pair"]), "status": status, "detail": detail})
            if not counts["samples"]:
                (folder / f"{unit}.tar").unlink()  # readers of tars refuse an empty one
            tables.write_part(folder / f"{unit}.parquet", "samples", rows, self.fingerprint, metadata)
            return counts

        return task


def _finish(folder: Path, noun_ids: Mapping[str, int]) -> None:
    """Number the shards without gaps, and write the files about all of them."""
    sizes: dict[str, int] = {}
    checksums: list[str] = []
    for part in tables.parts(folder):
        size = pc.sum(pc.equal(tables.read_part(part, "samples", ["status"])["status"], "ok")).as_py()
        if not size:  # all of its pairs were dropped: there is no tar, and the table moves to the failures
            (folder / "failures").mkdir(exist_ok=True)
            part.rename(folder / "failures" / part.name)
            continue
        tar = part.with_suffix(".tar").rename(folder / f"{len(sizes):05d}.tar")
        part.rename(tar.with_suffix(".parquet"))
        sizes[tar.name] = size
        checksums.append(f"{hashing.sha256_file(tar)}  {tar.name}\n")
    if not sizes:
        raise OvsegError(f"not one pair could be written as a sample; the tables in {folder / 'failures'} say why")
    write_json(folder / SIZES, sizes)
    write_json(folder / NOUNS, dict(noun_ids))
    (folder / SUMS).write_text("".join(checksums), encoding="utf-8")
