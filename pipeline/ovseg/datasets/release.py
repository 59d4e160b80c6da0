"""What the official releases have in common: where their parts are, and how their numbers become classes.

Shapes: H, W image; K classes.
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

LabelReader = Callable[[bytes], Labels]
"""The bytes of an official label file -> classes uint16 `[H, W]`, 0 to K - 1 or the ignored number. It can be pickled."""
ReleasePaths = Mapping[str, Path]
"""Where the parts of a release are: "images", "labels", and what else its reader needs."""
VOID = 255  # value of 8-bit label maps for pixels that are not labeled or too close to a border
UNFINISHED = "unfinished.tmp"
OUTSIDE = 2**16 - 2  # entry of a lookup table for numbers that the release does not have


class Item(NamedTuple):
    """One image of a release.

    Attributes:
        image: image file, relative to the folder "images".
        label: official label file, relative to the folder "labels".
        read: reader of the label file.
    """

    image: str
    label: str
    read: LabelReader


@dataclass(frozen=True)
class ReleaseSpec:
    """How a benchmark is made from its official release.

    Attributes:
        items: function that lists the images and their label readers, given the release's paths, the classes and `ignore`.
        ignore: number of pixels that are not scored.
        images: published number of images.
        source: who made the benchmark, for benchmark.json.
        where: what to download from where, for error messages.
        homes: folders below the unpacked release that its parts may be in.
        parts: paths below such a folder that each required part may have; the first that exists is taken.
        extra: the same for optional parts.
        short_side: short side in pixels that larger images are reduced to and written again; None keeps all sizes.
        occurring: number of classes that have a pixel, if it is known not to be all of them.
        counted: whether that number is reliable and labels keep their size, so that another number is an error.
    """

    items: Callable[[ReleasePaths, Sequence[Class], int], Iterator[Item]]
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

    def locate(self, root: Path) -> ReleasePaths:
        """Find the parts of the release.

        Args:
            root: folder that the release was unpacked in, or the release's own folder.

        Raises:
            OvsegError: if a required part is missing; the message says what is there instead, and where the release is.
        """
        home = next((root / name for name in self.homes if (root / name).is_dir()), root)
        located: dict[str, Path] = {}
        for part, paths in {**self.parts, **self.extra}.items():
            existing = [home / path for path in paths if (home / path).exists()]
            if existing:
                located[part] = existing[0]
            elif part in self.parts:
                content = sorted(path.name for path in home.iterdir())[:12] if home.is_dir() else "no such folder"
                raise OvsegError(
                    f"{' or '.join(paths)} is missing in {home} (which holds: {content}); it is part of {self.where}"
                )
        return located


def iter_items(names: Iterable[str], read: LabelReader, suffix: str = ".png") -> Iterator[Item]:
    """The item of each name: its image file ends in ".jpg", its label file in `suffix`."""
    return (Item(f"{name}.jpg", name + suffix, read) for name in names)


def list_ids(images: Path, labels: Path, suffix: str = ".png") -> list[str]:
    """Sorted names, without suffix, of all images (".jpg") and label files (`suffix`) in two folders and their subfolders."""
    names = {
        path.relative_to(folder).as_posix().removesuffix(ending)
        for folder, ending in ((images, ".jpg"), (labels, suffix))
        for path in folder.rglob(f"[!.]*{ending}")
    }
    return sorted(names)


def index_by_id(classes: Sequence[Class]) -> dict[int, int]:
    """Official number of each class -> its index in the class table."""
    return {entry.id: index for index, entry in enumerate(classes)}


def label_lookup(index_of: Mapping[int, int], ignore: int, numbers: int = 0) -> Labels:
    """Make a table from official numbers to classes, for `np.take(..., mode="clip")`.

    Args:
        index_of: class of each scored number.
        ignore: value for all other numbers up to the highest one, and for 255 if it is above that.
        numbers: how many numbers the release has, if more than are scored.

    Returns:
        uint16 `[at least highest + 2]`; the last entry, OUTSIDE, stands for all higher numbers.
    """
    known = max(max(index_of) + 1, numbers)
    lookup = np.full(max(known, VOID + 1) + 1, OUTSIDE, np.uint16)
    lookup[:known] = lookup[VOID : VOID + 1] = ignore
    lookup[list(index_of)] = list(index_of.values())
    return lookup


def remap_labels(numbers: NDArray[np.integer[Any]], lookup: Labels) -> Labels:
    """Official numbers `[H, W]` -> classes uint16 `[H, W]`, by a table of `label_lookup`.

    Raises:
        BadItem: `label_outside` if the release does not have one of the numbers.
    """
    labels: Labels = np.take(lookup, numbers, mode="clip")
    if (outside := labels == OUTSIDE).any():
        raise BadItem("label_outside", f"numbers {np.unique(numbers[outside])[:5].tolist()} are not of this release")
    return labels


def read_label_map(data: bytes, lookup: Labels) -> Labels:
    """Read a gray or palette PNG of official numbers as classes uint16 `[H, W]`.

    Raises:
        BadItem: the reason of a broken file, `not_labels`, or `label_outside`.
    """
    return remap_labels(decode_labels(data), lookup)


def read_file(path: Path) -> bytes:
    """Read a file.

    Raises:
        BadItem: `missing`.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None


def write_atomically(out: Path, name: str, write: Callable[[Path], object]) -> None:
    """Write the file `name` in the folder `out`, so that it is there as a whole or not at all.

    Args:
        out: folder.
        name: path of the file relative to `out`.
        write: function that writes the file to the path it is given.
    """
    tmp_path = out / UNFINISHED / name
    for path in (tmp_path, out / name):
        path.parent.mkdir(parents=True, exist_ok=True)
    write(tmp_path)
    tmp_path.replace(out / name)


def write_table(path: Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Write rows of cells with tabs between them; cells are not quoted, as readers of the benchmark layout expect."""
    path.write_text("".join("\t".join(cells) + "\n" for cells in (header, *rows)), encoding="utf-8")
