"""The images of a benchmark in units of work: units of one name have the same images in `embed` and in `evaluate`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ovseg.core import hashing
from ovseg.core.errors import BadItem
from ovseg.core.failures import failure
from ovseg.core.images import ImageArray
from ovseg.datasets.benchmark import Benchmark, Labels

ITEMS_PER_UNIT = 16


def unit_names(number: int) -> list[str]:
    """Return the names of the units of the first `number` images of a benchmark."""
    return [f"{i:05d}" for i in range(-(-number // ITEMS_PER_UNIT))]


def unit_of(item: int) -> str:
    """Return the name of the unit that has an image of a benchmark, given by its number."""
    return f"{item // ITEMS_PER_UNIT:05d}"


def read_unit(
    benchmark: Benchmark, unit: str, number: int, counts: Counter[str], failures: list[dict[str, Any]]
) -> dict[int, tuple[ImageArray, Labels]]:
    """Read the images of a unit.

    Args:
        benchmark: the benchmark.
        unit: the name of the unit.
        number: how many images of the benchmark are used, the first ones.
        counts: is updated with "images", "dropped.<reason>" of those that cannot be read, and the counts of `core.rotation`.
        failures: gets a row of the table `failures` for each of these.

    Returns:
        by the number of the image in the benchmark its pixels, uint8 RGB `[H, W, 3]`, and labels, uint16 `[H, W]`.
    """
    start = int(unit) * ITEMS_PER_UNIT
    images = {}
    for item in range(start, min(start + ITEMS_PER_UNIT, number)):
        try:
            images[item] = benchmark.read(item, counts)
        except BadItem as problem:
            failures.append(failure(item, benchmark.items[item][1], problem))
            counts[f"dropped.{problem.reason}"] += 1
    counts["images"] += len(images)
    return images


def image_sizes(benchmark: Benchmark, number: int) -> str:
    """Return a hash that changes when one of the first `number` images changes its size in bytes; it reads none of them."""
    sizes = []
    for image, _ in benchmark.items[:number]:
        path = benchmark.images / image
        sizes.append([image, path.stat().st_size if path.is_file() else None])
    return hashing.fingerprint(sizes=sizes)
