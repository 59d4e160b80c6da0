"""Polygons as annotation tools write them, read as the rings of COCO: lists `[x0, y0, x1, y1, ...]` of pixel coordinates."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from ovseg.core.errors import BadItem

SEPARATOR = re.compile(r"[,;\s]+")


class Rings(NamedTuple):
    """The rings of one mask.

    Attributes:
        rings: at least one list `[x0, y0, x1, y1, ...]` of three corners or more.
        left_out: number of other rings, which have fewer corners, or corners that are no numbers or far outside of the image.
    """

    rings: list[list[float]]
    left_out: int


def read_rings(value: Any, height: int, width: int) -> Rings:
    """Read the polygons of one mask.

    Args:
        value: a list of rings, or one ring alone. A ring is a list of numbers `[x0, y0, x1, y1, ...]`, of points `[x, y]` or
            `{"x": x, "y": y}`, or a text of numbers; each number may be written as text.
        height, width: size of the image in pixels.

    Raises:
        BadItem: `polygon_malformed` if there is no ring of at least three corners in or near the image.
    """
    if value is None:
        raise BadItem("polygon_malformed", "the annotation has no segmentation; is it a caption or a box?")
    rings: list[list[float]] = []
    problems: list[str] = []
    for item in _list_rings(value):
        ring = _read_ring(item)
        if problem := _problem(ring, height, width):
            problems.append(problem)
        else:
            rings.append(ring)
    if not rings:
        raise BadItem("polygon_malformed", problems[0] if problems else "there is no polygon")
    return Rings(rings, len(problems))


def _list_rings(value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    flat = value and read_number(value[0]) is not None and not any(isinstance(item, (list, dict)) for item in value)
    return [value] if flat or (len(value) > 2 and all(map(_read_point, value))) else value


def _read_ring(value: Any) -> list[float]:
    """The coordinates of a ring; empty if they cannot be read."""
    if isinstance(value, str):
        value = SEPARATOR.split(value.strip())
    if not isinstance(value, list) or all(type(item) is float or type(item) is int for item in value):
        return value if isinstance(value, list) else []
    numbers = [read_number(item) for item in value]
    if numbers and numbers[0] is None:
        numbers = [number for item in value for number in _read_point(item) or (None,)]
    return [] if None in numbers else [number for number in numbers if number is not None]


def _read_point(value: Any) -> tuple[float, float] | None:
    if isinstance(value, dict):
        value = [value.get("x"), value.get("y")]
    if not isinstance(value, list) or len(value) != 2:
        return None
    x, y = map(read_number, value)
    return None if x is None or y is None else (x, y)


def read_number(value: Any) -> float | None:
    """Return the number that a value stands for: 1, 1.5 or "1.5"; None for anything else."""
    if type(value) is float:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _problem(ring: list[float], height: int, width: int) -> str | None:
    if len(ring) < 6 or len(ring) % 2:
        return "a polygon needs at least three x, y pairs of numbers"
    side = max(height, width)
    # pycocotools allocates every pixel of an edge: a distant or infinite corner fills the memory
    if not all(-side <= number <= 2 * side for number in ring):
        return f"a corner is far outside the {height} x {width} image, or not a number"
    return None
