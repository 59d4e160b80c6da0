"""Which pairs a person is shown, and what the index knows about them."""

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
ENDS = 0.05  # share of the worst and of the best pairs in a sample, each
BINS = 20  # of the similarity range
STRIDE = 8  # from one bin to the next that is drawn from: few pairs are spread over the range too; no divisor of 21


def read_pairs(pairs: Path, noun: str | None = None) -> pa.Table:
    """The table `pairs` in memory, of one noun if it is given: a row is some 60 bytes, COCO has about a million."""
    table = tables.read(pairs, "pairs")
    return table if noun is None else table.filter(pc.equal(table["noun"], noun))


def similarities(pairs: pa.Table) -> NDArray[np.float64]:
    """Cosine of each pair in [-1, 1], float64 `[N]`; NaN for annotated pairs, which have none."""
    return np.asarray(pairs["similarity"].cast(pa.float64()).to_numpy(), dtype=np.float64)


def sample(pairs: pa.Table, number: int) -> list[Row]:
    """At most `number` pairs, chosen by `choose`, in the order of the table."""
    noun_ids = pairs["noun"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows: list[Row] = pairs.take(choose(similarities(pairs), noun_ids, number)).to_pylist()
    return rows


def choose(similarity: NDArray[np.float64], noun_ids: NDArray[np.integer], number: int) -> NDArray[np.int64]:
    """Pairs that show the whole range: the worst, the best, and in turn one of each similarity bin.

    Within a bin a pair is drawn with a chance that falls with the square root of its noun's frequency, so that common
    nouns come up most, but do not fill the sample. The same pairs always give the same choice.

    Args:
        similarity: float64 `[N]`, NaN where there is none: those form a bin of their own.
        noun_ids: int `[N]`, each in [0, number of nouns).
        number: how many to choose.

    Returns:
        ascending positions, int64 `[min(number, N)]`.
    """
    if number >= len(similarity):
        return np.arange(len(similarity))
    known = int(np.isfinite(similarity).sum())
    order = np.argsort(similarity, kind="stable")  # NaN last
    ends = math.ceil(number * ENDS)
    extremes = np.concatenate([order[: min(ends, known)], order[max(known - ends, 0) : known]])
    frequency = np.bincount(noun_ids)[noun_ids]
    draw = np.random.default_rng(0).exponential(size=len(similarity)) * np.sqrt(frequency)
    bins = _bins(similarity)
    within = np.lexsort((draw, bins))
    first = np.searchsorted(bins[within], bins[within])
    turn = np.empty_like(within)
    turn[within] = np.arange(len(within)) - first
    chosen = dict.fromkeys(np.concatenate([extremes, np.lexsort((bins * STRIDE % (BINS + 1), turn))]).tolist())
    return np.array(sorted(list(chosen)[:number]), dtype=np.int64)


def _bins(similarity: NDArray[np.float64]) -> NDArray[np.int64]:
    """Number of the bin of each pair in [0, BINS); BINS for those without a similarity."""
    known = similarity[np.isfinite(similarity)]
    low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
    bins = np.digitize(similarity, np.linspace(low, high, BINS + 1)[1:-1])
    return np.where(np.isfinite(similarity), bins, BINS)


def index_rows(index: Path, pairs: Iterable[Row]) -> dict[int, Row]:
    """The index's rows of the images of `pairs`, by image id; only the parts that hold them are read."""
    found: dict[int, Row] = {}
    for part, image_ids in _images_by_part(pairs).items():
        table = tables.read_part(index / f"{part:05d}.parquet", "index")
        found |= {row["image_id"]: row for row in table.filter(pc.field("image_id").isin(image_ids)).to_pylist()}
    return found


def with_masks(pairs: Iterable[Row], proposals: Path) -> Iterator[tuple[int, list[Row], dict[int, Row]]]:
    """Each image of `pairs`, its pairs, and its proposals by number; the masks of one part are in memory at a time."""
    ordered = sorted(pairs, key=lambda pair: (pair["part"], pair["image_id"]))
    for part, group in groupby(ordered, key=lambda pair: int(pair["part"])):
        mine = list(group)
        table = tables.read_part(proposals / f"{part:05d}.parquet", "proposals")
        wanted = pc.field("image_id").isin(_images_by_part(mine)[part])
        regions: dict[int, dict[int, Row]] = {}
        for row in table.filter(wanted).to_pylist():
            regions.setdefault(row["image_id"], {})[row["proposal"]] = row
        for image_id, same in groupby(mine, key=lambda pair: int(pair["image_id"])):
            yield image_id, list(same), regions[image_id]


def _images_by_part(pairs: Iterable[Row]) -> dict[int, list[int]]:
    """Image ids of `pairs` by the part of the index and the proposals that they are in, both ascending."""
    images: dict[int, set[int]] = {}
    for pair in pairs:
        images.setdefault(pair["part"], set()).add(pair["image_id"])
    return {part: sorted(images[part]) for part in sorted(images)}


def split_caption(pair: Row, image: Row) -> tuple[str, str, str]:
    """The pair's caption before its noun, the noun as it stands there, and the rest; empty texts if it has none."""
    texts = {caption["id"]: caption["text"] for caption in image["captions"]}
    text = texts.get(pair["caption_id"], "")
    start, end = pair["start"] or 0, pair["end"] or 0
    return text[:start], text[start:end], text[end:]
