"""ADE20K (Zhou et al., arXiv 1608.05442): 150 classes of the scene parsing challenge, or 847 of the full release of 2021."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg.core.errors import BadItem, OvsegError
from ovseg.core.images import ImageArray, decode_image
from ovseg.datasets.benchmark import Labels
from ovseg.datasets.classes import Class
from ovseg.datasets.release import Found, Item, ReleaseSpec, by_id, iter_items, list_ids, lookup_of, read_map

log = logging.getLogger("ovseg")

SEG = "_seg.png"
SAFE = {  # all that a pickle of plain containers and numpy arrays calls
    ("builtins", "set"),
    ("builtins", "frozenset"),
    ("builtins", "bytearray"),
    ("_codecs", "encode"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy._core.numeric", "_frombuffer"),
}


def ade150(found: Found, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """The 2,000 validation images of ADEChallengeData2016: 1 to 150 become 0 to 149; 0, not labelled, is ignored."""
    read = partial(read_map, lookup=lookup_of(by_id(classes), ignore))
    return iter_items(list_ids(found["images"], found["labels"]), read)


def ade847(found: Found, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """The 2,000 validation images of ADE20K_2021_17_01 with the 847 classes of MaskFormer, which are found by name.

    `*_seg.png` holds the number of an object class; what that is called stands in the index of the release ("index" in
    `found`) or, without it, in the JSON beside each image. Objects of other names, and 0, are ignored.

    Raises:
        OvsegError: an index that is broken, or numbers its names otherwise than the images' JSONs.
    """
    folder, places = found["images"], {key(", ".join(one.names)): place for place, one in enumerate(classes)}
    names = list_ids(folder, folder, SEG)
    if "index" not in found:
        for name in names:
            about = folder / f"{name}.json"
            yield Item(f"{name}.jpg", name + SEG, partial(read_seg_by_json, about=about, places=places, ignore=ignore))
        return
    numbers = read_index(found["index"])
    _check_index(numbers, found["index"], (folder / f"{name}.json" for name in names))
    if absent := [name for name in places if name not in numbers.values()]:
        log.warning("%s lacks %d of the %d names: %s", found["index"], len(absent), len(places), "; ".join(absent))
    yield from iter_items(names, partial(read_seg, lookup=_by_name(numbers, places, ignore)), SEG)


def key(name: str) -> str:
    """A name as names are compared: the release writes "C P U , central processor" and "Lord''s table"."""
    return ", ".join(part.strip() for part in name.replace("''", "'").split(",")).casefold()


def read_seg(data: bytes, lookup: Labels) -> Labels:
    """A `*_seg.png` -> classes uint16 `[H, W]`; red // 10 * 256 + green is the number of the object class.

    Raises:
        BadItem: a broken file.
    """
    colours = decode_image(data)
    numbers = colours[..., 0].astype(np.uint16) // 10 * 256 + colours[..., 1]
    labels: Labels = np.take(lookup, numbers, mode="clip")
    return labels


def read_seg_by_json(data: bytes, about: Path, places: Mapping[str, int], ignore: int) -> Labels:
    """The same by the names in the JSON of the image.

    Raises:
        BadItem: a broken file; `missing` or `bad_json` for the JSON.
    """
    return read_seg(data, _by_name(read_objects(about), places, ignore))


def read_objects(path: Path) -> dict[int, str]:
    """Number -> name, as compared, of the objects and parts in the JSON of an image.

    Raises:
        BadItem: `missing` or `bad_json`.
    """
    try:
        objects = json.loads(path.read_text(encoding="latin-1"))["annotation"]["object"]
        return {int(one["name_ndx"]): key(str(one["name"])) for one in objects}
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise BadItem("bad_json", f"{path}: {error!r}") from None


def read_index(path: Path) -> dict[int, str]:
    """Number, from 1, -> name, as compared, in the index of the release, index_ade20k.pkl.

    A pickle can run any code: only plain containers and numpy arrays are built.

    Raises:
        OvsegError: anything else in the file, or no list of names.
    """
    try:
        with path.open("rb") as stream:
            names = _Plain(stream).load()["objectnames"]
        return {number: key(str(name)) for number, name in enumerate(names, start=1)}
    except Exception as error:  # a damaged pickle raises nearly anything
        raise OvsegError(f"{path} is not the index of ADE20K_2021_17_01 ({error!r})") from None


def shrink(pixels: ImageArray, labels: Labels, short: int) -> tuple[ImageArray, Labels] | None:
    """An image `[H, W, 3]` and its labels `[H, W]` with the short side brought down to `short`; None if it is not longer.

    The image bilinear with antialiasing; the labels of the pixel that lies under the centre of each new one.
    """
    side = min(labels.shape)
    if side <= short:
        return None
    height, width = (round(old * short / side) for old in labels.shape)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(small), labels[rows[:, None], columns]


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if (module, name) not in SAFE:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is neither a plain container nor an array")
        return super().find_class(module, name)


def _by_name(numbers: Mapping[int, str], places: Mapping[str, int], ignore: int) -> Labels:
    lookup = np.full(max(numbers, default=0) + 2, ignore, np.uint16)
    for number, name in numbers.items():
        lookup[number] = places.get(name, ignore)
    return lookup


def _check_index(numbers: Mapping[int, str], index: Path, abouts: Iterator[Path]) -> None:
    """Whether the index counts as the images do: by the first JSON that can be read."""
    for about in abouts:
        with contextlib.suppress(BadItem):
            for number, name in read_objects(about).items():
                if numbers.get(number) != name:
                    raise OvsegError(
                        f"{index} calls object {number} {numbers.get(number)!r}, {about} calls it {name!r}"
                    )
            return


ADE150 = ReleaseSpec(
    ade150,
    ignore=255,
    images=2_000,
    source="ADEChallengeData2016 validation (Zhou et al., arXiv 1608.05442)",
    where="ADEChallengeData2016.zip of sceneparsing.csail.mit.edu",
    homes=("ADEChallengeData2016", "."),
    parts={"images": ("images/validation",), "labels": ("annotations/validation",)},
)
ADE847 = ReleaseSpec(
    ade847,
    ignore=65_535,
    images=2_000,
    source="ADE20K_2021_17_01 validation (Zhou et al., arXiv 1608.05442), short side at most 512",
    where="ADE20K_2021_17_01.zip of groups.csail.mit.edu/vision/datasets/ADE20K, after registration",
    homes=("ADE20K_2021_17_01", "."),
    parts={"images": ("images/ADE/validation",), "labels": ("images/ADE/validation",)},
    extra={"index": ("index_ade20k_2021.pkl", "index_ade20k.pkl")},
    short_side=512,
    counted=False,
)
