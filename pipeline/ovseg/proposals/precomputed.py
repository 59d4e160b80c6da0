"""Proposals that another model has made: COCO results, or a table `proposals`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ovseg.core import tables
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord
from ovseg.datasets.coco import open_results
from ovseg.datasets.references import check_image_ids, read_index_names
from ovseg.datasets.store import Record
from ovseg.proposals import Proposal, Source
from ovseg.proposals.coco_records import coco_mask

PROPOSED = pc.field("source").is_null() | (pc.field("source") != tables.ANNOTATED)


def precomputed(path: Path, scratch: Path, max_proposals: int) -> Source:
    """Create a source that yields masks of another model.

    Args:
        path: COCO results JSON, or a table `proposals` (a Parquet file, or a folder of them).
        scratch: folder for an indexed copy of the JSON.
        max_proposals: largest number of proposals for one image; those with the best scores are kept.

    Raises:
        OvsegError: the path does not exist or is in none of these formats.
    """
    store = None if _is_table(path) else open_results(path, scratch / f"{path.stem}.sqlite")
    parts = {} if store else _parts_by_image(path)

    def source(image: ImageRecord) -> Iterator[Proposal | BadItem]:
        records = store.annotations(image.image_id) if store else _table_records(parts.get(image.image_id, ()), image)
        items = [coco_mask(record, image, None) for record in records]
        proposals = sorted((item for item in items if isinstance(item, Proposal)), key=lambda item: -item.score)
        return chain(proposals[:max_proposals], (item for item in items if isinstance(item, BadItem)))

    return source


def check_results(path: Path, scratch: Path, index: Path) -> dict[str, int]:
    """Check before any work that masks of another model are of the images of an index.

    Args:
        path, scratch: see `precomputed`.
        index: folder of the table `index`.

    Returns:
        counts of ids that lead nowhere, see `datasets.references`.

    Raises:
        OvsegError: no mask is of an image of the index.
    """
    table = _is_table(path)
    ids = _parts_by_image(path) if table else open_results(path, scratch / f"{path.stem}.sqlite").annotated_ids()
    return check_image_ids(path, ids, read_index_names(index))


def precomputed_metadata(path: Path) -> dict[str, str]:
    """Return what a table `proposals` says of the network that made its masks; empty for a JSON.

    Args:
        path: see `precomputed`.

    Raises:
        OvsegError: the path is another table.
    """
    if not _is_table(path):
        return {}
    stated = tables.check_part(path if path.is_file() else tables.parts(path)[0], "proposals")
    return {name: stated[name] for name in ("ovseg.network", tables.LICENCE) if name in stated}


def _is_table(path: Path) -> bool:
    return path.is_dir() or path.suffix == ".parquet"


def _parts_by_image(path: Path) -> Mapping[int, list[Path]]:
    """Map each image id to the parts of a table that hold its proposals, so that not every part is read for every image."""
    by_image: dict[int, list[Path]] = defaultdict(list)
    for part in [path] if path.is_file() else tables.parts(path):
        rows = tables.read_part(part, "proposals", ["image_id", "source"]).filter(PROPOSED)
        for image_id in rows["image_id"].unique().to_pylist():
            by_image[image_id].append(part)
    return by_image


def _table_records(parts: Sequence[Path], image: ImageRecord) -> Iterator[Record]:
    """Yield an image's proposals in a table as records of COCO; annotated masks are left out."""
    for part in parts:
        of_image = pq.read_table(tables.open_part(part), filters=PROPOSED & (pc.field("image_id") == image.image_id))
        for row in of_image.to_pylist():
            segmentation = {"size": [row["height"], row["width"]], "counts": row["rle"]}
            yield {"segmentation": segmentation, "score": row["score"]}
