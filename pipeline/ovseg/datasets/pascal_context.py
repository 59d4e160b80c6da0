"""Pascal Context (Mottaghi et al., CVPR 2014): every pixel of VOC 2010, with the 59 frequent classes or with all 459.

The release has a .mat file for each image, whose `LabelMap` holds 1 to 459, and 0 for none, in the order of its labels.txt.
For the 59 classes, PNGs of 0 to 59 are in use as well: gray, with a palette, or in the colors of VOC's palette. There are two
numberings of them: that of the release's 59_labels.txt, VOC's 20 classes first, and the alphabetical one of mmsegmentation's
SegmentationClassContext. Nothing in a label map tells which one it has.
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
from ovseg.datasets.pascal_voc import read_split
from ovseg.datasets.release import (
    Item,
    ReleasePaths,
    ReleaseSpec,
    index_by_id,
    iter_items,
    label_lookup,
    remap_labels,
)

ALPHABETICAL = "SegmentationClassContext"
RELEASE_NAMES = {"diningtable": "table"}  # names in labels.txt of classes that the usual lists of 59 call as VOC does


def context459(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the 5,104 images of pascalcontext_val.txt with all classes: LabelMap less 1, and 0 is ignored."""
    read = partial(read_mat, lookup=label_lookup(index_by_id(classes), ignore))
    return iter_items(read_split(paths["list"]), read, ".mat")


def context59(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the same images with the 59 frequent classes; everything else is ignored.

    The labels are .mat files, with the names of labels.txt, if their folder holds any. Otherwise they are PNGs, with the names
    of 59_labels.txt or, only for SegmentationClassContext without that file, of the class table.

    Raises:
        OvsegError: if the list of names is missing, or lacks some of the 59.
    """
    is_mat = next(paths["labels"].glob("*.mat"), None) is not None
    part = "names" if is_mat else "names59"
    if part in paths:
        numbers = read_names(paths[part])
    elif not is_mat and paths["labels"].name == ALPHABETICAL:
        numbers = {entry.names[0]: entry.id for entry in classes}
    else:
        file = (
            "labels.txt of the release" if is_mat else '59_labels.txt, whose lines "number: name" number the classes,'
        )
        raise OvsegError(f"{file} is needed beside {paths['labels']} for the 59 classes")
    usual_names = [entry.names[0] for entry in classes]
    names = [name if name in numbers else RELEASE_NAMES.get(name, name) for name in usual_names]
    if missing := [name for name in names if name not in numbers]:
        raise OvsegError(f"{paths[part]} lacks {', '.join(missing)}; is it the list of Pascal Context?")
    index_of = {numbers[name]: index for index, name in enumerate(names)}
    lookup = label_lookup(index_of, ignore, max(numbers.values()) + 1)
    read = partial(read_mat if is_mat else read_png, lookup=lookup)
    return iter_items(read_split(paths["list"]), read, ".mat" if is_mat else ".png")


def read_names(path: Path) -> dict[str, int]:
    """Read the number of each name in labels.txt or 59_labels.txt, whose lines are "number: name".

    Raises:
        OvsegError: if a line has another form.
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
    """Read the `LabelMap` of a .mat file as classes uint16 `[H, W]`.

    Raises:
        BadItem: `truncated`, `not_labels`, or `label_outside`.
    """
    from scipy.io import loadmat

    try:
        numbers = loadmat(io.BytesIO(data), variable_names=["LabelMap"]).get("LabelMap")
    except Exception as error:  # damaged bytes can raise nearly any exception
        raise BadItem("truncated", f"{type(error).__name__}: {error}") from None
    if numbers is None or numbers.ndim != 2 or not np.issubdtype(numbers.dtype, np.number):
        raise BadItem("not_labels", "the .mat file has no LabelMap of rows and columns")
    return remap_labels(np.asarray(numbers).astype(np.int64), lookup)


def read_png(data: bytes, lookup: Labels) -> Labels:
    """Read a PNG of 0 to 59, as numbers or as colors of VOC's palette, as classes uint16 `[H, W]`.

    Raises:
        BadItem: the reason of a broken file, `not_labels` for a color that is not in the palette, or `label_outside`.
    """
    try:
        numbers: NDArray[np.integer] = decode_labels(data)
    except BadItem as bad:
        if bad.reason != "not_labels":
            raise
        numbers = palette_indices(decode_image(data))
    return remap_labels(numbers, lookup)


def palette_indices(colors: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The indices `[H, W]` of colors `[H, W, 3]` in VOC's palette.

    Raises:
        BadItem: `not_labels` for a color that is not in the palette.
    """
    known, given = _color_codes(palette()), _color_codes(colors)
    order = np.argsort(known)
    indices: NDArray[np.int64] = order[np.searchsorted(known, given, sorter=order).clip(max=255)]
    if (unknown := known[indices] != given).any():
        raise BadItem("not_labels", f"color {colors[unknown][0].tolist()} is not in VOC's palette")
    return indices


def palette() -> NDArray[np.uint8]:
    """VOC's 256 colors, uint8 `[256, 3]`: bits 0, 3, 6 of a number are red's highest, 1, 4, 7 green's, 2, 5 blue's."""
    numbers = np.arange(256)
    channels = [sum((numbers >> (3 * i + c) & 1) << (7 - i) for i in range(3)) for c in range(3)]
    return np.stack(channels, -1).astype(np.uint8)


def _color_codes(colors: NDArray[np.uint8]) -> NDArray[np.int64]:
    codes: NDArray[np.int64] = colors.astype(np.int64) @ np.array([2**16, 2**8, 1])
    return codes


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
