"""Masks as COCO run-length encodings: checks, boxes, areas, overlaps.

An RLE here is the compressed `counts` of the COCO API as bytes, together with (height, width). pycocotools trusts its
input and writes out of bounds on bad counts, so everything from outside goes through `check_rle` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from ovseg.core.errors import BadItem

Box = tuple[int, int, int, int]
MaskArray = NDArray[np.bool_]


def encode(mask: MaskArray) -> bytes:
    """Compressed RLE of a bool mask `[H, W]`."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> MaskArray:
    """Bool mask `[height, width]` of a checked RLE."""
    return np.asarray(coco.decode({"size": [height, width], "counts": counts}), dtype=bool)


def area(counts: bytes, height: int, width: int) -> int:
    """Number of foreground pixels of a checked RLE."""
    return int(coco.area({"size": [height, width], "counts": counts}))


def box(counts: bytes, height: int, width: int) -> Box:
    """Tight box (x, y, width, height) in pixels of a checked RLE; all zero for an empty mask."""
    x, y, w, h = (round(float(v)) for v in coco.toBbox({"size": [height, width], "counts": counts}))
    return x, y, w, h


def iou_matrix(
    counts: Sequence[bytes], height: int, width: int, others: Sequence[bytes] | None = None
) -> NDArray[np.float64]:
    """Intersection over union of checked RLEs of one image with each other, or with M others: float64 `[N, M]` in [0, 1]."""
    rles, against = (
        [{"size": [height, width], "counts": c} for c in some]
        for some in (counts, counts if others is None else others)
    )
    if not rles or not against:
        return np.zeros((len(rles), len(against)))
    return np.asarray(coco.iou(rles, against, [0] * len(against)), dtype=np.float64)


def run_lengths(counts: bytes) -> list[int]:
    """The runs (background first) written in compressed counts.

    Raises:
        BadItem: `rle_malformed` if a byte is outside the alphabet, a number is cut off, or a run is negative.
    """
    runs: list[int] = []
    position = 0
    while position < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if position >= len(counts):
                raise BadItem("rle_malformed", "the counts end inside a number")
            byte = counts[position] - 48
            if not 0 <= byte < 64 or shift > 60:
                raise BadItem("rle_malformed", f"byte {counts[position]} at {position} is not RLE")
            value |= (byte & 31) << shift
            position, shift, more = position + 1, shift + 5, bool(byte & 32)
            if not more and byte & 16:
                value -= 1 << shift
        if len(runs) > 2:  # from the fourth run on, the file holds the difference to the last run but one
            value += runs[-2]
        if value < 0:
            raise BadItem("rle_malformed", f"run {len(runs)} is negative ({value})")
        runs.append(value)
    return runs


def check_rle(counts: bytes, height: int, width: int) -> None:
    """Refuse an RLE that is malformed, does not fill `height` x `width`, or is empty.

    Raises:
        BadItem: `rle_malformed`, `rle_size` or `empty_mask`.
    """
    runs = run_lengths(counts)
    if sum(runs) != height * width:
        raise BadItem("rle_size", f"the runs cover {sum(runs)} pixels, the image has {height} x {width}")
    if sum(runs[1::2]) == 0:
        raise BadItem("empty_mask", "no foreground pixel")


def from_coco(segmentation: Any, height: int, width: int) -> bytes:
    """Compressed RLE of COCO's `segmentation` field: polygons, uncompressed or compressed RLE.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]`, or `{"size": [h, w], "counts": list | str | bytes}`.
        height, width: size of the image that it belongs to.

    Raises:
        BadItem: `rle_malformed`, `rle_size`, `empty_mask` or `polygon_malformed`.
    """
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise BadItem("rle_size", f"the mask is {size}, the image {[height, width]}")
        if isinstance(counts, list):
            counts = _from_runs(counts, height, width)
        elif isinstance(counts, str):
            counts = counts.encode("utf-8", "surrogatepass")  # what is not ASCII is refused as not RLE
        elif not isinstance(counts, bytes):
            raise BadItem("rle_malformed", f"counts are {type(counts).__name__}")
    else:
        counts = _from_polygons(segmentation, height, width)
    check_rle(counts, height, width)
    if 0 in run_lengths(counts)[1:]:  # pycocotools' boxes are wrong where a run is empty
        counts = encode(decode(counts, height, width))
    return counts


def _from_runs(runs: list[Any], height: int, width: int) -> bytes:
    if not all(isinstance(run, int) and run >= 0 for run in runs):
        raise BadItem("rle_malformed", "the runs are not all whole numbers of at least 0")
    if sum(runs) != height * width:
        raise BadItem("rle_size", f"the runs cover {sum(runs)} pixels, the image has {height} x {width}")
    counts: bytes = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return counts


def _from_polygons(polygons: Any, height: int, width: int) -> bytes:
    good = (
        isinstance(polygons, list)
        and polygons
        and all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(isinstance(v, (int, float)) for v in p)
            for p in polygons
        )
    )
    if not good:
        raise BadItem("polygon_malformed", "a polygon needs three or more x, y pairs of numbers")
    side = max(height, width)  # pycocotools walks along each edge: a far or infinite corner takes all memory
    if not all(-side <= v <= 2 * side for p in polygons for v in p):
        raise BadItem("polygon_malformed", f"a corner is far outside the image of {height} x {width}, or not a number")
    counts: bytes = coco.merge(coco.frPyObjects(polygons, height, width))["counts"]
    return counts
