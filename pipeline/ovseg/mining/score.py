"""Step `score`: the similarity of each noun to each proposal of its image, by CLIP on masked crops (paper 3.2) or in one pass.

An adapted CLIP scores with its prompts and its region encoder, so that pairs can be mined again with what they taught it.

The paper pairs a noun with the proposal of the highest similarity. `select` uses only similarity and margin; the softmaxes
are stored for analysis. Images are decoded and cropped in threads while CLIP encodes, and a batch holds the crops of
several images.

Shapes: N nouns and Q proposals of an image, D width of CLIP's joint embedding, S side of its input.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from ovseg.clip.adapted import load_named, made_with
from ovseg.clip.load import Clip
from ovseg.clip.passes import whole_passes
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.clip.region_settings import CROPS, RegionSettings
from ovseg.clip.regions import encode_in_one_pass, masks_on_grid, whole_image, with_regions
from ovseg.core import crops, masks, tables
from ovseg.core.crops import crop_threads
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray
from ovseg.core.options import ClipOptions, CropOptions, ScoreOptions
from ovseg.core.vocabulary import LOGIT_SCALE, TEMPLATES
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Scratch, Task, reusable_counts, unit_names
from ovseg.mining.batches import encode_in_batches, map_ahead
from ovseg.mining.region_vectors import Vectors, read_vectors, vectors_folder, write_vectors
from ovseg.mining.regions import Regions, write_regions
from ovseg.mining.texts import encode_nouns, read_texts

DIGITS = 5  # decimals of a similarity: later ones differ between processors, and would decide ranks
TOTALS = (Total("nouns", "no_proposals", chosen=True), Total("nouns"))  # `propose` judges images without proposals

Row = dict[str, Any]


def score_nouns(
    index: Path,
    images: Path,
    nouns: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    clip: ClipOptions,
    options: ScoreOptions,
    crop: CropOptions,
) -> dict[str, int]:
    """Write the table `candidates`: for each noun the `top_k` proposals of its image that are most similar to it.

    The embeddings of the proposals that `options.keep_regions` names are written beside it, see `mining.regions`. With "all"
    they are kept in the scratch folder, too, and what is there is not encoded again, see `mining.region_vectors`.

    Args:
        index, nouns, proposals: folders of the tables of these names, whose parts correspond one to one: part i of each table
            covers the same images.
        images: folder that the files of the index are relative to.
        out: folder of the table `candidates`.
        runtime: devices, workers, batch size, scratch folder.
        clip: the CLIP that compares.
        options: parameters of the step.
        crop: the crop recipe: background fill and antialiasing, see `core.crops`.

    Returns:
        counts: images and nouns scored, crops encoded, and dropped nouns by reason.

    Raises:
        OvsegError: the CLIP cannot be loaded, or a table is missing.
    """
    model = weights_fingerprint(clip.model, clip.pretrained)
    key = step_key(
        "score",
        __name__,
        index=tables.fingerprint(index, "index"),
        nouns=tables.fingerprint(nouns, "nouns"),
        proposals=tables.fingerprint(proposals, "proposals"),
        clip=model,
        options=options.model_dump(),
        crop=crop.model_dump(),
        templates=TEMPLATES[options.templates],
        schema=tables.SCHEMA_VERSION,
    )
    scratch = Scratch(runtime.work, key, runtime.fresh)
    texts_folder = scratch.folder / "texts"  # kept inside this step's scratch folder: locked and deleted with it
    if runtime.fresh or reusable_counts(out, key, runtime) is None:
        encode_nouns(nouns, proposals, texts_folder, runtime, clip, options.templates, options.precision)
    factory = ScoreTaskFactory(
        index=index,
        images=images,
        nouns=nouns,
        proposals=proposals,
        texts_folder=texts_folder,
        fingerprint=key.fingerprint,
        clip=clip,
        options=options,
        crop=crop,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
        metadata={**made_with(clip.model, clip.pretrained), tables.MODEL: model},
        vectors=vectors_folder(runtime.work, __name__, index, proposals, model, options, crop)
        if options.keep_regions == "all"
        else None,
    )
    # run_step calls factory(device) once per process, then the task for each part.
    units = list(unit_names(index))
    return run_step(key, units, factory, out, runtime, uses_model=True, scratch=scratch, totals=TOTALS)


def load_scorer(clip: ClipOptions, options: ScoreOptions, device: str) -> Clip:
    """Load the CLIP that scores, with the region encoder that `options` name; without one, with its own.

    Raises:
        OvsegError: the CLIP cannot have that encoder, or is made for another one.
    """
    loaded = load_named(clip.model, clip.pretrained, device, options.precision)
    settings = RegionSettings(options.encoder, options.start_block, options.image_size, coverage=options.coverage)
    if settings == CROPS:
        return loaded
    if loaded.regions.encoder == "crops":
        return with_regions(loaded, settings, "score")
    own = asdict(loaded.regions)
    for field in fields(settings):
        asked = getattr(settings, field.name)
        if asked not in (own[field.name], field.default):
            raise OvsegError(
                f"score.{field.name}={asked}, but {clip.model} is made for {field.name}={own[field.name]}, and scores with "
                "that; leave encoder, start_block, coverage and image_size of score at their defaults, or take another CLIP"
            )
    return loaded


class Match(NamedTuple):
    """A noun and one of its proposals.

    Attributes:
        position: position of the proposal among the unlabeled ones of the image.
        similarity: cosine, in [-1, 1].
        margin: similarity minus that of the next best proposal; None for the last-ranked one. Duplicates count as separate
            proposals, so the margin between a mask and its duplicate is 0.
        p_proposal: softmax of the similarities over the image's proposals; like `p_noun` not calibrated for SigLIP, since
            the factor on similarities is 100 for every model.
        p_noun: softmax of the similarities over the image's nouns.
    """

    position: int
    similarity: float
    margin: float | None
    p_proposal: float
    p_noun: float


def rank(noun_embeddings: Tensor, region_embeddings: Tensor, top_k: int) -> list[list[Match]]:
    """Rank the proposals of an image for each of its nouns.

    Args:
        noun_embeddings: unit vectors of the nouns, float32 `[N, D]`.
        region_embeddings: unit vectors of the proposals, float32 `[Q, D]`; duplicates have a row each.
        top_k: how many matches to keep for a noun.

    Returns:
        for each noun its matches, best first. Equal similarities are in the order of the proposals.
    """
    similarity: NDArray[np.float64] = np.round((noun_embeddings @ region_embeddings.T).double().numpy(), DIGITS)
    p_proposal, p_noun = softmax(LOGIT_SCALE * similarity, axis=1), softmax(LOGIT_SCALE * similarity, axis=0)
    matches = []
    for n, row in enumerate(similarity):
        order = np.argsort(-row, kind="stable")
        margins = [*(row[order[:-1]] - row[order[1:]]).tolist(), None]
        matches.append(
            [
                Match(int(q), float(row[q]), margins[i], float(p_proposal[n, q]), float(p_noun[n, q]))
                for i, q in enumerate(order[:top_k])
            ]
        )
    return matches


def originals_of(rles: Sequence[bytes], height: int, width: int, duplicate_iou: float) -> list[int]:
    """Find for each mask of an image the earlier mask that it duplicates.

    Args:
        rles: compressed RLE of the masks.
        height, width: size of the image in pixels.
        duplicate_iou: a mask is a duplicate of an earlier one if their IoU is above it, in (0, 1]; 1 finds none.

    Returns:
        for each mask the position of the mask whose embedding stands for it; its own if it is no duplicate. The table
        `candidates` still lists both, as separate proposals.
    """
    if duplicate_iou >= 1:
        return list(range(len(rles)))
    iou = masks.iou_matrix(rles, height, width)
    originals: list[int] = []
    for i in range(len(rles)):
        originals.append(next((j for j in range(i) if originals[j] == j and iou[i, j] > duplicate_iou), i))
    return originals


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


class _KeptRegions:
    """Collects embeddings of a unit's proposals for the table `regions`."""

    def __init__(self, width: int) -> None:
        self.image_ids: list[int] = []
        self.proposals: list[int] = []
        self.vectors = [np.zeros((0, width), np.float16)]

    def add(self, job: _Job, positions: Sequence[int], region_embeddings: Tensor) -> None:
        self.image_ids += [job.image.image_id] * len(positions)
        self.proposals += [job.proposals[position]["proposal"] for position in positions]
        self.vectors.append(region_embeddings[positions].numpy().astype(np.float16))

    def regions(self) -> Regions:
        vectors = np.concatenate(self.vectors)
        return Regions(np.array(self.image_ids, np.int64), np.array(self.proposals, np.int32), vectors)


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
        return _Scorer(self, clip, read_texts(self.texts_folder), crop_threads(self.workers)).score_unit


@dataclass(frozen=True)
class _Scorer:
    config: ScoreTaskFactory
    clip: Clip
    embeddings: Mapping[str, Tensor]
    pool: ThreadPoolExecutor

    def score_unit(self, unit: str, folder: Path) -> Counts:
        rows: list[Row] = []
        kept = _KeptRegions(self.clip.width)
        failures: list[Row] = []
        counts: Counter[str] = Counter(images=0, nouns=0, crops=0)
        in_flight = deque[tuple[_Job, list[int], Tensor | None]]()
        jobs = self._jobs(unit, counts, failures)
        file = self.config.vectors and self.config.vectors / self.clip.mean.device.type / f"{unit}.safetensors"
        stored: Vectors = read_vectors(file) if file else {}
        new: dict[tuple[int, int], Tensor] = {}
        for encoded in self._encode(self._prepared(jobs, stored, in_flight, counts, failures)):
            job, originals, vectors = in_flight.popleft()
            embeddings = encoded if vectors is None else vectors
            position = {original: i for i, original in enumerate(sorted(set(originals)))}
            region_embeddings = embeddings[[position[original] for original in originals]]
            if file and vectors is None:
                new |= dict(zip(_keys(job, position), embeddings, strict=True))
            noun_embeddings = torch.stack([self.embeddings[noun["noun"]] for noun in job.nouns])
            ranked = rank(noun_embeddings, region_embeddings, self.config.options.top_k)
            for noun, matches in zip(job.nouns, ranked, strict=True):
                rows += [_row(noun, i, match, job.proposals[match.position]) for i, match in enumerate(matches)]
            candidates = {match.position for matches in ranked for match in matches}
            kept.add(job, range(len(originals)) if file else sorted(candidates), region_embeddings)
            counts.update(images=1, nouns=len(job.nouns), crops=len(position))
        tables.write_part(folder / f"{unit}.parquet", "candidates", rows, self.config.fingerprint, self.config.metadata)
        if self.config.options.keep_regions != "none":
            write_regions(folder, unit, kept.regions(), self.config.fingerprint, self.config.metadata)
        write_failures(folder, unit, failures, self.config.fingerprint)
        if file and new:
            write_vectors(file, {**stored, **new})
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
        stored: Vectors,
        in_flight: deque[tuple[_Job, list[int], Tensor | None]],
        counts: Counter[str],
        failures: list[Row],
    ) -> Iterator[_Prepared]:
        """What is encoded of each job, made ahead in threads; the jobs and their duplicates are queued in `in_flight`."""
        color = crops.fill_color(self.config.crop.fill, self.clip.mean.tolist())
        prepare = partial(self._prepare, stored=stored, color=color)
        for result in map_ahead(self.pool, prepare, jobs, self.config.workers + 2):
            if isinstance(result, _Prepared):
                in_flight.append((result.job, result.originals, result.vectors))
                yield result
            else:
                _drop(*result, counts, failures)

    def _prepare(self, job: _Job, stored: Vectors, color: ImageArray | None) -> _Prepared | tuple[_Job, BadItem]:
        size = job.image.height, job.image.width
        originals = originals_of([row["rle"] for row in job.proposals], *size, self.config.options.duplicate_iou)
        keys = _keys(job, sorted(set(originals)))
        if all(key in stored for key in keys):
            nothing = torch.zeros(0, 4 if self.clip.prompts is not None else 3, self.clip.size, self.clip.size)
            vectors = torch.stack([stored[key] for key in keys])
            return _Prepared(job, originals, nothing.to(torch.uint8), torch.zeros(0), vectors)
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
