"""Evaluator: confusion and both rules of mIoU, against a numpy `bincount` on int64 for each image.

    python -m benchmarks evaluator    about 1 minute on two cores

Maps of 480 x 640, made of 12 regions of random classes; the guess is the truth moved by some pixels, every other region
renamed. "read" is one pass over both maps (the greatest of each), which memory alone allows. 150 classes are bytes, 847 are
16-bit numbers with an ignore label of 65535.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.results import Options, Result, Row, Target, Turn, interleave, medians
from ovseg.evaluation.confusion import class_totals, confusion
from ovseg.evaluation.metrics import segmentation_metrics

SIZE, REGIONS, IMAGES, REPEATS = (480, 640), 12, 40, 31
CASES: dict[int, tuple[type[np.unsignedinteger], int]] = {150: (np.uint8, 255), 847: (np.uint16, 65535)}

Maps = list[tuple[NDArray[np.unsignedinteger], NDArray[np.uint16]]]


def run(options: Options) -> Result:
    rows: list[Row] = []
    targets: list[Target] = []
    turns: dict[str, list[Turn]] = {}
    for classes, (kind, ignore) in CASES.items():
        maps = made(classes, kind, ignore, 4 if options.smoke else IMAGES)
        ways = {
            "ours": _ours(maps, classes, ignore),
            "bincount": _bincount(maps, classes, ignore),
            "read": _read(maps),
        }
        measured = interleave(ways, 1 if options.smoke else REPEATS)
        middle = medians(measured)
        turns |= {f"{way}, {classes} classes": found for way, found in measured.items()}
        rows += [
            {"classes": classes, "way": way, "images/s": middle[way], "ratio": middle[way] / middle["bincount"]}
            for way in ways
        ]
        targets.append(Target(f"ours / bincount, {classes} classes", middle["ours"] / middle["bincount"], 5.0))
    return Result({"images": IMAGES, "pixels": SIZE[0] * SIZE[1]}, rows, targets, turns)


def made(classes: int, kind: type[np.unsignedinteger], ignore: int, number: int) -> Maps:
    """Truth and guess of some images: regions nearest to random points."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    found: Maps = []
    for _ in range(number):
        points = rng.uniform(0, 1, (REGIONS, 2)) * SIZE
        owner = np.argmin([(y - a) ** 2 + (x - b) ** 2 for a, b in points], axis=0)
        true = np.append(rng.integers(0, classes, REGIONS - 1), ignore)
        guessed = np.where(np.arange(REGIONS) % 2, true, rng.integers(0, classes, REGIONS)) % classes
        truth, names = true.astype(kind)[owner], guessed.astype(np.uint16)
        found.append((truth, np.roll(names[owner], (3, 5), (0, 1))))
    return found


def _timed(maps: Maps, work: Callable[[], object]) -> Callable[[int], float]:
    def way(_: int) -> float:
        begun = time.perf_counter()
        work()
        return len(maps) / (time.perf_counter() - begun)

    return way


def _ours(maps: Maps, classes: int, ignore: int) -> Callable[[int], float]:
    def work() -> None:
        index, pixels = zip(*(confusion(truth, guess, classes, ignore) for truth, guess in maps), strict=True)
        segmentation_metrics(class_totals(list(index), list(pixels), classes))

    return _timed(maps, work)


def _bincount(maps: Maps, classes: int, ignore: int) -> Callable[[int], float]:
    def work() -> None:
        whole = np.zeros((classes + 1) ** 2, np.int64)
        for truth, guess in maps:
            true = truth.astype(np.int64)
            true[true == ignore] = classes
            whole += np.bincount((classes + 1) * guess.astype(np.int64).ravel() + true.ravel(), minlength=len(whole))
        matrix = whole.reshape(classes + 1, classes + 1)[:-1, :-1]
        right, true_pixels, guessed = matrix.diagonal(), matrix.sum(0), matrix.sum(1)
        with np.errstate(invalid="ignore"):
            iou = right / (true_pixels + guessed - right)
        np.nanmean(iou), iou[true_pixels > 0].mean()

    return _timed(maps, work)


def _read(maps: Maps) -> Callable[[int], float]:
    return _timed(maps, lambda: [(truth.max(), guess.max()) for truth, guess in maps])
