"""The benchmark layout. A benchmark is a folder with a JSON file and label maps; adding one takes no code.

<folder>/benchmark.json   {"names": [[name, synonyms ...], ...] in the order of the labels, "ignore": number of pixels that are
                          not scored, "seen": [was each class seen in training], "images": folder of the images relative
                          to this one, "source": where it comes from}; "seen" may be left out
<folder>/labels/*.png     number of the class of each pixel, 8 or 16 bits
<folder>/items.tsv        image and label file of each item, relative to `images` and `labels`; without this file, every label
                          map with the image of the same name
"""

from __future__ import annotations

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
from ovseg.core.json_files import read_json
from ovseg.core.text_files import read_text
from ovseg.datasets.classes import names_of

METADATA, ITEMS, LABELS = "benchmark.json", "items.tsv", "labels"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
Labels = NDArray[np.uint16]


@dataclass(frozen=True)
class Benchmark:
    """A benchmark on disk.

    Attributes:
        folder: folder of the benchmark, with its labels.
        images: folder of its images.
        names: names of the K classes: the displayed name first, then synonyms.
        seen: whether each class was seen in training; None where there is no such split.
        ignore: number of pixels that are not scored.
        items: image file and label file of each item.
    """

    folder: Path
    images: Path
    names: tuple[tuple[str, ...], ...]
    seen: tuple[bool, ...] | None
    ignore: int
    items: tuple[tuple[str, str], ...]

    def read(self, item: int) -> tuple[ImageArray, Labels]:
        """Read the image uint8 `[H, W, 3]` and the labels uint16 `[H, W]` of an item.

        Raises:
            BadItem: `missing`; the reason of a broken file; `label_size` if the sizes differ; `label_outside` if a label is
                neither a class nor `ignore`.
        """
        image, label = self.items[item]
        pixels = decode_image(_read_bytes(self.images, image))
        labels = decode_labels(_read_bytes(self.folder / LABELS, label)).astype(np.uint16)
        if labels.shape != pixels.shape[:2]:
            raise BadItem("label_size", f"{label} is {labels.shape}, {image} is {pixels.shape[:2]} (rows, columns)")
        values = np.unique(labels)
        unknown = values[(values >= len(self.names)) & (values != self.ignore)]
        if len(unknown):
            raise BadItem(
                "label_outside",
                f"{label} has {unknown[:5].tolist()}; {self.folder / METADATA} names 0 to {len(self.names) - 1}",
            )
        return pixels, labels


def read_benchmark(folder: Path) -> Benchmark:
    """Open a benchmark.

    Raises:
        OvsegError: if the folder does not have the benchmark layout, or has no labels.
    """
    path = folder / METADATA
    try:
        metadata = read_json(path)
        names = tuple(names_of([name] if isinstance(name, str) else name) for name in metadata["names"])
        if not isinstance(metadata["names"], list):
            raise TypeError(f"names are {metadata['names']!r}, not a list")
        seen = tuple(map(bool, metadata["seen"])) if metadata.get("seen") is not None else None
        ignore, images = int(metadata["ignore"]), folder / str(metadata["images"])
    except FileNotFoundError:
        raise OvsegError(f"{folder} is not a benchmark: {METADATA} is missing; see docs/evaluation.md") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} does not have the benchmark layout ({error!r}); see docs/evaluation.md") from None
    if not names or (seen is not None and len(seen) != len(names)):
        raise OvsegError(f"{path} needs names, and as many values in seen as names")
    items = tuple(_list_items(folder, images))
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
    """Write a benchmark; the layout is described at the top of this module.

    Args:
        folder: folder of the benchmark; it is made if needed.
        images: folder of the images.
        names: names of each class, the displayed one first.
        ignore: number of pixels that are not scored.
        items: image file, label file (".png") and labels `[H, W]` of each item.
        seen: whether each class was seen in training; None where there is no such split.
        source: where the benchmark comes from.

    Returns:
        the number of items.
    """
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    rows = []
    for image, label, labels in items:
        write_labels(folder / LABELS / label, labels)
        rows.append(f"{image}\t{label}\n")
    (folder / ITEMS).write_text("image\tlabel\n" + "".join(rows), encoding="utf-8")
    write_metadata(folder, images, names, ignore, seen=seen, source=source)
    return len(rows)


def write_metadata(
    folder: Path, images: Path, names: Sequence[Sequence[str]], ignore: int, *, seen: Sequence[bool] | None, source: str
) -> None:
    """Write benchmark.json, as the last file, because it makes the folder a benchmark. See `write_benchmark`."""
    metadata: dict[str, object] = {"source": source, "images": Path(os.path.relpath(images, folder)).as_posix()}
    metadata |= {"ignore": ignore, "names": [list(of_class) for of_class in names]}
    write_json(folder / METADATA, metadata if seen is None else {**metadata, "seen": list(seen)})


def write_labels(path: Path, labels: NDArray[np.integer]) -> None:
    """Write labels `[H, W]` as a gray PNG of 8 bits if they fit, else of 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    Image.fromarray(labels.astype(dtype)).save(path)


def _list_items(folder: Path, images: Path) -> Iterable[tuple[str, str]]:
    path = folder / ITEMS
    if path.is_file():
        for number, line in enumerate(read_text(path).splitlines()[1:], start=2):
            cells = line.split("\t")
            if len(cells) != 2:
                raise OvsegError(
                    f"{path}, line {number}: {line!r} must be an image file and a label file, separated by a tab"
                )
            yield cells[0], cells[1]
        return
    for label in sorted((folder / LABELS).glob("*.png")):
        names = [name for suffix in IMAGE_SUFFIXES if (images / (name := label.stem + suffix)).is_file()]
        yield (names or [label.stem + IMAGE_SUFFIXES[0]])[0], label.name


def _read_bytes(folder: Path, name: str) -> bytes:
    path = safe_path(folder, name)
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None
