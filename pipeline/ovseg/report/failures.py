"""What a model gets wrong on a benchmark: its worst images, and the classes that it confuses, from the table `segmentations`.

Shapes: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.datasets.benchmark import Benchmark
from ovseg.evaluation.benchmark_metrics import totals_of_rows
from ovseg.evaluation.metrics import ious

NUM_MISTAKES = 3
NO_CLASS = "nothing"


class Mistake(NamedTuple):
    """A class that was predicted as another one, and the fraction of the pixels that are so."""

    gt: str
    pred: str
    fraction: float


def ensemble_rows(folder: Path, model: str) -> pa.Table:
    """Return the rows of the ensemble of a model in the table `segmentations`, one for each image, in their order.

    Args:
        folder: the folder of the table.
        model: the name of the model.
    """
    columns = ["item", "model", "classifier", "confusion_index", "pixels"]
    table = tables.read(folder, "segmentations", columns)
    of_model = pc.and_(pc.equal(table["model"], model), pc.equal(table["classifier"], "ensemble"))
    return table.filter(of_model).sort_by("item")


def image_mious(rows: pa.Table, benchmark: Benchmark) -> dict[int, float]:
    """Return the mIoU of each image by the number of its item: the mean over the classes with ground truth or prediction in it.

    Images without a scored pixel are left out.

    Args:
        rows: see `ensemble_rows`.
        benchmark: the benchmark that was segmented.
    """
    totals = totals_of_rows(rows, benchmark)
    iou = ious(totals.intersection, totals.gt_area, totals.pred_area)
    scored = totals.gt_area.any(1)
    items = rows["item"].to_numpy()[scored].tolist()
    return dict(zip(items, np.nanmean(iou[scored], axis=1).tolist(), strict=True))


def worst_items(mious: dict[int, float], number: int) -> list[int]:
    """Return the `number` items with the lowest mIoU, the lowest first."""
    return sorted(mious, key=lambda item: (mious[item], item))[:number]


def image_mistakes(rows: pa.Table, benchmark: Benchmark, items: Iterable[int]) -> dict[int, list[Mistake]]:
    """Return the up to three largest mistakes in each of some images, as fractions of its scored pixels.

    Args:
        rows: see `ensemble_rows`.
        benchmark: the benchmark that was segmented.
        items: the numbers of the images.
    """
    mistakes = {}
    for item in items:
        confusion = _confusion(rows.filter(pc.equal(rows["item"], item)), len(benchmark.names))
        total = int(confusion.sum())
        np.fill_diagonal(confusion, 0)
        largest = np.argsort(confusion, axis=None, kind="stable")[::-1][:NUM_MISTAKES]
        pairs = [divmod(int(place), confusion.shape[1]) for place in largest if confusion.flat[place]]
        mistakes[item] = [_mistake(benchmark, gt, pred, confusion[gt, pred] / total) for gt, pred in pairs]
    return mistakes


def class_mistakes(rows: pa.Table, benchmark: Benchmark) -> dict[int, Mistake]:
    """Return the wrong class that each class is predicted as most, as a fraction of its pixels in all images.

    Args:
        rows: see `ensemble_rows`.
        benchmark: the benchmark that was segmented.

    Returns:
        by the number of the class; classes whose pixels are all predicted correctly are left out.
    """
    confusion = _confusion(rows, len(benchmark.names))
    totals = confusion.sum(1)
    np.fill_diagonal(confusion, 0)
    preds = confusion.argmax(1).tolist()
    return {
        gt: _mistake(benchmark, gt, pred, confusion[gt, pred] / totals[gt])
        for gt, pred in enumerate(preds)
        if confusion[gt, pred]
    }


def describe_mistakes(mistakes: Sequence[Mistake]) -> str:
    """Return mistakes as a text: "ivy predicted as ball (38%), leaf as stone (4%)"."""
    texts = [
        f"{gt} {'' if i else 'predicted '}as {pred} ({fraction:.0%})" for i, (gt, pred, fraction) in enumerate(mistakes)
    ]
    return ", ".join(texts)


def _confusion(rows: pa.Table, num_classes: int) -> NDArray[np.int64]:
    """The pixels of each class of the ground truth and each prediction, `[K, K + 1]`; the last column is no class."""
    index = pc.list_flatten(rows["confusion_index"]).to_numpy()
    pixels = pc.list_flatten(rows["pixels"]).to_numpy()
    counts = np.bincount(index, pixels, num_classes * (num_classes + 1))
    return counts.astype(np.int64).reshape(num_classes, num_classes + 1)


def _mistake(benchmark: Benchmark, gt: int, pred: int, fraction: Any) -> Mistake:
    names = [*benchmark.shown_names, NO_CLASS]
    return Mistake(names[gt], names[pred], float(fraction))
