"""Filters of `select`: which of the chosen pairs are probably wrong, by what the tables say beyond their own similarity.

All are off by default, as the paper has none. What each is worth: docs/pairs.md.

    mutual          the mask is more similar to another noun of its image
    max_overlap     nouns of one image have chosen nearly the same mask; the most similar one keeps it
    second_model    another CLIP prefers other masks for the noun
    group_outlier   the region is unlike the other regions of its noun (as in ReME, arXiv 2506.21233)

Shapes: N pairs, D joint embedding.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.options import SelectOptions
from ovseg.mining.regions import read_regions, region_parts

DIGITS = 5  # decimals of a distance: later ones differ between processors

Row = dict[str, Any]
Flags = NDArray[np.bool_]


def is_mutual(pairs: Sequence[Row], candidates: pa.Table) -> list[bool]:
    """Return whether no other noun of the image is more similar to the mask of each pair.

    Args:
        pairs: N chosen rows of the table `candidates`.
        candidates: all rows of their images. A noun counts for a mask only if that is among its `top_k`.
    """
    best = candidates.group_by(["image_id", "proposal"]).aggregate([("similarity", "max")]).to_pylist()
    best_of = {(row["image_id"], row["proposal"]): row["similarity_max"] for row in best}
    return [pair["similarity"] >= best_of[pair["image_id"], pair["proposal"]] for pair in pairs]


def overlaps(
    similarities: Sequence[float], rles: Sequence[bytes], height: int, width: int, max_overlap: float
) -> list[bool]:
    """Return whether the mask of each pair overlaps that of a more similar pair that stays, as in non-maximum suppression.

    Args:
        similarities: of the N pairs of one image; of equals the first stays.
        rles: compressed RLE of their masks.
        height, width: size of the image in pixels.
        max_overlap: largest IoU that is no overlap, in [0, 1].
    """
    iou = masks.iou_matrix(rles, height, width)
    stays: list[int] = []
    for i in sorted(range(len(rles)), key=lambda i: (-similarities[i], i)):
        if all(iou[i, other] <= max_overlap for other in stays):
            stays.append(i)
    return [i not in stays for i in range(len(rles))]


def is_confirmed(pairs: Sequence[Row], second: pa.Table, max_rank: int) -> list[bool]:
    """Return whether another CLIP has the mask of each pair among its `max_rank` best ones for the noun.

    Args:
        pairs: N chosen rows of the table `candidates`.
        second: rows of the table `candidates` of the other CLIP, made from the same nouns and proposals. A noun that it lacks
            confirms nothing.
        max_rank: number of masks of a noun that count, from 1 on.
    """
    accepted = second.filter(pc.less(second["rank"], max_rank)).select(["image_id", "noun", "proposal"]).to_pylist()
    keys = {(row["image_id"], row["noun"], row["proposal"]) for row in accepted}
    return [(pair["image_id"], pair["noun"], pair["proposal"]) in keys for pair in pairs]


def centre_distances(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine distance of each vector to the centre of all others, float64 `[N]` in [0, 2].

    The distance of vector v_i is 1 - v_i . c_i / |c_i| with c_i the sum of the other vectors; 1 if that sum is 0. Leaving the
    vector itself out matters in small groups, whose centre it would pull to itself.

    Args:
        vectors: unit vectors `[N, D]`.
    """
    exact = vectors.astype(np.float64)
    centres = exact.sum(axis=0) - exact
    lengths = np.linalg.norm(centres, axis=1)
    cosines = (exact * centres).sum(axis=1) / np.where(lengths > 0, lengths, 1)
    distances: NDArray[np.float64] = np.round(1 - cosines, DIGITS)
    return distances


def group_outliers(nouns: Sequence[str], vectors: NDArray[Any], fraction: float, group_size: int) -> Flags:
    """Mark of each noun the fraction of its regions, rounded down, that are farthest from the centre of the others.

    Args:
        nouns: the noun of each pair.
        vectors: unit vector of the region of each pair, `[N, D]`.
        fraction: fraction of each noun's pairs, in [0, 1].
        group_size: smallest number of pairs of a noun that make a group, at least 2; smaller ones keep all.

    Returns:
        bool `[N]`; of equal distances the first are marked.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for i, noun in enumerate(nouns):
        groups[noun].append(i)
    marked = np.zeros(len(nouns), bool)
    for members in groups.values():
        if len(members) >= group_size:
            number = int(round(fraction * len(members), 6))  # 0.3 of 10 is 3, although 0.3 is a little less
            farthest = np.argsort(-centre_distances(vectors[members]), kind="stable")[:number]
            marked[np.array(members)[farthest]] = True
    return marked


class PairTables(NamedTuple):
    """Folders of the tables that filters read."""

    candidates: Path
    proposals: Path


def _not_mutual(pairs: list[Row], folders: PairTables, options: SelectOptions) -> Flags | None:
    if not options.mutual:
        return None
    columns = ["image_id", "proposal", "similarity"]
    return _flags(
        not mutual
        for part, rows in _by_part(pairs)
        for mutual in is_mutual(rows, tables.read_part(folders.candidates / part, "candidates", columns))
    )


def _overlap(pairs: list[Row], folders: PairTables, options: SelectOptions) -> Flags | None:
    if options.max_overlap is None:
        return None
    flags: list[bool] = []
    for part, rows in _by_part(pairs):
        columns = ["image_id", "proposal", "rle", "height", "width"]
        table = tables.read_part(folders.proposals / part, "proposals", columns)
        chosen = table.filter(pc.is_in(table["image_id"], pa.array({row["image_id"] for row in rows}, pa.int64())))
        proposals = {(row["image_id"], row["proposal"]): row for row in chosen.to_pylist()}
        for _, group in groupby(rows, key=lambda row: row["image_id"]):
            members = list(group)
            found = [proposals[row["image_id"], row["proposal"]] for row in members]
            size = found[0]["height"], found[0]["width"]
            similarities = [row["similarity"] for row in members]
            flags += overlaps(similarities, [mask["rle"] for mask in found], *size, options.max_overlap)
    return np.array(flags, bool)


def _not_confirmed(pairs: list[Row], folders: PairTables, options: SelectOptions) -> Flags | None:
    second = options.second_candidates
    if second is None:
        return None
    if [path.name for path in tables.parts(second)] != [path.name for path in tables.parts(folders.candidates)]:
        raise OvsegError(
            f"select.second_candidates={second} has other parts than {folders.candidates}: run score with the other CLIP on "
            "the same tables index, nouns and proposals"
        )
    columns = ["image_id", "noun", "proposal", "rank"]
    return _flags(
        not confirmed
        for part, rows in _by_part(pairs)
        for confirmed in is_confirmed(rows, tables.read_part(second / part, "candidates", columns), options.second_rank)
    )


def _group_outlier(pairs: list[Row], folders: PairTables, options: SelectOptions) -> Flags | None:
    if not options.group_outlier:
        return None
    region_folder = region_parts(folders.candidates)[0].parent
    vectors = []
    for part, rows in _by_part(pairs):
        regions = read_regions(region_folder / part)
        vectors.append(regions.vectors[regions.rows_of((row["image_id"], row["proposal"]) for row in rows)])
    nouns = [pair["noun"] for pair in pairs]
    return group_outliers(nouns, np.concatenate(vectors), options.group_outlier, options.group_size)


Filter = Callable[[list[Row], PairTables, SelectOptions], Flags | None]
FILTERS: Mapping[str, Filter] = {
    "not_mutual": _not_mutual,
    "overlap": _overlap,
    "not_confirmed": _not_confirmed,
    "group_outlier": _group_outlier,
}
"""By rejection reason, in order: which of the pairs that are left each filter drops, bool `[N]`; None if it is off."""


def _flags(values: Iterator[bool]) -> Flags:
    return np.fromiter(values, bool)


def _by_part(pairs: list[Row]) -> Iterator[tuple[str, list[Row]]]:
    """The name of the file of each part, and its pairs, which are in the order of the parts."""
    for part, group in groupby(pairs, key=lambda pair: int(pair["part"])):
        yield f"{part:05d}.parquet", list(group)
