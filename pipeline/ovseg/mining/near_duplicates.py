"""Step `near_duplicates`: mined images that are nearly an image of a benchmark, which would make its figures dishonest.

Two images are near-duplicates if their perceptual hashes differ in few bits and CLIP finds them similar, each compared with the
other or with its mirror image. The hash is cheap and rarely wrong (docs/pairs.md); CLIP sees only what it lets through.

Shapes: R images of benchmarks, S side of CLIP's input, D width of its joint embedding.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg.clip.adapted import load_named
from ovseg.clip.load import Clip
from ovseg.clip.pretrained import weights_fingerprint
from ovseg.clip.regions import squash_image
from ovseg.core import crops, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import decode_image, read_bytes
from ovseg.core.options import ClipOptions, NearDuplicatesOptions, Orientation
from ovseg.core.perceptual_hash import Hashes, hash_distances, perceptual_hashes
from ovseg.datasets.benchmark import read_benchmark
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task, unit_names
from ovseg.mining.batches import map_ahead

DIGITS = 4  # decimals of a similarity: later ones differ between processors
TOTALS = (Total("images"),)

Row = dict[str, Any]


class Reference(NamedTuple):
    """An image that no mined image may be nearly the same as.

    Attributes:
        root, file: the folder of images and the file in it.
        orientation: whether it is turned as its EXIF metadata say.
        benchmarks: the folders of the benchmarks that have it.
        sha256: of the file.
        hash: its perceptual hash.
    """

    root: Path
    file: str
    orientation: Orientation
    benchmarks: tuple[str, ...]
    sha256: str
    hash: int


def find_near_duplicates(
    index: Path,
    images: Path,
    benchmarks: Sequence[Path],
    out: Path,
    runtime: Runtime,
    clip: ClipOptions,
    options: NearDuplicatesOptions,
) -> dict[str, int]:
    """Write the table `near_duplicates`: each mined image that is nearly an image of a benchmark, and that image.

    Args:
        index: folder of the table `index`.
        images: folder that the files of the index are relative to.
        benchmarks: the folders of benchmarks, which are their names in the table; several may share images.
        out: folder of the table `near_duplicates`.
        runtime: devices, workers, scratch folder.
        clip: the CLIP that compares whole images.
        options: parameters of the step.

    Returns:
        counts: mined images compared, near-duplicates among them, those of each benchmark as `near.<folder>`, images of
        benchmarks, and dropped images by reason.

    Raises:
        OvsegError: the CLIP cannot be loaded, a table or benchmark is missing, or an image of a benchmark cannot be read.
    """
    references = read_references(benchmarks, runtime.workers)
    key = step_key(
        "near_duplicates",
        __name__,
        index=tables.fingerprint(index, "index"),
        benchmarks=[(reference.sha256, reference.orientation, reference.benchmarks) for reference in references],
        clip=weights_fingerprint(clip.model, clip.pretrained),
        options=options.model_dump(),
        schema=tables.SCHEMA_VERSION,
    )
    factory = _CompareTaskFactory(index, images, references, clip, options, runtime.workers, key.fingerprint)
    more_counts = {"benchmark_images": len(references), **{f"{tables.NEAR}{folder}": 0 for folder in benchmarks}}
    units = list(unit_names(index))
    return run_step(key, units, factory, out, runtime, uses_model=True, totals=TOTALS, more_counts=more_counts)


def read_references(benchmarks: Sequence[Path], workers: int) -> list[Reference]:
    """Read and hash the images of benchmarks, each once, in the order of their paths.

    Args:
        benchmarks: the folders of benchmarks.
        workers: number of threads.

    Raises:
        OvsegError: a folder is no benchmark, or an image cannot be read.
    """
    names: dict[tuple[Path, str, Orientation], list[str]] = {}
    for folder in dict.fromkeys(benchmarks):
        benchmark = read_benchmark(folder)
        for file, _ in benchmark.items:
            names.setdefault((benchmark.images.resolve(), file, benchmark.orientation), []).append(str(folder))
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(_read_reference, sorted(names), (tuple(names[key]) for key in sorted(names))))


def _read_reference(key: tuple[Path, str, Orientation], benchmarks: tuple[str, ...]) -> Reference:
    root, file, orientation = key
    try:
        data = read_bytes(root, file)
        image_hash = int(perceptual_hashes(decode_image(data, orientation))[0])
    except BadItem as problem:
        raise OvsegError(
            f"{root / file} of benchmark {benchmarks[0]} cannot be read ({problem}): restore it, or take it out of items.tsv"
        ) from None
    return Reference(root, file, orientation, benchmarks, hashlib.sha256(data).hexdigest(), image_hash)


class Match(NamedTuple):
    """An image of a benchmark whose hash is near that of a mined image.

    Attributes:
        reference: its number.
        mirrored: whether the mirror image of the mined image is nearer.
        distance: number of bits in which the hashes differ.
    """

    reference: int
    mirrored: bool
    distance: int


def near_hashes(hashes: Hashes, references: Hashes, max_distance: int) -> list[Match]:
    """Find the images of benchmarks whose hash differs in few bits from that of an image or of its mirror image.

    Args:
        hashes: those of the image and of its mirror image, uint64 `[2]`.
        references: the hashes of the images of benchmarks, uint64 `[R]`.
        max_distance: largest number of bits that differ.
    """
    distances = hash_distances(hashes[:, None], references)
    mirrored = distances.argmin(axis=0)
    nearest = distances.min(axis=0)
    return [Match(i, bool(mirrored[i]), int(nearest[i])) for i in np.flatnonzero(nearest <= max_distance).tolist()]


class _Suspect(NamedTuple):
    """A mined image with a near hash: itself, what its hash is near to, and its pixels uint8 `[3, S, S]`."""

    image: ImageRecord
    matches: Sequence[Match]
    pixels: Tensor


@dataclass(frozen=True)
class _CompareTaskFactory:
    index: Path
    images: Path
    references: Sequence[Reference]
    clip: ClipOptions
    options: NearDuplicatesOptions
    workers: int
    fingerprint: str

    def __call__(self, device: str) -> Task:
        clip = load_named(self.clip.model, self.clip.pretrained, device, "fp32")
        hashes = np.array([reference.hash for reference in self.references], np.uint64)
        pool = crops.crop_threads(self.workers)

        def task(unit: str, folder: Path) -> Counts:
            counts: Counter[str] = Counter(images=0, near_duplicates=0)
            suspects, failures = [], []
            compare = partial(_compare, hashes=hashes, max_distance=self.options.max_distance, size=clip.size)
            records = read_image_records(self.index / f"{unit}.parquet", self.images)
            for image, result in map_ahead(pool, compare, records, self.workers + 2):
                if isinstance(result, BadItem):
                    counts[f"dropped.{result.reason}"] += 1
                    failures.append(failure(image.image_id, image.name, result))
                else:
                    counts["images"] += 1
                    suspects += [result] if result else []
            rows = _confirmed(clip, suspects, self.references, self.options.min_similarity)
            counts["near_duplicates"] += len({row["image_id"] for row in rows})
            counts.update(
                f"{tables.NEAR}{folder}" for folder, _ in {(row["benchmark"], row["image_id"]) for row in rows}
            )
            tables.write_part(folder / f"{unit}.parquet", "near_duplicates", rows, self.fingerprint)
            write_failures(folder, unit, failures, self.fingerprint)
            return counts

        return task


def _compare(
    image: ImageRecord, hashes: Hashes, max_distance: int, size: int
) -> tuple[ImageRecord, _Suspect | BadItem | None]:
    try:
        pixels = image.pixels
    except BadItem as problem:
        return image, problem
    matches = near_hashes(perceptual_hashes(pixels), hashes, max_distance)
    return image, _Suspect(image, matches, squash_image(pixels, size)) if matches else None


def _confirmed(
    clip: Clip, suspects: Sequence[_Suspect], references: Sequence[Reference], min_similarity: float
) -> list[Row]:
    """The rows of the suspects that CLIP finds similar to what their hashes are near to."""
    wanted = sorted({(match.reference, match.mirrored) for suspect in suspects for match in suspect.matches})
    if not wanted:
        return []
    of_suspects = embed_whole(clip, (suspect.pixels for suspect in suspects))
    of_references = embed_whole(clip, (_reference_pixels(references[i], clip.size, mirrored) for i, mirrored in wanted))
    row_of = {key: row for row, key in enumerate(wanted)}
    rows = []
    for suspect, vector in zip(suspects, of_suspects, strict=True):
        for match in suspect.matches:
            similarity = round(float(vector @ of_references[row_of[match.reference, match.mirrored]]), DIGITS)
            if similarity >= min_similarity:
                reference = references[match.reference]
                rows += [_row(suspect.image, reference, name, match, similarity) for name in reference.benchmarks]
    return rows


def embed_whole(clip: Clip, images: Iterable[Tensor]) -> Tensor:
    """Return the unit vectors of whole images, float32 `[N, D]`.

    Args:
        clip: the CLIP; learned mask prompts have no place in an image without a background.
        images: N squashed images, uint8 `[3, S, S]`; N at least 1.
    """
    pixels = torch.stack(list(images))
    return clip.encode_crops(pixels, torch.ones_like(pixels[:, 0], dtype=torch.bool))


def _reference_pixels(reference: Reference, size: int, mirrored: bool) -> Tensor:
    pixels = squash_image(decode_image(read_bytes(reference.root, reference.file), reference.orientation), size)
    return pixels.flip(-1) if mirrored else pixels


def _row(image: ImageRecord, reference: Reference, benchmark: str, match: Match, similarity: float) -> Row:
    return {
        "image_id": image.image_id,
        "file": image.name,
        "benchmark": benchmark,
        "benchmark_file": reference.file,
        "mirrored": match.mirrored,
        "distance": match.distance,
        "similarity": similarity,
    }
