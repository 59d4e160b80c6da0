"""Segmentation of image files into a folder. An image cat.jpg gives three files:

cat.overlay.png   the classes drawn over the image, with a legend
cat.labels.png    the number of the class of each pixel, as in benchmarks
cat.json          name, fraction and score of each class, and the settings; it is written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.core import hashing
from ovseg.core.errors import BadItem, OvsegError, explain_full_disk
from ovseg.core.files import write_json
from ovseg.core.images import ImageArray, decode_image
from ovseg.datasets.benchmark import write_labels
from ovseg.engine.progress import Progress
from ovseg.segmentation.class_names import Vocabulary
from ovseg.segmentation.overlay import draw_overlay
from ovseg.segmentation.segmenter import Classifier, Segmentation, Segmenter

OUTPUTS = (".overlay.png", ".labels.png")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def list_images(paths: Sequence[Path]) -> dict[str, Path]:
    """List image files, and the image files in folders.

    Args:
        paths: files and folders.

    Returns:
        the image files by the name of their output, which is the path below the given folder without suffix.

    Raises:
        OvsegError: a path does not exist, a folder contains no image, or two images have the same output name.
    """
    images: dict[str, Path] = {}
    for path in paths:
        if not path.exists():
            raise OvsegError(f"{path} does not exist")
        named = list(_images_in(path)) if path.is_dir() else [(path.stem, path)]
        if not named:
            raise OvsegError(f"{path} contains no image ({', '.join(sorted(SUFFIXES))})")
        for name, image in named:
            if images.setdefault(name, image) != image:
                raise OvsegError(
                    f"{images[name]} and {image} would both be written as {name}.*; segment them separately"
                )
    return images


def segment_images(
    segmenter: Segmenter,
    images: Mapping[str, Path],
    vocabulary: Vocabulary,
    out: Path,
    classifier: Classifier,
    settings: Mapping[str, Any],
) -> dict[str, int]:
    """Segment images into a folder. Images that were segmented before with the same settings are left as they are.

    Args:
        segmenter: the segmenter.
        images: the image files by the name of their output, see `list_images`.
        vocabulary: the classes.
        out: the output folder; it is created if it does not exist.
        classifier: what classifies the proposals.
        settings: everything else that the result depends on, for the JSON; images with other settings are segmented again.

    Returns:
        counts: "images", "done_before", and "dropped.<reason>" of images that could not be read.

    Raises:
        OvsegError: the disk is full, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise OvsegError(f"{out} is a file; give a folder to write to")
    counts: Counter[str] = Counter(images=0)
    with Progress("segment", len(images), "images") as progress, explain_full_disk(out):
        for name, path in images.items():
            image_counts: Counter[str] = Counter()
            try:
                data = path.read_bytes()
                sha256, names, phrases = hashing.sha256_bytes(data), vocabulary.names, vocabulary.phrases
                key = hashing.fingerprint(image=sha256, names=names, phrases=phrases, **settings)
                if _is_done(out, name, key):
                    image_counts["done_before"] += 1
                else:
                    pixels = decode_image(data)
                    segmentation = segmenter.segment_with(pixels, vocabulary, classifier)
                    record = {"image": str(path), "settings": dict(settings), "fingerprint": key}
                    _write(out / name, pixels, segmentation, record)
                    image_counts["images"] += 1
            except BadItem as problem:
                progress.warn(f"{path} is left out: {problem}")
                image_counts[f"dropped.{problem.reason}"] += 1
            counts.update(image_counts)
            progress.add(image_counts)
        progress.finish(out)
    return dict(counts)


def _images_in(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.endswith(OUTPUTS):
            yield path.relative_to(folder).with_suffix("").as_posix(), path


def _is_done(out: Path, name: str, key: str) -> bool:
    try:
        complete = all((out / (name + suffix)).is_file() for suffix in OUTPUTS)
        record = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        return complete and bool(record["fingerprint"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(target: Path, pixels: ImageArray, segmentation: Segmentation, record: dict[str, Any]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    overlay = draw_overlay(pixels, segmentation.labels, segmentation.names)
    overlay.save(target.with_name(target.name + ".overlay.png"))
    write_labels(target.with_name(target.name + ".labels.png"), segmentation.labels)
    classes = {"names": list(segmentation.names), "classes": _class_records(segmentation)}
    write_json(target.with_name(target.name + ".json"), {**classes, **record})


def _class_records(segmentation: Segmentation) -> list[dict[str, Any]]:
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
