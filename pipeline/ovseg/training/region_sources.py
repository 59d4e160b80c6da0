"""What trains a region encoder: annotated masks, proposals matched to them, mined pairs, or annotated masks and mined pairs.

In all of them a class has a reference in an image: the union of its annotated masks or, where nobody annotated, the proposal
that mining gave its noun. A region and a class are a pair, and how well a region covers a reference is their IoU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import masks, tables
from ovseg.core.errors import OvsegError
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.options import RegionPairs

MATCH_IOU = 0.5
"""The smallest IoU with which a proposal takes the class of annotated masks."""

MINED_SOURCES: tuple[RegionPairs, ...] = ("mined", "mix")
"""The sources that need mined pairs."""

NOWHERE = np.zeros(0, np.int64)

Row = dict[str, Any]


class RegionRows(NamedTuple):
    """The regions of one image and what they are called.

    Attributes:
        regions: rows of the table `proposals`.
        references: the mask of each text, as RLE.
        pairs: a region's number and its text.
    """

    regions: list[Row]
    references: dict[str, bytes]
    pairs: list[tuple[int, str]]


def annotated(proposals: Sequence[Row], _mined: Sequence[Row]) -> RegionRows:
    """Regions are the annotated masks, each with its class name."""
    regions = [row for row in proposals if row["label"] is not None]
    return RegionRows(regions, _unions(regions), [(i, row["label"]) for i, row in enumerate(regions)])


def matched_proposals(proposals: Sequence[Row], _mined: Sequence[Row]) -> RegionRows:
    """Regions are the proposals; one is paired with the class whose annotated union it covers best, if their IoU is 0.5."""
    regions = [row for row in proposals if row["label"] is None]
    references = _unions([row for row in proposals if row["label"] is not None])
    overlaps, names = region_overlaps(regions, references), list(references)
    pairs = [
        (region, names[int(overlaps[:, region].argmax())])
        for region in range(len(regions))
        if names and overlaps[:, region].max() >= MATCH_IOU
    ]
    return RegionRows(regions, references, pairs)


def mined(proposals: Sequence[Row], mined: Sequence[Row]) -> RegionRows:
    """Regions are the proposals; each mined pair gives its noun the proposal as reference."""
    chosen = {row["proposal"] for row in mined}
    regions = [row for row in proposals if row["label"] is None or row["proposal"] in chosen]
    place = {row["proposal"]: i for i, row in enumerate(regions)}
    references = {row["noun"]: regions[place[row["proposal"]]]["rle"] for row in mined}
    return RegionRows(regions, references, [(place[row["proposal"]], row["noun"]) for row in mined])


def mix(proposals: Sequence[Row], mined_rows: Sequence[Row]) -> RegionRows:
    """Regions are the proposals and the annotated masks, each source with its references and pairs.

    A mined noun that is annotated in the image has the union of its annotated masks as reference; its mined pair is left out.
    """
    by_hand, by_mining = annotated(proposals, mined_rows), mined(proposals, mined_rows)
    place = {row["proposal"]: i for i, row in enumerate(by_mining.regions)}
    others = [row for row in by_hand.regions if row["proposal"] not in place]
    place |= {row["proposal"]: i for i, row in enumerate(others, start=len(place))}
    kept = [pair for pair in by_mining.pairs if pair[1] not in by_hand.references]
    named = [(place[row["proposal"]], row["label"]) for row in by_hand.regions]
    return RegionRows(by_mining.regions + others, by_mining.references | by_hand.references, kept + named)


SOURCES: dict[RegionPairs, Callable[[Sequence[Row], Sequence[Row]], RegionRows]] = {
    "annotated": annotated,
    "proposals": matched_proposals,
    "mined": mined,
    "mix": mix,
}
"""For each value of `finetune.pairs` a function of the rows of `proposals` and `pairs` of one image."""


def region_overlaps(regions: Sequence[Row], references: dict[str, bytes]) -> NDArray[np.float64]:
    """Compute the IoU of R references and Q regions of one image, float64 `[R, Q]` in [0, 1]."""
    if not regions:
        return np.zeros((len(references), 0))
    height, width = regions[0]["height"], regions[0]["width"]
    return masks.iou_matrix(list(references.values()), height, width, [row["rle"] for row in regions])


@dataclass(frozen=True)
class RegionTables:
    """The tables of a run, by image.

    Attributes:
        images: the images that have what the source needs, in the order of the index.
        texts: the names of all classes, sorted; their place is the class number.
        proposals: the table `proposals` of all images, with the columns that are needed.
        mined: the table `pairs`; without rows unless the source needs it.
        source: the function of the source.
    """

    images: list[ImageRecord]
    texts: list[str]
    proposals: pa.Table
    mined: pa.Table
    source: Callable[[Sequence[Row], Sequence[Row]], RegionRows]

    def rows(self, image_id: int) -> RegionRows:
        """Read the regions of one image."""
        of_proposals, of_mined = (places.get(image_id, NOWHERE) for places in self._places)
        return self.source(self.proposals.take(of_proposals).to_pylist(), self.mined.take(of_mined).to_pylist())

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The class number of each text."""
        return {text: number for number, text in enumerate(self.texts)}

    @cached_property
    def _places(self) -> tuple[dict[int, NDArray[np.int64]], dict[int, NDArray[np.int64]]]:
        """The places of each image's rows in both tables."""
        return _places(self.proposals), _places(self.mined)


def read_region_tables(index: Path, images: Path, proposals: Path, pairs: Path, source: RegionPairs) -> RegionTables:
    """Read the tables of a mining run.

    Args:
        index, proposals, pairs: the folders of the tables of these names; `pairs` is read where there are mined pairs.
        images: the folder that the files of the index are relative to.
        source: what regions are paired with, see `SOURCES`.

    Raises:
        OvsegError: a table is missing or of another version, or no image has what the source needs.
    """
    columns = ["image_id", "proposal", "rle", "height", "width", "box", "label"]
    masks_table = tables.read(proposals, "proposals", columns).combine_chunks()
    texts: set[str] = set()
    usable: set[int] = set()
    if source != "mined":
        labelled = masks_table.filter(pc.is_valid(masks_table["label"]))
        if not labelled.num_rows:
            raise OvsegError(
                f"finetune.pairs={source}: {proposals} has no annotated mask; set propose.annotations, or finetune.pairs=mined"
            )
        texts.update(pc.unique(labelled["label"]).to_pylist())
        usable.update(pc.unique(labelled["image_id"]).to_pylist())
    mined_table = masks_table.slice(0, 0)
    if source in MINED_SOURCES:
        mined_table = tables.read(pairs, "pairs", ["image_id", "noun", "proposal"])
        if not mined_table.num_rows:
            raise OvsegError(
                f"finetune.pairs={source}: {pairs} has no pair; loosen the thresholds of section select, or set "
                "finetune.pairs=annotated"
            )
        texts.update(pc.unique(mined_table["noun"]).to_pylist())
        usable.update(pc.unique(mined_table["image_id"]).to_pylist())
    records = [r for part in tables.parts(index) for r in read_image_records(part, images) if r.image_id in usable]
    return RegionTables(records, sorted(texts), masks_table, mined_table, SOURCES[source])


def _unions(regions: Sequence[Row]) -> dict[str, bytes]:
    by_label: dict[str, masks.MaskArray] = {}
    for row in regions:
        mask = masks.decode(row["rle"], row["height"], row["width"])
        by_label[row["label"]] = mask | by_label.get(row["label"], np.False_)
    return {label: masks.encode(mask) for label, mask in by_label.items()}


def _places(table: pa.Table) -> dict[int, NDArray[np.int64]]:
    image_ids = table["image_id"].to_numpy()
    order = np.argsort(image_ids, kind="stable")
    found, first = np.unique(image_ids[order], return_index=True)
    return dict(zip(found.tolist(), np.split(order, first[1:]), strict=False))
