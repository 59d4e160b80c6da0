"""The benchmark layout. A benchmark is a folder with a JSON file and label maps; adding one takes no code.

<folder>/benchmark.json   {"names": [[name, synonyms ...], ...] in the order of the labels, "ignore": number of pixels that are
                          not scored, "seen": [was each class seen in training], "images": folder of the images relative
                          to this one, "orientation": "raw" if the labels were drawn on images that were not turned as their
                          EXIF metadata say, "source": where it comes from}; "seen" and "orientation" may be left out
<folder>/labels/*         number of the class of each pixel, 8 or 16 bits: PNG, or another format that loses nothing
<folder>/items.tsv        image and label file of each item, relative to `images` and `labels`; without this file, every label
                          map with the image of the same name, whatever their suffixes
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.files import write_json
from ovseg.core.folders import by_stem, walk_images
from ovseg.core.image_records import ImageRecord
from ovseg.core.images import ImageArray, decode_labels, decode_with_header, read_bytes
from ovseg.core.json_files import read_json
from ovseg.core.options import Orientation
from ovseg.core.rotation import rotation_counts
from ovseg.core.text_files import read_text
from ovseg.datasets.classes import names_of

METADATA, ITEMS, LABELS = "benchmark.json", "items.tsv", "labels"
LOSSY_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")  # formats that do not keep the numbers of labels
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
        orientation: whether images and labels are turned as their EXIF metadata say, or used as stored.
        unread: files among the labels that are no label maps, where no list says which ones belong to the benchmark.
        unlabeled: images without labels, in the same case.
    """

    folder: Path
    images: Path
    names: tuple[tuple[str, ...], ...]
    seen: tuple[bool, ...] | None
    ignore: int
    items: tuple[tuple[str, str], ...]
    orientation: Orientation = "exif"
    unread: tuple[str, ...] = ()
    unlabeled: tuple[str, ...] = ()

    @property
    def shown_names(self) -> list[str]:
        """The displayed name of each class; where classes share it, with their synonyms: "bag", "bag (handbag, purse)"."""
        number_of = Counter(first for first, *_ in self.names)
        return [
            f"{first} ({', '.join(synonyms)})" if synonyms and number_of[first] > 1 else first
            for first, *synonyms in self.names
        ]

    def read(self, item: int, counts: Counter[str] | None = None) -> tuple[ImageArray, Labels]:
        """Read the image uint8 `[H, W, 3]` and the labels uint16 `[H, W]` of an item.

        Args:
            item: number of the item.
            counts: is updated with the counts of `core.rotation`.

        Raises:
            BadItem: `missing`; the reason of a broken file; `label_size` if the sizes differ, or `other_orientation` if they
                would not with the other orientation; `label_outside` if a label is neither a class nor `ignore`.
        """
        name, label = self.items[item]
        data = read_bytes(self.images, name)
        pixels, header = decode_with_header(data, self.orientation)
        if counts is not None:
            counts.update(rotation_counts(header))
        labels = decode_labels(read_bytes(self.folder / LABELS, label), self.orientation).astype(np.uint16)
        image = ImageRecord.of_file(self.images, name, header, self.orientation)
        image.check_size(label, labels.shape, "label_size")
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
        orientation = metadata.get("orientation", "exif")
        if orientation not in get_args(Orientation):
            raise ValueError(f"orientation is {orientation!r}, neither exif nor raw")
    except FileNotFoundError:
        raise OvsegError(f"{folder} is not a benchmark: {METADATA} is missing; see docs/evaluation.md") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OvsegError(f"{path} does not have the benchmark layout ({error!r}); see docs/evaluation.md") from None
    if not names or (seen is not None and len(seen) != len(names)):
        raise OvsegError(f"{path} needs names, and as many values in seen as names")
    if (folder / ITEMS).is_file():
        items = tuple(_read_items(folder / ITEMS))
        unread: tuple[str, ...] = ()
        unlabeled: tuple[str, ...] = ()
    else:
        items, unread, unlabeled = _pair_by_name(folder / LABELS, images)
    if not items:
        raise OvsegError(f"{folder} has no labels in {LABELS}/")
    return Benchmark(folder, images, names, seen, ignore, items, orientation, unread, unlabeled)


def write_benchmark(
    folder: Path,
    images: Path,
    names: Sequence[Sequence[str]],
    ignore: int,
    items: Iterable[tuple[str, str, NDArray[np.integer]]],
    *,
    seen: Sequence[bool] | None,
    source: str,
    orientation: Orientation = "exif",
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
        orientation: whether images and labels are turned as their EXIF metadata say, or used as stored.

    Returns:
        the number of items.
    """
    (folder / LABELS).mkdir(parents=True, exist_ok=True)
    rows = []
    for image, label, labels in items:
        write_labels(folder / LABELS / label, labels)
        rows.append(f"{image}\t{label}\n")
    (folder / ITEMS).write_text("image\tlabel\n" + "".join(rows), encoding="utf-8")
    write_metadata(folder, images, names, ignore, seen=seen, source=source, orientation=orientation)
    return len(rows)


def write_metadata(
    folder: Path,
    images: Path,
    names: Sequence[Sequence[str]],
    ignore: int,
    *,
    seen: Sequence[bool] | None,
    source: str,
    orientation: Orientation = "exif",
) -> None:
    """Write benchmark.json, as the last file, because it makes the folder a benchmark. See `write_benchmark`."""
    metadata: dict[str, object] = {"source": source, "images": Path(os.path.relpath(images, folder)).as_posix()}
    metadata |= {"ignore": ignore, "names": [list(of_class) for of_class in names]}
    metadata |= {} if seen is None else {"seen": list(seen)}
    write_json(folder / METADATA, metadata | ({} if orientation == "exif" else {"orientation": orientation}))


def write_labels(path: Path, labels: NDArray[np.integer]) -> None:
    """Write labels `[H, W]` as a gray PNG of 8 bits if they fit, else of 16."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dtype = np.uint8 if labels.max(initial=0) < 256 else np.uint16
    Image.fromarray(labels.astype(dtype)).save(path, "PNG")


def _read_items(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(read_text(path).splitlines()[1:], start=2):
        cells = line.split("\t")
        if len(cells) != 2:
            raise OvsegError(
                f"{path}, line {number}: {line!r} must be an image file and a label file, separated by a tab"
            )
        yield cells[0], cells[1]


def _pair_by_name(labels: Path, images: Path) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]:
    """The image and label file of each label map, the files that are no label maps, and the images without labels."""
    content = walk_images(labels)
    maps = [name for name in content.images if not name.lower().endswith(LOSSY_SUFFIXES)]
    unread = [name for name in (*content.images, *content.unread) if name not in maps]
    place = PurePath(
        os.path.relpath(labels.resolve(), images.resolve())
    )  # labels may be inside the folder of the images
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in walk_images(images).images:
        if not PurePath(name).is_relative_to(place) or (place == PurePath() and name not in maps):
            by_name[PurePath(name).with_suffix("").as_posix()].append(name)
    items = []
    for stem, label in sorted(by_stem(labels, maps).items()):
        names = by_name.pop(stem, [f"{stem}.jpg"])
        if len(names) > 1:
            raise OvsegError(
                f"{images} has both {names[0]} and {names[1]} for the labels {label}; remove one, or list the pairs in {ITEMS}"
            )
        items.append((names[0], label))
    paired = {image for image, _ in items}
    unread = [name for name in unread if place != PurePath() or name not in paired]
    return tuple(items), tuple(unread), tuple(sorted(name for names in by_name.values() for name in names))
