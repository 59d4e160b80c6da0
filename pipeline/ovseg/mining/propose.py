"""Step `propose`: the masks of every image, stored once as RLE, so that no later step needs their source again."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovseg.core import hashing, masks, tables
from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.failures import failure, write_failures
from ovseg.core.image_records import OTHER_ORIENTATION, ImageRecord, read_image_records
from ovseg.core.options import ProposeOptions
from ovseg.datasets.classes import find_table, read_classes
from ovseg.engine.fingerprint import step_key
from ovseg.engine.runtime import Runtime
from ovseg.engine.scratch import Scratch
from ovseg.engine.steps import run_step
from ovseg.engine.totals import Total
from ovseg.engine.units import Counts, Task, unit_names
from ovseg.proposals import Proposal, Source
from ovseg.proposals.ground_truth import check_annotations, ground_truth, item_counts
from ovseg.proposals.sources import content_hash, mask_source, table_metadata

log = logging.getLogger("ovseg")

ANNOTATED = "annotated"  # folder for the indexed copy of the annotated masks
PROPOSALS, ANNOTATED_MASKS = Total("proposals", "(?!annotated_|image_).*"), Total("annotated_masks", "annotated_.*")


def propose_masks(index: Path, images: Path, out: Path, runtime: Runtime, options: ProposeOptions) -> dict[str, int]:
    """Write the table `proposals`, one row per mask.

    Args:
        index: folder of the table `index`.
        images: folder that the files of the index are relative to.
        out: folder of the table `proposals`.
        runtime: devices, workers, scratch folder.
        options: parameters of the step. Annotated masks are stored beside the proposals, all of them.

    Returns:
        counts: images, proposals, annotated masks, and dropped masks and images by reason.

    Raises:
        OvsegError: the source is unknown, or a path or model is missing or not what the source reads.
    """
    source = mask_source(options)
    if options.annotations is not None and not options.annotations.exists():
        raise OvsegError(f"propose.annotations={options.annotations} does not exist")
    metadata = table_metadata(options)
    key = step_key(
        "propose",
        __name__,
        index=tables.fingerprint(index, "index"),
        options=options.model_dump(include={"source", "mask_threshold", "max_proposals"}),
        masks=content_hash(options),
        annotations=None if options.annotations is None else tables.annotations_hash(options.annotations),
        schema=tables.SCHEMA_VERSION,
        **({"classes": hashing.sha256_file(find_table(options.classes))} if options.classes else {}),
    )
    scratch = Scratch(runtime.work, key, runtime.fresh, keep=runtime.keep)
    factory = _ProposeTaskFactory(index, images, key.fingerprint, scratch.folder, options, metadata)
    counts = run_step(
        key,
        list(unit_names(index)),
        factory,
        out,
        runtime,
        uses_model=source.uses_model,
        scratch=scratch,
        totals=_totals(options),
        more_counts=_check_references(index, scratch.folder, options),
    )
    if (without := counts.get("dropped.image_without_proposals", 0)) > runtime.max_dropped * counts["images"]:
        log.warning("propose: %d of %d images have no mask, so that their nouns get none", without, counts["images"])
    if others := counts.get(f"dropped.{OTHER_ORIENTATION}"):
        log.warning(
            "propose: %d masks have the size that their images have with the other EXIF orientation, not the one they are used "
            "with; set index.orientation to the other value (exif or raw), and run the step index again",
            others,
        )
    return counts


def _totals(options: ProposeOptions) -> list[Total]:
    """The kinds of items of the step. A model finds masks in most images, but files need not have masks of all of them."""
    images = Total("images", "image_without_proposals", part=True, chosen=not mask_source(options).uses_model)
    return [PROPOSALS, images, *([ANNOTATED_MASKS] if options.annotations else [])]


def _check_references(index: Path, scratch: Path, options: ProposeOptions) -> dict[str, int]:
    """Check that masks in files are of images of the index, and index these files before several workers do it at once.

    Returns:
        the counts of ids that lead nowhere.
    """
    counts = mask_source(options).check(options, scratch, index)
    if options.annotations is not None:
        annotated = check_annotations(options.annotations, scratch / ANNOTATED, index, labels=True)
        counts = {**counts, **{f"annotated_{name}": number for name, number in annotated.items()}}
    return counts


def annotated_masks(options: ProposeOptions, scratch: Path) -> Source | None:
    """Return the annotated masks that are stored beside the proposals; those of unseen classes of a class table are not.

    Args:
        options: parameters of the step.
        scratch: folder of the annotations' streamed copy.

    Raises:
        OvsegError: the annotations or their class table cannot be used.
    """
    if options.annotations is None:
        return None
    if options.classes is None:
        return ground_truth(options.annotations, scratch, labels=True)
    table = find_table(options.classes)
    source = ground_truth(options.annotations, scratch, labels=True, classes=table)
    seen = {entry.names[0] for entry in read_classes(table) if entry.seen}
    return lambda image: (item for item in source(image) if isinstance(item, BadItem) or item.label in seen)


@dataclass(frozen=True)
class _ProposeTaskFactory:
    index: Path
    images: Path
    fingerprint: str
    scratch: Path
    options: ProposeOptions
    metadata: Mapping[str, str]

    def __call__(self, device: str) -> Task:
        source = mask_source(self.options).open(self.options, self.scratch, device)
        annotated = annotated_masks(self.options, self.scratch / ANNOTATED)

        def task(unit: str, folder: Path) -> Counts:
            rows: list[dict[str, Any]] = []
            failures: list[dict[str, Any]] = []
            counts: Counter[str] = Counter(images=0, proposals=0)
            for image in read_image_records(self.index / f"{unit}.parquet", self.images):
                proposals = []
                for prefix, item in _masks(image, source, annotated):
                    counts.update(item_counts(item, prefix))
                    if isinstance(item, Proposal):
                        proposals.append(item)
                    else:
                        failures.append(failure(image.image_id, f"{prefix}mask", item))
                rows += [_row(image, i, proposal, self.options.source) for i, proposal in enumerate(proposals)]
                counts["images"] += 1
                without_label = sum(proposal.label is None for proposal in proposals)
                counts["proposals"] += without_label
                counts["annotated_masks"] += len(proposals) - without_label
                counts["dropped.image_without_proposals"] += not without_label
            tables.write_part(folder / f"{unit}.parquet", "proposals", rows, self.fingerprint, self.metadata)
            write_failures(folder, unit, failures, self.fingerprint)
            return {name: n for name, n in counts.items() if n or name in ("images", "proposals")}

        return task


def _masks(image: ImageRecord, source: Source, annotated: Source | None) -> Iterator[tuple[str, Proposal | BadItem]]:
    """The masks of an image; a prefix of names tells proposals and annotated masks apart."""
    try:
        yield from (("", item) for item in source(image))
        yield from (("annotated_", item) for item in (annotated(image) if annotated else ()))
    except BadItem as problem:  # the image itself cannot be read
        yield "", problem


def _row(image: ImageRecord, number: int, proposal: Proposal, source: str) -> dict[str, Any]:
    size = (image.height, image.width)
    return {
        "image_id": image.image_id,
        "proposal": number,
        "rle": proposal.rle,
        "height": size[0],
        "width": size[1],
        "box": list(masks.box(proposal.rle, *size)),
        "area": masks.area(proposal.rle, *size),
        "score": proposal.score,
        "source": source if proposal.label is None else tables.ANNOTATED,
        "label": proposal.label,
    }
