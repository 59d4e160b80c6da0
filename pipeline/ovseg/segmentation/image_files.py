"""Segmentation of image files into a folder. An image cat.jpg gives three files:

cat.overlay.png   the classes drawn over the image, with a legend
cat.labels.png    the number of the class of each pixel, as in benchmarks
cat.json          name, fraction and score of each class, and the settings; it is written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from ovseg.core import hashing
from ovseg.core.errors import BadItem, OvsegError, explain_write_errors
from ovseg.core.files import sync, write_json
from ovseg.core.folders import describe_files, walk_images
from ovseg.core.image_formats import describe_suffixes
from ovseg.core.images import ImageArray, decode_with_header, read_bytes
from ovseg.core.options import Orientation
from ovseg.core.rotation import rotation_counts
from ovseg.datasets.benchmark import write_labels
from ovseg.engine.progress import Progress
from ovseg.segmentation.class_names import Vocabulary
from ovseg.segmentation.overlay import draw_overlay
from ovseg.segmentation.segmenter import Classifier, Segmentation, Segmenter

OUTPUTS = (".overlay.png", ".labels.png")


class FoundImages(NamedTuple):
    """Image files, and what else is in their folders.

    Attributes:
        images: the image files by the name of their output, which is the path below the given folder without suffix.
        unread: the other files of the folders, but for the outputs of an earlier segmentation.
    """

    images: dict[str, Path]
    unread: list[Path]


def list_images(paths: Sequence[Path]) -> FoundImages:
    """List image files, and the image files in folders.

    Args:
        paths: files and folders.

    Raises:
        OvsegError: a path does not exist, a folder contains no image, or two images have the same output name.
    """
    images: dict[str, Path] = {}
    unread: list[Path] = []
    for path in paths:
        if not path.exists():
            raise OvsegError(f"{path} does not exist")
        named = [(path.stem, path)]
        if path.is_dir():
            content = walk_images(path)
            outputs = _outputs({*content.images, *content.unread})
            named = [
                (PurePath(name).with_suffix("").as_posix(), path / name)
                for name in content.images
                if name not in outputs
            ]
            unread += [path / name for name in content.unread if name not in outputs]
        if not named:
            held = f", but {describe_files(list(map(str, unread)))}" if unread else ""
            raise OvsegError(f"{path} contains no image ({describe_suffixes()}){held}")
        for name, image in named:
            if images.setdefault(name, image) != image:
                raise OvsegError(
                    f"{images[name]} and {image} would both be written as {name}.*; segment them separately"
                )
    return FoundImages(images, unread)


def segment_images(
    segmenter: Segmenter,
    found: FoundImages,
    vocabulary: Vocabulary,
    out: Path,
    classifier: Classifier,
    settings: Mapping[str, Any],
    orientation: Orientation = "exif",
) -> dict[str, int]:
    """Segment images into a folder. Images that were segmented before with the same settings are left as they are.

    Args:
        segmenter: the segmenter.
        found: the image files, see `list_images`.
        vocabulary: the classes.
        out: the output folder; it is created if it does not exist.
        classifier: what classifies the proposals.
        settings: everything else that the result depends on, for the JSON; images with other settings are segmented again.
        orientation: whether images are turned as their EXIF metadata say, or used as stored.

    Returns:
        counts: "images", "done_before", "dropped.<reason>" of images that could not be read, "unread_files" of folders, and
        those of `core.rotation`.

    Raises:
        OvsegError: the disk is full, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise OvsegError(f"{out} is a file; give a folder to write to")
    counts: Counter[str] = Counter(images=0)
    settings = settings if orientation == "exif" else {**settings, "orientation": orientation}
    with Progress("segment", len(found.images), "images") as progress, explain_write_errors(out):
        if found.unread:
            progress.warn(f"{len(found.unread)} files are no images: {describe_files(list(map(str, found.unread)))}")
            counts["unread_files"] += len(found.unread)
        for name, path in found.images.items():
            image_counts: Counter[str] = Counter()
            try:
                data = read_bytes(path.parent, path.name)
                sha256, names, phrases = hashing.sha256_bytes(data), vocabulary.names, vocabulary.phrases
                key = hashing.fingerprint(image=sha256, names=names, phrases=phrases, **settings)
                if _is_done(out, name, key):
                    image_counts["done_before"] += 1
                else:
                    pixels, header = decode_with_header(data, orientation)
                    if header.note:
                        progress.warn(f"{path} is not turned: {header.note}")
                    image_counts.update(rotation_counts(header))
                    segmentation = segmenter.segment_with(pixels, vocabulary, classifier)
                    record = {"image": str(path), "settings": dict(settings), "fingerprint": key}
                    write_segmentation(out / name, pixels, segmentation, record)
                    image_counts["images"] += 1
            except BadItem as problem:
                progress.warn(f"{path} is left out: {problem}")
                image_counts[f"dropped.{problem.reason}"] += 1
            counts.update(image_counts)
            progress.add(image_counts)
        progress.finish(out)
    return dict(counts)


def _outputs(names: Set[str]) -> set[str]:
    """The files that an earlier segmentation has written, of images with all three of them."""
    suffixes = (*OUTPUTS, ".json")
    stems = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    return {stem + suffix for stem in stems for suffix in suffixes if all(stem + other in names for other in suffixes)}


def _is_done(out: Path, name: str, key: str) -> bool:
    try:
        complete = all((out / (name + suffix)).is_file() for suffix in OUTPUTS)
        record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        return complete and bool(record["fingerprint"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_segmentation(target: Path, pixels: ImageArray, segmentation: Segmentation, record: Mapping[str, Any]) -> None:
    """Write the three files of an image. Those of an earlier segmentation count no more once one of them is replaced.

    Args:
        target: the path of the files without their suffixes.
        pixels: uint8 RGB `[H, W, 3]`.
        segmentation: its segmentation.
        record: what the JSON holds beside the classes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    overlay, labels, json_path = (target.with_name(target.name + suffix) for suffix in (*OUTPUTS, ".json"))
    unfinished = {path: path.with_name(path.name + ".tmp") for path in (overlay, labels)}
    draw_overlay(pixels, segmentation.labels, segmentation.names).save(unfinished[overlay], "PNG")
    write_labels(unfinished[labels], segmentation.labels)
    json_path.unlink(missing_ok=True)
    for path, written in unfinished.items():
        sync(written)
        written.replace(path)
    classes = {"names": list(segmentation.names), "classes": class_records(segmentation)}
    write_json(json_path, {**classes, **record})


def class_records(segmentation: Segmentation) -> list[dict[str, Any]]:
    """Name, size and mean score of each class that occurs, largest first."""
    records = []
    for number in np.unique(segmentation.labels).tolist():
        inside = segmentation.labels == number
        records.append(
            {
                "name": segmentation.names[number],
                "label": number,
                "pixels": int(inside.sum()),
                "fraction": round(float(inside.mean()), 6),
                "score": round(float(segmentation.pixel_scores[inside].mean()), 6),
            }
        )
    return sorted(records, key=lambda record: -record["pixels"])
