"""The benchmark layout: a folder and a JSON, no code.

<folder>/benchmark.json   {"names": [[name, synonyms ...], ...] in the order of labels, "ignore": number of pixels that are
                          not scored, "seen": [was each class annotated in training], "images": folder of the images,
                          relative to this one, "source": who says so}; "seen" may be left out
<folder>/labels/*.png     8 or 16 bits, the number of the class of each pixel
<folder>/items.tsv        image and label file of each item, below `images` and `labels`; without it, every label file with
                          the image of the same name
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.files import write_json
from ovseg.core.images import ImageArray, decode_image, decode_labels, safe_path
from ovseg.datasets.classes import names_of

ABOUT, ITEMS, LABELS = "benchmark.json", "items.tsv", "labels"
SUFFIXES = (".jpg", ".jpeg", ".png")
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk.

    Attributes:
        folder: with its labels.
        images: folder of its images.
        names: of the K classes; the shown one first, then synonyms.
        seen: whether each was annotated in training; None where there is no such split.
        ignore: number of pixels that are not scored.
        items: image and label file of each.
    """

    folder: Path
    images: Path
    names: tuple[tuple[str, ...], ...]
    seen: tuple[bool, ...] | None
    ignore: int
    items: tuple[tuple[str, str], ...]

    def read(self, item: int) -> tuple[ImageArray, Labels]:
        """Image uint8 `[H, W, 3]` and labels uint16 `[H, W]` of an item.

        Raises:
            BadItem: `missing`, a broken file, `label_size` if both are not of one size, `label_outside` if a label is neither
                a class nor `ignore`.
        """
        image, label = self.items[item]
        pixels = decode_image(_bytes(self.images, image))
        labels = decode_labels(_bytes(self.folder / LABELS, label)).astype(np.uint16)
        if labels.shape != pixels.shape[:2]:
            raise BadItem("label_size", f"{label} is {labels.shape}, {image} is {pixels.shape[:2]} (rows, columns)")
        strange = np.unique(labels)
        strange = strange[(strange >= len(self.names)) & (strange != self.ignore)]
        if len(strange):
            raise BadItem(
                "label_outside",
                f"{label} has {strange[:5].tolist()}; {self.folder / ABOUT} names 0 to {len(self.names) - 1}",
            )
        return pixels, labels


def read_benchmark(folder: Path) -> Benchmark:
    """Open a benchmark.

    Raises:
        OvsegError: not in the layout, or nothing in it.
    """
    path = folder / ABOUT
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        names = tuple((some,) if isinstance(some, str) else names_of(some) for some in about["names"])
        if not isinstance(about["names"], list):
            raise TypeError(f"names are {about['names']!r}, not a list")
        seen = tuple(map(bool, about["seen"])) if about.get("seen") is not None else None
        ignore, images = int(about["ignore"]), folder / str(about["images"])
    except FileNotFoundError:
        raise OvsegError(f"{folder} is not a benchmark: {ABOUT} is missing; see docs/evaluation.md") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} is not in the benchmark layout ({error!r}); see docs/evaluation.md") from None
    if not names or (seen is not None and len(seen) != len(names)):
        raise OvsegError(f"{path} needs names, and as many entries of seen")
    items = tuple(_items(folder, images))
    if not items:
        raise OvsegError(f"{folder} has no labels in {LABELS}/")
    return Benchmark(folder, images, names, seen, ignore, items)


def write_benchmark(
    folder: Path,
    images: Path,
    names: Sequence[Sequence[str]],
    ignore: int,
    items: Iterable[tuple[str, str, NDArray[np.integer]]],
    *,
    seen: Sequence[bool] | None,
    source: str,
) -> int:
    """Write a benchmark; see the layout.

    Args:
        folder: of the benchmark; made if needed.
        images: folder of the images.
        names, ignore, seen, source: of benchmark.json.
        items: image file, label file (".png"), labels `[H, W]`.

    Returns:
        how many items there are.
    """
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    rows = []
    for image, label, labels in items:
        write_labels(folder / LABELS / label, labels)
        rows.append(f"{image}\t{label}\n")
    (folder / ITEMS).write_text("image\tlabel\n" + "".join(rows), encoding="utf-8")
    write_about(folder, images, names, ignore, seen=seen, source=source)
    return len(rows)


def write_about(
    folder: Path, images: Path, names: Sequence[Sequence[str]], ignore: int, *, seen: Sequence[bool] | None, source: str
) -> None:
    """Write benchmark.json, after everything else: with it the benchmark is there. See `write_benchmark`."""
    about: dict[str, object] = {"source": source, "images": Path(os.path.relpath(images, folder)).as_posix()}
    about |= {"ignore": ignore, "names": [list(some) for some in names]}
    write_json(folder / ABOUT, about if seen is None else {**about, "seen": list(seen)})


def write_labels(path: Path, labels: NDArray[np.integer]) -> None:
    """Write labels `[H, W]` as a grey PNG of 8 bits where they fit, else of 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    Image.fromarray(labels.astype(kind)).save(path)


def _items(folder: Path, images: Path) -> Iterable[tuple[str, str]]:
    listed = folder / ITEMS
    if listed.is_file():
        for number, line in enumerate(listed.read_text(encoding="utf-8").splitlines()[1:], start=2):
            cells = line.split("\t")
            if len(cells) != 2:
                raise OvsegError(
                    f"{listed}, line {number}: {line!r} is not an image and a label file with a tab between"
                )
            yield cells[0], cells[1]
        return
    for label in sorted((folder / LABELS).glob("*.png")):
        found = [name for suffix in SUFFIXES if (images / (name := label.stem + suffix)).is_file()]
        yield (found or [label.stem + SUFFIXES[0]])[0], label.name


def _bytes(folder: Path, name: str) -> bytes:
    path = safe_path(folder, name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None
