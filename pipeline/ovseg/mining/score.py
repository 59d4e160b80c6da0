"""Step `score`: how well each noun fits each proposal of its image, by CLIP on masked crops (paper 3.2).

Images are decoded and cropped by threads while the encoder works; crops of several images share a batch; each distinct
noun is encoded once. The arg-max over proposals is the paper's pair; margins and softmaxes are kept for other rules.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg.clip.adapted import made_with
from ovseg.clip.load import Clip, Precision, load_clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.core import crops, masks, tables
from ovseg.core.errors import BadItem
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.vocabulary import TEMPLATES, Templates
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.units import Counts, Scratch, Task, published, unit_names
from ovseg.mining.texts import encode_nouns, read_texts

DIGITS = 5  # of a similarity: what is beyond moves with the batch size, and must not decide a rank
TEMPERATURE = 100.0  # CLIP's trained logit scale

Row = dict[str, Any]


def score_nouns(
    index: Path,
    images: Path,
    nouns: Path,
    proposals: Path,
    out: Path,
    runtime: Runtime,
    *,
    clip_model: str,
    clip_pretrained: str | None,
    precision: Precision = "fp32",
    fill: crops.Fill = "mean",
    antialias: bool = True,
    templates: Templates = "vild",
    top_k: int = 5,
    duplicate_iou: float = 1.0,
) -> dict[str, int]:
    """Write the table `candidates`: for each noun its `top_k` proposals.

    Args:
        index, nouns, proposals: folders of those tables, part for part of the same images.
        images: folder that the index's files are in.
        out: folder of the table `candidates`.
        clip_model, clip_pretrained, precision: see `load_clip`.
        fill, antialias: of the crop recipe.
        templates: key of `vocabulary.TEMPLATES`.
        top_k: proposals kept for each noun, at least 1.
        duplicate_iou: masks of one image that overlap more than this are encoded once; 1 encodes all.

    Returns:
        counts: images and nouns scored, crops encoded, and nouns dropped by reason.

    Raises:
        OvsegError: the CLIP cannot be loaded, or a table is missing.
    """
    weights = weights_fingerprint(clip_model, clip_pretrained)
    key = step_key(
        "score",
        __name__,
        index=tables.fingerprint(index, "index"),
        nouns=tables.fingerprint(nouns, "nouns"),
        proposals=tables.fingerprint(proposals, "proposals"),
        clip=weights,
        precision=precision,
        fill=fill,
        antialias=antialias,
        templates=TEMPLATES[templates],
        top_k=top_k,
        duplicate_iou=duplicate_iou,
        schema=tables.SCHEMA_VERSION,
    )
    scratch = Scratch(runtime.work, key, runtime.fresh)
    texts = scratch.folder / "texts"  # under this run's lock: they are read as long as it works
    if runtime.fresh or published(out, key, runtime) is None:
        encode_nouns(nouns, proposals, texts, runtime, clip_model, clip_pretrained, precision, templates, weights)
    opener = partial(
        _task,
        index,
        images,
        nouns,
        proposals,
        texts,
        key.fingerprint,
        clip_model,
        clip_pretrained,
        precision,
        fill,
        antialias,
        top_k,
        duplicate_iou,
        runtime.workers,
        runtime.batch_size,
        made_with(clip_model, clip_pretrained),
    )
    return run_step(key, list(unit_names(index)), opener, out, runtime, uses_model=True, scratch=scratch)


def rank(texts: Tensor, regions: Tensor, top_k: int) -> list[list[tuple[int, float, float | None, float, float]]]:
    """The best proposals of each noun of one image.

    Args:
        texts: unit vectors of its nouns `[N, D]`.
        regions: unit vectors of its proposals `[Q, D]`.
        top_k: how many to keep.

    Returns:
        for each noun, best first: (proposal in [0, Q), similarity, margin to the next or None if there is none, softmax
        over proposals, softmax over nouns). Equal similarities are in the order of the proposals.
    """
    similarity: NDArray[np.float64] = np.round((texts @ regions.T).double().numpy(), DIGITS)
    over_proposals, over_nouns = _softmax(TEMPERATURE * similarity, 1), _softmax(TEMPERATURE * similarity, 0)
    found = []
    for n, row in enumerate(similarity):
        order = np.argsort(-row, kind="stable")
        margins = [*(row[order[:-1]] - row[order[1:]]).tolist(), None]
        found.append(
            [
                (int(q), float(row[q]), margins[r], float(over_proposals[n, q]), float(over_nouns[n, q]))
                for r, q in enumerate(order[:top_k])
            ]
        )
    return found


def _softmax(logits: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    raised = np.exp(logits - logits.max(axis=axis, keepdims=True))
    return np.asarray(raised / raised.sum(axis=axis, keepdims=True))


def duplicate_of(counts: Sequence[bytes], height: int, width: int, duplicate_iou: float) -> list[int]:
    """For each mask of an image the earlier mask that stands for it: itself, unless their overlap is above the limit."""
    if duplicate_iou >= 1:
        return list(range(len(counts)))
    overlap = masks.iou_matrix(counts, height, width)
    chosen: list[int] = []
    for i in range(len(counts)):
        chosen.append(next((j for j in range(i) if chosen[j] == j and overlap[i, j] > duplicate_iou), i))
    return chosen


class _Job(NamedTuple):
    """An image to score."""

    image: ImageRecord
    nouns: list[Row]
    proposals: list[Row]


def _task(
    index: Path,
    images: Path,
    nouns: Path,
    proposals: Path,
    texts: Path,
    key: str,
    clip_model: str,
    clip_pretrained: str | None,
    precision: Precision,
    fill: crops.Fill,
    antialias: bool,
    top_k: int,
    duplicate_iou: float,
    workers: int,
    batch_size: int,
    weights: Mapping[str, str] | None,
    device: str,
) -> Task:
    clip = load_clip(clip_model, clip_pretrained, device, precision)
    colour = crops.fill_colour(fill, clip.mean.tolist())
    embeddings = read_texts(texts)
    pool = ThreadPoolExecutor(
        workers, initializer=torch.set_num_threads, initargs=(1,)
    )  # torch's threads are the encoder's

    def cut(job: _Job) -> tuple[_Job, list[int], Tensor] | tuple[_Job, BadItem]:
        try:
            pixels = job.image.pixels
        except BadItem as problem:
            return job, problem
        size = job.image.height, job.image.width
        stand_in = duplicate_of([p["rle"] for p in job.proposals], *size, duplicate_iou)
        cuts = [
            crops.crop_region(pixels, masks.decode(p["rle"], *size), tuple(p["box"]), clip.size, colour, antialias)[0]
            for i, p in enumerate(job.proposals)
            if stand_in[i] == i
        ]
        return job, stand_in, torch.stack(cuts)

    def task(unit: str, folder: Path) -> Counts:
        rows: list[Row] = []
        failures: list[Row] = []
        counts: Counter[str] = Counter(images=0, nouns=0, crops=0)
        jobs = _jobs(unit, index, images, nouns, proposals, counts, failures)
        done = deque[tuple[_Job, list[int], int]]()

        def prepared() -> Iterator[Tensor]:
            for result in _ahead(pool, cut, jobs, workers + 2):
                if len(result) == 2:
                    _drop(result[0], result[1], counts, failures)
                    continue
                done.append((result[0], result[1], len(result[2])))
                yield result[2]

        for regions in _encode(clip, prepared(), batch_size):
            job, stand_in, number = done.popleft()
            position = {original: place for place, original in enumerate(sorted(set(stand_in)))}
            spread = regions[[position[i] for i in stand_in]]
            noun_vectors = torch.stack([embeddings[noun["noun"]] for noun in job.nouns])
            for noun, best in zip(job.nouns, rank(noun_vectors, spread, top_k), strict=True):
                rows += [_row(noun, r, job.proposals[found[0]], found) for r, found in enumerate(best)]
            counts.update(images=1, nouns=len(job.nouns), crops=number)
        tables.write_part(folder / f"{unit}.parquet", "candidates", rows, key, weights)
        write_failures(folder, unit, failures, key)
        return counts

    return task


def _row(noun: Row, place: int, proposal: Row, found: tuple[int, float, float | None, float, float]) -> Row:
    return {
        **noun,
        "rank": place,
        "proposal": proposal["proposal"],
        "similarity": found[1],
        "margin": found[2],
        "p_proposal": found[3],
        "p_noun": found[4],
        "area": proposal["area"],
        "source": proposal["source"],
    }


def _jobs(
    unit: str, index: Path, images: Path, nouns: Path, proposals: Path, counts: Counter[str], failures: list[Row]
) -> Iterator[_Job]:
    """The images of a unit that have both nouns and masks; the nouns of the others are counted."""
    by_image, found = grouped(nouns / f"{unit}.parquet", "nouns"), _class_agnostic(proposals / f"{unit}.parquet")
    for image in read_image_records(index / f"{unit}.parquet", images):
        job = _Job(image, by_image.get(image.image_id, []), found.get(image.image_id, []))
        if job.nouns and not job.proposals:
            _drop(job, BadItem("no_proposals", "the image has no usable mask"), counts, failures)
        elif job.nouns:
            yield job


def _drop(job: _Job, problem: BadItem, counts: Counter[str], failures: list[Row]) -> None:
    counts[f"dropped.{problem.reason}"] += len(job.nouns)
    failures.extend(failure(job.image.image_id, noun["noun"], problem) for noun in job.nouns)


def grouped(part: Path, name: str) -> dict[int, list[Row]]:
    """The rows of a part by image id."""
    found: dict[int, list[Row]] = defaultdict(list)
    for row in tables.read_part(part, name).to_pylist():
        found[row["image_id"]].append(row)
    return found


def _class_agnostic(part: Path) -> dict[int, list[Row]]:
    """Proposals by image id, without the annotated masks: those are for `select` alone."""
    every = grouped(part, "proposals").items()
    return {image_id: [row for row in rows if row["label"] is None] for image_id, rows in every}


def _ahead(pool: ThreadPoolExecutor, work: Any, items: Iterable[Any], most: int) -> Iterator[Any]:
    """`pool.map` that keeps at most `most` results in memory."""
    waiting: deque[Future[Any]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _encode(clip: Clip, chunks: Iterable[Tensor], batch_size: int) -> Iterator[Tensor]:
    """Encode chunks of crops of any length in full batches; one `[k, D]` for each chunk of k crops, in order."""
    sizes: deque[int] = deque()
    waiting: list[Tensor] = []
    features: list[Tensor] = []
    held = 0
    for chunk in chunks:
        sizes.append(len(chunk))
        waiting.append(chunk)
        held += len(chunk)
        while held >= batch_size:
            joined = torch.cat(waiting)
            features.append(clip.encode_crops(joined[:batch_size]))
            waiting, held = [joined[batch_size:]], held - batch_size
            yield from _split(features, sizes)
    if held:
        features.append(clip.encode_crops(torch.cat(waiting)))
    yield from _split(features, sizes)


def _split(features: list[Tensor], sizes: deque[int]) -> Iterator[Tensor]:
    ready = torch.cat(features) if features else torch.zeros(0)
    while sizes and sizes[0] <= len(ready):
        size = sizes.popleft()
        yield ready[:size]
        ready = ready[size:]
    features[:] = [ready] if len(ready) else []
