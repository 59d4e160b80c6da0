"""Mask accuracy: the fraction of annotated masks whose class CLIP recognizes. The cheap measure of an adaptation.

Union accuracy is the same with one region for each image and class: the union of the masks of the class, as semantic ground
truth has it. No proposals are involved.

Shapes: N regions, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovseg.clip.embedding_files import image_hash
from ovseg.clip.load import Clip
from ovseg.clip.pseudo_text import compare
from ovseg.core import masks
from ovseg.core.crops import crop_threads
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.core.options import CropOptions, Fill, Orientation, Templates
from ovseg.datasets.coco import find_image, open_coco
from ovseg.datasets.references import category_names, check_categories, check_listed_images
from ovseg.datasets.store import Record
from ovseg.engine.progress import Progress
from ovseg.engine.totals import Total, check_totals
from ovseg.evaluation.metrics import accuracies
from ovseg.evaluation.region_store import ImageRegions, embed_regions
from ovseg.proposals import Source
from ovseg.proposals.ground_truth import ground_truth, item_counts
from ovseg.segmentation.region_encoder import RegionEncoder

TOTALS = (Total("images", "image_.*"), Total("regions"))
IMAGES_AT_A_TIME = 16  # whose regions share forward passes
IntArray = NDArray[np.int64]


class Region(NamedTuple):
    """A region of an image.

    Attributes:
        rle: the mask as compressed RLE, with a pixel.
        number: the class number.
        is_mask: whether it is an annotated mask.
        is_union: whether it is the union of all masks of its class in the image; the only mask of a class is both.
    """

    rle: bytes
    number: int
    is_mask: bool
    is_union: bool


def measure_mask_accuracy(
    clips: Mapping[str, Clip],
    images: Path,
    annotations: Path,
    *,
    fill: Fill,
    antialias: bool,
    templates: Templates,
    batch_size: int,
    limit: int | None = None,
    orientation: Orientation = "exif",
    counts: Counter[str] | None = None,
    max_dropped: float = 0.5,
    folders: Mapping[str, Path] | None = None,
) -> dict[str, dict[str, float]]:
    """Measure the mask accuracy of several CLIPs of one input size, region encoder and text tower, in one pass over the images.

    Args:
        clips: the CLIPs by name.
        images: the folder of the images.
        annotations: COCO instances or panoptic JSON; its categories may state whether they are "annotated", that is,
            known in training.
        fill: the background of the crops; "keep" shows unmasked crops.
        antialias: whether crops are resized with antialiasing.
        templates: the templates of the class names, for CLIPs without learned text prompts.
        batch_size: see `RegionEncoder`; it changes no result.
        limit: the number of images to read, from the first on; None for all.
        orientation: whether images are turned as their EXIF orientation says, or used as stored.
        counts: is updated with "images" and "regions", the counts of `core.rotation`, and the dropped regions and images by
            reason (`dropped.<reason>` and `dropped.image_<reason>`).
        max_dropped: the largest fraction of the images, or of the regions, that may be dropped for one reason.
        folders: where the region embeddings of each CLIP are kept, see `store.region_folder`; None keeps none.

    Returns:
        for each CLIP the fractions of `accuracies` over N annotated masks, and "regions", N; and "union_accuracy",
        "union_accuracy_mean", ... over the unions of the masks of one class in an image, and "unions", how many.

    Raises:
        OvsegError: `annotations` is not a COCO file with categories, its ids lead nowhere (see `datasets.references`), or none
            or too few of its images or regions can be read.
    """
    predictions: dict[str, list[IntArray]] = {name: [] for name in clips}
    found: list[tuple[int, bool, bool]] = []  # class number, `is_mask` and `is_union` of each region
    counts = Counter() if counts is None else counts
    examples: dict[str, str] = {}
    with TemporaryDirectory() as scratch:
        # the same streamed copy that `ground_truth` reads
        store = open_coco(annotations, Path(scratch) / f"{annotations.stem}.sqlite")
        categories = [record for _, record in sorted(store.categories().items())]
        names = list(category_names(annotations, store, unique=True).values())
        counts.update(check_listed_images(annotations, store))
        check_categories(annotations, store)
        source = ground_truth(annotations, Path(scratch), labels=True)
        numbers = {name: i for i, name in enumerate(names)}
        records = list(islice(store.images(), limit))
        regions = _regions(records, images, orientation, source, numbers, counts, examples)
        texts = {name: clip.embed_names(names, templates) for name, clip in clips.items()}
        crop = CropOptions(fill=fill, antialias=antialias)
        with crop_threads() as pool:
            encoders = {
                name: RegionEncoder(clip, crop, batch_size=batch_size, pool=pool) for name, clip in clips.items()
            }
            while some := dict(islice(regions, IMAGES_AT_A_TIME)):
                found += [region[1:] for of_image in some.values() for region in of_image]
                embeddings = embed_regions(encoders, [(name, image) for name in clips for image in some], folders)
                for (name, image), of_image in embeddings.items():
                    num_masks = len(image.rles)  # all have a pixel
                    similarity = compare(
                        of_image[:num_masks], texts[name], clips[name].pseudo_text, of_image[num_masks:]
                    )
                    predictions[name].append(similarity.argmax(1).numpy())
    check_totals(f"mask accuracy on {annotations}", TOTALS, counts, max_dropped, examples.get)
    labels, is_mask, is_union = (np.array(column) for column in zip(*found, strict=True))
    stated = any("annotated" in record for record in categories)
    annotated = np.array([bool(record.get("annotated")) for record in categories]) if stated else None
    scores: dict[str, dict[str, float]] = {name: {} for name in clips}
    for figure, number, group in (("mask_accuracy", "regions", is_mask), ("union_accuracy", "unions", is_union)):
        for name, batches in predictions.items():
            pred = np.concatenate(batches)[group]
            scores[name] |= accuracies(labels[group], pred, len(names), annotated, figure)
            scores[name][number] = float(group.sum())
    return scores


def _with_unions(image: ImageRecord, annotated: Sequence[tuple[int, bytes]]) -> list[Region]:
    """The masks of an image, given by class number and RLE, then the union for each class that has several."""
    per_class = Counter(number for number, _ in annotated)
    regions = [Region(rle, number, True, per_class[number] == 1) for number, rle in annotated]
    unions: dict[int, masks.MaskArray] = {}
    for number, rle in annotated:
        if per_class[number] > 1:
            unions[number] = masks.decode(rle, image.height, image.width) | unions.get(number, np.False_)
    return regions + [Region(masks.encode(mask), number, False, True) for number, mask in unions.items()]


def _regions(
    records: list[Record],
    images: Path,
    orientation: Orientation,
    source: Source,
    numbers: dict[str, int],
    all_counts: Counter[str],
    examples: dict[str, str],
) -> Iterator[tuple[ImageRegions, list[Region]]]:
    """All images with regions; what cannot be read is counted in `all_counts` by its reason, with one of `examples`."""
    with Progress("mask accuracy", len(records), "images") as progress:
        for record in records:
            counts: Counter[str] = Counter(images=0, regions=0)
            try:
                image = find_image(images, record, orientation, counts)
                annotated: list[tuple[int, bytes]] = []
                for proposal in source(image):
                    counts.update(item_counts(proposal))
                    if isinstance(proposal, BadItem):
                        examples.setdefault(proposal.reason, f"image {record['id']}: {proposal.detail}")
                    elif proposal.label in numbers:
                        annotated.append((numbers[proposal.label], proposal.rle))
                if annotated:
                    regions = _with_unions(image, annotated)
                    rles = tuple(region.rle for region in regions)
                    of_image = ImageRegions(image.pixels, image_hash(image.pixels), rles)
                    counts["regions"] += len(annotated)
                    yield of_image, regions
                counts["images"] += 1
            except BadItem as problem:  # of the image itself
                counts[f"dropped.image_{problem.reason}"] += 1
                examples.setdefault(f"image_{problem.reason}", f"image {record['id']}: {problem.detail}")
            all_counts.update(counts)
            progress.add(counts)
