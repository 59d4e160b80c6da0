"""Pascal Context (Mottaghi et al., CVPR 2014): every pixel of VOC 2010, with 59 classes or with all 459.

The release has one .mat for each image, whose `LabelMap` counts 1 to 459, 0 for none, in the order of its labels.txt.
For the 59, PNGs of 0 to 59 are in use as well: grey, with a palette, or in the colours of VOC's palette. They count in one of
two ways: as 59_labels.txt of the release does, VOC's 20 classes first, or by alphabet, as mmsegmentation's
SegmentationClassContext does. Nothing in a map tells which.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import decode_image, decode_labels
from ovseg.datasets.benchmark import Labels
from ovseg.datasets.classes import Class
from ovseg.datasets.pascal_voc import listed
from ovseg.datasets.release import Found, Item, ReleaseSpec, by_id, iter_items, lookup_of, remap_labels

ALPHABETICAL = "SegmentationClassContext"
RELEASE_NAMES = {"diningtable": "table"}  # what labels.txt calls a class that the usual lists of 59 take from VOC


def context459(found: Found, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """The 5,104 images of pascalcontext_val.txt with all classes: LabelMap less 1, and 0 is ignored."""
    read = partial(read_mat, lookup=lookup_of(by_id(classes), ignore))
    return iter_items(listed(found["list"]), read, ".mat")


def context59(found: Found, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """The same images with the 59 frequent classes; everything else is ignored.

    From .mat files by the names of labels.txt, where the folder of labels has any; else from PNGs, by the names of
    59_labels.txt or, without it and for SegmentationClassContext alone, by the class table.

    Raises:
        OvsegError: the list of names is missing, or lacks some of the 59.
    """
    mats = next(found["labels"].glob("*.mat"), None) is not None
    part = "names" if mats else "names59"
    if part in found:
        numbers = read_names(found[part])
    elif not mats and found["labels"].name == ALPHABETICAL:
        numbers = {one.names[0]: one.id for one in classes}
    else:
        wanted = (
            "labels.txt of the release" if mats else '59_labels.txt, whose lines "number: name" say how the PNGs count,'
        )
        raise OvsegError(f"{wanted} is needed beside {found['labels']} for the 59 classes")
    names = [
        RELEASE_NAMES.get(name, name) if name not in numbers else name for name in (one.names[0] for one in classes)
    ]
    if absent := [name for name in names if name not in numbers]:
        raise OvsegError(f"{found[part]} lacks {', '.join(absent)}; is it of Pascal Context?")
    places = {numbers[name]: place for place, name in enumerate(names)}
    lookup = lookup_of(places, ignore, max(numbers.values()) + 1)
    return iter_items(
        listed(found["list"]), partial(read_mat if mats else read_png, lookup=lookup), ".mat" if mats else ".png"
    )


def read_names(path: Path) -> dict[str, int]:
    """The number of each name in labels.txt or 59_labels.txt, whose lines are "number: name".

    Raises:
        OvsegError: a line of another kind.
    """
    numbers: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        number, colon, name = line.partition(":")
        if line.strip() and not (colon and number.strip().isdecimal()):
            raise OvsegError(f"{path}: {line!r} is not a number, a colon and a name")
        if line.strip():
            numbers[name.strip()] = int(number)
    return numbers


def read_mat(data: bytes, lookup: Labels) -> Labels:
    """The `LabelMap` of a .mat file -> classes uint16 `[H, W]`.

    Raises:
        BadItem: `truncated`, `not_labels`, or `label_outside`.
    """
    from scipy.io import loadmat

    try:
        numbers = loadmat(io.BytesIO(data), variable_names=["LabelMap"]).get("LabelMap")
    except Exception as error:  # whatever the reader makes of damaged bytes
        raise BadItem("truncated", f"{type(error).__name__}: {error}") from None
    if numbers is None or numbers.ndim != 2 or not np.issubdtype(numbers.dtype, np.number):
        raise BadItem("not_labels", "the .mat file has no LabelMap of rows and columns")
    return remap_labels(np.asarray(numbers).astype(np.int64), lookup)


def read_png(data: bytes, lookup: Labels) -> Labels:
    """A PNG of 0 to 59, as numbers or as colours of VOC's palette -> classes uint16 `[H, W]`.

    Raises:
        BadItem: a broken file, `not_labels` for a colour that is not of the palette, or `label_outside`.
    """
    try:
        numbers: NDArray[np.integer] = decode_labels(data)
    except BadItem as bad:
        if bad.reason != "not_labels":
            raise
        numbers = numbers_of(decode_image(data))
    return remap_labels(numbers, lookup)


def numbers_of(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Numbers `[H, W]` of colours `[H, W, 3]` of VOC's palette.

    Raises:
        BadItem: `not_labels` for another colour.
    """
    keys, wanted = _keys(palette()), _keys(colours)
    order = np.argsort(keys)
    found: NDArray[np.int64] = order[np.searchsorted(keys, wanted, sorter=order).clip(max=255)]
    if (strange := keys[found] != wanted).any():
        raise BadItem("not_labels", f"colour {colours[strange][0].tolist()} is not of VOC's palette")
    return found


def palette() -> NDArray[np.uint8]:
    """VOC's 256 colours, uint8 `[256, 3]`: bits 0, 3, 6 of a number are red's highest, 1, 4, 7 green's, 2, 5 blue's."""
    numbers = np.arange(256)
    channels = [sum((numbers >> (3 * i + c) & 1) << (7 - i) for i in range(3)) for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


def _keys(colours: NDArray[np.uint8]) -> NDArray[np.int64]:
    keys: NDArray[np.int64] = colours.astype(np.int64) @ np.array([2**16, 2**8, 1])
    return keys


CONTEXT459 = ReleaseSpec(
    context459,
    ignore=65_535,
    images=5_104,
    source="Pascal Context val (Mottaghi et al., CVPR 2014), images of VOC 2010",
    where="VOCtrainval_03-May-2010.tar of host.robots.ox.ac.uk/pascal/VOC/voc2010; trainval.tar.gz and labels.txt of "
    "cs.stanford.edu/~roozbeh/pascal-context",
    homes=("VOCdevkit/VOC2010", "VOC2010", "."),
    parts={
        "images": ("JPEGImages",),
        "labels": ("trainval", ALPHABETICAL),
        "list": ("pascalcontext_val.txt", "ImageSets/SegmentationContext/val.txt"),
    },
    extra={"names": ("labels.txt",), "names59": ("59_labels.txt",)},
    occurring=345,
)
CONTEXT59 = replace(CONTEXT459, items=context59, ignore=255, occurring=None)
