"""The demo's five benchmarks: the same images with five vocabularies, each in the role of a benchmark of the paper.

annotated   nouns of the closed vocabulary (Pascal VOC 20)
mixed       as many annotated nouns as others (Pascal Context 59)
novel       nouns that occur in captions alone
all         all nouns (ADE20K 150)
fine        colors and nouns, such as "red cup" (ADE20K 847)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.demo.world.nouns import Noun, nouns
from ovseg.core import masks
from ovseg.datasets.benchmark import write_benchmark

IGNORE = {8: 255, 16: 65535}  # ignore label by the number of bits of a label
SOURCE = "ovseg demo: drawn images, Apache-2.0"

Record = dict[str, Any]
Classes = dict[str, tuple[str, ...]]
"""Maps the key of a class, see `_plain` and `_fine`, to its names."""


def write_role(folder: Path, role: str, images: Sequence[Record], segments: dict[int, list[Record]]) -> None:
    """Write one benchmark of a split to `folder / role`.

    Args:
        folder: folder of the split with its `images/`.
        role: role of the benchmark, see the docstring of this module.
        images: image records of COCO.
        segments: segments of each image by its id, with "noun", "colour" and "rle" (compressed).
    """
    class_key = _fine if role == "fine" else _plain
    classes = _classes(role, segments)
    flags = {n.name: n.annotated for n in nouns()}
    write_benchmark(
        folder / role,
        folder / "images",
        list(classes.values()),
        IGNORE[8 if len(classes) < 255 else 16],
        _items(images, segments, list(classes), class_key),
        seen=None if role == "fine" else [flags[name] for name in classes],
        source=SOURCE,
    )


def _classes(role: str, segments: dict[int, list[Record]]) -> Classes:
    if role == "fine":
        keys = {_fine(segment) for of_image in segments.values() for segment in of_image}
        return {key: (key,) for key in sorted(key for key in keys if key)}
    annotated, others = [n for n in nouns() if n.annotated], [n for n in nouns() if not n.annotated]
    half = min(len(annotated), len(others)) // 2
    chosen: list[Noun] = {
        "annotated": annotated,
        "mixed": [*annotated[: 2 * half : 2], *others[: 2 * half : 2]],
        "novel": others,
        "all": list(nouns()),
    }[role]
    return {n.name: (n.name, *(synonym for synonym, _ in n.synonyms)) for n in chosen}


def _plain(segment: Record) -> str | None:
    return str(segment["noun"])


def _fine(segment: Record) -> str | None:
    return f"{segment['colour']} {segment['noun']}" if segment["colour"] else None


def _items(
    images: Sequence[Record],
    segments: dict[int, list[Record]],
    classes: list[str],
    class_key: Callable[[Record], str | None],
) -> Iterator[tuple[str, str, NDArray[np.uint16]]]:
    """Yield image file, label file and labels of each image; images that show no class of the vocabulary are left out."""
    label_of = {key: i for i, key in enumerate(classes)}
    for image in images:
        height, width = image["height"], image["width"]
        labels = np.full((height, width), IGNORE[8 if len(classes) < 255 else 16], np.uint16)
        for segment in segments.get(image["id"], []):
            key = class_key(segment)
            if key in label_of:
                labels[masks.decode(segment["rle"], height, width)] = label_of[key]
        if (labels < len(classes)).any():
            yield image["file_name"], f"{Path(image['file_name']).stem}.png", labels
