"""What official releases have in common: where their parts lie, and how numbers become classes.

H, W image; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import decode_labels
from ovseg.datasets.benchmark import Labels
from ovseg.datasets.classes import Class

Read = Callable[[bytes], Labels]
"""The bytes of an official label file -> classes uint16 `[H, W]`, 0 to K - 1 or the ignored number. Picklable."""
Found = Mapping[str, Path]
"""Where the parts of a release lie: "images", "labels", and what else its reader needs."""
VOID = 255  # in 8-bit maps: not labelled, or too close to a border
UNFINISHED = "unfinished.tmp"
OUTSIDE = 2**16 - 2  # never a class, never ignored: a number that the release does not have


class Item(NamedTuple):
    """One image of a release.

    Attributes:
        image: its file, below the folder "images".
        label: its official label file, below the folder "labels".
        read: how the bytes of `label` become classes.
    """

    image: str
    label: str
    read: Read


@dataclass(frozen=True)
class ReleaseSpec:
    """A benchmark in its official release.

    Attributes:
        items: its images and how their labels are read, from where the parts of the release are.
        ignore: number of pixels that are not scored.
        images: how many are published.
        source: who made it, for benchmark.json.
        where: what to download, and from where.
        homes: folders below the unpacked release that its parts may lie in.
        parts: paths below such a folder that each part may have; the first that exists is taken.
        extra: the same for parts that may be missing.
        short_side: larger images are brought down to this, and written again.
        occurring: how many of its classes have a pixel, where that is known not to be all.
        counted: somebody has counted these, and labels are not made smaller: another number is an error.
    """

    items: Callable[[Found, Sequence[Class], int], Iterator[Item]]
    ignore: int
    images: int
    source: str
    where: str
    homes: tuple[str, ...]
    parts: Mapping[str, tuple[str, ...]]
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    short_side: int | None = None
    occurring: int | None = None
    counted: bool = True

    def locate(self, root: Path) -> Found:
        """Where the parts are below `root`, the folder that the release was unpacked in, or the release's own.

        Raises:
            OvsegError: one is missing; the message says which, what is there instead, and where it is to be had.
        """
        home = next((root / one for one in self.homes if (root / one).is_dir()), root)
        found: dict[str, Path] = {}
        for part, paths in {**self.parts, **self.extra}.items():
            there = [home / path for path in paths if (home / path).exists()]
            if there:
                found[part] = there[0]
            elif part in self.parts:
                names = sorted(path.name for path in home.iterdir())[:12] if home.is_dir() else "no such folder"
                raise OvsegError(f"{' or '.join(paths)} is missing in {home} (found: {names}); to be had: {self.where}")
        return found


def iter_items(names: Iterable[str], read: Read, label: str = ".png") -> Iterator[Item]:
    """The item of each name: its image ends in ".jpg", its label file in `label`."""
    return (Item(f"{name}.jpg", name + label, read) for name in names)


def list_ids(images: Path, labels: Path, label: str = ".png") -> list[str]:
    """Names, without their ends and in order, that occur as an image or as a label file, in folders below too."""
    found = {
        path.relative_to(folder).as_posix().removesuffix(end)
        for folder, end in ((images, ".jpg"), (labels, label))
        for path in folder.rglob(f"[!.]*{end}")
    }
    return sorted(found)


def by_id(classes: Sequence[Class]) -> dict[int, int]:
    """Official number of each class -> its place in the class table."""
    return {one.id: write_atomically for write_atomically, one in enumerate(classes)}


def lookup_of(places: Mapping[int, int], ignore: int, numbers: int = 0) -> Labels:
    """Official number -> class, for `np.take(..., mode="clip")`.

    Args:
        places: the class of each scored number.
        ignore: what every other number up to the highest one becomes, and 255 where that lies above.
        numbers: how many the release has, if more than are scored.

    Returns:
        uint16 `[at least highest + 2]`; the last entry, OUTSIDE, stands for all that follow.
    """
    known = max(max(places) + 1, numbers)
    lookup = np.full(max(known, VOID + 1) + 1, OUTSIDE, np.uint16)
    lookup[:known] = lookup[VOID : VOID + 1] = ignore
    lookup[list(places)] = list(places.values())
    return lookup


def remap_labels(numbers: NDArray[np.integer[Any]], lookup: Labels) -> Labels:
    """Official numbers `[H, W]` -> classes uint16 `[H, W]`, by a table of `lookup_of`.

    Raises:
        BadItem: `label_outside` if one is none of the release's.
    """
    labels: Labels = np.take(lookup, numbers, mode="clip")
    if (strange := labels == OUTSIDE).any():
        raise BadItem("label_outside", f"numbers {np.unique(numbers[strange])[:5].tolist()} are not of this release")
    return labels


def read_map(data: bytes, lookup: Labels) -> Labels:
    """A grey or palette PNG of official numbers -> classes uint16 `[H, W]`.

    Raises:
        BadItem: a broken file, `not_labels`, or `label_outside`.
    """
    return remap_labels(decode_labels(data), lookup)


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        BadItem: `missing`.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None


def write_atomically(out: Path, name: str, write: Callable[[Path], object]) -> None:
    """Write the file `name` below a folder: it is there as a whole, or not at all."""
    begun = out / UNFINISHED / name
    for path in (begun, out / name):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(begun)
    begun.replace(out / name)


def write_table(path: Path, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows of cells with tabs between."""
    path.write_text("".join("\t".join(cells) + "\n" for cells in (head, *rows)), encoding="utf-8")
