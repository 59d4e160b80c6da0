"""The demo's five benchmarks, in the roles of the paper's: the same images under five vocabularies.

annotated   only nouns of the closed vocabulary (Pascal VOC 20)
mixed       annotated and not, in equal parts (Pascal Context 59)
novel       only nouns that captions alone name
all         every noun (ADE20K 150)
fine        colour and noun, "red cup" (ADE20K 847)
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

IGNORE = {8: 255, 16: 65535}  # by bits of a label
SOURCE = "ovseg demo: drawn images, Apache-2.0"

Record = dict[str, Any]
Classes = dict[str, tuple[str, ...]]
"""What a segment is called -> names of its class."""


def write_role(folder: Path, role: str, images: Sequence[Record], segments: dict[int, list[Record]]) -> None:
    """Write one benchmark of a split.

    Args:
        folder: of the split, with its `images/`; the benchmark is a folder in it, of the role's name.
        role: see the module.
        images: COCO image records.
        segments: of each image, by its id: "noun", "colour", and "rle", compressed.
    """
    called = _fine if role == "fine" else _plain
    classes = _classes(role, segments)
    flags = {n.name: n.annotated for n in nouns()}
    write_benchmark(
        folder / role,
        folder / "images",
        list(classes.values()),
        IGNORE[8 if len(classes) < 255 else 16],
        _items(images, segments, list(classes), called),
        seen=None if role == "fine" else [flags[name] for name in classes],
        source=SOURCE,
    )


def _classes(role: str, segments: dict[int, list[Record]]) -> Classes:
    if role == "fine":
        seen = {_fine(segment) for some in segments.values() for segment in some}
        return {name: (name,) for name in sorted(name for name in seen if name)}
    every = nouns()
    annotated, rest = [n for n in every if n.annotated], [n for n in every if not n.annotated]
    half = min(len(annotated), len(rest)) // 2
    chosen: list[Noun] = {
        "annotated": annotated,
        "mixed": [*annotated[: 2 * half : 2], *rest[: 2 * half : 2]],
        "novel": rest,
        "all": list(every),
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
    called: Callable[[Record], str | None],
) -> Iterator[tuple[str, str, NDArray[np.uint16]]]:
    """Image file, label file and labels; an image with nothing of the vocabulary is left out."""
    number = {name: i for i, name in enumerate(classes)}
    for image in images:
        height, width = image["height"], image["width"]
        labels = np.full((height, width), IGNORE[8 if len(classes) < 255 else 16], np.uint16)
        for segment in segments.get(image["id"], []):
            name = called(segment)
            if name in number:
                labels[masks.decode(segment["rle"], height, width)] = number[name]
        if (labels < len(classes)).any():
            yield image["file_name"], f"{Path(image['file_name']).stem}.png", labels
