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
from ovseg.core.errors import BadItem
from ovseg.core.options import CaptionsPerImage
from ovseg.core.text import normalize
from ovseg.datasets.coco import open_coco
from ovseg.datasets.references import check_categories
from ovseg.datasets.store import Record, Store
from ovseg.report.sampling import Row, pairs_by_image

log = logging.getLogger("ovseg")


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
    if captions.is_dir() or not _contains(captions, b'"nouns"'):
        return {}
    marked = _marked_nouns(captions, captions_per_image, None if index is None else _usable_images(index))
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
    Annotated pairs, which are not mined, and images without a segment, which cannot be judged, are left out.

    Args:
        pairs: the folder of the table `pairs`.
        proposals: the folder of the table `proposals`.
        annotations: COCO JSON with RLE or polygons; its categories have a name and may have "synonyms" and "annotated".
        scratch: a folder for the database that the annotations are read into.

    Returns:
        fractions in [0, 1]: "pairs_in_vocabulary", the mined pairs whose noun names a category; "pair_precision", the correct
        ones among those of them that can be judged; and, if categories say whether they are annotated,
        "pair_precision_annotated" and "pair_precision_not_annotated". A fraction of no pairs is left out.

    Raises:
        OvsegError: the annotations are not a COCO file or have wrong categories, or a table is missing.
    """
    store = _open_annotations(annotations, scratch)
    categories = store.categories()
    vocabulary = _categories_by_name(categories)
    columns = ["part", "image_id", "noun", "proposal", "source"]
    table = tables.read(pairs, "pairs", columns)
    mined = table.filter(pc.not_equal(table["source"], "annotated")).to_pylist()
    in_vocabulary = [pair for pair in mined if pair["noun"] in vocabulary]
    flagged = any("annotated" in record for record in categories.values())
    correct: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for pair, is_correct in _judge(in_vocabulary, proposals, store, vocabulary):
        names = ["pair_precision"]
        if flagged:
            annotated = any(categories[i].get("annotated") for i in vocabulary[pair["noun"]])
            names.append("pair_precision_annotated" if annotated else "pair_precision_not_annotated")
        judged.update(names)
        correct.update(names if is_correct else ())
    if in_vocabulary and not judged:
        log.warning(
            "%s has no mask (polygons or RLE) for the image of any of %d mined pairs, so that none can be judged",
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
    store = _open_annotations(annotations, scratch)
    vocabulary = _categories_by_name(store.categories())
    return list(_judge([pair for pair in pairs if pair["noun"] in vocabulary], proposals, store, vocabulary))


def _open_annotations(annotations: Path, scratch: Path) -> Store:
    scratch.mkdir(parents=True, exist_ok=True)
    store = open_coco(annotations, scratch / f"annotations-{hashing.sha256_file(annotations)[:16]}.sqlite")
    check_categories(annotations, store)
    return store


def _categories_by_name(categories: dict[int, Record]) -> dict[str, set[int]]:
    """The ids of the categories that each name or synonym, in lower case, stands for."""
    by_name: dict[str, set[int]] = defaultdict(set)
    for category_id, record in categories.items():
        for name in (record["name"], *record.get("synonyms", ())):
            by_name[normalize(str(name)).lower()].add(category_id)
    return dict(by_name)


def _judge(
    pairs: list[Row], proposals: Path, store: Store, vocabulary: dict[str, set[int]]
) -> Iterator[tuple[Row, bool]]:
    """Each pair of an image that has segments, and whether it is correct."""
    for image_id, image_pairs, image_proposals in pairs_by_image(pairs, proposals):
        best = best_categories([image_proposals[pair["proposal"]] for pair in image_pairs], store.annotations(image_id))
        if best is not None:
            for pair, categories in zip(image_pairs, best, strict=True):
                yield pair, bool(categories & vocabulary[pair["noun"]])


def best_categories(proposals: list[Row], segments: list[Record]) -> list[set[int]] | None:
    """Return, for each mask of one image, the categories of the segments that overlap it most.

    Args:
        proposals: rows of the table `proposals`, all of one image.
        segments: COCO annotations of the same image; unreadable ones are skipped.

    Returns:
        several categories for a mask only where overlaps are equal, none where nothing overlaps; None if there is no segment.
    """
    height, width = proposals[0]["height"], proposals[0]["width"]
    segment_rles, categories = [], []
    for segment in segments:
        if not isinstance(segment.get("category_id"), int):
            continue
        try:
            segment_rles.append(masks.from_coco(segment.get("segmentation"), height, width))
            categories.append(segment["category_id"])
        except BadItem:
            continue
    if not segment_rles:
        return None
    overlap = masks.iou_matrix([row["rle"] for row in proposals], height, width, segment_rles)
    return [
        {categories[i] for i in np.flatnonzero(row == largest)} if largest > 0 else set()
        for row, largest in zip(overlap, overlap.max(axis=1), strict=True)
    ]
