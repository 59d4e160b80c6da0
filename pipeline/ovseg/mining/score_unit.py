"""Scoring one unit: images are decoded and cropped in threads while CLIP encodes, a batch holding the crops of several images.

Shapes: Q proposals of an image, k of them no duplicates, D width of CLIP's joint embedding, S side of its input.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ovseg.clip.load import Clip
from ovseg.clip.passes import whole_passes
from ovseg.clip.regions import encode_in_one_pass, masks_on_grid, whole_image
from ovseg.core import crops, masks, tables
from ovseg.core.errors import BadItem
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.engine.units import Counts, Task
from ovseg.mining.batches import encode_in_batches, map_ahead
from ovseg.mining.matching import Match, originals_of, rank
from ovseg.mining.region_vectors import UnitVectors
from ovseg.mining.regions import RegionCollector, write_regions
from ovseg.mining.scorer import load_scorer
from ovseg.mining.texts import read_texts

Row = dict[str, Any]


class _Job(NamedTuple):
    """An image to score: its nouns and its unlabeled proposals, rows of these tables."""

    image: ImageRecord
    nouns: list[Row]
    proposals: list[Row]


class _Prepared(NamedTuple):
    """A job that is ready to be encoded.

    Attributes:
        job: the job.
        originals: for each proposal the position of the one that stands for it, see `originals_of`.
        images: the crops of the k proposals that are no duplicates, uint8 `[k, 3, S, S]`, with a fourth channel, their masks,
            if the CLIP has mask prompts; for an encoder of one pass the whole image, `[3, S, S]`.
        masks: for an encoder of one pass the k masks on its grid, float32 `[k, g, g]`; empty for crops.
        vectors: the embeddings of the k proposals, float32 `[k, D]`, if they were kept; then there is nothing to encode.
    """

    job: _Job
    originals: list[int]
    images: Tensor
    masks: Tensor
    vectors: Tensor | None = None


@dataclass(frozen=True)
class ScoreTaskFactory:
    """Makes the task that scores a unit.

    Attributes:
        texts_folder: the folder that `encode_nouns` wrote.
        fingerprint: the fingerprint of the step.
        metadata: the models, for the metadata of the table's files.
        vectors: the folder of kept embeddings of all proposals; None keeps none.
        others: see `score_nouns` and `Runtime`.
    """

    index: Path
    images: Path
    nouns: Path
    proposals: Path
    texts_folder: Path
    fingerprint: str
    clip: ClipOptions
    options: ScoreOptions
    crop: CropOptions
    workers: int
    batch_size: int
    metadata: Mapping[str, str]
    vectors: Path | None = None

    def __call__(self, device: str) -> Task:
        """Load the models and start the threads."""
        clip = load_scorer(self.clip, self.options, device)
        return _Scorer(self, clip, read_texts(self.texts_folder), crops.crop_threads(self.workers)).score_unit


@dataclass(frozen=True)
class _Scorer:
    config: ScoreTaskFactory
    clip: Clip
    embeddings: Mapping[str, Tensor]
    pool: ThreadPoolExecutor

    def score_unit(self, unit: str, folder: Path) -> Counts:
        rows: list[Row] = []
        kept = RegionCollector(self.clip.width)
        failures: list[Row] = []
        counts: Counter[str] = Counter(images=0, nouns=0, crops=0)
        in_flight = deque[tuple[_Job, list[int], Tensor | None]]()
        jobs = self._jobs(unit, counts, failures)
        vectors = UnitVectors(self.config.vectors, self.clip.mean.device.type, unit)
        for encoded in self._encode(self._prepared(jobs, vectors, in_flight, counts, failures)):
            job, originals, stored = in_flight.popleft()
            position = {original: i for i, original in enumerate(sorted(set(originals)))}
            if stored is None:
                vectors.add(_keys(job, position), encoded)
            embeddings = encoded if stored is None else stored
            region_embeddings = embeddings[[position[original] for original in originals]]
            noun_embeddings = torch.stack([self.embeddings[noun["noun"]] for noun in job.nouns])
            ranked = rank(noun_embeddings, region_embeddings, self.config.options.top_k)
            for noun, matches in zip(job.nouns, ranked, strict=True):
                rows += [_row(noun, i, match, job.proposals[match.position]) for i, match in enumerate(matches)]
            candidates = {match.position for matches in ranked for match in matches}
            all_kept = self.config.options.keep_regions == "all"
            kept_positions = list(range(len(originals))) if all_kept else sorted(candidates)
            kept.add(_keys(job, kept_positions), region_embeddings[kept_positions].numpy())
            counts.update(images=1, nouns=len(job.nouns), crops=len(position))
        tables.write_part(folder / f"{unit}.parquet", "candidates", rows, self.config.fingerprint, self.config.metadata)
        if self.config.options.keep_regions != "none":
            write_regions(folder, unit, kept.regions(), self.config.fingerprint, self.config.metadata)
        write_failures(folder, unit, failures, self.config.fingerprint)
        vectors.write()
        return counts

    def _jobs(self, unit: str, counts: Counter[str], failures: list[Row]) -> Iterator[_Job]:
        """The images of a unit that have both nouns and unlabeled proposals; nouns without proposals are counted."""
        nouns = rows_by_image(self.config.nouns / f"{unit}.parquet", "nouns")
        proposals = rows_by_image(self.config.proposals / f"{unit}.parquet", "proposals")
        for image in read_image_records(self.config.index / f"{unit}.parquet", self.config.images):
            # Annotated masks, which have a label, share the table and are used only by `select`.
            unlabeled = [row for row in proposals.get(image.image_id, []) if row["label"] is None]
            job = _Job(image, nouns.get(image.image_id, []), unlabeled)
            if job.nouns and not job.proposals:
                _drop(job, BadItem("no_proposals", "the image has no usable mask"), counts, failures)
            elif job.nouns:
                yield job

    def _encode(self, prepared: Iterator[_Prepared]) -> Iterator[Tensor]:
        """The embeddings `[k, D]` of the regions of each job, crops in batches over several images."""
        if self.clip.regions.encoder == "crops":
            batch_size = whole_passes(self.config.batch_size, self.clip.mean.device)
            yield from encode_in_batches(self._encode_crops, (job.images for job in prepared), batch_size)
        else:
            yield from (encode_in_one_pass(self.clip, job.images, job.masks) for job in prepared)

    def _encode_crops(self, crops_: Tensor) -> Tensor:
        return self.clip.encode_crops(crops_[:, :3], crops_[:, 3].bool() if crops_.shape[1] > 3 else None)

    def _prepared(
        self,
        jobs: Iterator[_Job],
        vectors: UnitVectors,
        in_flight: deque[tuple[_Job, list[int], Tensor | None]],
        counts: Counter[str],
        failures: list[Row],
    ) -> Iterator[_Prepared]:
        """What is encoded of each job, made ahead in threads; the jobs and their duplicates are queued in `in_flight`."""
        color = crops.fill_color(self.config.crop.fill, self.clip.mean.tolist())
        prepare = partial(self._prepare, vectors=vectors, color=color)
        for result in map_ahead(self.pool, prepare, jobs, min(crops.MAX_THREADS, self.config.workers) + 2):
            if isinstance(result, _Prepared):
                in_flight.append((result.job, result.originals, result.vectors))
                yield result
            else:
                _drop(*result, counts, failures)

    def _prepare(self, job: _Job, vectors: UnitVectors, color: ImageArray | None) -> _Prepared | tuple[_Job, BadItem]:
        size = job.image.height, job.image.width
        originals = originals_of([row["rle"] for row in job.proposals], *size, self.config.options.duplicate_iou)
        stored = vectors.of(_keys(job, sorted(set(originals))))
        if stored is not None:
            channels = 3 if self.clip.prompts is None else 4
            nothing = torch.zeros(0, channels, self.clip.size, self.clip.size, dtype=torch.uint8)
            return _Prepared(job, originals, nothing, torch.zeros(0), stored)
        try:
            pixels = job.image.pixels
        except BadItem as problem:
            return job, problem
        distinct = [row for i, row in enumerate(job.proposals) if originals[i] == i]
        decoded = (masks.decode(row["rle"], *size) for row in distinct)
        if self.clip.regions.encoder != "crops":
            return _Prepared(job, originals, whole_image(self.clip, pixels), masks_on_grid(self.clip, decoded))
        antialias = self.config.crop.antialias
        region_crops = [
            self._with_mask(*crops.crop_region(pixels, mask, tuple(row["box"]), self.clip.size, color, antialias))
            for row, mask in zip(distinct, decoded, strict=True)
        ]
        return _Prepared(job, originals, torch.stack(region_crops), torch.zeros(0))

    def _with_mask(self, crop: Tensor, mask: Tensor) -> Tensor:
        """The crop `[3, S, S]`; with its mask as a fourth channel if the CLIP has mask prompts, which need it."""
        return crop if self.clip.prompts is None else torch.cat([crop, mask[None].to(crop.dtype)])


def rows_by_image(part: Path, name: str) -> dict[int, list[Row]]:
    """Read a part of the table called `name` as lists of rows by image id."""
    by_image: dict[int, list[Row]] = defaultdict(list)
    for row in tables.read_part(part, name).to_pylist():
        by_image[row["image_id"]].append(row)
    return by_image


def _keys(job: _Job, positions: Iterable[int]) -> list[tuple[int, int]]:
    """Image id and proposal of the proposals at some positions."""
    return [(job.image.image_id, job.proposals[position]["proposal"]) for position in positions]


def _row(noun: Row, rank_: int, match: Match, proposal: Row) -> Row:
    return {
        **noun,
        "rank": rank_,
        "proposal": proposal["proposal"],
        "similarity": match.similarity,
        "margin": match.margin,
        "p_proposal": match.p_proposal,
        "p_noun": match.p_noun,
        "area": proposal["area"],
        "source": proposal["source"],
    }


def _drop(job: _Job, problem: BadItem, counts: Counter[str], failures: list[Row]) -> None:
    counts[f"dropped.{problem.reason}"] += len(job.nouns)
    failures.extend(failure(job.image.image_id, noun["noun"], problem) for noun in job.nouns)
