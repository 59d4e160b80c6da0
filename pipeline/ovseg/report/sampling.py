"""A sample of the mined pairs that represents all of them, and what the other tables record about it.

Shapes: N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import tables

Row = dict[str, Any]
EXTREMES = 0.05  # fraction of a sample that is taken from each end of the similarity range
BINS = 20  # number of bins of the similarity range
STRIDE = 8  # distance of consecutively drawn bins, so that few pairs also cover the range; coprime to BINS + 1


def read_pairs(pairs: Path, noun: str | None = None) -> pa.Table:
    """Read the table `pairs` into memory (about 60 bytes per row; COCO has about a million rows).

    Args:
        pairs: the folder of the table.
        noun: keep only the pairs of this noun; None keeps all.
    """
    table = tables.read(pairs, "pairs")
    return table if noun is None else table.filter(pc.equal(table["noun"], noun))


def similarities(pairs: pa.Table) -> NDArray[np.float64]:
    """Return the cosine similarity of each pair in [-1, 1], float64 `[N]`; NaN for annotated pairs, which have none."""
    return np.asarray(pairs["similarity"].cast(pa.float64()).to_numpy(), dtype=np.float64)


def sample_pairs(pairs: pa.Table, number: int) -> list[Row]:
    """Return at most `number` pairs, chosen by `choose`, in the order of the table."""
    noun_ids = pairs["noun"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows: list[Row] = pairs.take(choose(similarities(pairs), noun_ids, number)).to_pylist()
    return rows


def choose(similarity: NDArray[np.float64], noun_ids: NDArray[np.integer], number: int) -> NDArray[np.int64]:
    """Choose pairs over the whole range of similarity: the lowest, the highest, and in turn one from each bin.

    Within a bin, a pair is drawn with a probability that decreases with the square root of its noun's frequency, so that common
    nouns appear most often but do not fill the sample. The same pairs always give the same choice.

    Args:
        similarity: float64 `[N]`; NaN where there is none, which forms a bin of its own.
        noun_ids: int `[N]`, each in [0, number of nouns).
        number: the number of pairs to choose.

    Returns:
        positions, int64 `[min(number, N)]`, ascending.
    """
    if number >= len(similarity):
        return np.arange(len(similarity))
    num_finite = int(np.isfinite(similarity).sum())
    order = np.argsort(similarity, kind="stable")  # NaN is sorted to the end
    num_extremes = math.ceil(number * EXTREMES)
    lowest = order[: min(num_extremes, num_finite)]
    highest = order[max(num_finite - num_extremes, 0) : num_finite]
    frequency = np.bincount(noun_ids)[noun_ids]
    # Sorting by exponential variables with scale sqrt(frequency) is weighted sampling without replacement.
    draw = np.random.default_rng(0).exponential(size=len(similarity)) * np.sqrt(frequency)
    bins = _bins(similarity)
    by_bin = np.lexsort((draw, bins))  # by bin, and within a bin in the order of drawing
    first_of_bin = np.searchsorted(bins[by_bin], bins[by_bin])
    turn = np.empty_like(by_bin)
    turn[by_bin] = np.arange(len(by_bin)) - first_of_bin  # position of each pair within its own bin
    # The first pair of every bin, then the second of every bin, and so on; the bins in an order of large steps.
    round_robin = np.lexsort((bins * STRIDE % (BINS + 1), turn))
    chosen = dict.fromkeys(np.concatenate([lowest, highest, round_robin]).tolist())
    return np.array(sorted(list(chosen)[:number]), dtype=np.int64)


def _bins(similarity: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each pair in [0, BINS); BINS for pairs without a similarity."""
    finite = similarity[np.isfinite(similarity)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    bins = np.digitize(similarity, np.linspace(low, high, BINS + 1)[1:-1])
    return np.where(np.isfinite(similarity), bins, BINS)


def read_index_rows(index: Path, pairs: Iterable[Row]) -> dict[int, Row]:
    """Read the rows of the table `index` for the images of `pairs`, by image id; only the parts that hold them are read."""
    rows: dict[int, Row] = {}
    for part, image_ids in _images_by_part(pairs).items():
        table = tables.read_part(index / f"{part:05d}.parquet", "index")
        rows |= {row["image_id"]: row for row in table.filter(pc.field("image_id").isin(image_ids)).to_pylist()}
    return rows


def pairs_by_image(pairs: Iterable[Row], proposals: Path) -> Iterator[tuple[int, list[Row], dict[int, Row]]]:
    """Group pairs by image and read the proposals of each image; the masks of one part are in memory at a time.

    Args:
        pairs: rows of the table `pairs`.
        proposals: the folder of the table `proposals`.

    Yields:
        the image id, the pairs of the image, and its proposals by number.
    """
    ordered = sorted(pairs, key=lambda pair: (pair["part"], pair["image_id"]))
    for part, group in groupby(ordered, key=lambda pair: int(pair["part"])):
        pairs_of_part = list(group)
        table = tables.read_part(proposals / f"{part:05d}.parquet", "proposals")
        in_part = pc.field("image_id").isin(_images_by_part(pairs_of_part)[part])
        by_image: dict[int, dict[int, Row]] = {}
        for row in table.filter(in_part).to_pylist():
            by_image.setdefault(row["image_id"], {})[row["proposal"]] = row
        for image_id, pairs_of_image in groupby(pairs_of_part, key=lambda pair: int(pair["image_id"])):
            yield image_id, list(pairs_of_image), by_image[image_id]


def _images_by_part(pairs: Iterable[Row]) -> dict[int, list[int]]:
    """The image ids of `pairs` by the part of the index and the proposals that holds them, both ascending."""
    images: dict[int, set[int]] = {}
    for pair in pairs:
        images.setdefault(pair["part"], set()).add(pair["image_id"])
    return {part: sorted(images[part]) for part in sorted(images)}


def split_caption(pair: Row, image: Row) -> tuple[str, str, str]:
    """Split the caption of a pair into the text before its noun, the noun as written, and the text after it.

    Args:
        pair: a row of the table `pairs`.
        image: the row of the table `index` of its image.

    Returns:
        three texts, all empty for a pair without a caption.
    """
    texts = {caption["id"]: caption["text"] for caption in image["captions"]}
    text = texts.get(pair["caption_id"], "")
    start, end = pair["start"] or 0, pair["end"] or 0
    return text[:start], text[start:end], text[end:]
