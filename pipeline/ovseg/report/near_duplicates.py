"""Is the test set among the mined images? How many are nearly an image of a benchmark, and what they look like."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg.core import tables
from ovseg.core.errors import BadItem
from ovseg.core.image_records import ImageRecord, read_image_records
from ovseg.core.images import ImageArray, decode_image, read_bytes
from ovseg.core.perceptual_hash import BITS
from ovseg.datasets.benchmark import read_benchmark
from ovseg.report.metric_tables import Section
from ovseg.report.overlays import PANEL_SIDE, Sheet
from ovseg.report.page import Gallery

SHOWN_IDS = 10  # in a row of the table; metrics.json has all
TITLE = "Near-duplicates"
TEXT = (
    "Mined images that are nearly an image of a benchmark, or its mirror image: the same one encoded again, resized or "
    "slightly cropped. Their pairs make the figures of that benchmark too good; with select.near_duplicates they are left out."
)

Row = dict[str, Any]


def count_near_duplicates(found: Path, pairs: Path) -> dict[str, Any]:
    """Count the mined images that are nearly an image of a benchmark, and the pairs of them that are left.

    Args:
        found: the folder of the table `near_duplicates`.
        pairs: the folder of the table `pairs`.

    Returns:
        for each benchmark that was compared, by its folder: "images" and "pairs", their numbers, and "image_ids".
    """
    number_of = Counter(tables.read(pairs, "pairs", ["image_id"])["image_id"].to_pylist())
    near: dict[str, set[int]] = defaultdict(set)
    for row in tables.rows(found, "near_duplicates", ["image_id", "benchmark"]):
        near[row["benchmark"]].add(row["image_id"])
    compared = [name.removeprefix(tables.NEAR) for name in tables.read_counts(found) if name.startswith(tables.NEAR)]
    return {
        folder: {
            "images": len(near[folder]),
            "pairs": sum(number_of[image_id] for image_id in near[folder]),
            "image_ids": sorted(near[folder]),
        }
        for folder in sorted(compared)
    }


def near_duplicates_section(counts: Mapping[str, Any]) -> Section:
    """Return the result of `count_near_duplicates` as a table of the report."""
    cells = [["benchmark", "mined images", "pairs of them", "image ids"]]
    for folder, result in counts.items():
        ids = [str(image_id) for image_id in result["image_ids"]]
        listed = ", ".join(ids[:SHOWN_IDS]) + (", ..." if len(ids) > SHOWN_IDS else "")
        cells.append([folder, f"{result['images']:,}", f"{result['pairs']:,}", listed])
    return Section(TITLE, TEXT, cells)


def near_duplicates_gallery(found: Path, index: Path, images: Path, number: int) -> Gallery:
    """Return mined images beside the images of benchmarks that they are nearly the same as, the nearest first.

    Args:
        found: the folder of the table `near_duplicates`.
        index: the folder of the table `index`.
        images: the folder that its files are relative to.
        number: largest number of sheets; an image of several benchmarks is shown once. Images that have gone since they were
            compared are left out, and the text says how many.

    Raises:
        OvsegError: a benchmark has gone.
    """
    nearest: dict[tuple[int, str], tuple[str, Row]] = {}
    for path in tables.parts(found):
        for row in tables.read_part(path, "near_duplicates").to_pylist():
            nearest.setdefault((row["image_id"], row["benchmark_file"]), (path.name, row))
    sheets: list[Sheet] = []
    gone = 0
    for part, row in sorted(nearest.values(), key=lambda near: (near[1]["distance"], -near[1]["similarity"])):
        if len(sheets) == number:
            break
        try:
            sheets.append(_sheet(_record(index / part, images, row["image_id"]), row))
        except BadItem:
            gone += 1
    return Gallery(TITLE, TEXT + (f" {gone:,} are not shown, because an image has gone." if gone else ""), sheets)


def _record(part: Path, images: Path, image_id: int) -> ImageRecord:
    for record in read_image_records(part, images):
        if record.image_id == image_id:
            return record
    raise BadItem("missing", f"image {image_id} is not among the usable images of {part}")


def _sheet(record: ImageRecord, row: Row) -> Sheet:
    benchmark = read_benchmark(Path(row["benchmark"]))
    other = decode_image(read_bytes(benchmark.images, row["benchmark_file"]), benchmark.orientation)
    panels = {"mined": _panel(record.pixels), row["benchmark"]: _panel(other)}
    mirrored = ", mirrored" if row["mirrored"] else ""
    caption = (
        f"Image {row['image_id']} ({row['file']}) and {row['benchmark_file']}: {row['distance']} of {BITS} bits differ, "
        f"similarity {row['similarity']:.2f}{mirrored}."
    )
    return Sheet(row["file"], panels, [], caption)


def _panel(pixels: ImageArray) -> Image.Image:
    panel = Image.fromarray(pixels)
    panel.thumbnail((PANEL_SIDE, PANEL_SIDE))
    return panel
