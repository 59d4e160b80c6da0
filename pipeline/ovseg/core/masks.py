"""Masks as COCO run-length encodings (RLE): checks, boxes, areas and intersection over union.

An RLE is the compressed `counts` of the COCO API as bytes, together with (height, width). pycocotools does not validate its
input and writes out of bounds for malformed counts, so every RLE from outside passes `check_rle` first.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from ovseg.core.errors import BadItem
from ovseg.core.json_files import whole_number
from ovseg.core.polygons import read_rings

Box = tuple[int, int, int, int]
MaskArray = NDArray[np.bool_]
BYTES_REPR = re.compile(r"(?:(?:np|numpy)\.bytes_\()?(?P<literal>b(['\"]).*\2)\)?", re.DOTALL)
"""Bytes as `repr` of Python or NumPy writes them. No RLE has a quotation mark, so that such a text cannot be one."""


def encode(mask: MaskArray) -> bytes:
    """Encode a bool mask `[H, W]` as compressed RLE; one whose columns are contiguous takes half the time."""
    counts: bytes = coco.encode(np.asfortranarray(mask, dtype=bool).view(np.uint8))["counts"]
    return counts


def decode(counts: bytes, height: int, width: int) -> MaskArray:
    """Decode a checked RLE to a bool mask `[height, width]`."""
    mask: MaskArray = coco.decode({"size": [height, width], "counts": counts}).view(bool)
    return mask


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


def check_rle(counts: bytes, height: int, width: int) -> list[int]:
    """Check that an RLE is well formed, covers exactly `height` x `width` pixels and has foreground.

    Returns:
        the lengths of its runs, background first.

    Raises:
        BadItem: `rle_malformed`, `rle_size` or `empty_mask`.
    """
    runs = run_lengths(counts)
    if sum(runs) != height * width:
        raise BadItem("rle_size", f"the runs cover {sum(runs)} pixels, but the image is {height} x {width}")
    if sum(runs[1::2]) == 0:
        raise BadItem("empty_mask", "the mask has no foreground pixel")
    return runs


def from_coco(segmentation: Any, height: int, width: int) -> bytes:
    """Convert COCO's `segmentation` field to checked compressed RLE; see `read_segmentation`."""
    return read_segmentation(segmentation, height, width)[0]


def read_segmentation(segmentation: Any, height: int, width: int) -> tuple[bytes, int]:
    """Convert COCO's `segmentation` field (polygons, uncompressed or compressed RLE) to checked compressed RLE.

    Args:
        segmentation: polygons, see `polygons.read_rings`; or `{"size": [h, w], "counts": list | str | bytes}`, where counts may
            also be the `repr` of bytes that Python or NumPy writes. Numbers may be written as text.
        height, width: size of the annotated image in pixels.

    Returns:
        the RLE, and the number of malformed rings that were left out because others are good.

    Raises:
        BadItem: `rle_malformed`, `rle_size`, `empty_mask` or `polygon_malformed`.
    """
    if isinstance(segmentation, str) and segmentation[:1] in ("[", "{"):  # JSON in JSON, as tables hold it
        with contextlib.suppress(ValueError, RecursionError):
            segmentation = json.loads(segmentation)
    left_out = 0
    if isinstance(segmentation, dict):
        counts = _read_rle(segmentation, height, width)
    else:
        rings, left_out = read_rings(segmentation, height, width)
        counts = bytes(coco.merge(coco.frPyObjects(rings, height, width))["counts"])
        if all(0 <= number <= 1 for ring in rings for number in ring):
            raise BadItem("empty_mask", "all corners lie in the first pixel: are they fractions of the image's size?")
    if 0 in check_rle(counts, height, width)[1:]:  # pycocotools computes wrong boxes if a run is empty
        counts = encode(decode(counts, height, width))
    return counts, left_out


def _read_rle(segmentation: dict[str, Any], height: int, width: int) -> bytes:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    numbers = list(map(whole_number, size)) if isinstance(size, (list, tuple)) else []
    if numbers != [height, width]:
        exchanged = numbers == [width, height]
        hint = ": height and width are exchanged" if exchanged else ""
        raise BadItem("rle_size", f"the mask is {size} (height, width), the image {[height, width]}{hint}")
    if isinstance(counts, str):
        if match := BYTES_REPR.fullmatch(counts):
            with contextlib.suppress(ValueError, SyntaxError):
                counts = ast.literal_eval(match["literal"])
        elif counts.startswith("[") and "," in counts:  # a comma is no letter of RLE
            with contextlib.suppress(ValueError):
                counts = json.loads(counts)
    if isinstance(counts, list):
        return _from_runs(counts, height, width)
    if isinstance(counts, str):
        return counts.encode("utf-8", "surrogatepass")  # `check_rle` rejects what is not ASCII
    if not isinstance(counts, bytes):
        raise BadItem("rle_malformed", f"counts are {type(counts).__name__}")
    return counts


def _from_runs(values: list[Any], height: int, width: int) -> bytes:
    runs = [value if type(value) is int else whole_number(value) for value in values]
    if any(run is None or run < 0 for run in runs):
        raise BadItem("rle_malformed", "the runs must be integers of at least 0")
    total = sum(run for run in runs if run is not None)
    if total != height * width:
        raise BadItem("rle_size", f"the runs cover {total} pixels, but the image is {height} x {width}")
    counts: bytes = coco.frPyObjects({"size": [height, width], "counts": runs}, height, width)["counts"]
    return counts
