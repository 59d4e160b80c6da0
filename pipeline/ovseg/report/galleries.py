"""The images of the report: some at equal distances in a benchmark, and those with the lowest mIoU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath

import numpy as np
import pyarrow as pa

from ovseg.core.options import CropOptions, SegmentOptions
from ovseg.datasets.benchmark import Benchmark
from ovseg.engine.runtime import Runtime
from ovseg.evaluation.calibrate import Choice
from ovseg.report.failures import describe_mistakes, image_mious, image_mistakes, worst_items
from ovseg.report.overlays import Sheet, make_sheet, segment_items
from ovseg.report.page import Gallery

EVEN = (
    "Images at equal distances in the benchmark, not chosen by their results. Percentages are the mean IoU of the classes in "
    "the image. Gray pixels have no label."
)
WORST = (
    "The images with the lowest mean IoU by {model}, the lowest first, and its largest mistakes there, in percent of the "
    "scored pixels of the image."
)


def make_galleries(
    rows: Mapping[str, pa.Table],
    benchmark: Benchmark,
    number: int,
    network: Path,
    clips: Mapping[str, Path],
    choices: Mapping[str, Choice],
    runtime: Runtime,
    *,
    options: SegmentOptions,
    crop: CropOptions,
    embeddings: Path,
) -> tuple[Gallery, Gallery]:
    """Return the images at equal distances, then the images with the lowest mIoU by the last model.

    Args:
        rows: the results of each model, see `failures.ensemble_rows`; the result last.
        benchmark: the benchmark that was segmented.
        number: the number of images of each gallery.
        network, clips, choices, runtime, options, crop, embeddings: as `overlays.segment_items` takes them.
    """
    last = list(rows)[-1]
    mious = {model: image_mious(of_model, benchmark) for model, of_model in rows.items()}
    read = sorted(mious[last])
    places = np.linspace(0, len(read) - 1, min(number, len(read))).round().astype(int)
    even, worst = [read[place] for place in places], worst_items(mious[last], number)
    items = sorted({*even, *worst})
    sheets: dict[int, Sheet] = {}
    for item, pixels, labels in segment_items(
        network, clips, benchmark, items, choices, runtime, options, crop, embeddings
    ):
        titled = {f"{title}, {mious[title][item]:.0%}" if title in mious else title: labels[title] for title in labels}
        name = PurePath(benchmark.items[item][1]).with_suffix("").as_posix()
        sheets[item] = make_sheet(name, pixels, titled, benchmark.shown_names)
    mistakes = image_mistakes(rows[last], benchmark, worst)
    failures = [sheets[item]._replace(caption=f"{last}: {describe_mistakes(mistakes[item])}") for item in worst]
    return (
        Gallery("Images", EVEN, [sheets[item] for item in even]),
        Gallery("Worst images", WORST.format(model=last), failures),
    )
