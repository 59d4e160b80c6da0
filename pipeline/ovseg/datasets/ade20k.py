"""ADE20K (Zhou et al., arXiv 1608.05442): 150 classes of the scene parsing challenge, or 847 of the full release of 2021."""

from __future__ import annotations

import contextlib
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
from ovseg.core.json_files import parse_json
from ovseg.datasets.benchmark import Labels
from ovseg.datasets.classes import Class
from ovseg.datasets.release import (
    Item,
    ReleasePaths,
    ReleaseSpec,
    index_by_id,
    iter_items,
    label_lookup,
    list_ids,
    read_label_map,
)

log = logging.getLogger("ovseg")

SEG_SUFFIX = "_seg.png"
SAFE_GLOBALS = {  # all that a pickle of plain containers and numpy arrays refers to
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


def ade150(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the 2,000 validation images of ADEChallengeData2016: 1 to 150 become 0 to 149; 0, not labeled, is ignored."""
    read = partial(read_label_map, lookup=label_lookup(index_by_id(classes), ignore))
    return iter_items(list_ids(paths["images"], paths["labels"]), read)


def ade847(paths: ReleasePaths, classes: Sequence[Class], ignore: int) -> Iterator[Item]:
    """List the 2,000 validation images of ADE20K_2021_17_01 with the 847 classes of MaskFormer, which are matched by name.

    A `*_seg.png` holds numbers of object classes. Their names are in the index of the release (the part "index") or, without
    it, in the JSON file beside each image. Objects with other names, and 0, are ignored.

    Raises:
        OvsegError: if the index is broken, or numbers the names otherwise than the JSON files do.
    """
    folder = paths["images"]
    index_of = {normalize_name(", ".join(entry.names)): index for index, entry in enumerate(classes)}
    ids = list_ids(folder, folder, SEG_SUFFIX)
    if "index" not in paths:
        for image_id in ids:
            reader = partial(read_seg_by_json, json_path=folder / f"{image_id}.json", index_of=index_of, ignore=ignore)
            yield Item(f"{image_id}.jpg", image_id + SEG_SUFFIX, reader)
        return
    names = read_index(paths["index"])
    _check_index(names, paths["index"], (folder / f"{image_id}.json" for image_id in ids))
    if missing := [name for name in index_of if name not in names.values()]:
        log.warning("%s lacks %d of the %d names: %s", paths["index"], len(missing), len(index_of), "; ".join(missing))
    yield from iter_items(ids, partial(read_seg, lookup=_lookup_by_name(names, index_of, ignore)), SEG_SUFFIX)


def normalize_name(name: str) -> str:
    """A name in the form that names are compared in: the release writes "C P U , central processor" and "Lord''s table"."""
    return ", ".join(part.strip() for part in name.replace("''", "'").split(",")).casefold()


def read_seg(data: bytes, lookup: Labels) -> Labels:
    """Read a `*_seg.png` as classes uint16 `[H, W]`; red // 10 * 256 + green is the number of the object class.

    Args:
        data: content of the file.
        lookup: class of each number; the last entry stands for all higher numbers.

    Raises:
        BadItem: the reason of a broken file.
    """
    colors = decode_image(data)
    numbers = colors[..., 0].astype(np.uint16) // 10 * 256 + colors[..., 1]
    labels: Labels = np.take(lookup, numbers, mode="clip")
    return labels


def read_seg_by_json(data: bytes, json_path: Path, index_of: Mapping[str, int], ignore: int) -> Labels:
    """Read a `*_seg.png` as `read_seg` does, with the names in the JSON file of the image.

    Args:
        data: content of the file.
        json_path: JSON file of the image.
        index_of: class of each normalized name.
        ignore: number for objects with other names.

    Raises:
        BadItem: the reason of a broken file, or `missing` or `bad_json` for the JSON file.
    """
    return read_seg(data, _lookup_by_name(read_objects(json_path), index_of, ignore))


def read_objects(path: Path) -> dict[int, str]:
    """Read number -> normalized name of the objects and parts in the JSON file of an image.

    Raises:
        BadItem: `missing` or `bad_json`.
    """
    try:
        objects = parse_json(path.read_bytes(), path, "latin-1")["annotation"]["object"]
        return {int(entry["name_ndx"]): normalize_name(str(entry["name"])) for entry in objects}
    except OSError as error:
        raise BadItem("missing", f"{path}: {error.strerror}") from None
    except (OvsegError, ValueError, KeyError, TypeError) as error:
        raise BadItem("bad_json", f"{path}: {error!r}") from None


def read_index(path: Path) -> dict[int, str]:
    """Read number, from 1, -> normalized name in the index of the release, index_ade20k.pkl.

    A pickle can run any code; this one may only hold plain containers and numpy arrays.

    Raises:
        OvsegError: if the file holds anything else, or no list of names.
    """
    try:
        with path.open("rb") as stream:
            names = _SafeUnpickler(stream).load()["objectnames"]
        return {number: normalize_name(str(name)) for number, name in enumerate(names, start=1)}
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise OvsegError(f"{path} is not the index of ADE20K_2021_17_01 ({error!r})") from None


def shrink(pixels: ImageArray, labels: Labels, short_side: int) -> tuple[ImageArray, Labels] | None:
    """Reduce an image and its labels to a shorter short side.

    The image is resized bilinearly with antialiasing; a new label is that of the pixel under its center.

    Args:
        pixels: image `[H, W, 3]`.
        labels: labels `[H, W]`.
        short_side: wanted short side in pixels.

    Returns:
        the smaller image and labels; None if the short side is not longer than `short_side`.
    """
    side = min(labels.shape)
    if side <= short_side:
        return None
    height, width = (round(old * short_side / side) for old in labels.shape)
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    return np.asarray(small), labels[rows[:, None], columns]


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core.", "numpy._core.").replace("__builtin__", "builtins")
        if (module, name) not in SAFE_GLOBALS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is neither a plain container nor an array")
        return super().find_class(module, name)


def _lookup_by_name(names: Mapping[int, str], index_of: Mapping[str, int], ignore: int) -> Labels:
    lookup = np.full(max(names, default=0) + 2, ignore, np.uint16)
    for number, name in names.items():
        lookup[number] = index_of.get(name, ignore)
    return lookup


def _check_index(names: Mapping[int, str], index: Path, json_paths: Iterator[Path]) -> None:
    """Check that the index numbers the names as the first readable JSON file does."""
    for json_path in json_paths:
        with contextlib.suppress(BadItem):
            for number, name in read_objects(json_path).items():
                if names.get(number) != name:
                    raise OvsegError(
                        f"{index} calls object {number} {names.get(number)!r}, but {json_path} calls it {name!r}"
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
