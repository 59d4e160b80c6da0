"""Checks that ids lead somewhere: to an image of the index, to a listed image, to a category. Steps make them before any work.

Ids of which none leads anywhere are an error. If some do not, a warning names them, and they are counted.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ovseg.core import tables
from ovseg.core.errors import OvsegError
from ovseg.datasets.store import Store

log = logging.getLogger("ovseg")

NOT_IN_INDEX = "images_not_in_index"
"""Count of the images that masks are given for and that are not in the index."""
NOT_LISTED = "images_not_listed"
"""Count of the images that annotations are given for and that the same file does not list."""
UNKNOWN_CATEGORY = "unknown_category"
"""Rejection reason of annotations whose category is not in the list of categories."""
EXAMPLES = 3


def read_index_names(index: Path) -> pa.Table:
    """Read the ids and names of all images of the table `index`, usable or not: the columns image_id, file and member."""
    return tables.read(index, "index", ["image_id", "file", "member"])


def image_names(index: pa.Table) -> list[str]:
    """Return the name of each image of the index: of its file, or of its member of a tar file."""
    return [member or file for file, member in zip(index["file"].to_pylist(), index["member"].to_pylist(), strict=True)]


def check_image_ids(path: Path, image_ids: Iterable[int], index: pa.Table) -> dict[str, int]:
    """Check that masks are given for images of the index.

    Args:
        path: file or folder of the masks, for messages.
        image_ids: ids of the images that the masks are given for, each once.
        index: see `read_index_names`.

    Returns:
        the count `images_not_in_index`, if it is not 0.

    Raises:
        OvsegError: none of the images is in the index.
    """
    ids, known = np.fromiter(image_ids, np.int64), index["image_id"].to_numpy()
    unknown = ids[~np.isin(ids, known)]
    if not len(unknown):
        return {}
    if len(unknown) == len(ids):
        raise OvsegError(
            f"{path}: none of its {len(ids):,} image ids is in the index ({_examples(ids)}; ids of the index are "
            f"{_examples(known)}). Give masks of the images that the captions file lists, with the same ids"
        )
    log.warning(
        "%s: %d of %d image ids are not in the index (%s); their masks are not used",
        path,
        len(unknown),
        len(ids),
        _examples(unknown),
    )
    return {NOT_IN_INDEX: len(unknown)}


def check_file_names(path: Path, store: Store, index: pa.Table) -> None:
    """Check that the images of a COCO file are the images of the index that have their ids, by their file names.

    Folders, suffixes and prefixes may differ: "COCO_val2014_000000000042.jpg" and "000000000042.png" are the same image.

    Raises:
        OvsegError: an id stands for one image in the file, and for another one in the index.
    """
    names = dict(zip(index["image_id"].to_pylist(), image_names(index), strict=True))
    compared, others = 0, []
    for record in store.images():
        name = names.get(record["id"], ".tar")
        if not name.endswith(".tar"):  # an image in a tar file may have no name of its own
            compared += 1
            if not _same_image(name, str(record["file_name"])):
                others.append((record["id"], name, record["file_name"]))
    if others:
        image_id, ours, theirs = others[0]
        raise OvsegError(
            f"{path}: {len(others):,} of {compared:,} image ids stand for other images than in the index: {image_id} is "
            f"{theirs} there and {ours} in the index. Do both count from 1? Give the same ids to the same images"
        )


def check_listed_images(path: Path, store: Store) -> dict[str, int]:
    """Check that the annotations of a COCO file belong to images that it lists.

    Returns:
        the count `images_not_listed`, if it is not 0.

    Raises:
        OvsegError: no annotation belongs to a listed image.
    """
    unlisted, number = store.unlisted_ids(EXAMPLES), store.count_unlisted()
    if not number:
        return {}
    total = sum(1 for _ in store.annotated_ids())
    if number == total:
        listed = [record["id"] for record in store.images(EXAMPLES)]
        raise OvsegError(
            f'{path}: no annotation belongs to an image that it lists ("image_id" of annotations: {_examples(unlisted)}; "id" '
            f"of images: {_examples(listed)}). Both must have the same values"
        )
    log.warning(
        "%s: the annotations of %d of %d image ids belong to no image that it lists (%s); they are not used",
        path,
        number,
        total,
        _examples(unlisted),
    )
    return {NOT_LISTED: number}


def category_names(path: Path, store: Store, unique: bool = False) -> dict[int, str]:
    """Return the names of the categories of a COCO file by their ids.

    Args:
        path: the file, for messages.
        store: its records.
        unique: whether two categories by the same name are an error.

    Raises:
        OvsegError: there are no categories, or two by the same name.
    """
    names = {number: str(record["name"]) for number, record in sorted(store.categories().items())}
    if not names:
        raise OvsegError(
            f'{path} names no categories, so that its masks have no class; give a COCO file with a list "categories"'
        )
    repeated = [name for name, number in Counter(names.values()).items() if number > 1]
    if unique and repeated:
        raise OvsegError(f"{path} names two categories {repeated[0]!r}; give every category a name of its own")
    return names


def check_categories(path: Path, store: Store) -> None:
    """Check that the annotations of a COCO file refer to its categories.

    Raises:
        OvsegError: there are no categories, or no annotation refers to one; or ids look as if they were off by one, so that
            the names of all annotations would be wrong.
    """
    names, uses = category_names(path, store), store.category_uses()
    unknown = [(value, number) for value, number in uses if not isinstance(value, int) or value not in names]
    if not unknown:
        return
    number, total = sum(n for _, n in unknown), sum(n for _, n in uses)
    problem = (
        f"{path}: {number:,} of {total:,} annotations have a category that is not in its list of categories "
        f"({_examples([value for value, _ in unknown])}; the list has {_examples(names)})"
    )
    if guess := _guess_shift([value for value, _ in uses], names):
        raise OvsegError(f"{problem}. {guess}: correct them, since the other annotations would have wrong names")
    if number == total:
        raise OvsegError(f"{problem}. Correct the ids, or the list")
    log.warning("%s; they are dropped as %s", problem, UNKNOWN_CATEGORY)


def _guess_shift(used: list[object], names: Mapping[int, str]) -> str | None:
    """What the ids of the annotations seem to be instead of ids of the list; None if that cannot be told."""
    numbers = [value for value in used if isinstance(value, int)]
    if len(numbers) < len(used):
        return None
    guesses = {
        "They are 1 too small": [number + 1 in names for number in numbers],
        "They are 1 too large": [number - 1 in names for number in numbers],
        "They seem to be positions in the list, from 0": [0 <= number < len(names) for number in numbers],
        "They seem to be positions in the list, from 1": [0 < number <= len(names) for number in numbers],
    }
    return next((guess for guess, fits in guesses.items() if all(fits)), None)


def _same_image(first: str, second: str) -> bool:
    stems = [PurePosixPath(name.replace("\\", "/")).name.partition(".")[0].lower() for name in (first, second)]
    return stems[0].endswith(stems[1]) or stems[1].endswith(stems[0])


def _examples(values: Iterable[object] | NDArray[np.int64]) -> str:
    shown = [str(value) for value in list(values)[: EXAMPLES + 1]]
    return "for example " + ", ".join(shown[:EXAMPLES]) if len(shown) > EXAMPLES else ", ".join(shown)
