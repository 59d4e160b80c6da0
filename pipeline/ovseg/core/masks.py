"""Masks as COCO run-length encodings (RLE): checks, boxes, areas and intersection over union.

An RLE is the compressed `counts` of the COCO API as bytes, together with (height, width). pycocotools does not validate its
input and writes out of bounds for malformed counts, so every RLE from outside passes `check_rle` first.
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
    """Encode a bool mask `[H, W]` as compressed RLE."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=np.uint8))["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> MaskArray:
    """Decode a checked RLE to a bool mask `[height, width]`."""
    return np.asarray(coco.decode({"size": [height, width], "counts": counts}), dtype=bool)


def area(counts: bytes, height: int, width: int) -> int:
    """Count the foreground pixels of a checked RLE."""
    return int(coco.area({"size": [height, width], "counts": counts}))


def box(counts: bytes, height: int, width: int) -> Box:
    """Return the tight box (x, y, width, height) of a checked RLE in pixels; all zero for an empty mask."""
    x, y, w, h = (round(float(v)) for v in coco.toBbox({"size": [height, width], "counts": counts}))
    return x, y, w, h


def iou_matrix(
    counts: Sequence[bytes], height: int, width: int, others: Sequence[bytes] | None = None
) -> NDArray[np.float64]:
    """Compute the intersection over union of N masks of one image with M masks of the same image.

    Args:
        counts: N checked RLEs.
        height, width: size of the image in pixels.
        others: M checked RLEs; None compares `counts` with themselves.

    Returns:
        float64 `[N, M]` in [0, 1].
    """
    rows, columns = (
        [{"size": [height, width], "counts": c} for c in masks]
        for masks in (counts, counts if others is None else others)
    )
    if not rows or not columns:
        return np.zeros((len(rows), len(columns)))
    return np.asarray(coco.iou(rows, columns, [0] * len(columns)), dtype=np.float64)


def run_lengths(counts: bytes) -> list[int]:
    """Decompress counts to the lengths of the runs, background first.

    Raises:
        BadItem: `rle_malformed` if a byte is outside the alphabet, a number is incomplete, or a run is negative.
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
        if len(runs) > 2:  # from the fourth run on, the difference to the run two places before is stored
            value += runs[-2]
        if value < 0:
            raise BadItem("rle_malformed", f"run {len(runs)} is negative ({value})")
        runs.append(value)
    return runs


def check_rle(counts: bytes, height: int, width: int) -> None:
    """Check that an RLE is well formed, covers exactly `height` x `width` pixels and has foreground.

    Raises:
        BadItem: `rle_malformed`, `rle_size` or `empty_mask`.
    """
    runs = run_lengths(counts)
    if sum(runs) != height * width:
        raise BadItem("rle_size", f"the runs cover {sum(runs)} pixels, but the image is {height} x {width}")
    if sum(runs[1::2]) == 0:
        raise BadItem("empty_mask", "the mask has no foreground pixel")


def from_coco(segmentation: Any, height: int, width: int) -> bytes:
    """Convert COCO's `segmentation` field (polygons, uncompressed or compressed RLE) to checked compressed RLE.

    Args:
        segmentation: a list of polygons `[x0, y0, x1, y1, ...]`, or `{"size": [h, w], "counts": list | str | bytes}`.
        height, width: size of the annotated image in pixels.

    Raises:
        BadItem: `rle_malformed`, `rle_size`, `empty_mask` or `polygon_malformed`.
    """
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
            raise BadItem("rle_size", f"the mask is {size} (height, width), the image {[height, width]}")
        if isinstance(counts, list):
            counts = _from_runs(counts, height, width)
        elif isinstance(counts, str):
            counts = counts.encode("utf-8", "surrogatepass")  # `check_rle` rejects what is not ASCII
        elif not isinstance(counts, bytes):
            raise BadItem("rle_malformed", f"counts are {type(counts).__name__}")
    else:
        counts = _from_polygons(segmentation, height, width)
    check_rle(counts, height, width)
    if 0 in run_lengths(counts)[1:]:  # pycocotools computes wrong boxes if a run is empty
        counts = encode(decode(counts, height, width))
    return counts


def _from_runs(runs: list[Any], height: int, width: int) -> bytes:
    if not all(isinstance(run, int) and run >= 0 for run in runs):
        raise BadItem("rle_malformed", "the runs must be integers of at least 0")
    if sum(runs) != height * width:
        raise BadItem("rle_size", f"the runs cover {sum(runs)} pixels, but the image is {height} x {width}")
    counts: bytes = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return counts


def _from_polygons(polygons: Any, height: int, width: int) -> bytes:
    valid = (
        isinstance(polygons, list)
        and polygons
        and all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(isinstance(v, (int, float)) for v in p)
            for p in polygons
        )
    )
    if not valid:
        raise BadItem("polygon_malformed", "a polygon needs at least three x, y pairs of numbers")
    side = max(
        height, width
    )  # pycocotools allocates every pixel of an edge: a distant or infinite corner fills the memory
    if not all(-side <= v <= 2 * side for p in polygons for v in p):
        raise BadItem("polygon_malformed", f"a corner is far outside the {height} x {width} image, or not a number")
    counts: bytes = coco.merge(coco.frPyObjects(polygons, height, width))["counts"]
    return counts
