"""Many images, segmented and written: an overlay with a legend, a label PNG, and a JSON each.

<out>/cat.overlay.png   for people
<out>/cat.labels.png    number of the class of each pixel, as benchmarks have it
<out>/cat.json          names, share and score of each class, and how it was made; written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovseg.core import hashing
from ovseg.core.errors import BadItem, OvsegError, explain_full_disk
from ovseg.core.files import write_json
from ovseg.core.images import decode_image
from ovseg.datasets.benchmark import write_labels
from ovseg.engine.progress import Progress
from ovseg.segmentation.names import Vocabulary
from ovseg.segmentation.overlay import overlay
from ovseg.segmentation.segmenter import Classifier, Segmentation, Segmenter

MADE = (".overlay.png", ".labels.png")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


def list_images(given: Sequence[Path]) -> dict[str, Path]:
    """Images, and those in folders, by the name that their files get, below the output folder and without a suffix.

    Raises:
        OvsegError: a path does not exist, a folder has no image, or two images would get one name.
    """
    found: dict[str, Path] = {}
    for path in given:
        if not path.exists():
            raise OvsegError(f"{path} does not exist")
        inside = list(_inside(path)) if path.is_dir() else [(path.stem, path)]
        if not inside:
            raise OvsegError(f"{path} holds no image ({', '.join(sorted(SUFFIXES))})")
        for name, image in inside:
            if found.setdefault(name, image) != image:
                raise OvsegError(f"{found[name]} and {image} would both be written as {name}.*; segment them apart")
    return found


def segment_images(
    segmenter: Segmenter,
    images: dict[str, Path],
    words: Vocabulary,
    out: Path,
    classifier: Classifier,
    about: dict[str, Any],
) -> dict[str, int]:
    """Segment images into a folder. Those that were done before, in the same way, are left as they are.

    Args:
        segmenter: models and how they are used.
        images: see `list_images`.
        words: names.
        out: folder; made if needed.
        classifier: whose word counts.
        about: how it is done, for the JSON; what differs is done anew.

    Returns:
        counts: images, done before, and dropped by reason.

    Raises:
        OvsegError: no space left, or `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise OvsegError(f"{out} is a file; give a folder to write to")
    counts: Counter[str] = Counter(images=0)
    with Progress("segment", len(images), "images") as progress, explain_full_disk(out):
        for name, path in images.items():
            one: Counter[str] = Counter()
            try:
                data = path.read_bytes()
                key = hashing.fingerprint(
                    image=hashing.sha256_bytes(data), names=words.names, phrases=words.phrases, **about
                )
                if _done(out, name, key):
                    one["done_before"] += 1
                else:
                    pixels = decode_image(data)
                    _write(out, name, pixels, segmenter.segment_with(pixels, words, classifier), path, key, about)
                    one["images"] += 1
            except BadItem as problem:
                progress.warn(f"{path} is left out: {problem}")
                one[f"dropped.{problem.reason}"] += 1
            counts.update(one)
            progress.add(one)
        progress.finish(out)
    return dict(counts)


def _inside(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix.lower() in SUFFIXES and not path.name.endswith(MADE):
            yield path.relative_to(folder).with_suffix("").as_posix(), path


def _done(out: Path, name: str, key: str) -> bool:
    try:
        there = all((out / (name + end)).is_file() for end in MADE)
        return there and bool(json.loads((out / f"{name}.json").read_text(encoding="utf-8"))["fingerprint"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write(
    out: Path, name: str, pixels: Any, found: Segmentation, source: Path, key: str, about: dict[str, Any]
) -> None:
    target = out / name
    target.parent.mkdir(parents=True, exist_ok=True)
    overlay(pixels, found.labels, found.names).save(target.with_name(target.name + ".overlay.png"))
    write_labels(target.with_name(target.name + ".labels.png"), found.labels)
    classes = []
    for number in np.unique(found.labels).tolist():
        inside = found.labels == number
        share, score = float(inside.mean()), float(found.score[inside].mean())
        classes.append(
            {
                "name": found.names[number],
                "label": number,
                "pixels": int(inside.sum()),
                "share": round(share, 6),
                "score": round(score, 6),
            }
        )
    classes.sort(key=lambda row: -row["pixels"])
    result = {"image": str(source), "names": list(found.names), "classes": classes, "how": about, "fingerprint": key}
    write_json(target.with_name(target.name + ".json"), result)
