"""COCO-Stuff, the plainest release: a folder of images, and a folder of gray label maps with the same names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from ovseg.datasets.classes import Class
from ovseg.datasets.release import (
    Item,
    ReleasePaths,
    ReleaseSpec,
    index_by_id,
    iter_items,
    label_lookup,
    list_ids,
    read_label_map,
)


def cocostuff(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the 5,000 images of val2017 with their stuffthingmaps (Caesar et al., arXiv 1612.03716).

    The value of a pixel is its category id less 1, or 255 where nothing is labeled. 11 of the 182 ids were never used: the
    class table leaves them out, and pixels with their numbers are ignored.
    """
    read = partial(read_label_map, lookup=label_lookup(index_by_id(classes), ignore))
    return iter_items(list_ids(paths["images"], paths["labels"]), read)


COCOSTUFF = ReleaseSpec(
    cocostuff,
    ignore=255,
    images=5_000,
    counted=False,
    source="COCO-Stuff val2017 (Caesar et al., arXiv 1612.03716)",
    where="val2017.zip of cocodataset.org and stuffthingmaps_trainval2017.zip of github.com/nightrome/cocostuff",
    homes=("coco", "."),
    parts={"images": ("val2017", "images/val2017"), "labels": ("stuffthingmaps/val2017", "annotations/val2017")},
)
