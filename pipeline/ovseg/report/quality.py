"""How good the mined nouns and pairs are, where somebody wrote down what is right."""

from __future__ import annotations

import mmap
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.compute as pc

from ovseg.core import hashing, masks, tables
from ovseg.core.errors import BadItem
from ovseg.datasets.coco import open_coco
from ovseg.datasets.store import Record, Store
from ovseg.mining.nouns import CaptionsPerImage
from ovseg.report.sampling import Row, with_masks


def noun_quality(
    nouns: Path, captions: Path, captions_per_image: CaptionsPerImage, index: Path | None = None
) -> dict[str, float]:
    """Precision and recall of the extracted nouns against those marked in the captions, over all images together.

    Args:
        nouns: folder of the table `nouns`.
        captions: the captions JSON; its annotations may have "nouns": [{"noun", "start", "end", "visual"}].
        captions_per_image: as in `extract_nouns`: 1 compares with the caption of the lowest id alone.
        index: folder of the table `index`; only its usable images count. None: every image of the captions does.

    Returns:
        "noun_precision" and "noun_recall" in [0, 1]; empty where no caption has its nouns marked.
    """
    if captions.is_dir() or not _mentions(captions, b'"nouns"'):
        return {}
    gold = _gold(captions, captions_per_image, None if index is None else _usable(index))
    if not gold:
        return {}
    found: dict[int, set[str]] = defaultdict(set)
    for row in tables.rows(nouns, "nouns", ["image_id", "noun"]):
        found[row["image_id"]].add(row["noun"])
    right = sum(len(found[image_id] & wanted) for image_id, wanted in gold.items())
    extracted = sum(len(found[image_id]) for image_id in gold)
    wanted = sum(len(nouns_) for nouns_ in gold.values())
    return {"noun_precision": right / max(extracted, 1), "noun_recall": right / max(wanted, 1)}


def _mentions(path: Path, word: bytes) -> bool:
    """Whether a file holds a word; a look that costs nothing beside streaming all of COCO's captions."""
    with path.open("rb") as stream:
        if not path.stat().st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(word) >= 0


def _usable(index: Path) -> set[int]:
    rows = tables.rows(index, "index", ["image_id", "problem"])
    return {row["image_id"] for row in rows if row["problem"] is None}


def _gold(captions: Path, policy: CaptionsPerImage, usable: set[int] | None) -> dict[int, set[str]]:
    """Distinct visual nouns by image, over the captions that were read; no image whose captions are not marked."""
    gold = {}
    with TemporaryDirectory() as scratch:
        store = open_coco(captions, Path(scratch) / "captions.sqlite")
        for image in store.images():
            if usable is not None and image["id"] not in usable:
                continue
            found = [a for a in store.annotations(image["id"]) if isinstance(a.get("caption"), str)]
            read = sorted(found, key=lambda a: int(a.get("id", 0)))[: 1 if policy == 1 else None]
            if read and all("nouns" in caption for caption in read):
                gold[image["id"]] = {n["noun"].lower() for caption in read for n in caption["nouns"] if n["visual"]}
    return gold


def pair_quality(pairs: Path, proposals: Path, truth: Path, scratch: Path) -> dict[str, float]:
    """How many mined pairs name what their mask shows.

    A pair is right if, of all segments of its image in the truth, the one that overlaps its mask most (by IoU) has the
    pair's noun as name or synonym. Left out are annotated pairs, which are not mined, and images without a segment,
    which cannot be judged.

    Args:
        pairs, proposals: folders of those tables.
        truth: COCO-format JSON with RLE or polygons; categories have a name and may have "synonyms" and "annotated".
        scratch: folder for the streamed copy of the truth.

    Returns:
        shares in [0, 1]: "pairs_in_vocabulary" (of all mined pairs, those whose noun names a category);
        "pair_precision" over those of them that can be judged; and, if categories say whether they are annotated,
        "pair_precision_annotated" and "pair_precision_not_annotated". A share of nothing is left out.

    Raises:
        OvsegError: if the truth is not a COCO file, or a table is missing.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    store = open_coco(truth, scratch / f"truth-{hashing.sha256_file(truth)[:16]}.sqlite")
    categories = store.categories()
    words = _words(categories)
    columns = ["part", "image_id", "noun", "proposal", "source"]
    table = tables.read(pairs, "pairs", columns)
    mined = table.filter(pc.not_equal(table["source"], "annotated")).to_pylist()
    known = [pair for pair in mined if pair["noun"] in words]
    flagged = any("annotated" in record for record in categories.values())
    right: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    for pair, good in _judged(known, proposals, store, words):
        names = ["pair_precision"]
        if flagged:
            annotated = any(categories[i].get("annotated") for i in words[pair["noun"]])
            names.append("pair_precision_annotated" if annotated else "pair_precision_not_annotated")
        judged.update(names)
        right.update(names if good else ())
    shares = {name: right[name] / judged[name] for name in sorted(judged)}
    return shares | ({"pairs_in_vocabulary": len(known) / len(mined)} if mined else {})


def _words(categories: dict[int, Record]) -> dict[str, set[int]]:
    """Name or synonym in lower case -> ids of the categories that it names."""
    words: dict[str, set[int]] = defaultdict(set)
    for number, record in categories.items():
        for word in (record["name"], *record.get("synonyms", ())):
            words[str(word).lower()].add(number)
    return dict(words)


def _judged(pairs: list[Row], proposals: Path, store: Store, words: dict[str, set[int]]) -> Iterator[tuple[Row, bool]]:
    """Each pair of an image that has segments, and whether it is right."""
    for image_id, mine, regions in with_masks(pairs, proposals):
        best = best_categories([regions[pair["proposal"]] for pair in mine], store.annotations(image_id))
        if best is not None:
            yield from ((pair, bool(found & words[pair["noun"]])) for pair, found in zip(mine, best, strict=True))


def best_categories(regions: list[Row], segments: list[Record]) -> list[set[int]] | None:
    """For each mask of one image the categories of the segments that overlap it most.

    Args:
        regions: rows of the table `proposals`, all of one image.
        segments: COCO annotations of the same image; those that cannot be read are passed over.

    Returns:
        more than one category only where overlaps are equal, none where nothing overlaps; None if there is no segment.
    """
    height, width = regions[0]["height"], regions[0]["width"]
    counts, categories = [], []
    for segment in segments:
        try:
            counts.append(masks.from_coco(segment.get("segmentation"), height, width))
            categories.append(int(segment["category_id"]))
        except BadItem:
            continue
    if not counts:
        return None
    overlap = masks.iou_matrix([row["rle"] for row in regions] + counts, height, width)[: len(regions), len(regions) :]
    best = overlap.max(axis=1)
    return [
        {categories[i] for i in np.flatnonzero(row == most)} if most > 0 else set()
        for row, most in zip(overlap, best, strict=True)
    ]
