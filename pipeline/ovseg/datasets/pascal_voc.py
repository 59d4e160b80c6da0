"""Pascal VOC 2012: the 20 classes without background, all of them scored alike (pas20) or as 15 seen and 5 unseen (voc)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ovseg.core.errors import OvsegError
from ovseg.core.text_files import read_text
from ovseg.datasets.classes import Class
from ovseg.datasets.release import (
    Item,
    ReleasePaths,
    ReleaseSpec,
    index_by_id,
    iter_items,
    label_lookup,
    read_label_map,
)


def voc(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the 1,449 images of ImageSets/Segmentation/val.txt (Everingham et al. 2010).

    The labels are gray or palette PNGs of SegmentationClassAug (Hariharan et al. 2011) or SegmentationClass: 1 to 20 become
    0 to 19. The background, 0, is not a class and is ignored, as are the borders of objects, 255.
    """
    read = partial(read_label_map, lookup=label_lookup(index_by_id(classes), ignore))
    return iter_items(read_split(paths["list"]), read)


def read_split(path: Path) -> list[str]:
    """Read the names of a split, one on each line.

    Raises:
        OvsegError: if the file is not a list of names, or a name occurs twice.
    """
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise OvsegError(f"{path} is not a list of names ({error})") from None
    names = [line.strip() for line in lines if line.strip()]
    if not names or len(set(names)) < len(names) or any(len(name.split()) > 1 for name in names):
        raise OvsegError(f"{path} must have one name of an image on each line, and each name once")
    return names


VOC = ReleaseSpec(
    voc,
    ignore=255,
    images=1_449,
    source="Pascal VOC 2012 val (Everingham et al. 2010); background is not scored",
    where="VOCtrainval_11-May-2012.tar of host.robots.ox.ac.uk/pascal/VOC/voc2012",
    homes=("VOCdevkit/VOC2012", "VOC2012", "."),
    parts={
        "images": ("JPEGImages",),
        "labels": ("SegmentationClassAug", "SegmentationClass"),
        "list": ("ImageSets/Segmentation/val.txt",),
    },
)
