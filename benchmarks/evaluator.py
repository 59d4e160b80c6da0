"""Speed of the evaluator, confusion and both rules of mIoU, compared with `numpy.bincount` on int64 for each image.

    python -m benchmarks evaluator    about 1 minute on two cores

Maps of 480 x 640 pixels have 12 regions of random classes; the prediction is the ground truth moved by a few pixels, with
another class for every other region. "read" is one pass over both maps (their maxima), the lower bound that memory sets. 150
classes are stored in bytes, 847 classes in 16 bits with the ignore label 65535.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Measurement, Options, Result, Row, Target, Variant, interleave, medians
from ovseg.evaluation.confusion import class_totals, confusion
from ovseg.evaluation.metrics import segmentation_metrics

SIZE, REGIONS, IMAGES, REPEATS = (480, 640), 12, 40, 31
LABEL_TYPES: dict[int, tuple[type[np.unsignedinteger], int]] = {150: (np.uint8, 255), 847: (np.uint16, 65535)}

Maps = list[tuple[NDArray[np.unsignedinteger], NDArray[np.uint16]]]


def run(options: Options) -> Result:
    rows: list[Row] = []
    targets: list[Target] = []
    measurements: dict[str, list[Measurement]] = {}
    for classes, (kind, ignore) in LABEL_TYPES.items():
        maps = random_maps(classes, kind, ignore, 4 if options.smoke else IMAGES)
        variants = {
            "ours": _ours(maps, classes, ignore),
            "bincount": _bincount(maps, classes, ignore),
            "read": _read(maps),
        }
        of_classes = interleave(variants, 1 if options.smoke else REPEATS)
        rates = medians(of_classes)
        measurements |= {f"{name}, {classes} classes": values for name, values in of_classes.items()}
        rows += [
            {"classes": classes, "variant": name, "images/s": rates[name], "ratio": rates[name] / rates["bincount"]}
            for name in variants
        ]
        targets.append(Target(f"ours / bincount, {classes} classes", rates["ours"] / rates["bincount"], 5.0))
    return Result({"images": IMAGES, "pixels": SIZE[0] * SIZE[1]}, rows, targets, measurements)


def random_maps(classes: int, kind: type[np.unsignedinteger], ignore: int, number: int) -> Maps:
    """Ground truth and prediction of images that are divided into the regions nearest to random points."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    maps: Maps = []
    for _ in range(number):
        points = rng.uniform(0, 1, (REGIONS, 2)) * SIZE
        owner = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0)
        gt_classes = np.append(rng.integers(0, classes, REGIONS - 1), ignore)
        pred_classes = np.where(np.arange(REGIONS) % 2, gt_classes, rng.integers(0, classes, REGIONS)) % classes
        gt, pred = gt_classes.astype(kind)[owner], pred_classes.astype(np.uint16)[owner]
        maps.append((gt, np.roll(pred, (3, 5), (0, 1))))
    return maps


def _timed(maps: Maps, work: Callable[[], object]) -> Variant:
    def variant(_: int) -> float:
        start = time.perf_counter()
        work()
        return len(maps) / (time.perf_counter() - start)

    return variant


def _ours(maps: Maps, classes: int, ignore: int) -> Variant:
    def work() -> None:
        index, pixels = zip(*(confusion(gt, pred, classes, ignore) for gt, pred in maps), strict=True)
        segmentation_metrics(class_totals(list(index), list(pixels), classes))

    return _timed(maps, work)


def _bincount(maps: Maps, classes: int, ignore: int) -> Variant:
    def work() -> None:
        counts = np.zeros((classes + 1) ** 2, np.int64)
        for gt, pred in maps:
            labels = gt.astype(np.int64)
            labels[labels == ignore] = classes
            counts += np.bincount((classes + 1) * pred.astype(np.int64).ravel() + labels.ravel(), minlength=len(counts))
        matrix = counts.reshape(classes + 1, classes + 1)[:-1, :-1]
        intersection, gt_area, pred_area = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
        with np.errstate(invalid="ignore"):
            iou = intersection / (gt_area + pred_area - intersection)
        np.nanmean(iou), iou[gt_area > 0].mean()

    return _timed(maps, work)


def _read(maps: Maps) -> Variant:
    return _timed(maps, lambda: [(gt.max(), pred.max()) for gt, pred in maps])
