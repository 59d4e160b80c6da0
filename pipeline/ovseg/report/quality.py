"""How many mined nouns and pairs are correct, where the data says what is correct."""

from __future__ import annotations

import logging
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc

from ovseg.core import hashing, masks, tables
from ovseg.core.image_records import ImageRecord
from ovseg.core.options import CaptionsPerImage
from ovseg.core.remote_files import local_copy
from ovseg.core.text import normalize
from ovseg.datasets.coco import open_coco
from ovseg.datasets.references import check_categories
from ovseg.datasets.store import Record
from ovseg.engine.progress import Progress
from ovseg.proposals import Proposal, Source
from ovseg.proposals.ground_truth import ground_truth, open_annotations
from ovseg.report.sampling import Row, pairs_by_image

log = logging.getLogger("ovseg")

IMAGES_JUDGED = 5000
"""At most: reading the segments of all of COCO would take an hour."""


def noun_quality(
    nouns: Path, captions: Path, captions_per_image: CaptionsPerImage, index: Path | None = None
) -> dict[str, float]:
    """Compute precision and recall of the extracted nouns against the nouns marked in the captions, over all images together.

    Args:
        nouns: the folder of the table `nouns`.
        captions: the captions JSON; its annotations may have "nouns": [{"noun", "start", "end", "visual"}].
        captions_per_image: the captions that were read: 1 is the one with the lowest id of each image.
        index: the folder of the table `index`, whose usable images alone count; None counts every image of the captions.

    Returns:
        "noun_precision" and "noun_recall" in [0, 1]; empty where no caption has its nouns marked.
    """
    if captions.is_dir():
        return {}
    with local_copy(captions) as file:
        if not _contains(file, b'"nouns"'):
            return {}
        marked = _marked_nouns(file, captions_per_image, None if index is None else _usable_images(index))
    if not marked:
        return {}
    extracted: dict[int, set[str]] = defaultdict(set)
    for row in tables.rows(nouns, "nouns", ["image_id", "noun"]):
        extracted[row["image_id"]].add(row["noun"])
    num_correct = sum(len(extracted[image_id] & image_nouns) for image_id, image_nouns in marked.items())
    num_extracted = sum(len(extracted[image_id]) for image_id in marked)
    num_marked = sum(len(image_nouns) for image_nouns in marked.values())
    return {"noun_precision": num_correct / max(num_extracted, 1), "noun_recall": num_correct / max(num_marked, 1)}


def _contains(path: Path, text: bytes) -> bool:
    """Whether a file contains a text; this is much faster than parsing all captions of COCO."""
    with path.open("rb") as stream:
        if not path.stat().st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(text) >= 0


def _usable_images(index: Path) -> set[int]:
    rows = tables.rows(index, "index", ["image_id", "problem"])
    return {row["image_id"] for row in rows if row["problem"] is None}


def _marked_nouns(captions: Path, policy: CaptionsPerImage, usable: set[int] | None) -> dict[int, set[str]]:
    """The distinct visual nouns of each image over the captions that were read; images with unmarked captions are left out."""
    marked = {}
    with TemporaryDirectory() as scratch:
        store = open_coco(captions, Path(scratch) / "captions.sqlite")
        for image in store.images():
            if usable is not None and image["id"] not in usable:
                continue
            annotations = [a for a in store.annotations(image["id"]) if isinstance(a.get("caption"), str)]
            read = sorted(annotations, key=_caption_id)[: 1 if policy == 1 else None]
            if read and all("nouns" in caption for caption in read):
                marked[image["id"]] = {
                    normalize(n["noun"]).lower() for caption in read for n in caption["nouns"] if n["visual"]
                }
    return marked


def _caption_id(annotation: Record) -> int:
    return annotation["id"] if isinstance(annotation.get("id"), int) else 0


def pair_quality(pairs: Path, proposals: Path, annotations: Path, scratch: Path) -> dict[str, float]:
    """Compute the fraction of mined pairs whose noun names what their mask shows.

    A pair is correct if the annotated segment that overlaps its mask most (by IoU) has the pair's noun as name or synonym.
    Annotated pairs, which are not mined, and images without a segment, which cannot be judged, are left out. Of more than 5,000
    images with mined pairs that many are judged, at equal distances.

    Args:
        pairs: the folder of the table `pairs`.
        proposals: the folder of the table `proposals`.
        annotations: COCO instances or panoptic JSON; its categories have a name and may have "synonyms" and "annotated".
        scratch: a folder for the database that the annotations are read into.

    Returns:
        fractions in [0, 1]: "pairs_in_vocabulary", the mined pairs whose noun names a category; "pair_precision", the correct
        ones among those of them that can be judged; and, if categories say whether they are annotated,
        "pair_precision_annotated" and "pair_precision_not_annotated". A fraction of no pairs is left out.

    Raises:
        OvsegError: the annotations are not a COCO file or have wrong categories, the PNGs of a panoptic JSON are missing, or
            a table is missing.
    """
    categories, source = _open_annotations(annotations, scratch)
    vocabulary = _categories_by_name(categories)
    columns = ["part", "image_id", "noun", "proposal", "source"]
    table = tables.read(pairs, "pairs", columns)
    mined = table.filter(pc.not_equal(table["source"], "annotated")).to_pylist()
    in_vocabulary = [pair for pair in mined if pair["noun"] in vocabulary]
    flagged = any("annotated" in record for record in categories)
    known = {str(record["name"]) for record in categories if record.get("annotated")}
    correct: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    ids = sorted({pair["image_id"] for pair in in_vocabulary})
    sampled = set(ids[:: -(-len(ids) // IMAGES_JUDGED)]) if ids else set()
    of_sample = [pair for pair in in_vocabulary if pair["image_id"] in sampled]
    for pair, is_correct in _judge(of_sample, proposals, source, vocabulary):
        names = ["pair_precision"]
        if flagged:
            annotated = known & vocabulary[pair["noun"]]
            names.append("pair_precision_annotated" if annotated else "pair_precision_not_annotated")
        judged.update(names)
        correct.update(names if is_correct else ())
    if in_vocabulary and not judged:
        log.warning(
            "%s has no usable mask for the image of any of %d mined pairs, so that none can be judged",
            annotations,
            len(in_vocabulary),
        )
    fractions = {name: correct[name] / judged[name] for name in sorted(judged)}
    return fractions | ({"pairs_in_vocabulary": len(in_vocabulary) / len(mined)} if mined else {})


def judge_pairs(pairs: list[Row], proposals: Path, annotations: Path, scratch: Path) -> list[tuple[Row, bool]]:
    """Return the pairs that can be judged as in `pair_quality`, and whether each is correct.

    Args:
        pairs: mined rows of the table `pairs`, in any number and order.
        proposals, annotations, scratch: see `pair_quality`.

    Raises:
        OvsegError: see `pair_quality`.
    """
    categories, source = _open_annotations(annotations, scratch)
    vocabulary = _categories_by_name(categories)
    return list(_judge([pair for pair in pairs if pair["noun"] in vocabulary], proposals, source, vocabulary))


def _open_annotations(annotations: Path, scratch: Path) -> tuple[list[Record], Source]:
    """The categories, and the masks of an image with the names of their categories."""
    folder = scratch / f"annotations-{hashing.sha256_file(annotations)[:16]}"
    store = open_annotations(annotations, folder)
    check_categories(annotations, store)
    return list(store.categories().values()), ground_truth(annotations, folder, labels=True)


def _categories_by_name(categories: list[Record]) -> dict[str, set[str]]:
    """The names of the categories that each name or synonym, in lower case, stands for."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for record in categories:
        for name in (record["name"], *record.get("synonyms", ())):
            by_name[normalize(str(name)).lower()].add(str(record["name"]))
    return dict(by_name)


def _judge(
    pairs: list[Row], proposals: Path, source: Source, vocabulary: dict[str, set[str]]
) -> Iterator[tuple[Row, bool]]:
    """Each pair of an image that has segments, and whether it is correct."""
    with Progress("pair precision", len({pair["image_id"] for pair in pairs}), "images") as progress:
        for image_id, image_pairs, image_proposals in pairs_by_image(pairs, proposals):
            masks_of_pairs = [image_proposals[pair["proposal"]] for pair in image_pairs]
            height, width = masks_of_pairs[0]["height"], masks_of_pairs[0]["width"]
            image = ImageRecord(Path(), image_id, "", 0, -1, width, height)  # annotations need no more of it
            segments = [item for item in source(image) if isinstance(item, Proposal)]
            if segments:
                best = best_labels(masks_of_pairs, segments)
                for pair, labels in zip(image_pairs, best, strict=True):
                    yield pair, bool(labels & vocabulary[pair["noun"]])
            progress.add({"pairs": len(image_pairs)})


def best_labels(proposals: list[Row], segments: list[Proposal]) -> list[set[str | None]]:
    """Return, for each mask of one image, the labels of the annotated segments that overlap it most.

    Args:
        proposals: rows of the table `proposals`, all of one image.
        segments: the annotated masks of the same image, at least one.

    Returns:
        several labels for a mask only where overlaps are equal, none where nothing overlaps.
    """
    height, width = proposals[0]["height"], proposals[0]["width"]
    rles = [row["rle"] for row in proposals]
    overlap = masks.iou_matrix(rles, height, width, [segment.rle for segment in segments])
    return [
        {segments[i].label for i in np.flatnonzero(row == largest)} if largest > 0 else set()
        for row, largest in zip(overlap, overlap.max(axis=1), strict=True)
    ]
